/**
 * Hash of a flow's key: HalfSipHash-1-3 of four words, with a secret of two.
 *
 * A client chooses its address and port, so with a hash that it can compute it could put all its
 * flows into one bucket. HalfSipHash is the keyed hash made for 32-bit words (J.-P. Aumasson,
 * github.com/veorq/SipHash, halfsiphash.c); one compression round and three final ones is the
 * strength that Linux uses for hash tables (include/linux/siphash.h, hsiphash: "HalfSipHash-1-3").
 *
 * The sixteen-byte message is `protocol source destination ports`, each a little-endian word, so
 * its bytes are exactly those that the reference implementation would be given.
 *
 * Written out round by round: a loop with a choice of the message word costs a third more, and this
 * runs once a packet.
 */

/** The last block: length of the message in bytes, in the top byte (halfsiphash.c, `b`). */
const LENGTH_BLOCK = 16 << 24;
/** Initial values of v2 and v3 (halfsiphash.c): "lyge", "tedb". */
const V2_INITIAL = 0x6c796765;
const V3_INITIAL = 0x74656462;

/**
 * @param k0 - first word of the secret
 * @param k1 - second word of the secret
 * @param a - protocol number
 * @param b - source address, host order
 * @param c - destination address, host order
 * @param d - source port << 16 | destination port
 * @returns 32 bits as int32
 */
