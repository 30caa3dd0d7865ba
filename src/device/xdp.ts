import { readdirSync } from "node:fs";
import { DeviceError } from "../base/errors.ts";
import { INTERFACES_MAX } from "../base/limits.ts";
import { goneError, type NativeFrameDevice, wrapNativeDevice } from "./frame-device.ts";
import { type Crew, ERRNO, type NativeXdpDevice, nativeAddon, openError } from "./native.ts";
import { assertInterfaceName } from "./tun.ts";
import { createXdpRings } from "./xdp-rings.ts";

/** Queues of one interface that the socket map has room for (addon/ownership.h, kQueuesMax). */
export const XDP_QUEUES_MAX = 64;

/** Largest MTU: a frame, behind the headroom of 258 bytes, has to fit a page (addon/xsk.h). */
export const XDP_MTU_MAX = 4096 - 258 - 14;

export interface XdpInterface {
  readonly name: string;
  /**
   * Receive queues that this device takes frames from. Every queue of an interface needs an owner:
   * what comes in on another is not taken. Empty: this device only sends there, through AF_PACKET.
   */
  readonly queues: readonly number[];
  /** The XDP program of the interface runs in generic mode: no zero-copy. */
  readonly generic: boolean;
}

export interface XdpOptions {
  /**
   * Ethernet interfaces of this network namespace, 1-16; the first has index 0. In the order of the
   * guard's list: the place is the interface's ordinal in the socket map.
   */
  readonly interfaces: readonly XdpInterface[];
  /** `Wake.fd`: ends a wait in `receive`. */
  readonly wakeFd: number;
  /** Socket map of the XDP program (`XdpGuard.sockets`); the device keeps no reference to it. */
  readonly socketMap: number;
  /** auto: where every driver has it. Default auto. */
  readonly zeroCopy?: "auto" | "off" | "require";
  /** SO_BUSY_POLL in microseconds; 0: off. */
  readonly busyPollUs?: number;
  /** Microseconds that `receive` looks for frames before it blocks, when the last had some. */
  readonly spinUs?: number;
  /** Other workers on the same interfaces, each with queues of its own; left out: none. */
  readonly crew?: Crew | undefined;
}

export interface XdpDevice extends NativeFrameDevice {
  readonly type: "xdp";
  /** Frames are not copied between driver and UMEM. */
  readonly zeroCopy: boolean;
  /** The kernel completes partial checksums on the way out; else the device does. */
  readonly txMetadata: boolean;
}

const ZERO_COPY = { auto: 0, off: 1, require: 2 } as const;

/**
 * Open AF_XDP sockets on Ethernet interfaces, one a receive queue, all over one UMEM.
 *
 * The device sees the frames that the XDP program on the interface sends to its sockets; they are
 * not the kernel's any more. Frames start at the Ethernet header, at most one MTU long. There is no
 * virtio_net_hdr, and so D_VNET is 0 for received frames: a checksum that is partial (a veth peer
 * with checksum offload) has to be recognised by its value. On the way out, VNET_F_NEEDS_CSUM is
 * honoured, and GSO is refused (TX_FAILED).
 *
 * @throws PrivilegeError without CAP_NET_RAW
 * @throws DeviceError when an interface is missing, down, not Ethernet, has a queue that is taken,
 *   or an MTU above 3824
 */
export function openXdp(options: XdpOptions): XdpDevice {
  const { interfaces } = options;
  assertInterfaces(interfaces);
  const names = interfaces.map(({ name }) => name).join(", ");
  const what = `${interfaces.length === 1 ? "interface" : "interfaces"} ${names}`;
  let native: NativeXdpDevice;
  try {
    native = nativeAddon().openXdp(
      interfaces.map((entry, ordinal) => ({ ...entry, ordinal })),
      options.wakeFd,
      options.socketMap,
      ZERO_COPY[options.zeroCopy ?? "auto"],
      options.busyPollUs ?? 0,
      options.crew,
    );
  } catch (error) {
    throw openError(error, what);
  }
  native.setSpin(options.spinUs ?? 0);
  const base = wrapNativeDevice(native, "xdp", 14, what);
  const rings = createXdpRings({
    ...native,
    rx: base.batch.rx,
    tx: base.batch.tx,
    kicked: new Int32Array(native.memory, native.kickedAt, native.sockets.length),
    mtus: new Int32Array(native.memory, native.mtuAt, native.interfaces.length),
    wait: native.receive,
    kick: native.transmit,
  });
  let isOpen = true;
  return {
    ...base,
    type: "xdp",
    zeroCopy: native.zeroCopy,
    txMetadata: native.metadataBytes !== 0,
    receive(timeoutMs) {
      const count = isOpen ? rings.receive(timeoutMs) : -ERRNO.EBADF;
      if (count < 0) throw goneError(-count, "receive", what);
      return count;
    },
    transmit(count, wakeMask = 0) {
      const isRight = count >= 0 && count * 8 <= base.batch.tx.length;
      let sent: number = isRight ? -ERRNO.EBADF : -ERRNO.EINVAL;
      if (isOpen && isRight) sent = rings.transmit(count, wakeMask);
      if (sent < 0) throw goneError(-sent, "transmit", what);
      return sent;
    },
    close() {
      isOpen = false;
      base.close();
    },
  };
}

function assertInterfaces(interfaces: readonly XdpInterface[]): void {
  if (interfaces.length < 1 || interfaces.length > INTERFACES_MAX) {
    throw new DeviceError(
      `interfaces: expected 1-${INTERFACES_MAX} names, got ${interfaces.length}`,
      "open",
      0,
    );
  }
  const names = interfaces.map(({ name }) => name);
  for (const name of names) assertInterfaceName(name);
  if (new Set(names).size !== names.length) {
    throw new DeviceError(`interfaces: each may be named once, got ${names.join(", ")}`, "open", 0);
  }
  for (const { name, queues } of interfaces) {
    const wrong = queues.find((queue) => queue < 0 || queue >= XDP_QUEUES_MAX);
    if (wrong === undefined) continue;
    throw new DeviceError(
      `interface ${name}: queue ${wrong} is beyond the ${XDP_QUEUES_MAX} that type xdp takes; ` +
        `use fewer ("ethtool -L ${name} combined ${XDP_QUEUES_MAX}")`,
      "open",
      0,
    );
  }
}

/**
 * Receive queues of an interface that are in use, at least 1: each needs a device that owns it.
 *
 * @param name - an interface of this network namespace
 */
export function receiveQueues(name: string): number {
  const count = nativeAddon().receiveQueues(name);
  if (count > 0) return count;
  // A driver without ethtool channels.
  try {
    const queues = readdirSync(`/sys/class/net/${name}/queues`);
    return Math.max(1, queues.filter((queue) => queue.startsWith("rx-")).length);
  } catch {
    return 1;
  }
}
