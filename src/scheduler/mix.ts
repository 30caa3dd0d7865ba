import type { Address } from "../base/address.ts";

/**
 * The hash of the schedulers: the finaliser of MurmurHash3 over 32-bit words. It is not keyed by a
 * secret, because every node of a fleet has to choose alike from `hash.seed`; who floods the flow
 * table meets the keyed hash of flow/flow-hash.ts instead.
 *
 * @returns int32
 */
export function mix(seed: number, a: number, b: number, c: number, d: number): number {
  let hash = seed | 0;
  hash = step(hash, a);
  hash = step(hash, b);
  hash = step(hash, c);
  return finish(step(hash, d));
}

/** Finaliser of MurmurHash3, for a word that is made of hashes already. */
export function finish(word: number): number {
  let hash = word ^ (word >>> 16);
  hash = Math.imul(hash, 0x85ebca6b | 0);
  hash ^= hash >>> 13;
  hash = Math.imul(hash, 0xc2b2ae35 | 0);
  return hash ^ (hash >>> 16);
}

/** Makes the hash of an address another one than those that it goes into. */
const ADDRESS_KEY = 0x49507636; // "IPv6"

/**
 * An IPv6 address as the one word that the schedulers know addresses by; an IPv4 address is that
 * word itself. The same on every node of a fleet.
 *
 * @returns int32
 */
export function addressWord6(w0: number, w1: number, w2: number, w3: number): number {
  return mix(ADDRESS_KEY, w0, w1, w2, w3);
}

/** The same of an address of either family (cold). */
export function addressWord({ family, value, words }: Address): number {
  return family === 4 ? value : addressWord6(...words);
}

function step(hash: number, word: number): number {
  let k = Math.imul(word, 0xcc9e2d51 | 0);
  k = (k << 15) | (k >>> 17);
  k = Math.imul(k, 0x1b873593);
  const h = hash ^ k;
  return (Math.imul((h << 13) | (h >>> 19), 5) + 0xe6546b64) | 0;
}

/** One word from a text of any length, for `hash.seed` (FNV-1a over UTF-8, then mixed). */
export function seedWord(text: string): number {
  let hash = 0x811c9dc5 | 0;
  for (const byte of new TextEncoder().encode(text)) hash = Math.imul(hash ^ byte, 0x01000193);
  return mix(0, hash, text.length, 0, 0);
}
