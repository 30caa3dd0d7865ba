import { assert } from "../base/assert.ts";
import { INDEX_BUCKET_ENTRIES } from "../base/limits.ts";
import { BUCKET_BYTES, H_SECRET, type RegionViews } from "../state/layout.ts";
import { flowHash } from "./flow-hash.ts";
import {
  F_BACKEND,
  F_BACKEND_ADDR,
  F_BACKEND_REPLY_PORTS,
  F_CLIENT_ADDR,
  F_CLIENT_VIP_PORTS,
  F_REPLY_ADDR,
  F_STATE,
  F_VERSION,
  F_VIP_ADDR,
  FLOW_WORDS,
  KEY_BY_BACKEND,
  ORIGINAL,
  originalKeyOf,
  replyKeyOf,
  STATE_FREE,
} from "./flow-record.ts";

/**
 * The index of the flow table: from a key to the row that has it, in either direction.
 *
 * Theory of operation
 *
 * Buckets   A bucket is a cache line: eight hashes, then eight references (0: empty, else
 *           (row << 1 | direction) + 1). Each flow has two entries, one a direction.
 * Choice    An entry lies in one of two buckets, both computed from its 32-bit hash: the first from
 *           the low bits, the second from the top bits of the product with an odd number. The first
 *           is used until it holds FIRST_CHOICE_ENTRIES, then the emptier of the two. So 95 % of
 *           the entries of a full table (index half full) lie in their first bucket, a search
 *           compares 16 hashes at most, and nothing is ever moved. Both buckets full is an answer
 *           (no entry); test/flow/flow-index.test.ts shows how rare it is.
 * Place     Within a bucket, search and choice begin at the place that the hash's top bits say, and
 *           go round. Most entries lie right there, so that where a search ends can be predicted.
 * Trust     An entry is a hint. A search compares the record itself: version even, state not FREE,
 *           key words of the entry's direction. A stale entry can cost time, but never send a
 *           packet another way.
 * Lifetime  Worth nothing to another process: a take-over makes it anew from the records.
 */

/** Entries in the first bucket from which on the emptier of the two is taken. */
const FIRST_CHOICE_ENTRIES = 6;
const BUCKET_WORDS = BUCKET_BYTES / 4;
assert(BUCKET_WORDS === 2 * INDEX_BUCKET_ENTRIES, "a bucket is its hashes, then its references");
/** 2^32 / golden ratio, odd (Knuth, TAOCP 6.4): spreads the low bits over the top ones. */
const GOLDEN = 0x9e3779b1 | 0;

const PLACE_MASK = INDEX_BUCKET_ENTRIES - 1;
const PLACE_SHIFT = 32 - Math.log2(INDEX_BUCKET_ENTRIES);
assert((INDEX_BUCKET_ENTRIES & PLACE_MASK) === 0, "places of a bucket are a power of two");

/** Place in its bucket at which an entry is sought first, 0..7. */
export function firstPlace(hash: number): number {
  return hash >>> PLACE_SHIFT;
}

/** What secondBucketOf() shifts by in an index of so many buckets. */
export function secondShiftOf(buckets: number): number {
  return 32 - Math.log2(buckets);
}

/** Number of the other bucket of `hash`; never that of the first one, the hash's low bits. */
export function secondBucketOf(hash: number, bucketMask: number, secondShift: number): number {
  const bucket = Math.imul(hash, GOLDEN) >>> secondShift;
  return bucket === (hash & bucketMask) ? bucket ^ 1 : bucket;
}

