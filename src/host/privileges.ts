import { accessSync, constants, readFileSync } from "node:fs";
import { HostError, PrivilegeError } from "../base/errors.ts";

/** Bits of CapEff (include/uapi/linux/capability.h). */
const CAPABILITIES: Readonly<Record<string, bigint>> = {
  CAP_NET_ADMIN: 12n,
  CAP_NET_RAW: 13n,
  CAP_SYS_ADMIN: 21n,
  CAP_BPF: 39n,
};

/** What each kind of device needs, each with its reason. */
const NEEDED: Readonly<Record<"tun" | "packet" | "xdp", readonly (readonly [string, string])[]>> = {
  tun: [["CAP_NET_ADMIN", "to open the TUN device and to set routes and rules"]],
  packet: [
    ["CAP_NET_RAW", "to open AF_PACKET sockets"],
    ["CAP_NET_ADMIN", "to put the guard on the interfaces"],
  ],
  xdp: [
    ["CAP_NET_RAW", "to open AF_XDP sockets"],
    ["CAP_NET_ADMIN", "to put an XDP program on the interfaces"],
  ],
};

/** Effective capabilities of this process, as a bit set. */
function effectiveCapabilities(): bigint {
  const line = /^CapEff:\s*([0-9a-f]+)$/m.exec(readFileSync("/proc/self/status", "utf8"));
  return BigInt(`0x${line?.[1] ?? "0"}`);
}

function has(held: bigint, name: string): boolean {
  return ((held >> (CAPABILITIES[name] as bigint)) & 1n) === 1n;
}

/**
 * Stop before anything is opened when a privilege is missing.
 *
 * @throws PrivilegeError - names every capability that is missing, and what it is needed for
 * @throws HostError - there is no /dev/net/tun (tun only)
 */
export function requirePrivileges(deviceType: "tun" | "packet" | "xdp"): void {
  const held = effectiveCapabilities();
  const missing = NEEDED[deviceType]
    .filter(([name]) => !has(held, name))
    .map(([name, reason]) => `${name} (${reason})`);
  // bpf(2) wants CAP_BPF, which CAP_SYS_ADMIN includes (kernel/bpf/syscall.c).
  if (deviceType !== "tun" && !has(held, "CAP_BPF") && !has(held, "CAP_SYS_ADMIN")) {
    missing.push(`CAP_BPF (to load the ${deviceType === "xdp" ? "XDP program" : "guard"})`);
  }
  if (missing.length > 0) {
    throw new PrivilegeError(
      `device.type: ${deviceType} needs ${missing.join(" and ")}; run headgate as root`,
    );
  }
  if (deviceType === "tun") requireTunFile();
}

function requireTunFile(): void {
  try {
    accessSync("/dev/net/tun", constants.R_OK | constants.W_OK);
  } catch (error) {
    const { code } = error as NodeJS.ErrnoException;
    if (code === "EACCES")
      throw new PrivilegeError("/dev/net/tun may not be opened; run headgate as root");
    throw new HostError(
      "there is no /dev/net/tun; run `modprobe tun`, or give the container the device",
      { cause: error },
    );
  }
}
