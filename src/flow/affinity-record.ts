import { assert } from "../base/assert.ts";
import { AFFINITY_SET_BYTES } from "../state/layout.ts";

/**
 * One entry of the affinity table: which backend a client has, in sixteen words, a cache line.
 *
 * A client is an address or a prefix; a backend is known by its address and port, not by its slot:
 * services of one group have slots of their own for one and the same server, and a slot can become
 * another backend's. All words but the version's are valid each by itself; those marked (fixed) are
 * written between an odd and an even version, like those of a flow (flow-record.ts).
 */

/** Odd while the fixed words are being written. */
export const AE_VERSION = 0;
/** (fixed) What the entry belongs to: the service's S_AFFINITY or S_AFFINITY_OWN; 0: free. */
export const AE_GROUP = 1;
/** (fixed) Client: four words in host order, IPv4 mapped; 0 behind the bits that count. */
export const AE_CLIENT = 2;
/** (fixed) Bits of the 128 that count, 1..128 | AE_ANSWERED | generation << AE_GENERATION_SHIFT. */
export const AE_BITS = 6;
/** (fixed) The backend's own port (0: the packet's) | place in the list where it was last << 16. */
export const AE_PORT = 7;
/** Tick at which the entry is over; it counts while AE_FLOWS is 0. */
export const AE_EXPIRES = 8;
/** Live flows of the client that count for the entry. */
export const AE_FLOWS = 9;
/** How long the entry outlasts the last of them, ms. */
export const AE_TIMEOUT_MS = 10;
/** (fixed) The backend's address as a backend list has it (E_ADDRESS). */
export const AE_ADDRESS_WORD = 11;
/** (fixed) The backend's address in four words, IPv4 mapped. */
export const AE_BACKEND = 12;
export const AE_WORDS = 16;

/** Entries of a set, whose tags are the line before them. */
export const AFFINITY_WAYS = 16;
export const AFFINITY_SET_WORDS = AFFINITY_WAYS * (1 + AE_WORDS);
assert(AFFINITY_SET_WORDS * 4 === AFFINITY_SET_BYTES, "a set is one section record");

/** A flow of the entry was answered, or needs no answer: it may outlast its flows. */
export const AE_ANSWERED = 1 << 8;
/** Counts uses of the entry's place, ten bits: a flow's word carries them. */
export const AE_GENERATION_SHIFT = 16;
export const AE_GENERATION_MASK = 0x3ff;

/** Bits of an AE_BITS word that count of the client. */
export function affinityBits(word: number): number {
  return word & 0xff;
}

/** What an IPv4 address is in four words before its own. */
export const MAPPED_WORD = 0xffff;