/** Keys are (protocol, source, destination, source port << 16 | destination port). */
export interface FlowIndex {
  /** Hash of a key, with the secret of the region. */
  hashOf(protocol: number, source: number, destination: number, ports: number): number;
  /** Hash of an ORIGINAL key with KEY_BY_BACKEND: the F_BACKEND word counts. */
  hashByBackend(
    protocol: number,
    source: number,
    destination: number,
    ports: number,
    backend: number,
  ): number;
  /** Hash of the ORIGINAL key of the record at `at` of `words` (the draft, or views.i32). */
  originalHash(words: Int32Array, at: number): number;
  /** Hash of its REPLY key. */
  replyHash(words: Int32Array, at: number): number;
  /**
   * @param hash - hashOf() the key
   * @returns row << 1 | direction of the live flow that has the key, or -1
   */
  find(hash: number, protocol: number, source: number, destination: number, ports: number): number;
  /**
   * Choose an empty entry; nothing is written.
   *
   * @param avoid - an entry that is spoken for, or -1
   * @returns the entry (int32 index of its hash), or -1 when both buckets are full
   */
  choose(hash: number, avoid: number): number;
  /** Have both buckets of `hash` on their way into the cache before they are needed. */
  touch(hash: number): void;
  /** The same for the bucket that it prefers, where an entry that is there most likely lies. */
  touchFirst(hash: number): void;
  /** Fill an entry that choose() gave, for row << 1 | direction. */
  write(entry: number, hash: number, ref: number): void;
  /**
   * Empty the entry of row << 1 | direction.
   *
   * @throws AssertionError when there is none
   */
  clear(hash: number, ref: number): void;
  /** Empty every entry (cold). */
  clearAll(): void;
}

