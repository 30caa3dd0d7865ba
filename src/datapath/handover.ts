import { assert } from "../base/assert.ts";
import { BATCH_FRAMES_MAX } from "../base/limits.ts";
import {
  D_AT,
  D_BYTES,
  D_CSUM,
  D_FROM,
  D_INTERFACE,
  D_RESULT,
  D_USER,
  D_VNET,
  DESCRIPTOR_WORDS,
} from "../device/device.ts";
import { W_HANDOVER_HEADS, W_HANDOVER_TAILS, W_SLEEPS } from "../state/layout.ts";
import type { Context } from "./context.ts";
import { DROP_HANDOVER_FULL, DROPPED, HANDED_OVER } from "./verdict.ts";

/**
 * Frames that came to a worker that does not own their flow.
 *
 * Theory of operation
 *
 * Rings     One for every ordered pair of workers, in the region, with one producer and one consumer.
 *           Head and tail count words and never go back; each lies in the header page of the worker
 *           that writes it, and is read by the other once a batch.
 * Records   A header of RECORD_WORDS (bytes, interface | handovers << 16, the two virtio words), then
 *           the frame's words with its own alignment. A record may run over the end of the ring: so
 *           the largest frame fits whenever there is room for it, wherever the head is.
 * Full      The frame is the drop `handover_full`: a worker never waits for another.
 * Inlet     The consumer copies frames into its own device's memory and handles them as a batch,
 *           every other time, so that neither they nor its own frames starve.
 * Sleep     The consumer stores W_SLEEPS, then looks at the heads; the producer stores a head, then
 *           looks at W_SLEEPS (Dekker): at least one of them sees the other. The wake-up goes with
 *           the producer's transmit, so a batch is two native calls with it as without.
 */

const RECORD_WORDS = 4;

export interface Handover {
  /** Whether the next batch is one of handed frames; to be asked once a batch. */
  isDue(): boolean;
  /** Bring handed frames into the inlet. @returns how many, described in the device's `rx` */
  receive(): number;
  /** How long the device may wait for frames of its own: not at all while some are handed. */
  sleep(timeoutMs: number): number;
  /** After sleep() and the wait. */
  awake(): void;
  /**
   * Copy the frame of `rxWord`, as it came, to worker `to`.
   *
   * @returns its verdict
   */
  send(rxWord: number, to: number): number;
  /** Let the others see what this batch has sent. @returns bit N: worker N has to be woken */
  flush(): number;
}

const CELL_HANDED_LAST = 0;
const CELL_TURN = 1;
const CELL_SENT = 2;
const CELLS = 4;

