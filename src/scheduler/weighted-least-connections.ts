import { E_SLOT, E_WEIGHT, ENTRY_WORDS } from "../service/bank.ts";
import { overhead } from "./least-connections.ts";

/**
 * Weighted least connections (ip_vs_wlc.c): the least load per weight; of several the first from
 * `first` on. Loads are compared crosswise, load x the other's weight, so that nothing is divided; the
 * products stay below 2^53.
 *
 * @returns first word of the entry
 */
export function pickWeightedLeastConnections(
  i32: Int32Array,
  runsWord: number,
  listWord: number,
  count: number,
  first: number,
): number {
  let best = listWord + first * ENTRY_WORDS;
  let bestLoad = overhead(i32, runsWord, i32[best + E_SLOT]!);
  for (let turn = 1; turn < count; turn++) {
    const index = first + turn < count ? first + turn : first + turn - count;
    const entry = listWord + index * ENTRY_WORDS;
    const load = overhead(i32, runsWord, i32[entry + E_SLOT]!);
    if (load * i32[best + E_WEIGHT]! < bestLoad * i32[entry + E_WEIGHT]!) {
      best = entry;
      bestLoad = load;
    }
  }
  return best;
}
