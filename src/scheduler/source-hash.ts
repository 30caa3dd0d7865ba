import { ENTRY_WORDS } from "../service/bank.ts";
import { mix } from "./mix.ts";

/**
 * Source hash (ip_vs_sh.c): the client's address alone chooses the slot of a table in which every
 * backend has as many places as its weight gives it (source-hash-table.ts).
 *
 * @param u16 - the mapped region as 16-bit words
 * @param tableAt - index in u16 of the table
 * @param size - its slots, a power of two
 * @returns first word of the entry
 */
export function pickSourceHash(
  u16: Uint16Array,
  tableAt: number,
  size: number,
  listWord: number,
  seed: number,
  client: number,
): number {
  const slot = mix(seed, client, 0, 0, 0) & (size - 1);
  return listWord + u16[tableAt + slot]! * ENTRY_WORDS;
}
