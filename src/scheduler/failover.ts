import { ENTRY_WORDS } from "../service/bank.ts";

/**
 * Failover (ip_vs_fo.c): every flow goes to the backend with the largest weight among those that take
 * flows; of equal weights to the one whose address and port come first, on every node. When it goes
 * down the next one takes all, and when it comes back it takes all new flows again.
 *
 * @param u16 - the mapped region as 16-bit words
 * @param tableAt - index in u16 of the order by weight (weight-order.ts)
 * @returns first word of the entry
 */
export function pickFailover(u16: Uint16Array, tableAt: number, listWord: number): number {
  return listWord + u16[tableAt]! * ENTRY_WORDS;
}

/** The backend after one in that order, round to the first; for flows that the first cannot take. */
export function nextByWeight(
  u16: Uint16Array,
  tableAt: number,
  listWord: number,
  count: number,
  entry: number,
): number {
  const position = (entry - listWord) / ENTRY_WORDS;
  for (let at = 0; at < count - 1; at++) {
    if (u16[tableAt + at] === position) return listWord + u16[tableAt + at + 1]! * ENTRY_WORDS;
  }
  return listWord + u16[tableAt]! * ENTRY_WORDS;
}
