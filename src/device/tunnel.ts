import { DeviceError, type HeadgateError, PrivilegeError } from "../base/errors.ts";
import { ERRNO, errnoName, isNativeFailure, type NativeTunnel, nativeAddon } from "./native.ts";
import { assertInterfaceName } from "./tun.ts";

/** Packets of one batch at most. */
export const TUNNEL_BATCH = 64;

/** Sockets that packets in tunnels come in on, and the TUN device for what was in them. */
export interface TunnelDevice {
  /** Descriptors first (addon/tunnel.cc), then the packets. */
  readonly memory: Uint8Array;
  readonly words: Int32Array;
  /**
   * Wait for packets, `timeoutMs` at most; a signal ends the wait.
   *
   * @returns packets
   */
  receive(timeoutMs: number): number;
  /** Write the first `count` packets but those of 0 bytes; each descriptor has its errno then. */
  deliver(count: number): number;
  /** Packets that the kernel had no room for. */
  missed(): number;
  /** Closing twice is fine. */
  close(): void;
}

export interface TunnelOptions {
  /** Name of the TUN device: made here, gone with the process. */
  readonly name: string;
  readonly mtu: number;
  /** Places in kKinds of addon/tunnel.cc. */
  readonly kinds: readonly number[];
  /** UDP port of GUE. */
  readonly port: number;
  /** Take UDP over IPv6 without a checksum. */
  readonly zeroChecksum: boolean;
}

/**
 * Open the sockets and make the device; it is down.
 *
 * @throws PrivilegeError - without CAP_NET_RAW and CAP_NET_ADMIN
 * @throws DeviceError - a name or a port is taken, or the kernel has no TUN
 */
export function openTunnel(options: TunnelOptions): TunnelDevice {
  const { name, mtu, kinds, port, zeroChecksum } = options;
  assertInterfaceName(name);
  let native: NativeTunnel;
  try {
    native = nativeAddon().openTunnel(name, mtu, kinds, port, zeroChecksum);
  } catch (error) {
    throw tunnelError(error, name, port);
  }
  const memory = new Uint8Array(native.memory);
  return {
    memory,
    words: new Int32Array(native.memory, 0, TUNNEL_BATCH * 16),
    receive(timeoutMs) {
      const count = native.receive(timeoutMs);
      if (count < 0) {
        throw new DeviceError(
          `cannot read the tunnel sockets: ${errnoName(-count)}`,
          "poll",
          -count,
        );
      }
      return count;
    },
    deliver: (count) => native.deliver(count),
    missed: () => native.overflows(),
    close: () => native.close(),
  };
}

function tunnelError(error: unknown, name: string, port: number): HeadgateError {
  if (!isNativeFailure(error)) throw error;
  const { errno, syscall, subject } = error;
  const cause = `${syscall} ${subject}: ${errnoName(errno)}`;
  if (errno === ERRNO.EPERM || errno === ERRNO.EACCES) {
    return new PrivilegeError(
      `cannot open the tunnel's sockets and device (${cause}): missing privilege; run as root or ` +
        "with CAP_NET_ADMIN and CAP_NET_RAW",
    );
  }
  return new DeviceError(
    `cannot open the tunnel's sockets and device ${name} (${cause}): ${advice(syscall, errno, port)}`,
    syscall,
    errno,
  );
}

function advice(syscall: string, errno: number, port: number): string {
  if (syscall === "bind") {
    return `another process has UDP port ${port}; stop it, or change decap.gue.port here and tunnel.gue.port on the gateway`;
  }
  if (syscall === "open") {
    return 'there is no TUN; run "modprobe tun", or give the container the device /dev/net/tun';
  }
  if (syscall === "TUNSETIFF") {
    return errno === ERRNO.EBUSY || errno === ERRNO.EINVAL || errno === ERRNO.EEXIST
      ? "an interface of that name exists already; remove it, or choose another decap.name"
      : "check decap.name";
  }
  return "see the system call's manual page";
}
