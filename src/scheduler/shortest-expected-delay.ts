import { E_SLOT, E_WEIGHT, ENTRY_WORDS } from "../service/bank.ts";
import { ACTIVE_WEIGHT, overhead } from "./least-connections.ts";

/**
 * Shortest expected delay (ip_vs_sed.c): the least (C + 1) / U, with C the connections that a backend
 * has and U its weight: what it would have per weight once it has the new one too. So a heavy backend
 * is filled before a light one gets anything, where wlc sends the first flow of an idle service to
 * anybody. Of several the first from `first` on.
 *
 * LVS counts active connections alone. Here an inactive one counts a 256th, as in lc and wlc: UDP
 * flows without an answer are never active, and would all go to one backend.
 *
 * @returns first word of the entry
 */
export function pickShortestExpectedDelay(
  i32: Int32Array,
  runsWord: number,
  listWord: number,
  count: number,
  first: number,
): number {
  let best = listWord + first * ENTRY_WORDS;
  let bestLoad = overhead(i32, runsWord, i32[best + E_SLOT]!) + ACTIVE_WEIGHT;
  for (let turn = 1; turn < count; turn++) {
    const index = first + turn < count ? first + turn : first + turn - count;
    const entry = listWord + index * ENTRY_WORDS;
    const load = overhead(i32, runsWord, i32[entry + E_SLOT]!) + ACTIVE_WEIGHT;
    if (load * i32[best + E_WEIGHT]! < bestLoad * i32[entry + E_WEIGHT]!) {
      best = entry;
      bestLoad = load;
    }
  }
  return best;
}
