import { ENTRY_WORDS } from "../service/bank.ts";
import { mix } from "./mix.ts";

/**
 * Maglev (NSDI 2016, section 3.4): the 5-tuple chooses a slot of the table that maglev-table.ts
 * builds; the same on every node that has the same backends and seed.
 *
 * @param u16 - the mapped region as 16-bit words
 * @param tableAt - index in u16 of the table
 * @param size - its slots, a prime
 * @param clientVipPorts - client port << 16 | VIP port
 * @returns first word of the entry
 */
export function pickMaglev(
  u16: Uint16Array,
  tableAt: number,
  size: number,
  listWord: number,
  seed: number,
  protocol: number,
  client: number,
  vip: number,
  clientVipPorts: number,
): number {
  // 31 bits, so that the remainder is a small integer to V8 whatever the hash.
  const hash = mix(seed, client, vip, clientVipPorts, protocol) >>> 1;
  return listWord + u16[tableAt + (hash % size)]! * ENTRY_WORDS;
}