export function flowHash(
  k0: number,
  k1: number,
  a: number,
  b: number,
  c: number,
  d: number,
): number {
  let v0 = k0 | 0;
  let v1 = k1 | 0;
  let v2 = V2_INITIAL ^ k0;
  let v3 = V3_INITIAL ^ k1 ^ a;
  // Compression round of the first word.
  v0 = (v0 + v1) | 0;
  v1 = ((v1 << 5) | (v1 >>> 27)) ^ v0;
  v0 = (v0 << 16) | (v0 >>> 16);
  v2 = (v2 + v3) | 0;
  v3 = ((v3 << 8) | (v3 >>> 24)) ^ v2;
  v0 = (v0 + v3) | 0;
  v3 = ((v3 << 7) | (v3 >>> 25)) ^ v0;
  v2 = (v2 + v1) | 0;
  v1 = ((v1 << 13) | (v1 >>> 19)) ^ v2;
  v2 = (v2 << 16) | (v2 >>> 16);
  v0 ^= a;
  v3 ^= b;
  // Second word.
  v0 = (v0 + v1) | 0;
  v1 = ((v1 << 5) | (v1 >>> 27)) ^ v0;
  v0 = (v0 << 16) | (v0 >>> 16);
  v2 = (v2 + v3) | 0;
  v3 = ((v3 << 8) | (v3 >>> 24)) ^ v2;
  v0 = (v0 + v3) | 0;
  v3 = ((v3 << 7) | (v3 >>> 25)) ^ v0;
  v2 = (v2 + v1) | 0;
  v1 = ((v1 << 13) | (v1 >>> 19)) ^ v2;
  v2 = (v2 << 16) | (v2 >>> 16);
  v0 ^= b;
  v3 ^= c;
  // Third word.
  v0 = (v0 + v1) | 0;
  v1 = ((v1 << 5) | (v1 >>> 27)) ^ v0;
  v0 = (v0 << 16) | (v0 >>> 16);
  v2 = (v2 + v3) | 0;
  v3 = ((v3 << 8) | (v3 >>> 24)) ^ v2;
  v0 = (v0 + v3) | 0;
  v3 = ((v3 << 7) | (v3 >>> 25)) ^ v0;
  v2 = (v2 + v1) | 0;
  v1 = ((v1 << 13) | (v1 >>> 19)) ^ v2;
  v2 = (v2 << 16) | (v2 >>> 16);
  v0 ^= c;
  v3 ^= d;
  // Fourth word.
  v0 = (v0 + v1) | 0;
  v1 = ((v1 << 5) | (v1 >>> 27)) ^ v0;
  v0 = (v0 << 16) | (v0 >>> 16);
  v2 = (v2 + v3) | 0;
  v3 = ((v3 << 8) | (v3 >>> 24)) ^ v2;
  v0 = (v0 + v3) | 0;
  v3 = ((v3 << 7) | (v3 >>> 25)) ^ v0;
  v2 = (v2 + v1) | 0;
  v1 = ((v1 << 13) | (v1 >>> 19)) ^ v2;
  v2 = (v2 << 16) | (v2 >>> 16);
  v0 ^= d;
  v3 ^= LENGTH_BLOCK;
  // The length.
  v0 = (v0 + v1) | 0;
  v1 = ((v1 << 5) | (v1 >>> 27)) ^ v0;
  v0 = (v0 << 16) | (v0 >>> 16);
  v2 = (v2 + v3) | 0;
  v3 = ((v3 << 8) | (v3 >>> 24)) ^ v2;
  v0 = (v0 + v3) | 0;
  v3 = ((v3 << 7) | (v3 >>> 25)) ^ v0;
  v2 = (v2 + v1) | 0;
  v1 = ((v1 << 13) | (v1 >>> 19)) ^ v2;
  v2 = (v2 << 16) | (v2 >>> 16);
  v0 ^= LENGTH_BLOCK;
  v2 ^= 0xff;
  // Three final rounds.
  v0 = (v0 + v1) | 0;
  v1 = ((v1 << 5) | (v1 >>> 27)) ^ v0;
  v0 = (v0 << 16) | (v0 >>> 16);
  v2 = (v2 + v3) | 0;
  v3 = ((v3 << 8) | (v3 >>> 24)) ^ v2;
  v0 = (v0 + v3) | 0;
  v3 = ((v3 << 7) | (v3 >>> 25)) ^ v0;
  v2 = (v2 + v1) | 0;
  v1 = ((v1 << 13) | (v1 >>> 19)) ^ v2;
  v2 = (v2 << 16) | (v2 >>> 16);

  v0 = (v0 + v1) | 0;
  v1 = ((v1 << 5) | (v1 >>> 27)) ^ v0;
  v0 = (v0 << 16) | (v0 >>> 16);
  v2 = (v2 + v3) | 0;
  v3 = ((v3 << 8) | (v3 >>> 24)) ^ v2;
  v0 = (v0 + v3) | 0;
  v3 = ((v3 << 7) | (v3 >>> 25)) ^ v0;
  v2 = (v2 + v1) | 0;
  v1 = ((v1 << 13) | (v1 >>> 19)) ^ v2;
  v2 = (v2 << 16) | (v2 >>> 16);

  v0 = (v0 + v1) | 0;
  v1 = ((v1 << 5) | (v1 >>> 27)) ^ v0;
  v2 = (v2 + v3) | 0;
  v3 = ((v3 << 8) | (v3 >>> 24)) ^ v2;
  v0 = (((v0 << 16) | (v0 >>> 16)) + v3) | 0;
  v3 = ((v3 << 7) | (v3 >>> 25)) ^ v0;
  v2 = (v2 + v1) | 0;
  v1 = ((v1 << 13) | (v1 >>> 19)) ^ v2;
  return v1 ^ v3;
}

/** Makes the fold of an address another hash than that of a key. */
const FOLD_KEY = 0x464f4c44; // "FOLD"

/**
 * An IPv6 address as the one word that stands for it in a flow's key. Keyed, so that nobody outside
 * can find two addresses that fold alike; whoever finds a flow compares the whole addresses all the
 * same.
 *
 * @param k0 - first word of the secret
 * @param k1 - second word of the secret
 * @returns 32 bits as int32
 */
export function foldAddress6(
  k0: number,
  k1: number,
  w0: number,
  w1: number,
  w2: number,
  w3: number,
): number {
  return flowHash(k0 ^ FOLD_KEY, k1, w0, w1, w2, w3);
}