/** @param views - a region whose H_SECRET is set */
export function createFlowIndex(views: RegionViews): FlowIndex {
  const i32 = views.i32;
  const buckets = views.layout.flowBuckets;
  const flowsWord = views.layout.flows.at >> 2;
  const indexWord = views.layout.flowIndex.at >> 2;
  const bucketMask = buckets - 1;
  const secondShift = secondShiftOf(buckets);
  assert((buckets & bucketMask) === 0, "buckets are a power of two");
  assert(buckets >= 2, "there are two buckets to choose from");
  /** Result of freeEntries(): the first empty entry. In an array, so that it is never boxed. */
  const emptyAt = new Int32Array(1);
  /** What touching loads read goes here, so that the compiler keeps them. */
  const sink = new Int32Array(1);

  function hashOf(protocol: number, source: number, destination: number, ports: number): number {
    return flowHash(i32[H_SECRET]!, i32[H_SECRET + 1]!, protocol, source, destination, ports);
  }

  /** First word of the bucket that `hash` prefers. */
  function firstBucket(hash: number): number {
    return indexWord + (hash & bucketMask) * BUCKET_WORDS;
  }

  /** First word of the other bucket of `hash`; never the same one. */
  function secondBucket(hash: number): number {
    return indexWord + secondBucketOf(hash, bucketMask, secondShift) * BUCKET_WORDS;
  }

  function touch(hash: number): void {
    sink[0] = i32[firstBucket(hash)]! ^ i32[secondBucket(hash)]!;
  }

  function touchFirst(hash: number): void {
    sink[0] = i32[firstBucket(hash)]!;
  }

  /** Whether the record of a reference is live and has this key in that direction. */
  function matches(
    ref: number,
    protocol: number,
    source: number,
    destination: number,
    ports: number,
  ): boolean {
    const at = flowsWord + (ref >> 1) * FLOW_WORDS;
    const state = i32[at + F_STATE]!;
    if ((i32[at + F_VERSION]! & 1) !== 0 || (state & 0xff) === STATE_FREE) return false;
    if ((ref & 1) === ORIGINAL) {
      return (
        originalKeyOf(state) === protocol &&
        i32[at + F_CLIENT_ADDR] === source &&
        i32[at + F_VIP_ADDR] === destination &&
        i32[at + F_CLIENT_VIP_PORTS] === ports
      );
    }
    return (
      replyKeyOf(state) === protocol &&
      i32[at + F_BACKEND_ADDR] === source &&
      i32[at + F_REPLY_ADDR] === destination &&
      i32[at + F_BACKEND_REPLY_PORTS] === ports
    );
  }

  function findIn(
    bucket: number,
    hash: number,
    protocol: number,
    source: number,
    destination: number,
    ports: number,
  ): number {
    const first = firstPlace(hash);
    for (let place = first; place < first + INDEX_BUCKET_ENTRIES; place++) {
      const entry = bucket + (place & PLACE_MASK);
      if (i32[entry] !== hash) continue;
      const ref = i32[entry + INDEX_BUCKET_ENTRIES]! - 1;
      // An empty entry can hold any hash: its reference is 0.
      if (ref >= 0 && matches(ref, protocol, source, destination, ports)) return ref;
    }
    return -1;
  }

  function find(
    hash: number,
    protocol: number,
    source: number,
    destination: number,
    ports: number,
  ): number {
    const ref = findIn(firstBucket(hash), hash, protocol, source, destination, ports);
    if (ref >= 0) return ref;
    return findIn(secondBucket(hash), hash, protocol, source, destination, ports);
  }

  /** Empty entries of a bucket, but for the one at `avoid`; the first for the hash goes to emptyAt. */
  function freeEntries(bucket: number, hash: number, avoid: number): number {
    const first = firstPlace(hash);
    let free = 0;
    for (let place = first + INDEX_BUCKET_ENTRIES - 1; place >= first; place--) {
      const entry = bucket + (place & PLACE_MASK);
      if (i32[entry + INDEX_BUCKET_ENTRIES] === 0 && entry !== avoid) {
        free++;
        emptyAt[0] = entry;
      }
    }
    return free;
  }

  function choose(hash: number, avoid: number): number {
    const firstFree = freeEntries(firstBucket(hash), hash, avoid);
    const inFirst = emptyAt[0]!;
    if (firstFree > INDEX_BUCKET_ENTRIES - FIRST_CHOICE_ENTRIES) return inFirst;
    const secondFree = freeEntries(secondBucket(hash), hash, avoid);
    if (secondFree > firstFree) return emptyAt[0]!;
    return firstFree > 0 ? inFirst : -1;
  }

  function write(entry: number, hash: number, ref: number): void {
    i32[entry] = hash;
    i32[entry + INDEX_BUCKET_ENTRIES] = ref + 1;
  }

  /** Take the entry of `ref` out of a bucket. @returns whether it was there */
  function clearIn(bucket: number, ref: number): boolean {
    for (let entry = bucket; entry < bucket + INDEX_BUCKET_ENTRIES; entry++) {
      if (i32[entry + INDEX_BUCKET_ENTRIES] === ref + 1) {
        i32[entry + INDEX_BUCKET_ENTRIES] = 0;
        return true;
      }
    }
    return false;
  }

  function clear(hash: number, ref: number): void {
    if (clearIn(firstBucket(hash), ref)) return;
    assert(clearIn(secondBucket(hash), ref), "a live flow has both its index entries");
  }

  function hashByBackend(
    protocol: number,
    source: number,
    destination: number,
    ports: number,
    backend: number,
  ): number {
    return hashOf(protocol ^ Math.imul(backend, GOLDEN), source, destination, ports);
  }

  function originalHash(words: Int32Array, at: number): number {
    const key = originalKeyOf(words[at + F_STATE]!);
    if ((key & KEY_BY_BACKEND) !== 0) {
      return hashByBackend(
        key,
        words[at + F_CLIENT_ADDR]!,
        words[at + F_VIP_ADDR]!,
        words[at + F_CLIENT_VIP_PORTS]!,
        words[at + F_BACKEND]!,
      );
    }
    return hashOf(
      key,
      words[at + F_CLIENT_ADDR]!,
      words[at + F_VIP_ADDR]!,
      words[at + F_CLIENT_VIP_PORTS]!,
    );
  }

  function replyHash(words: Int32Array, at: number): number {
    return hashOf(
      replyKeyOf(words[at + F_STATE]!),
      words[at + F_BACKEND_ADDR]!,
      words[at + F_REPLY_ADDR]!,
      words[at + F_BACKEND_REPLY_PORTS]!,
    );
  }

  function clearAll(): void {
    i32.fill(0, indexWord, indexWord + buckets * BUCKET_WORDS);
  }

  return {
    hashOf,
    hashByBackend,
    originalHash,
    replyHash,
    find,
    choose,
    touch,
    touchFirst,
    write,
    clear,
    clearAll,
  };
}
