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
  /** Name the calling thread (at most 15 bytes), and keep it on a processor; -1: anywhere. */
  placeThread(name: string, cpu: number): void;
  /** flock(LOCK_EX | LOCK_NB): false when another open file holds the lock. */
  lockFile(fd: number): boolean;
  /** fallocate and truncate to exactly `bytes`. */
  allocateFile(fd: number, bytes: number): void;
  /** mmap of the whole file, shared; `touched`: at, bytes, at, bytes, ... of what is mapped at once. */
  mapFile(fd: number, touched: readonly number[]): { readonly buffer: ArrayBuffer; close(): void };
  openTun(name: string, wakeFd: number, crew: Crew | undefined): NativeDevice;
  openPacket(interfaces: readonly string[], wakeFd: number, crew: Crew | undefined): NativeDevice;
  openXdp(
    interfaces: readonly NativeXdpInterface[],
    wakeFd: number,
    socketMap: number,
    zeroCopy: number,
    busyPollUs: number,
    crew: Crew | undefined,
  ): NativeXdpDevice;
  openTunnel(
    name: string,
    mtu: number,
    kinds: readonly number[],
    port: number,
    zeroChecksum: boolean,
  ): NativeTunnel;
  findUser(
    name: string,
    uid: number,
  ): { name: string; uid: number; gid: number; groups: number[] } | null;
  becomeUser(uid: number, gid: number, groups: readonly number[], keep: readonly number[]): void;
  limitThread(keep: readonly number[]): void;
  giveUpCapabilities(): void;
  startAgain(
    keep: readonly number[],
    argv: readonly string[],
    environment: readonly string[],
  ): void;
  /** addon/echo.cc. */
  openEcho(): NativeEcho;
  /** A bound UDP socket that is told of every ICMP error, or a negative errno; `source` "": any. */
  openUdp(isSix: boolean, source: string): number;
  /** Call `run` while children of this thread inherit no capability. */
  withoutAmbient<T>(run: () => T): T;
  /** Receive queues in use, or a negative errno. */
  receiveQueues(interfaceName: string): number;
}

/** Sockets for ICMP echo, of both families. */
export interface NativeEcho {
  /** 2: raw, 1: datagram (ping_group_range), below 0: a negative errno. */
  readonly kind4: number;
  readonly kind6: number;
  /** 0, or a negative errno; `source` "": the host's choice. */
  send(address: string, source: string, payload: Uint8Array): number;
  /** Bytes of the next reply's payload, or a negative errno (EAGAIN: there is none). */
  receive(into: Uint8Array): number;
  close(): void;
}

/** addon/tunnel.cc. */
export interface NativeTunnel {
  readonly memory: ArrayBuffer;
  /** Packets, or a negative errno. */
  receive(timeoutMs: number): number;
  deliver(count: number): number;
  overflows(): number;
  close(): void;
}

export interface NativeXdpInterface {
  readonly name: string;
  /** Receive queues that this device owns; empty: it only sends there. */
  readonly queues: readonly number[];
  /** Place of the interface in the guard's list. */
  readonly ordinal: number;
  /** The XDP program runs in generic mode there. */
  readonly generic: boolean;
}

/** The workers that share the interfaces of a device, and the place of this one among them. */
export interface Crew {
  /** Its number. Workers open their devices in the order of their numbers. */
  readonly worker: number;
  /** Descriptor of the steering program (steering-native.ts). */
  readonly programFd: number;
  /** `groups` of worker 0's device; empty for worker 0 itself. */
  readonly groups: readonly number[];
  /** `Wake.fd` of every worker, by number. */
  readonly wakeFds: readonly number[];
}

/** Byte offsets in the device's memory of one ring of an AF_XDP socket. */
export interface NativeXdpRing {
  readonly producerAt: number;
  readonly consumerAt: number;
  readonly flagsAt: number;
  readonly entriesAt: number;
  /** A power of two. */
  readonly entries: number;
}

