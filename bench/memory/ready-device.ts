import { BATCH_FRAMES_MAX, OUT_FRAMES_MAX } from "../../src/base/limits.ts";
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
  HEADROOM_BYTES,
  TX_SENT,
} from "../../src/device/device.ts";
import { type FrameStore, WINDOW_FRAMES } from "./frame-store.ts";

/**
 * A device whose frames lie ready in its memory, as a kernel leaves them: `receive` only hands out
 * descriptors, `transmit` only writes results.
 *
 * Theory of operation
 *
 *   memory = WINDOW_FRAMES slots of 2 KiB | spares
 *
 * Why       What is to be measured is the fast path. A device that copies each frame in costs about
 *           as much as the fast path itself, and to measure that apart and subtract it gives the
 *           error of two measurements.
 * Window    `load` copies a window of pristine frames into the slots, outside the measured time, and
 *           the fast path then runs over all of them. So each frame is rewritten once, and is in
 *           cache when it comes, as one is that softirq has copied into a ring a moment ago. Of
 *           what lies between two windows (a copy of 256 KiB) the fast path sees only that those
 *           lines have pushed out others of the second-level cache.
 * Slots     Where AF_XDP puts frames: 50 bytes after the start of a slot of 2 KiB, the IP header on a
 *           cache line.
 * Capture   With `capture` set, `transmit` also copies each frame sent, with its length and egress,
 *           to the place of the received frame it came from, in slots of the store's size. Never set
 *           while time is measured.
 */
export interface ReadyDevice extends FrameDevice {
  /**
   * Put a window of frames in; those that were not received are gone.
   *
   * @param first - first frame
   * @param count - 1..WINDOW_FRAMES
   */
  load(store: FrameStore, first: number, count: number): void;
  /** Where sent frames go, by the place of the received frame, or null. */
  capture: Uint8Array | null;
  setTick(ms: number): void;
  /** Frames sent since the start. */
  sentFrames(): number;
}

const SLOT_BYTES = 2048;
/** AF_XDP's headroom in this project: the IP header then begins a cache line. */
const FRAME_AT = 50;
const SPARE_BYTES = 2048;
const LINK_BYTES = 14;

const FIRST = 0;
const NEXT = 1;
const LOADED = 2;
const SENT = 3;
const CALLS = 4;
const SLOT = 5;
const CELLS = 8;

export function createReadyDevice(interfaces: readonly DeviceInterface[]): ReadyDevice {
  const spareAt = WINDOW_FRAMES * SLOT_BYTES;
  const memory = new ArrayBuffer(spareAt + OUT_FRAMES_MAX * SPARE_BYTES);
  const bytes = new Uint8Array(memory);
  const words = new Int32Array(memory);
  const batch: Batch = {
    rx: new Int32Array(BATCH_FRAMES_MAX * DESCRIPTOR_WORDS),
    tx: new Int32Array(OUT_FRAMES_MAX * DESCRIPTOR_WORDS),
    tick: new Int32Array(2),
  };
  const { rx, tx } = batch;
  const lengths = new Int32Array(WINDOW_FRAMES);
  const ingress = new Int32Array(WINDOW_FRAMES);
  // Frames and calls fit in int32 for any run there is, and a store in an array never allocates.
  const cells = new Int32Array(CELLS);

  function load(store: FrameStore, first: number, count: number): void {
    const slotWords = store.slotBytes >> 2;
    const frames = store.words;
    for (let index = 0; index < count; index++) {
      const from = (first + index) * slotWords;
      const to = (index * SLOT_BYTES + FRAME_AT - 2) >> 2;
      for (let word = 0; word < slotWords; word++) words[to + word] = frames[from + word]!;
      ingress[index] = frames[from]! & 0xff;
      lengths[index] = (frames[from]! >>> 8) & 0xff;
    }
    cells[SLOT] = store.slotBytes;
    cells[FIRST] = first;
    cells[NEXT] = 0;
    cells[LOADED] = count;
  }

  function receive(): number {
    const next = cells[NEXT]!;
    const count = Math.min(cells[LOADED]! - next, BATCH_FRAMES_MAX);
    for (let index = 0; index < count; index++) {
      const slot = next + index;
      const word = index * DESCRIPTOR_WORDS;
      rx[word + D_AT] = slot * SLOT_BYTES + FRAME_AT;
      rx[word + D_BYTES] = lengths[slot]!;
      rx[word + D_INTERFACE] = ingress[slot]!;
      rx[word + D_VNET] = 0;
      rx[word + D_CSUM] = 0;
      rx[word + D_FROM] = 0;
      rx[word + D_RESULT] = 0;
      rx[word + D_USER] = 0;
    }
    cells[NEXT] = next + count;
    cells[CALLS] = (cells[CALLS]! + 1) | 0;
    return count;
  }

  function transmit(count: number): number {
    for (let index = 0; index < count; index++) tx[index * DESCRIPTOR_WORDS + D_RESULT] = TX_SENT;
    cells[SENT] = (cells[SENT]! + count) | 0;
    cells[CALLS] = (cells[CALLS]! + 1) | 0;
    if (device.capture !== null) keep(device.capture, count);
    return count;
  }

  function keep(out: Uint8Array, count: number): void {
    // The batch at hand began where the frames received before it end.
    const batchFirst = cells[FIRST]! + ((cells[NEXT]! - 1) & ~(BATCH_FRAMES_MAX - 1));
    for (let index = 0; index < count; index++) {
      const word = index * DESCRIPTOR_WORDS;
      if (tx[word + D_FROM] === FROM_SPARE) continue;
      const at = tx[word + D_AT]!;
      const length = tx[word + D_BYTES]!;
      const to = (batchFirst + tx[word + D_FROM]!) * cells[SLOT]!;
      out[to] = tx[word + D_INTERFACE]!;
      out[to + 1] = length;
      out.set(bytes.subarray(at, at + length), to + 2);
    }
  }

  const device: ReadyDevice = {
    type: "memory",
    linkHeaderBytes: LINK_BYTES,
    memory,
    batch,
    spareAt,
    spareBytes: SPARE_BYTES,
    spareCount: OUT_FRAMES_MAX,
    inletAt: 0,
    inletSlotBytes: 0,
    inletSlots: 0,
    inletLeadBytes: 0,
    headroomBytes: HEADROOM_BYTES,
    interfaces,
    capture: null,
    load,
    receive,
    transmit,
    setTick(ms) {
      batch.tick[0] = ms;
    },
    sentFrames: () => cells[SENT]!,
    statistics: () => ({ missed: 0, calls: cells[CALLS]! }),
    close() {},
  };
  return device;
}
