import { powerOfTwoAtLeast } from "../state/layout.ts";
import { apportion } from "./apportion.ts";

/** LVS's table (CONFIG_IP_VS_SH_TAB_BITS 8); larger where the backends need room. */
const SLOTS_MIN = 256;
const SLOTS_MAX = 65_536;
/** Slots per backend at least, so that rounding costs no equal backend more than a sixteenth. */
const SLOTS_PER_BACKEND = 16;

/**
 * Slots of the table for these weights: a power of two, 256 (as in LVS) unless there are more than
 * 16 backends or the weights are too fine for it.
 *
 * @param weights - of the backends, each at least 1
 */
export function sourceHashSize(weights: readonly number[]): number {
  const divisor = Math.max(1, weights.reduce(greatestCommonDivisor, 0));
  const sum = weights.reduce((total, weight) => total + weight / divisor, 0);
  const wanted = Math.min(SLOTS_MAX, Math.max(SLOTS_PER_BACKEND * weights.length, sum));
  return Math.max(SLOTS_MIN, powerOfTwoAtLeast(wanted));
}

/**
 * Fill a table with positions in the backend list, each as often as its weight gives it. Where LVS
 * walks the list over and over, which cuts the last round short, a position has one run here:
 * whoever looks a slot up comes with a hash, so neighbours mean nothing.
 *
 * @param weights - of the backends in the order of the list, each at least 1
 * @param size - slots, at least 1
 * @returns empty when there is no backend
 */
export function buildSourceHashTable(weights: readonly number[], size: number): Uint16Array {
  if (weights.length === 0) return new Uint16Array(0);
  const table = new Uint16Array(size);
  let slot = 0;
  apportion(weights, size, [...weights.keys()]).forEach((share, position) => {
    table.fill(position, slot, slot + share);
    slot += share;
  });
  return table;
}

/** @returns the other one when one of them is 0 */
export function greatestCommonDivisor(a: number, b: number): number {
  let [x, y] = [a, b];
  while (y !== 0) [x, y] = [y, x % y];
  return x;
}