/** One AF_XDP socket: an interface's queue. */
export interface NativeXdpSocket {
  /** Index of the interface in the device's list. */
  readonly interface: number;
  readonly fill: NativeXdpRing;
  readonly completion: NativeXdpRing;
  readonly rx: NativeXdpRing;
  readonly tx: NativeXdpRing;
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
  readonly inletAt: number;
  readonly inletSlotBytes: number;
  readonly inletSlots: number;
  /** AF_PACKET: fan-out group of each interface; empty without other workers. */
  readonly groups: readonly number[];
  readonly interfaces: readonly { name: string; index: number; mac: string }[];
  /** Frames, or a negative errno. */
  receive(timeoutMs: number): number;
  /** Frames sent, or a negative errno. */
  transmit(count: number, wakeMask: number): number;
  statistics(): { missed: number; skipped: number; calls: number } | undefined;
  /** Have a receive look for frames this long before it blocks, when the last one had some. */
  setSpin(microseconds: number): void;
  close(): void;
}

/**
 * An AF_XDP device. Its `receive` only waits and writes the tick (below 0: only the tick) and gives
 * 0 or a negative errno; its `transmit` has the kernel send what is in the rings, and gives 1 when
 * a socket's frames were refused and taken out of its ring again.
 */
export interface NativeXdpDevice extends NativeDevice {
  readonly umemAt: number;
  readonly chunkBytes: number;
  readonly chunks: number;
  /** Offset of a received frame in its chunk. */
  readonly frameAt: number;
  /** Bytes before a frame for its TX metadata; 0: the kernel has none. */
  readonly metadataBytes: number;
  /** One int32 word a socket: errno of its last kick. */
  readonly kickedAt: number;
  readonly sockets: readonly NativeXdpSocket[];
  /** True when all sockets are zero-copy. */
  readonly zeroCopy: boolean;
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
  EEXIST: 17,
  ENODEV: 19,
  EINVAL: 22,
  EMFILE: 24,
  ENOSPC: 28,
  ERANGE: 34,
  EOPNOTSUPP: 95,
  EADDRINUSE: 98,
  ENETDOWN: 100,
  ENOBUFS: 105,
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
      return "it is not an Ethernet interface; only those carry frames for this device type";
    case "MTU":
      return (
        `an interface has an MTU that no chunk holds: type xdp takes up to ${subject}; lower it ` +
        '("ip link set dev NAME mtu 1500"), or use type packet'
      );
    case "socket(AF_XDP)":
      return "the kernel has no AF_XDP (CONFIG_XDP_SOCKETS); use type packet";
    case "XDP_UMEM_REG":
      return errno === ERRNO.ENOBUFS || errno === ERRNO.ENOMEM
        ? "no memory may be locked for the frames; raise the limit (ulimit -l unlimited), or free some"
        : "the kernel refuses the frame memory";
    case "bind(AF_XDP)":
      return bindAdvice(errno);
    case "bpf(MAP_UPDATE_ELEM)":
      return "its queue has no place in the socket map: at most 64 queues an interface";
    case "queues":
      return "too many receive queues for one worker; use more workers, or fewer queues (ethtool -L)";
    case "PACKET_FANOUT":
    case "PACKET_FANOUT_DATA":
      return "the kernel cannot share an interface between workers; set device.workers to 1";
    case "TUNSETSTEERINGEBPF":
      return "the kernel cannot share a TUN device between workers (Linux 4.16); set device.workers to 1";
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

/** What to do when the kernel refuses an AF_XDP socket on a queue. */
function bindAdvice(errno: number): string {
  switch (errno) {
    case ERRNO.EBUSY:
      return "another process has an AF_XDP socket on this queue; stop it first";
    case ERRNO.EOPNOTSUPP:
      return "the driver has no zero-copy; use device.xdp.zeroCopy: auto";
    case ERRNO.EINVAL:
      return 'there is no such queue ("ethtool -l NAME"), or device.xdp.zeroCopy: require is too much';
    case ERRNO.ENOBUFS:
    case ERRNO.ENOMEM:
      return "no memory for the rings; free some, or use fewer queues (ethtool -L)";
    default:
      return "see the system call's manual page";
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
