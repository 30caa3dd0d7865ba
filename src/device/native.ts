import { createRequire } from "node:module";
import { fileURLToPath } from "node:url";
import { getSystemErrorName } from "node:util";
import { DeviceError, type HeadgateError, PrivilegeError } from "../base/errors.ts";
import { BATCH_FRAMES_MAX, INTERFACES_MAX, OUT_FRAMES_MAX } from "../base/limits.ts";
import { DESCRIPTOR_WORDS } from "./device.ts";

/**
 * The only place that loads the addon: its typed shape, and its errors turned into ours.
 *
 * What the addon opens belongs to the thread that opened it. Nothing of it can be handed to
 * another thread (functions cannot be posted, its buffers cannot be transferred), and it is
 * released at `close`, by the collector, or when the thread ends.
 */
export interface NativeAddon {
  /** The batch layout that the addon was built with. */
  readonly layout: Readonly<Record<string, number>>;
  createWake(): NativeWake;
  /** flock(LOCK_EX | LOCK_NB): false when another open file holds the lock. */
  lockFile(fd: number): boolean;
  /** fallocate and truncate to exactly `bytes`. */
  allocateFile(fd: number, bytes: number): void;
  /** mmap of the whole file, shared; `touched`: at, bytes, at, bytes, ... of what is mapped at once. */
  mapFile(fd: number, touched: readonly number[]): { readonly buffer: ArrayBuffer; close(): void };
  openTun(name: string, wakeFd: number): NativeDevice;
  openPacket(interfaces: readonly string[], wakeFd: number): NativeDevice;
}

export interface NativeWake {
  readonly fd: number;
  /** False when closed. */
  wake(): boolean;
  close(): void;
}

export interface NativeDevice {
  readonly memory: ArrayBuffer;
  /** Byte offsets in `memory` of the batch (addon/frame_io.h). */
  readonly rxAt: number;
  readonly txAt: number;
  readonly tickAt: number;
  /** One int32 word an interface: its MTU, kept up to date once a second. */
  readonly mtuAt: number;
  readonly spareAt: number;
  readonly spareBytes: number;
  readonly spareCount: number;
  readonly interfaces: readonly { name: string; index: number; mac: string }[];
  /** Frames, or a negative errno. */
  receive(timeoutMs: number): number;
  /** Frames sent, or a negative errno. */
  transmit(count: number): number;
  statistics(): { missed: number; skipped: number; calls: number } | undefined;
  close(): void;
}

/** What the addon throws: a failed system call. */
interface NativeFailure extends Error {
  readonly errno: number;
  readonly syscall: string;
  /** The interface, file or argument that it was about. */
  readonly subject: string;
}

let loaded: NativeAddon | undefined;

/**
 * The addon, loaded at the first call.
 *
 * The file is `build/Release/frameio.node` of the package, or what the environment variable
 * HEADGATE_ADDON names (sanitizer builds).
 *
 * @throws DeviceError when it is not built, or was built from other sources
 */
export function nativeAddon(): NativeAddon {
  if (loaded !== undefined) return loaded;
  const file =
    process.env["HEADGATE_ADDON"] ??
    fileURLToPath(new URL("../../../build/Release/frameio.node", import.meta.url));
  let addon: NativeAddon;
  try {
    addon = createRequire(import.meta.url)(file) as NativeAddon;
  } catch (error) {
    const reason = error instanceof Error ? error.message : String(error);
    throw new DeviceError(
      `cannot load the addon ${file}: ${reason}; run "npm run build" in the package`,
      "dlopen",
      0,
    );
  }
  const expected: Record<string, number> = {
    descriptorWords: DESCRIPTOR_WORDS,
    batchFramesMax: BATCH_FRAMES_MAX,
    outFramesMax: OUT_FRAMES_MAX,
    interfacesMax: INTERFACES_MAX,
  };
  for (const [name, value] of Object.entries(expected)) {
    if (addon.layout?.[name] !== value) {
      throw new DeviceError(
        `the addon ${file} was built from other sources (${name}: expected ${value}, got ` +
          `${addon.layout?.[name]}); run "npm run build" in the package`,
        "dlopen",
        0,
      );
    }
  }
  loaded = addon;
  return addon;
}

/** True when `error` came from a system call inside the addon. */
export function isNativeFailure(error: unknown): error is NativeFailure {
  return error instanceof Error && "errno" in error && "syscall" in error && "subject" in error;
}

/**
 * `ENODEV` for 19. Unknown numbers give `errno N`.
 *
 * @param errno - positive errno value
 */
export function errnoName(errno: number): string {
  const name = getSystemErrorName(-errno);
  return name.startsWith("Unknown") ? `errno ${errno}` : name;
}

/** errno values of Linux that decide what a message says. */
export const ERRNO = {
  EPERM: 1,
  ENOENT: 2,
  ENXIO: 6,
  EBADF: 9,
  ENOMEM: 12,
  EACCES: 13,
  EBUSY: 16,
  ENODEV: 19,
  EINVAL: 22,
  EMFILE: 24,
  ENOSPC: 28,
  EADDRINUSE: 98,
  ENETDOWN: 100,
} as const;

/**
 * What to do about a failed open, as the end of a sentence.
 *
 * @param failure - what the addon threw
 */
function advice(failure: NativeFailure): string {
  const { errno, syscall, subject } = failure;
  switch (syscall) {
    case "open":
      return errno === ERRNO.ENOENT || errno === ERRNO.ENODEV || errno === ERRNO.ENXIO
        ? 'the kernel module is not there; run "modprobe tun", or give the container the device /dev/net/tun'
        : "check that /dev/net/tun exists and may be opened";
    case "TUNSETIFF":
      if (errno === ERRNO.EBUSY) {
        return "another process holds this device; stop it or choose another device.name";
      }
      if (errno === ERRNO.EINVAL) {
        return "an interface of that name exists and is no TUN device of ours; choose another device.name";
      }
      return "check device.name";
    case "SIOCGIFINDEX":
      return 'no such interface here; "ip link" lists those of this network namespace';
    case "interface":
      if (errno === ERRNO.ENETDOWN) return `it is down; run "ip link set dev ${subject} up"`;
      if (errno === ERRNO.EADDRINUSE) {
        return "another device (of this or another process) already takes its frames; stop it first";
      }
      return "it is not an Ethernet interface; only those carry frames for type packet";
    case "PACKET_RX_RING":
    case "PACKET_TX_RING":
    case "mmap":
      return "the kernel has no room for the frame memory; free some memory";
    default:
      return errno === ERRNO.EMFILE
        ? "raise the limit of open files (ulimit -n)"
        : "see the system call's manual page";
  }
}

/**
 * The error to throw for what opening a device threw.
 *
 * @param error - anything; what is not from a system call is thrown as it is
 * @param what - "TUN device hg0"
 * @returns PrivilegeError for EPERM and EACCES, else DeviceError
 */
export function openError(error: unknown, what: string): HeadgateError {
  if (!isNativeFailure(error)) throw error;
  const { errno, syscall, subject } = error;
  const cause = `${syscall} ${subject}: ${errnoName(errno)}`;
  if (errno === ERRNO.EPERM || errno === ERRNO.EACCES) {
    return new PrivilegeError(
      `cannot open ${what} (${cause}): missing privilege; run as root or with CAP_NET_ADMIN and CAP_NET_RAW`,
    );
  }
  return new DeviceError(`cannot open ${what} (${cause}): ${advice(error)}`, syscall, errno);
}
