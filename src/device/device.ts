/**
 * The one shape that every frame device has, and the layout of a batch.
 *
 * Memory    Every frame of a device lies in one mapped buffer, `memory`, so that the fast path
 *           reads and writes it through views that never change. A frame is named by its byte
 *           offset there. Frames start so that the IP header is 4-byte aligned.
 * Receive   `receive()` fills `batch.rx` with one descriptor a frame and returns the count. The
 *           frames stay valid, and may be changed in place, until the next `receive()`.
 * Transmit  The fast path lists the frames to send in `batch.tx`: a received frame (changed in
 *           place), or a spare (see `spareAt`). `transmit(count)` sends them in order and writes
 *           each one's result into its descriptor.
 * Spares    `spareCount` slots of `spareBytes` each, free again after every `transmit()`, for
 *           frames of our own making.
 * Inlet     With other workers: `inletSlots` slots of `inletSlotBytes` each, into which the fast
 *           path copies frames that another worker's device has received. It describes them in
 *           `batch.rx` itself, between two receives, and sends them as received ones. A frame
 *           begins `inletLeadBytes` into a slot, and may go on into the slots behind it.
 */

/** Headroom of devices: an outer IPv6 and a UDP header (wire/tunnel.ts, OUTER_BYTES_MAX). */
export const HEADROOM_BYTES = 48;

/** Int32 words of one descriptor, in `rx` and in `tx`. */
export const DESCRIPTOR_WORDS = 8;

/** Byte offset in `memory` of the first byte: Ethernet header, or IP header on TUN. */
export const D_AT = 0;
/** Length in bytes from D_AT. */
export const D_BYTES = 1;
/** Index of the interface in the device's list (0 on TUN): ingress in rx, egress in tx. */
export const D_INTERFACE = 2;
/**
 * virtio_net_hdr, first half: flags | gso_type << 8 | gso_size << 16 (include/uapi/linux/virtio_net.h).
 * 0 when the device has none.
 */
export const D_VNET = 3;
/** virtio_net_hdr, second half: csum_start | csum_offset << 16; csum_start counts from D_AT. */
export const D_CSUM = 4;
/** tx: index in rx of the frame this one came from, or FROM_SPARE. rx: unused. */
export const D_FROM = 5;
/**
 * tx: TX_SENT, TX_FULL, TX_TOO_BIG or TX_FAILED, written by transmit(). rx: how often workers have
 * handed the frame on; 0 for one that receive() brought.
 */
export const D_RESULT = 6;
/** Free for the fast path: it keeps the flow or the reason there between passes. */
export const D_USER = 7;

export const FROM_SPARE = -1;

export const TX_SENT = 0;
/** No room in the send queue: the drop `tx_full`. */
export const TX_FULL = 1;
/** Larger than the interface takes (EMSGSIZE): the drop `too_big`. */
export const TX_TOO_BIG = 2;
/** Any other refusal, interface down included: the drop `tx_failed`. */
export const TX_FAILED = 3;

/** virtio_net_hdr.flags: the L4 checksum is partial; csum_start and csum_offset are valid. */
export const VNET_F_NEEDS_CSUM = 1;
/** virtio_net_hdr.flags: the checksum was validated. */
export const VNET_F_DATA_VALID = 2;
/** virtio_net_hdr.gso_type values; ECN is a flag bit on top. */
export const VNET_GSO_NONE = 0;
export const VNET_GSO_TCPV4 = 1;
export const VNET_GSO_UDP = 3;
export const VNET_GSO_TCPV6 = 4;
export const VNET_GSO_UDP_L4 = 5;
export const VNET_GSO_ECN = 0x80;

export interface Batch {
  /** BATCH_FRAMES_MAX descriptors. */
  readonly rx: Int32Array;
  /** OUT_FRAMES_MAX descriptors. */
  readonly tx: Int32Array;
  /**
   * [0]: CLOCK_MONOTONIC in milliseconds, [1]: in microseconds, the low 32 bits of each as int32.
   * The native calls write them, at least once between two batches, so that the fast path needs no
   * clock of its own.
   */
  readonly tick: Int32Array;
}

export interface DeviceInterface {
  readonly name: string;
  /** Kernel interface index. */
  readonly index: number;
  /** Hardware address as 12 hex digits with colons; "" on TUN. */
  readonly mac: string;
  readonly mtu: number;
}

export interface DeviceStatistics {
  /** Frames that the kernel lost before us because a ring or queue was full. */
  readonly missed: number;
  /** Native calls made, for the two-calls-a-batch rule. */
  readonly calls: number;
}

export interface FrameDevice {
  readonly type: "tun" | "packet" | "xdp" | "memory" | "pcap";
  /** Bytes of link header before the IP header: 0 on TUN, 14 elsewhere. */
  readonly linkHeaderBytes: number;
  readonly memory: ArrayBuffer;
  readonly batch: Batch;
  readonly spareAt: number;
  readonly spareBytes: number;
  readonly spareCount: number;
  readonly inletAt: number;
  readonly inletSlotBytes: number;
  /** 0: no other workers. */
  readonly inletSlots: number;
  readonly inletLeadBytes: number;
  /** Bytes before each received frame, in the inlet too, that may be overwritten with a header. */
  readonly headroomBytes: number;
  readonly interfaces: readonly DeviceInterface[];

  /**
   * Take frames, waiting at most `timeoutMs` for the first one or for `wake()`.
   *
   * @param timeoutMs - 0: do not wait
   * @returns frames in `batch.rx`, 0..BATCH_FRAMES_MAX
   * @throws DeviceError when the device is gone for good; an interface that is down is not
   */
  receive(timeoutMs: number): number;

  /**
   * Send `batch.tx[0..count)`. Never blocks; what does not fit gets TX_FULL.
   *
   * @param wakeMask - bit N: wake worker N too (it has been handed frames); left out: nobody
   * @returns frames sent
   */
  transmit(count: number, wakeMask?: number): number;

  statistics(): DeviceStatistics;

  /** Release everything. Views on `memory` have length 0 afterwards. Closing twice is fine. */
  close(): void;
}
