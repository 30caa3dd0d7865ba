import { assert } from "../base/assert.ts";
import { DeviceError } from "../base/errors.ts";
import { BATCH_FRAMES_MAX, OUT_FRAMES_MAX } from "../base/limits.ts";
import {
  type Batch,
  D_AT,
  D_BYTES,
  D_CSUM,
  D_FROM,
  D_INTERFACE,
  D_RESULT,
  D_USER,
  D_VNET,
  DESCRIPTOR_WORDS,
  type DeviceInterface,
  FROM_SPARE,
  type FrameDevice,
  TX_SENT,
  TX_TOO_BIG,
} from "./device.ts";

/**
 * A device that is only memory: frames are put in by `inject` and taken out of `sent`. The fast path
 * runs on it as on any other, so tests, the simulation and benches see the same bytes as a wire
 * would.
 *
 * Theory of operation
 *
 *   memory = slots x slotBytes | spares x spareBytes | inlet
 *
 * The slots are a ring. `inject` copies a frame into the slot after the last one; `receive` hands out
 * up to BATCH_FRAMES_MAX of the oldest where they lie, and the next `receive` gives those slots
 * back. So between two calls of `receive` the ring has room for `slots` less the frames handed out.
 * A frame starts in its slot so that the IP header is 4-byte aligned.
 */

/** Half of a virtio_net_hdr each: the descriptor words D_VNET and D_CSUM. */
export interface VnetWords {
  readonly vnet: number;
  readonly csum: number;
}

/** A frame that was sent: its own copy of the bytes. */
export interface SentFrame extends VnetWords {
  readonly bytes: Uint8Array;
  /** Index of the egress interface in the device's list. */
  readonly interface: number;
}

export interface MemoryDeviceOptions {
  /** 0 as on TUN, 14 as on Ethernet. */
  readonly linkHeaderBytes: number;
  readonly interfaces: readonly DeviceInterface[];
  /** Frames that can be in the device at once; at least BATCH_FRAMES_MAX. Default 256. */
  readonly slots?: number;
  /** Bytes of one slot, a multiple of 4, with 4 for alignment. Default 2048. */
  readonly slotBytes?: number;
  /** Slots for frames of other workers. Default 0: there are none. */
  readonly inletSlots?: number;
  /** Bytes before each frame for another header, a multiple of 4. Default 0. */
  readonly headroomBytes?: number;
  /** Called with the workers to be woken, as a bit mask. */
  readonly onWake?: (wakeMask: number) => void;
  /** false: `sent` stays empty, and no call allocates anything. Default true. */
  readonly keepSent?: boolean;
}

export interface MemoryDevice extends FrameDevice {
  readonly type: "memory";
  /** What was sent since the start, oldest first; empty it with `sent.length = 0`. */
  readonly sent: SentFrame[];
  /** Frames and bytes sent since the start, whatever `keepSent` says. */
  sentFrames(): number;
  sentBytes(): number;

  /**
   * Put a frame in, as if it had come in on an interface.
   *
   * @param frame - copied; at most slotBytes - 4
   * @param interfaceIndex - index in the device's list
   * @param words - virtio_net_hdr, 0 and 0 when left out
   * @throws AssertionError when it is too long, or the ring has no room (see `room`)
   */
  inject(frame: Uint8Array, interfaceIndex: number, words?: VnetWords): void;
  /** Frames that `inject` still takes before the next `receive`. */
  room(): number;
  /** Frames injected that `receive` has not handed out. */
  waiting(): number;
  /**
   * The tick of the batches from now on: milliseconds, its low 32 bits count.
   *
   * @param microseconds - the same in microseconds; left out: to the whole millisecond
   */
  setTick(ms: number, microseconds?: number): void;
  /**
   * Refuse the next `count` frames given to `transmit`, as a full queue or a small MTU would.
   *
   * @param result - TX_FULL, TX_TOO_BIG or TX_FAILED
   */
  refuse(result: number, count: number): void;
  /** Count frames as lost before the device, as if a ring had overflowed. */
  lose(count: number): void;
}

