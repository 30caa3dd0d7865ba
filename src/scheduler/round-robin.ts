import { V_CURSOR } from "../service/backend-slots.ts";
import { ENTRY_WORDS } from "../service/bank.ts";
import { turnOf } from "./turns.ts";

/**
 * Round robin (ip_vs_rr.c): each backend in turn, whatever its weight (but 0, which is not in the
 * list). Where a change of the list leaves the turn, it goes on.
 *
 * @param i32 - the mapped region
 * @param runWord - first word of the service's run; its cursor is the next backend's position + 1
 * @param listWord - first word of the service's backend list
 * @param count - its entries, at least 1
 * @param first - where this worker begins
 * @returns first word of the entry
 */
export function pickRoundRobin(
  i32: Int32Array,
  runWord: number,
  listWord: number,
  count: number,
  first: number,
): number {
  const index = turnOf(i32[runWord + V_CURSOR]!, first, count);
  i32[runWord + V_CURSOR] = index + 2;
  return listWord + index * ENTRY_WORDS;
}
