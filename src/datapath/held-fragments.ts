import { FRAGMENT_HELD_MS, FRAGMENTS_HELD_MAX } from "../base/limits.ts";
import { D_AT, D_BYTES, D_CSUM, D_INTERFACE, D_RESULT, D_VNET } from "../device/device.ts";
import { X_HELD_COUNT, X_HELD_FIRST, X_HELD_LAST } from "../flow/fragments.ts";
import { type Context, R_TICK } from "./context.ts";

/**
 * Copies of fragments that came before the first one of their datagram. The device takes its frame
 * back with the batch, so what has to wait is copied, into slots that are taken at start.
 *
 * The copies of one datagram are a list, oldest first, whose ends are in the datagram's entry.
 */
export interface HeldFragments {
  /** Copies there are. */
  count(): number;
  /** Copy the frame of `rxWord` for `entry`. @returns false when there is no slot for it */
  add(words: Int32Array, entry: number, rxWord: number): boolean;
  /** Slot of the entry's oldest copy, or -1. */
  oldest(words: Int32Array, entry: number): number;
  /** Entry that the copy in `slot` waits for; -1: the slot is empty. */
  entryOf(slot: number): number;
  /** True when its time is over. */
  isOver(slot: number): boolean;
  /**
   * Describe the copy in the descriptor `rxWord`, its bytes in a spare.
   *
   * @param ipAt - of the spare
   */
  restore(slot: number, rxWord: number, ipAt: number): void;
  /** Empty the slot of the entry's oldest copy. */
  dropOldest(words: Int32Array, entry: number): void;
}

const H_ENTRY = 0; // first word of the entry + 1; 0: empty
const H_NEXT = 1; // slot + 1
const H_EXPIRES = 2;
const H_BYTES = 3;
const H_INTERFACE = 4;
const H_RESULT = 5;
const H_WORDS = 8;

/** @param spareBytes - bytes of a spare from the IP header on: copies go out through spares */
export function createHeldFragments(context: Context, spareBytes: number): HeldFragments {
  const { device, link, registers, rx } = context;
  const frames = new Int32Array(device.memory, 0, device.memory.byteLength >> 2);
  // Frames start so that the IP header is on a word: the same words hold them wherever they are.
  const lead = -link & 3;
  const slotWords = (spareBytes + 32) >> 2;
  const copies = new Int32Array(FRAGMENTS_HELD_MAX * slotWords);
  const slots = new Int32Array(FRAGMENTS_HELD_MAX * H_WORDS);
  const free = Int32Array.from({ length: FRAGMENTS_HELD_MAX }, (_, index) => index);
  const counts = new Int32Array(1);

  function copyWords(bytes: number): number {
    return (lead + bytes + 3) >> 2;
  }

  function add(words: Int32Array, entry: number, rxWord: number): boolean {
    const held = counts[0]!;
    const bytes = rx[rxWord + D_BYTES]!;
    if (held === FRAGMENTS_HELD_MAX || bytes - link > spareBytes) return false;
    counts[0] = held + 1;
    const slot = free[FRAGMENTS_HELD_MAX - 1 - held]!;
    const at = slot * H_WORDS;
    slots[at + H_ENTRY] = entry + 1;
    slots[at + H_NEXT] = 0;
    slots[at + H_EXPIRES] = (registers[R_TICK]! + FRAGMENT_HELD_MS) | 0;
    slots[at + H_BYTES] = bytes;
    slots[at + H_INTERFACE] = rx[rxWord + D_INTERFACE]!;
    slots[at + H_RESULT] = rx[rxWord + D_RESULT]!;
    const from = (rx[rxWord + D_AT]! - lead) >> 2;
    const to = slot * slotWords;
    for (let word = 0; word < copyWords(bytes); word++) copies[to + word] = frames[from + word]!;
    const last = words[entry + X_HELD_LAST]!;
    if (last === 0) words[entry + X_HELD_FIRST] = slot + 1;
    else slots[(last - 1) * H_WORDS + H_NEXT] = slot + 1;
    words[entry + X_HELD_LAST] = slot + 1;
    words[entry + X_HELD_COUNT] = words[entry + X_HELD_COUNT]! + 1;
    return true;
  }

  function restore(slot: number, rxWord: number, ipAt: number): void {
    const at = slot * H_WORDS;
    const bytes = slots[at + H_BYTES]!;
    const from = slot * slotWords;
    const to = (ipAt - link - lead) >> 2;
    for (let word = 0; word < copyWords(bytes); word++) frames[to + word] = copies[from + word]!;
    rx[rxWord + D_AT] = ipAt - link;
    rx[rxWord + D_BYTES] = bytes;
    rx[rxWord + D_INTERFACE] = slots[at + H_INTERFACE]!;
    rx[rxWord + D_VNET] = 0;
    rx[rxWord + D_CSUM] = 0;
    rx[rxWord + D_RESULT] = slots[at + H_RESULT]!;
  }

  function dropOldest(words: Int32Array, entry: number): void {
    const slot = words[entry + X_HELD_FIRST]! - 1;
    const next = slots[slot * H_WORDS + H_NEXT]!;
    words[entry + X_HELD_FIRST] = next;
    if (next === 0) words[entry + X_HELD_LAST] = 0;
    words[entry + X_HELD_COUNT] = words[entry + X_HELD_COUNT]! - 1;
    slots[slot * H_WORDS + H_ENTRY] = 0;
    const held = counts[0]! - 1;
    counts[0] = held;
    free[FRAGMENTS_HELD_MAX - 1 - held] = slot;
  }

  return {
    count: () => counts[0]!,
    add,
    oldest: (words, entry) => words[entry + X_HELD_FIRST]! - 1,
    entryOf: (slot) => slots[slot * H_WORDS + H_ENTRY]! - 1,
    isOver: (slot) => ((slots[slot * H_WORDS + H_EXPIRES]! - registers[R_TICK]!) | 0) <= 0,
    restore,
    dropOldest,
  };
}
