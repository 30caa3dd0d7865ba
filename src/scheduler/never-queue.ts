import { E_SLOT, E_WEIGHT, ENTRY_WORDS } from "../service/bank.ts";
import { ACTIVE_WEIGHT, activeOf, overhead } from "./least-connections.ts";

/**
 * Never queue (ip_vs_nq.c): a backend without an active connection if there is one, so that no flow
 * waits behind another while somebody is idle; else the shortest expected delay, (C + 1) / U. Among
 * the idle ones, too, the shortest expected delay decides (LVS takes the first of them), and of
 * several the first from `first` on.
 *
 * @returns first word of the entry
 */
export function pickNeverQueue(
  i32: Int32Array,
  runsWord: number,
  listWord: number,
  count: number,
  first: number,
): number {
  let best = listWord + first * ENTRY_WORDS;
  let bestIsIdle = activeOf(i32, runsWord, i32[best + E_SLOT]!) === 0;
  let bestLoad = overhead(i32, runsWord, i32[best + E_SLOT]!) + ACTIVE_WEIGHT;
  for (let turn = 1; turn < count; turn++) {
    const index = first + turn < count ? first + turn : first + turn - count;
    const entry = listWord + index * ENTRY_WORDS;
    const slot = i32[entry + E_SLOT]!;
    const isIdle = activeOf(i32, runsWord, slot) === 0;
    if (bestIsIdle && !isIdle) continue;
    const load = overhead(i32, runsWord, slot) + ACTIVE_WEIGHT;
    const isSooner = load * i32[best + E_WEIGHT]! < bestLoad * i32[entry + E_WEIGHT]!;
    if (isSooner || isIdle !== bestIsIdle) {
      best = entry;
      bestLoad = load;
      bestIsIdle = isIdle;
    }
  }
  return best;
}
