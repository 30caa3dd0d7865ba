import { E_SLOT, E_WEIGHT, ENTRY_WORDS, NO_BACKEND } from "../service/bank.ts";
import { activeOf } from "./least-connections.ts";

/**
 * Overflow (ip_vs_ovf.c): the backend with the largest weight gets the flows until its active
 * connections exceed its weight, then the next one does, and so on; of equal weights the one whose
 * address and port come first. Weights are numbers of connections here. HAProxy's `first` is the same
 * with `maxconn` in place of the weight.
 *
 * As in LVS, no backend takes the flow when all exceed their weights: `noBackend` says what then
 * happens, and with `action: sorry` the sorry server is the last one to overflow into.
 *
 * @param runsWord - first word of the worker's backend runs
 * @param tableAt - index in u16 of the order by weight (weight-order.ts)
 * @returns first word of the entry, or NO_BACKEND
 */
export function pickOverflow(
  i32: Int32Array,
  u16: Uint16Array,
  tableAt: number,
  runsWord: number,
  listWord: number,
  count: number,
): number {
  for (let at = 0; at < count; at++) {
    const entry = listWord + u16[tableAt + at]! * ENTRY_WORDS;
    const slot = i32[entry + E_SLOT]!;
    if (activeOf(i32, runsWord, slot) <= i32[entry + E_WEIGHT]!) return entry;
  }
  return NO_BACKEND;
}