export function createHandover(context: Context): Handover {
  const { device, i32, layout, link, rx } = context;
  const { handoverBytes, shards, worker, workers } = layout;
  const { inletAt, inletSlotBytes, inletSlots, inletLeadBytes } = device;
  assert(workers === 1 || inletSlots > 0, "a device of several workers has an inlet");
  const frames = new Int32Array(device.memory, 0, device.memory.byteLength >> 2);
  const ringWords = handoverBytes >> 2;
  const mask = ringWords - 1;
  assert((ringWords & mask) === 0, "a ring has a power of two of words");
  // Every frame of a device starts so, whichever worker has received it.
  const lead = -link & 3;
  const cells = new Int32Array(CELLS);
  /** By worker: head of our ring to it, and its tail when it was read last; our tail of its ring. */
  const heads = new Int32Array(workers);
  const theirTails = new Int32Array(workers);
  const ownTails = new Int32Array(workers);
  /** First word of each worker's header page. */
  const pages = Int32Array.from(shards, ({ workerWord }) => workerWord);
  const ownSleeps = layout.workerWord + W_SLEEPS;

  /** First word of the ring from one worker to another. */
  function ring(from: number, to: number): number {
    const index = from * (workers - 1) + (to < from ? to : to - 1);
    return (layout.handover.at >> 2) + index * ringWords;
  }

  function headOf(from: number): number {
    return Atomics.load(i32, pages[from]! + W_HANDOVER_HEADS + worker);
  }

  function isWaiting(): boolean {
    for (let from = 0; from < workers; from++) {
      if (from !== worker && headOf(from) !== ownTails[from]) return true;
    }
    return false;
  }

  function isDue(): boolean {
    const due = cells[CELL_HANDED_LAST] === 0 && isWaiting();
    cells[CELL_HANDED_LAST] = due ? 1 : 0;
    return due;
  }

  function receive(): number {
    let count = 0;
    let slot = 0;
    const turn = cells[CELL_TURN]!;
    cells[CELL_TURN] = turn + 1 >= workers ? 0 : turn + 1;
    for (let step = 0; step < workers; step++) {
      const from = (turn + step) % workers;
      if (from === worker) continue;
      const head = headOf(from);
      const base = ring(from, worker);
      let tail = ownTails[from]!;
      while (tail !== head && count < BATCH_FRAMES_MAX) {
        const bytes = i32[base + (tail & mask)]!;
        const slots = Math.ceil((inletLeadBytes + bytes) / inletSlotBytes);
        assert(bytes > 0 && slots <= inletSlots, "a handed frame fits into the inlet");
        if (slot + slots > inletSlots) break;
        const at = inletAt + slot * inletSlotBytes + inletLeadBytes;
        takeRecord(base, tail, at, bytes, count);
        tail = (tail + RECORD_WORDS + ((lead + bytes + 3) >> 2)) | 0;
        slot += slots;
        count++;
      }
      if (tail === ownTails[from]) continue;
      ownTails[from] = tail;
      Atomics.store(i32, pages[worker]! + W_HANDOVER_TAILS + from, tail);
    }
    return count;
  }

  function takeRecord(base: number, tail: number, at: number, bytes: number, index: number): void {
    const word = index * DESCRIPTOR_WORDS;
    const packed = i32[base + ((tail + 1) & mask)]!;
    rx[word + D_AT] = at;
    rx[word + D_BYTES] = bytes;
    rx[word + D_INTERFACE] = packed & 0xffff;
    rx[word + D_VNET] = i32[base + ((tail + 2) & mask)]!;
    rx[word + D_CSUM] = i32[base + ((tail + 3) & mask)]!;
    rx[word + D_FROM] = 0;
    rx[word + D_RESULT] = packed >>> 16;
    rx[word + D_USER] = 0;
    const words = (lead + bytes + 3) >> 2;
    const from = tail + RECORD_WORDS;
    const to = at >> 2;
    for (let copied = 0; copied < words; copied++) {
      frames[to + copied] = i32[base + ((from + copied) & mask)]!;
    }
  }

  function sleep(timeoutMs: number): number {
    if (timeoutMs === 0) return 0;
    Atomics.store(i32, ownSleeps, 1);
    return isWaiting() ? 0 : timeoutMs;
  }

  function awake(): void {
    if (i32[ownSleeps] !== 0) Atomics.store(i32, ownSleeps, 0);
  }

  function send(rxWord: number, to: number): number {
    const bytes = rx[rxWord + D_BYTES]!;
    const frameWords = (lead + bytes + 3) >> 2;
    const needed = ringWords - RECORD_WORDS - frameWords;
    const head = heads[to]!;
    if (((head - theirTails[to]!) | 0) > needed) {
      theirTails[to] = Atomics.load(i32, pages[to]! + W_HANDOVER_TAILS + worker);
      if (((head - theirTails[to]!) | 0) > needed) return DROPPED | (DROP_HANDOVER_FULL << 8);
    }
    const base = ring(worker, to);
    i32[base + (head & mask)] = bytes;
    i32[base + ((head + 1) & mask)] =
      rx[rxWord + D_INTERFACE]! | ((rx[rxWord + D_RESULT]! + 1) << 16);
    i32[base + ((head + 2) & mask)] = rx[rxWord + D_VNET]!;
    i32[base + ((head + 3) & mask)] = rx[rxWord + D_CSUM]!;
    const from = rx[rxWord + D_AT]! >> 2;
    const at = head + RECORD_WORDS;
    for (let copied = 0; copied < frameWords; copied++) {
      i32[base + ((at + copied) & mask)] = frames[from + copied]!;
    }
    heads[to] = (at + frameWords) | 0;
    cells[CELL_SENT] = cells[CELL_SENT]! | (1 << to);
    return HANDED_OVER;
  }

  function flush(): number {
    const sent = cells[CELL_SENT]!;
    if (sent === 0) return 0;
    cells[CELL_SENT] = 0;
    let wake = 0;
    for (let to = 0; to < workers; to++) {
      if ((sent & (1 << to)) === 0) continue;
      Atomics.store(i32, pages[worker]! + W_HANDOVER_HEADS + to, heads[to]!);
      // Whoever takes the word back wakes it; the others need not.
      if (Atomics.compareExchange(i32, pages[to]! + W_SLEEPS, 1, 0) === 1) wake |= 1 << to;
    }
    return wake;
  }

  return { isDue, receive, sleep, awake, send, flush };
}
