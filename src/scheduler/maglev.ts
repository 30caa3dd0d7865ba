import { ENTRY_WORDS } from "../service/bank.ts";

/**
 * Maglev (NSDI 2016, section 3.4): the 5-tuple chooses a slot of the table that maglev-table.ts
 * builds; the same on every node that has the same backends and seed.
 *
 * @param u16 - the mapped region as 16-bit words
 * @param tableAt - index in u16 of the table
 * @param size - its slots, a prime
 * @param flowHash - mix() of seed and 5-tuple
 * @returns first word of the entry
 */
export function pickMaglev(
  u16: Uint16Array,
  tableAt: number,
  size: number,
  listWord: number,
  flowHash: number,
): number {
  return listWord + u16[tableAt + slotOf(flowHash, size)]! * ENTRY_WORDS;
}

/** The flow's slot: 31 bits, so that the remainder is a small integer to V8 whatever the hash. */
export function slotOf(flowHash: number, size: number): number {
  return (flowHash >>> 1) % size;
}

/** Slots looked at for another backend; neighbours in the table are as good as drawn by weight. */
const SLOT_LOOKS = 64;

/**
 * Another backend than `entry` for a flow that it cannot take: that of the next slot which is another
 * one's. So a full backend's flows go to all others by weight, and to the same ones on every node.
 *
 * @returns first word of the entry; `entry` where the slots looked at are all its own
 */
export function nextMaglev(
  u16: Uint16Array,
  tableAt: number,
  size: number,
  listWord: number,
  flowHash: number,
  entry: number,
): number {
  let slot = slotOf(flowHash, size);
  for (let look = 0; look < SLOT_LOOKS; look++) {
    slot = slot + 1 === size ? 0 : slot + 1;
    const other = listWord + u16[tableAt + slot]! * ENTRY_WORDS;
    if (other !== entry) return other;
  }
  return entry;
}
