import { B_ACTIVE, B_FLOWS } from "../service/backend-slots.ts";
import { E_SLOT, ENTRY_WORDS } from "../service/bank.ts";
import { BACKEND_SLOT_BYTES } from "../state/layout.ts";

const BACKEND_SLOT_WORDS = BACKEND_SLOT_BYTES >> 2;
/** What an inactive connection weighs against an active one (ip_vs.h, ip_vs_dest_conn_overhead). */
const ACTIVE_WEIGHT = 256;

/**
 * Load of a backend as LVS counts it: active connections times 256, plus the inactive ones.
 *
 * @param slotsWord - first word of the backend slots
 */
export function overhead(i32: Int32Array, slotsWord: number, slot: number): number {
  const at = slotsWord + slot * BACKEND_SLOT_WORDS;
  const active = i32[at + B_ACTIVE]!;
  return active * ACTIVE_WEIGHT + (i32[at + B_FLOWS]! - active);
}

/**
 * Least connections (ip_vs_lc.c): the backend with the least load, the first of several.
 *
 * @returns first word of the entry
 */
export function pickLeastConnections(
  i32: Int32Array,
  slotsWord: number,
  listWord: number,
  count: number,
): number {
  let best = listWord;
  let bestLoad = overhead(i32, slotsWord, i32[listWord + E_SLOT]!);
  for (let index = 1; index < count; index++) {
    const entry = listWord + index * ENTRY_WORDS;
    const load = overhead(i32, slotsWord, i32[entry + E_SLOT]!);
    if (load < bestLoad) {
      best = entry;
      bestLoad = load;
    }
  }
  return best;
}
