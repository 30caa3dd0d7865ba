import {
  BACKEND_RUN_WORDS,
  R_ACTIVE,
  R_FLOWS,
  R_OTHERS_ACTIVE,
  R_OTHERS_FLOWS,
} from "../service/backend-slots.ts";
import { E_SLOT, ENTRY_WORDS } from "../service/bank.ts";

/** What an active connection weighs against an inactive one (ip_vs.h, ip_vs_dest_conn_overhead). */
export const ACTIVE_WEIGHT = 256;

/**
 * Load of a backend as LVS counts it: active connections times 256, plus the inactive ones; those of
 * the other workers as control published them last.
 *
 * @param runsWord - first word of the worker's backend runs
 */
export function overhead(i32: Int32Array, runsWord: number, slot: number): number {
  const at = runsWord + slot * BACKEND_RUN_WORDS;
  const active = i32[at + R_ACTIVE]! + i32[at + R_OTHERS_ACTIVE]!;
  const flows = i32[at + R_FLOWS]! + i32[at + R_OTHERS_FLOWS]!;
  return active * ACTIVE_WEIGHT + (flows - active);
}

/** Active connections of a backend, those of the other workers as control published them last. */
export function activeOf(i32: Int32Array, runsWord: number, slot: number): number {
  const at = runsWord + slot * BACKEND_RUN_WORDS;
  return i32[at + R_ACTIVE]! + i32[at + R_OTHERS_ACTIVE]!;
}

/**
 * Least connections (ip_vs_lc.c): the backend with the least load. Of several the first from `first`
 * on, which is the one after the last choice: equals have their turns, as in HAProxy's leastconn.
 *
 * @returns first word of the entry
 */
export function pickLeastConnections(
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
    if (load < bestLoad) {
      best = entry;
      bestLoad = load;
    }
  }
  return best;
}