const SLOTS = 256;
const SLOT_BYTES = 2048;
const SPARE_BYTES = 2048;
/** Ethernet's 14 bytes end on a 4-byte border when they start 2 after one. */
const ALIGN_BYTES = 4;

const FRAMES_SENT = 0;
const BYTES_SENT = 1;
const MISSED = 2;
const CALLS = 3;
const COUNTS = 4;

/** @throws AssertionError when an option is out of its range */
export function createMemoryDevice(options: MemoryDeviceOptions): MemoryDevice {
  const {
    linkHeaderBytes,
    interfaces,
    keepSent = true,
    inletSlots = 0,
    headroomBytes = 0,
  } = options;
  const { slots = SLOTS, slotBytes = SLOT_BYTES } = options;
  assert(linkHeaderBytes === 0 || linkHeaderBytes === 14, "a link header has 0 or 14 bytes");
  assert(interfaces.length > 0, "a device has an interface");
  assert(slots >= BATCH_FRAMES_MAX, "the ring holds a batch");
  assert(slotBytes % ALIGN_BYTES === 0 && slotBytes > ALIGN_BYTES, "slots keep the alignment");

  const frameAt = headroomBytes + (-linkHeaderBytes & (ALIGN_BYTES - 1));
  const spareAt = slots * slotBytes;
  const inletAt = spareAt + OUT_FRAMES_MAX * SPARE_BYTES;
  const memory = new ArrayBuffer(inletAt + inletSlots * SLOT_BYTES);
  const bytes = new Uint8Array(memory);
  const memoryBytes = memory.byteLength;
  const batch: Batch = {
    rx: new Int32Array(BATCH_FRAMES_MAX * DESCRIPTOR_WORDS),
    tx: new Int32Array(OUT_FRAMES_MAX * DESCRIPTOR_WORDS),
    tick: new Int32Array(2),
  };
  const { rx, tx } = batch;
  const lengths = new Int32Array(slots);
  const ingress = new Int32Array(slots);
  const vnets = new Int32Array(slots);
  const csums = new Int32Array(slots);
  const sent: SentFrame[] = [];

  /** Slot of the oldest frame that waits; frames that wait; frames handed out, just before it. */
  let oldest = 0;
  let waitingCount = 0;
  let handedOut = 0;
  let refusal = TX_SENT;
  let refusalsLeft = 0;
  let closed = false;
  // A number in a variable becomes an object on the heap once it leaves 31 bits; here it does not.
  const counts = new Float64Array(COUNTS);

  function room(): number {
    return slots - waitingCount - handedOut;
  }

  function inject(frame: Uint8Array, interfaceIndex: number, words?: VnetWords): void {
    assert(!closed, "only an open device takes frames");
    assert(
      frame.length <= slotBytes - headroomBytes - ALIGN_BYTES,
      "an injected frame fits into a slot",
    );
    assert(interfaces[interfaceIndex] !== undefined, "an injected frame names an interface");
    assert(
      room() > 0,
      "the ring has room for an injected frame: receive first, or give more slots",
    );
    const slot = (oldest + waitingCount) % slots;
    bytes.set(frame, slot * slotBytes + frameAt);
    lengths[slot] = frame.length;
    ingress[slot] = interfaceIndex;
    vnets[slot] = words === undefined ? 0 : words.vnet;
    csums[slot] = words === undefined ? 0 : words.csum;
    waitingCount++;
  }

  function receive(): number {
    if (closed) throw closedError("receive");
    counts[CALLS] = counts[CALLS]! + 1;
    const count = Math.min(waitingCount, BATCH_FRAMES_MAX);
    for (let index = 0; index < count; index++) {
      const slot = (oldest + index) % slots;
      const word = index * DESCRIPTOR_WORDS;
      rx[word + D_AT] = slot * slotBytes + frameAt;
      rx[word + D_BYTES] = lengths[slot]!;
      rx[word + D_INTERFACE] = ingress[slot]!;
      rx[word + D_VNET] = vnets[slot]!;
      rx[word + D_CSUM] = csums[slot]!;
      rx[word + D_FROM] = 0;
      rx[word + D_RESULT] = 0;
      rx[word + D_USER] = 0;
    }
    oldest = (oldest + count) % slots;
    waitingCount -= count;
    handedOut = count;
    return count;
  }

  function transmit(count: number, wakeMask = 0): number {
    if (closed) throw closedError("transmit");
    assert(count >= 0 && count <= OUT_FRAMES_MAX, "a batch of frames to send fits its descriptors");
    counts[CALLS] = counts[CALLS]! + 1;
    let taken = 0;
    for (let index = 0; index < count; index++) {
      const word = index * DESCRIPTOR_WORDS;
      checkDescriptor(word);
      const result = resultOf(word);
      tx[word + D_RESULT] = result;
      if (result !== TX_SENT) continue;
      taken++;
      counts[BYTES_SENT] = counts[BYTES_SENT]! + tx[word + D_BYTES]!;
      if (keepSent) keep(word);
    }
    counts[FRAMES_SENT] = counts[FRAMES_SENT]! + taken;
    if (wakeMask !== 0) options.onWake?.(wakeMask);
    return taken;
  }

  /** What a kernel would answer with EINVAL or EFAULT is a defect of the fast path here. */
  function checkDescriptor(word: number): void {
    const at = tx[word + D_AT]!;
    const frameBytes = tx[word + D_BYTES]!;
    assert(at >= 0 && frameBytes > linkHeaderBytes, "a sent frame has more than a link header");
    assert(at + frameBytes <= memoryBytes, "a sent frame lies in the device's memory");
    assert(interfaces[tx[word + D_INTERFACE]!] !== undefined, "a sent frame names an interface");
    const from = tx[word + D_FROM]!;
    assert(
      from === FROM_SPARE
        ? at >= spareAt && at < inletAt
        : at >= inletAt || (from >= 0 && from < handedOut && at < spareAt),
      "a sent frame comes from a received one or from a spare",
    );
  }

  function resultOf(word: number): number {
    if (refusalsLeft > 0) {
      refusalsLeft--;
      return refusal;
    }
    // A packet socket takes MTU and link header unless the frame is GSO (packet_snd() in
    // net/packet/af_packet.c); a TUN device takes any length.
    const mtu = interfaces[tx[word + D_INTERFACE]!]!.mtu;
    const isGso = ((tx[word + D_VNET]! >>> 8) & 0xff) !== 0;
    const tooBig = tx[word + D_BYTES]! > mtu + linkHeaderBytes;
    return linkHeaderBytes !== 0 && mtu !== 0 && tooBig && !isGso ? TX_TOO_BIG : TX_SENT;
  }

  function keep(word: number): void {
    const at = tx[word + D_AT]!;
    sent.push({
      bytes: bytes.slice(at, at + tx[word + D_BYTES]!),
      interface: tx[word + D_INTERFACE]!,
      vnet: tx[word + D_VNET]!,
      csum: tx[word + D_CSUM]!,
    });
  }

  function close(): void {
    if (closed) return;
    closed = true;
    // Detaches it: whoever still has a view sees length 0, as after an unmapping.
    structuredClone(memory, { transfer: [memory] });
  }

  return {
    type: "memory",
    linkHeaderBytes,
    memory,
    batch,
    spareAt,
    spareBytes: SPARE_BYTES,
    spareCount: OUT_FRAMES_MAX,
    inletAt,
    inletSlotBytes: SLOT_BYTES,
    inletSlots,
    inletLeadBytes: frameAt,
    headroomBytes,
    interfaces,
    sent,
    sentFrames: () => counts[FRAMES_SENT]!,
    sentBytes: () => counts[BYTES_SENT]!,
    receive,
    transmit,
    inject,
    room,
    waiting: () => waitingCount,
    setTick(ms: number, microseconds = ms * 1000): void {
      batch.tick[0] = ms;
      batch.tick[1] = microseconds;
    },
    refuse(result: number, count: number): void {
      refusal = result;
      refusalsLeft = count;
    },
    lose(count: number): void {
      counts[MISSED] = counts[MISSED]! + count;
    },
    statistics: () => ({ missed: counts[MISSED]!, calls: counts[CALLS]! }),
    close,
  };
}

function closedError(operation: string): DeviceError {
  return new DeviceError(`${operation}: the memory device is closed`, operation, 0);
}
