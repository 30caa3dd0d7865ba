import { mix } from "./mix.ts";

/**
 * Seeded draws of the schedulers that choose by chance: number `draws` of a worker follows from the
 * seed, the service and the worker, so a run can be repeated and no two workers draw alike.
 *
 * Backends are drawn in proportion to their weights from a table of ranges (weight-ranges.ts): two
 * 16-bit words a position, low half first, the sum of the weights up to and with that position.
 */

const DRAW_KEY = 0x64726177; // "draw"
const WORDS = 2 ** 32;

/**
 * @param seed - S_SCHEDULER_SEED
 * @param draws - V_DRAWS, counts the flows that were drawn for
 * @param which - of several draws for one flow
 * @param total - below 2^30
 * @returns a whole number from 0 to total - 1, all equally likely but for less than one in 4 million
 */
export function drawBelow(
  seed: number,
  worker: number,
  draws: number,
  which: number,
  total: number,
): number {
  const drawn = mix(seed, DRAW_KEY, worker, draws, which) >>> 0;
  return Math.floor((drawn / WORDS) * total);
}

/** Sum of the weights up to and with a position. */
export function rangeEnd(u16: Uint16Array, tableAt: number, position: number): number {
  const at = tableAt + 2 * position;
  return u16[at]! | (u16[at + 1]! << 16);
}

/** The position in whose range a number lies: the first whose end is above it. */
export function positionOf(
  u16: Uint16Array,
  tableAt: number,
  count: number,
  drawn: number,
): number {
  let low = 0;
  let high = count - 1;
  while (low < high) {
    const middle = (low + high) >>> 1;
    if (rangeEnd(u16, tableAt, middle) > drawn) high = middle;
    else low = middle + 1;
  }
  return low;
}
