import { V_CURRENT_WEIGHT, V_CURSOR } from "../service/backend-slots.ts";
import { E_WEIGHT, ENTRY_WORDS } from "../service/bank.ts";

/**
 * Weighted round robin as LVS has it (ip_vs_wrr.c). In a cycle every backend is chosen as often as
 * its weight says:
 *
 *   i   position of the backend that was looked at last
 *   cw  current weight: it starts at the largest, and goes down by the greatest common divisor each
 *       time the walk passes the start of the list; a backend with at least that weight is chosen
 *
 * A walk ends after two rounds at most: when `cw` starts anew the heaviest backend fits.
 *
 * @param runWord - run of the service: cursor (position + 1; 0: before the first) and current weight
 * @param weightMax - largest weight of the list, at least 1
 * @param weightGcd - greatest common divisor of its weights
 * @returns first word of the entry
 */
export function pickWeightedRoundRobin(
  i32: Int32Array,
  runWord: number,
  listWord: number,
  count: number,
  weightMax: number,
  weightGcd: number,
): number {
  let position = i32[runWord + V_CURSOR]! - 1;
  let weight = i32[runWord + V_CURRENT_WEIGHT]!;
  // Both can be left from a list that was longer or heavier.
  if (position < -1 || position >= count) position = -1;
  if (weight < 0 || weight > weightMax) weight = 0;
  for (let looked = 0; looked <= 2 * count; looked++) {
    position++;
    if (position >= count) position = 0;
    if (position === 0) {
      weight -= weightGcd;
      if (weight <= 0) weight = weightMax;
    }
    const entry = listWord + position * ENTRY_WORDS;
    if (weight > 0 && i32[entry + E_WEIGHT]! >= weight) {
      i32[runWord + V_CURSOR] = position + 1;
      i32[runWord + V_CURRENT_WEIGHT] = weight;
      return entry;
    }
  }
  return listWord;
}
