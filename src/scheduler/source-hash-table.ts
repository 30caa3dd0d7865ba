import { powerOfTwoAtLeast } from "../state/layout.ts";

/** LVS's table (CONFIG_IP_VS_SH_TAB_BITS 8); larger where the backends' weights need room. */
const SLOTS_MIN = 256;
const SLOTS_MAX = 65_536;
/** Slots per unit of the reduced weights, so that every backend has a fair share. */
const SLOTS_PER_WEIGHT = 4;

/**
 * Slots of the table for these weights.
 *
 * @param weights - of the backends, each at least 1
 */
export function sourceHashSize(weights: readonly number[]): number {
  const divisor = weights.reduce(greatestCommonDivisor, 0);
  const sum = weights.reduce((total, weight) => total + weight / Math.max(1, divisor), 0);
  return Math.min(SLOTS_MAX, Math.max(SLOTS_MIN, powerOfTwoAtLeast(sum * SLOTS_PER_WEIGHT)));
}

/** Fill a table with positions in the backend list: in turn, each as often as its weight. */
export function buildSourceHashTable(weights: readonly number[], size: number): Uint16Array {
  const table = new Uint16Array(size);
  const divisor = Math.max(1, weights.reduce(greatestCommonDivisor, 0));
  let position = 0;
  let left = weights.length === 0 ? 0 : weights[0]! / divisor;
  for (let slot = 0; slot < size && weights.length > 0; slot++) {
    table[slot] = position;
    left--;
    if (left <= 0) {
      position = (position + 1) % weights.length;
      left = weights[position]! / divisor;
    }
  }
  return table;
}

export function greatestCommonDivisor(a: number, b: number): number {
  let [x, y] = [a, b];
  while (y !== 0) [x, y] = [y, x % y];
  return x;
}
