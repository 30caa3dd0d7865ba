import { DeviceError } from "../base/errors.ts";
import { BATCH_FRAMES_MAX, OUT_FRAMES_MAX } from "../base/limits.ts";
import {
  type Batch,
  DESCRIPTOR_WORDS,
  type DeviceInterface,
  type DeviceStatistics,
  type FrameDevice,
  HEADROOM_BYTES,
} from "./device.ts";
import { ERRNO, errnoName, type NativeDevice } from "./native.ts";

/** Statistics of a device of the addon. */
export interface NativeDeviceStatistics extends DeviceStatistics {
  /**
   * Frames that the device left to the kernel and never showed: those with a VLAN tag (the kernel
   * takes the tag out of the frame, so it cannot be forwarded in place), and those addressed to
   * another host, which only a promiscuous interface sees.
   */
  readonly skipped: number;
}

/** A FrameDevice whose frames come from the kernel. */
export interface NativeFrameDevice extends FrameDevice {
  statistics(): NativeDeviceStatistics;
  /** AF_PACKET: fan-out group of each interface; empty without other workers. */
  readonly groups: readonly number[];
}

/**
 * The FrameDevice over what the addon opened.
 *
 * @param native - its memory, places and functions
 * @param type - for `FrameDevice.type`
 * @param linkHeaderBytes - 14 when frames start with an Ethernet header
 * @param name - for messages: "TUN device hg0"
 */
export function wrapNativeDevice(
  native: NativeDevice,
  type: "tun" | "packet" | "xdp",
  linkHeaderBytes: number,
  name: string,
): NativeFrameDevice {
  const { memory } = native;
  const batch: Batch = {
    rx: new Int32Array(memory, native.rxAt, BATCH_FRAMES_MAX * DESCRIPTOR_WORDS),
    tx: new Int32Array(memory, native.txAt, OUT_FRAMES_MAX * DESCRIPTOR_WORDS),
    tick: new Int32Array(memory, native.tickAt, 2),
  };
  const mtus = new Int32Array(memory, native.mtuAt, native.interfaces.length);
  const interfaces = native.interfaces.map((entry, index): DeviceInterface => {
    const first = mtus[index]!;
    return {
      name: entry.name,
      index: entry.index,
      mac: entry.mac,
      // Read where it is asked for: the addon follows changes. Closed: the first value.
      get mtu() {
        return mtus[index] ?? first;
      },
    };
  });
  let last: NativeDeviceStatistics = { missed: 0, skipped: 0, calls: 0 };
  return {
    type,
    linkHeaderBytes,
    memory,
    batch,
    spareAt: native.spareAt,
    spareBytes: native.spareBytes,
    spareCount: native.spareCount,
    inletAt: native.inletAt,
    inletSlotBytes: native.inletSlotBytes,
    inletSlots: native.inletSlots,
    // The IP header on a multiple of 4, as in every frame.
    inletLeadBytes: HEADROOM_BYTES + (-linkHeaderBytes & 3),
    headroomBytes: HEADROOM_BYTES,
    groups: native.groups,
    interfaces,
    receive(timeoutMs) {
      const count = native.receive(timeoutMs);
      if (count < 0) throw goneError(-count, "receive", name);
      return count;
    },
    transmit(count, wakeMask = 0) {
      const sent = native.transmit(count, wakeMask);
      if (sent < 0) throw goneError(-sent, "transmit", name);
      return sent;
    },
    statistics() {
      last = native.statistics() ?? last;
      return last;
    },
    close() {
      last = native.statistics() ?? last;
      native.close();
    },
  };
}

/** The error for a negative errno that a device's receive or transmit gave. */
export function goneError(errno: number, operation: string, name: string): DeviceError {
  if (errno === ERRNO.EBADF) {
    return new DeviceError(`${operation} on ${name}, which is closed`, operation, errno);
  }
  if (errno === ERRNO.ENODEV) {
    return new DeviceError(
      `${name} is gone (${operation}: ENODEV): an interface was deleted or moved to another ` +
        "network namespace; make it again and start the gateway again",
      operation,
      errno,
    );
  }
  if (errno === ERRNO.EINVAL) {
    return new DeviceError(
      `${operation} on ${name}: expected a count of 0-${OUT_FRAMES_MAX}`,
      operation,
      errno,
    );
  }
  return new DeviceError(`${operation} on ${name}: ${errnoName(errno)}`, operation, errno);
}
