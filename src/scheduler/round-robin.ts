import { V_CURSOR } from "../service/backend-slots.ts";
import { ENTRY_WORDS } from "../service/bank.ts";

/**
 * Round robin: each backend in turn, whatever its weight (but 0, which is not in the list).
 *
 * @param i32 - the mapped region
 * @param runWord - first word of the service's run; its cursor is the next backend's position
 * @param listWord - first word of the service's backend list
 * @param count - its entries, at least 1
 * @returns first word of the entry
 */
export function pickRoundRobin(
  i32: Int32Array,
  runWord: number,
  listWord: number,
  count: number,
): number {
  const cursor = i32[runWord + V_CURSOR]!;
  // The list can have become shorter since the cursor was set.
  const index = cursor >= 0 && cursor < count ? cursor : 0;
  i32[runWord + V_CURSOR] = index + 1 >= count ? 0 : index + 1;
  return listWord + index * ENTRY_WORDS;
}
