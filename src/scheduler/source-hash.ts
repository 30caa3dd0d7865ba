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

/** Hashes tried for another backend. */
const REHASHES = 16;

/**
 * Another backend than `entry` for a client whose own cannot take its flow: by the hash again with
 * a number beside it, as ip_vs_sh.c does with `sh-fallback`; the same on every node.
 *
 * @returns first word of the entry; `entry` where every hash tried led to it
 */
export function nextSourceHash(
  u16: Uint16Array,
  tableAt: number,
  size: number,
  listWord: number,
  seed: number,
  client: number,
  entry: number,
): number {
  for (let again = 1; again <= REHASHES; again++) {
    const slot = mix(seed, client, again, 0, 0) & (size - 1);
    const other = listWord + u16[tableAt + slot]! * ENTRY_WORDS;
    if (other !== entry) return other;
  }
  return entry;
}
