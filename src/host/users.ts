import { readFileSync } from "node:fs";
import { release } from "node:os";
import { HostError, PrivilegeError } from "../base/errors.ts";
import { becomeUser, findUser, startAgain } from "../device/privileges-native.ts";
import { tryCommand } from "./ip-json.ts";

/**
 * `user`: root's rights are for the start. docs/decisions/0007-unprivileged-after-start.md says why in
 * this order:
 *
 *   1  the program starts itself anew in the same process (exec), with no_new_privs and a bounding set
 *      of what a start needs: all threads, also those of the JavaScript engine, have both from then on
 *   2  everything is opened, the guard stands; workers have opened their devices and given up their
 *      bounding set
 *   3  every thread becomes the user; only the main one keeps a capability, for the children that it
 *      starts (`ip`); the workers have none when they handle the first frame
 */

/** A user to become. */
export interface HostUser {
  readonly name: string;
  readonly uid: number;
  readonly gid: number;
  readonly groups: readonly number[];
}

/** include/uapi/linux/capability.h. */
const CAPABILITIES = {
  CAP_CHOWN: 0,
  CAP_DAC_OVERRIDE: 1,
  CAP_FOWNER: 3,
  CAP_KILL: 5,
  CAP_SETGID: 6,
  CAP_SETUID: 7,
  CAP_SETPCAP: 8,
  CAP_NET_BIND_SERVICE: 10,
  CAP_NET_ADMIN: 12,
  CAP_NET_RAW: 13,
  CAP_IPC_LOCK: 14,
  CAP_SYS_ADMIN: 21,
  CAP_SYS_RESOURCE: 24,
  CAP_BPF: 39,
} as const;

export type CapabilityName = keyof typeof CAPABILITIES;

const START = Object.values(CAPABILITIES);

/** From this kernel on bpf(2) changes maps by their descriptors without CAP_BPF (commit c8644cd0efe7). */
const FREE_MAPS = [5, 19] as const;

/**
 * What the main thread keeps.
 *
 *   CAP_NET_ADMIN  reloads and health change routes and rules of TUN, nftables sets, and have the
 *                  kernel probe next hops: `ip` and `nft`, our children, do it. TUN with `routes: none`
 *                  needs nothing
 *   CAP_BPF        changes of the guard's maps, on kernels before 5.19
 *
 * CAP_NET_RAW is not among them: every socket is open, and stays so.
 */
export function keptCapabilities(
  device: { readonly type: "tun" | "packet" | "xdp"; readonly routes: "auto" | "none" },
  kernel: string = release(),
): CapabilityName[] {
  const kept: CapabilityName[] = [];
  if (device.type !== "tun" || device.routes === "auto") kept.push("CAP_NET_ADMIN");
  const [major = 0, minor = 0] = kernel.split(".").map(Number);
  const isOld = major < FREE_MAPS[0] || (major === FREE_MAPS[0] && minor < FREE_MAPS[1]);
  if (isOld) kept.push("CAP_BPF");
  return kept;
}

/**
 * Find a user of the configuration.
 *
 * @param text - a name, `UID` or `UID:GID`; a number need not have a name
 * @throws HostError - unknown, or root
 */
export function resolveUser(text: string): HostUser {
  const numbers = /^(\d+)(?::(\d+))?$/.exec(text);
  const found = findUser(numbers === null ? text : Number(numbers[1]));
  if (found === null && numbers === null) {
    throw new HostError(
      `user: there is no user ${text} on this host; run \`useradd --system --no-create-home ${text}\`, ` +
        "or name another one",
    );
  }
  const uid = found?.uid ?? Number(numbers?.[1]);
  const gid = numbers?.[2] === undefined ? (found?.gid ?? uid) : Number(numbers[2]);
  if (uid === 0) {
    throw new HostError("user: expected a user other than root; leave the key out to stay root");
  }
  // A group that was asked for stands for all.
  const groups = numbers?.[2] === undefined ? (found?.groups ?? [gid]) : [gid];
  return { name: found?.name ?? text, uid, gid, groups };
}

/** Sets of the calling thread, from /proc. */
function readStatus(name: string): string {
  const text = readFileSync("/proc/thread-self/status", "utf8");
  return new RegExp(`^${name}:\\s*(\\S+)`, "m").exec(text)?.[1] ?? "";
}

/**
 * Step 1. Call it before anything is opened; when the process has to be started anew it does not
 * return.
 *
 * @throws PrivilegeError - the process is not root's
 */
export function confineStart(user: HostUser): void {
  if (process.getuid?.() !== 0) {
    throw new PrivilegeError(
      `user: ${user.name} needs a start as root, which then becomes ${user.name}; this process is ` +
        `user ${process.getuid?.()}: start headgate as root, or leave the key out`,
    );
  }
  const allowed = START.reduce((set, bit) => set | (1n << BigInt(bit)), 0n);
  const bounding = BigInt(`0x${readStatus("CapBnd") || "0"}`);
  if (readStatus("NoNewPrivs") === "1" && (bounding & ~allowed) === 0n) return;
  const words = (file: string): string[] => readFileSync(file, "utf8").split("\0").slice(0, -1);
  const environment = Object.entries(process.env).map(([name, value]) => `${name}=${value ?? ""}`);
  startAgain(START, words("/proc/self/cmdline"), environment);
}

/**
 * Look whether a reload could read the configuration as this user.
 *
 * @throws HostError
 */
export async function requireReadable(user: HostUser, file: string): Promise<void> {
  const groups = user.groups.join(",");
  const as = ["--reuid", `${user.uid}`, "--regid", `${user.gid}`, "--groups", groups];
  if ((await tryCommand("setpriv", [...as, "--", "test", "-r", file])) !== null) return;
  throw new HostError(
    `user: ${user.name} cannot read the configuration ${file}, so that no reload could; run ` +
      `\`chgrp ${user.gid} ${file} && chmod g+r ${file}\`, and see that it may enter the folders above`,
  );
}

/**
 * Step 3.
 *
 * @throws PrivilegeError
 */
export function dropPrivileges(user: HostUser, keep: readonly CapabilityName[]): void {
  becomeUser(
    user.uid,
    user.gid,
    user.groups,
    keep.map((name) => CAPABILITIES[name]),
  );
}
