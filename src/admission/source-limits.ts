import { assert } from "../base/assert.ts";
import { SOURCE_SET_BYTES } from "../state/layout.ts";

/**
 * New flows a second by source prefix: a token bucket for each source that has lately opened one.
 *
 * A bucket that is full again says as much as none, so the table forgets: a set of four buckets, a
 * cache line, is where a source's can be, and a new one takes the place of the one that was asked
 * longest ago. Sources that are more than the table holds at once therefore have more than their rate,
 * never less: `limits.sources` says how many are told apart.
 */

/** Words of a bucket (4). */
const K_OWNER = 0; // what it belongs to besides the prefix, at least 1; 0: free
const K_PREFIX = 1;
const K_TOKENS = 2; // in thousandths
const K_TICK = 3; // of the last look
const BUCKET_WORDS = 4;
const BUCKETS = 4;
assert(BUCKETS * BUCKET_WORDS * 4 === SOURCE_SET_BYTES, "a set of buckets is one section record");

/** A token, in the unit of K_TOKENS. */
export const TOKEN = 1000;

/**
 * Take a token of a source.
 *
 * @param sets - word of the first set; @param mask - sets less one
 * @param hash - keyed hash of owner and prefix
 * @param owner - at least 1
 * @param ratePerSecond - tokens a second: as many thousandths a millisecond
 * @param burst - most tokens that gather, 1..2,000,000
 * @returns false when it has none
 */
export function takeSourceToken(
  i32: Int32Array,
  sets: number,
  mask: number,
  hash: number,
  owner: number,
  prefix: number,
  ratePerSecond: number,
  burst: number,
  tick: number,
): boolean {
  const first = sets + (hash & mask) * BUCKETS * BUCKET_WORDS;
  let bucket = -1;
  let oldest = first;
  let oldestAge = -1;
  for (let at = first; at < first + BUCKETS * BUCKET_WORDS; at += BUCKET_WORDS) {
    if (i32[at + K_OWNER] === owner && i32[at + K_PREFIX] === prefix) {
      bucket = at;
      break;
    }
    // A free one is the oldest there is; half a round of the clock ago counts as such too.
    const age = i32[at + K_OWNER] === 0 ? 0x7fff_ffff : (tick - i32[at + K_TICK]!) & 0x7fff_ffff;
    if (age > oldestAge) {
      oldest = at;
      oldestAge = age;
    }
  }
  const most = burst * TOKEN;
  let tokens = most;
  if (bucket < 0) {
    bucket = oldest;
    i32[bucket + K_OWNER] = owner;
    i32[bucket + K_PREFIX] = prefix;
  } else {
    const elapsed = (tick - i32[bucket + K_TICK]!) | 0;
    if (elapsed >= 0) tokens = Math.min(most, i32[bucket + K_TOKENS]! + elapsed * ratePerSecond);
  }
  i32[bucket + K_TICK] = tick;
  const has = tokens >= TOKEN;
  i32[bucket + K_TOKENS] = has ? tokens - TOKEN : tokens;
  return has;
}

/**
 * A worker's share of a limit of the gateway: the shares of all workers are the limit.
 *
 * @param limit - at least the number of workers
 */
export function shareOf(limit: number, worker: number, workers: number): number {
  return ((limit + workers - 1 - worker) / workers) | 0;
}
