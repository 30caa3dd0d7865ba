import { assert } from "../base/assert.ts";
import { FRAGMENT_ENTRIES, FRAGMENT_TIMEOUT_MS, FRAGMENT_WAYS } from "../base/limits.ts";
import { flowHash } from "./flow-hash.ts";

/**
 * Datagrams that come in fragments (RFC 791 section 3.2, RFC 8200 section 4.5): which way the
 * fragments go that have no ports.
 *
 * Theory of operation
 *
 * Place     Memory of the worker, not the region: an entry says where the rest of a datagram goes that
 *           is under way right now. For the next process it has no meaning, since the fragments in
 *           between, and the copies that wait, are lost with this one.
 * Key       Source, destination, identification, and protocol with family bits: words as the flow
 *           table has them, so an IPv6 address is its fold there. Source and destination are those of
 *           the packet as it came.
 * Sets      FRAGMENT_WAYS entries, chosen by a keyed hash: a search looks at one set, whatever comes.
 *           A set that is full gives up the entry that is nearest to its end. That is the oldest, or
 *           one whose datagram is complete.
 * Coverage  A bitmap an entry, a bit for each eight bytes of the datagram, so that what overlaps
 *           (RFC 1858, RFC 5722), what comes twice, and the end are known exactly, in whatever order
 *           they come. Only what the user before has written is cleared.
 * Bounds    All of it is taken at start. How many entries a second are taken is the caller's to limit.
 */

/** Words of an entry (16). */
export const X_STATE = 0; // FRAGMENT_…
export const X_KEY = 1; // protocol | family bits
export const X_SOURCE = 2;
export const X_DESTINATION = 3;
export const X_ID = 4;
/** Tick at which the entry ends. */
export const X_EXPIRES = 5;
/** FRAGMENT_FLOW: row << 1 | direction. FRAGMENT_AWAY: number of the worker. */
export const X_REFERENCE = 6;
/** FRAGMENT_FLOW: F_CREATED of the flow, and the ports that the first fragment came with. */
export const X_CREATED = 7;
export const X_PORTS = 8;
/** Copies that wait: first and last slot + 1, and how many. */
export const X_HELD_FIRST = 9;
export const X_HELD_LAST = 10;
export const X_HELD_COUNT = 11;
/** Units of the whole datagram, 0 before its last fragment has come; units seen; end of the highest. */
const X_UNITS = 12;
const X_UNITS_SEEN = 13;
const X_UNITS_HIGH = 14;
/** A_… of the destination, for who has no packet at hand, and the identification sent << 16. */
export const X_FLAGS_AND_ID = 15;
const ENTRY_WORDS = 16;

/** States of an entry. */
export const FRAGMENT_FREE = 0;
/** The first fragment has not come. */
export const FRAGMENT_WAITING = 1;
/** Follows a flow. */
export const FRAGMENT_FLOW = 2;
/** Another worker has the flow. */
export const FRAGMENT_AWAY = 3;
/** The first fragment was not ours. */
export const FRAGMENT_PASSED = 4;
/** The first fragment was dropped, or answered. */
export const FRAGMENT_REFUSED = 5;
/** Fragments have overlapped: none of it goes on. */
export const FRAGMENT_OVERLAPPED = 6;

/** What cover() says of a fragment. */
export const COVER_NEW = 0;
/** All of it has come before. */
export const COVER_TWICE = 1;
/** Part of it has come before, or it does not fit the datagram's length. */
export const COVER_OVERLAP = 2;

/** Units of the longest datagram: eight bytes each. */
const UNITS_MAX = 65_536 / 8;
const MAP_WORDS = UNITS_MAX / 32;

/** Makes the hash another one than that of the flow index. */
const FRAGMENT_KEY = 0x46524147; // "FRAG"

export interface Fragments {
  /** The entries' words. */
  readonly words: Int32Array;
  /** @returns first word of the live entry with this key, or -1 */
  find(key: number, source: number, destination: number, id: number, tick: number): number;
  /**
   * The entry that a key without one is to have: a free or expired one of its set, else the one that
   * ends first. The caller lets go of what it holds, then calls begin().
   *
   * @returns its first word
   */
  choose(key: number, source: number, destination: number, id: number, tick: number): number;
  /** Make the entry the key's: WAITING, nothing seen, nothing held. */
  begin(
    entry: number,
    key: number,
    source: number,
    destination: number,
    id: number,
    tick: number,
  ): void;
  /**
   * Note that a fragment has come.
   *
   * @param first - its offset, in units of eight bytes
   * @param units - its length, rounded up; first + units is at most 8192
   * @param isLast - no More Fragments
   * @returns COVER_…; nothing is noted of what is not new
   */
  cover(entry: number, first: number, units: number, isLast: boolean): number;
  /** Whether all of the datagram has come. */
  isComplete(entry: number): boolean;
  /** Free an entry; what it holds is the caller's. */
  free(entry: number): void;
}

/**
 * @param k0 - first word of the region's secret
 * @param k1 - second word
 * @param entries - a power of two, a multiple of FRAGMENT_WAYS
 */
export function createFragmentTable(k0: number, k1: number, entries = FRAGMENT_ENTRIES): Fragments {
  const sets = entries / FRAGMENT_WAYS;
  assert(Number.isInteger(Math.log2(sets)), "sets of fragments are a power of two");
  const words = new Int32Array(entries * ENTRY_WORDS);
  const maps = new Int32Array(entries * MAP_WORDS);
  const setWords = FRAGMENT_WAYS * ENTRY_WORDS;

  function setOf(key: number, source: number, destination: number, id: number): number {
    const hash = flowHash(k0, k1 ^ FRAGMENT_KEY, key, source, destination, id);
    return (hash & (sets - 1)) * setWords;
  }

  function find(
    key: number,
    source: number,
    destination: number,
    id: number,
    tick: number,
  ): number {
    const set = setOf(key, source, destination, id);
    for (let entry = set; entry < set + setWords; entry += ENTRY_WORDS) {
      if (
        words[entry + X_ID] === id &&
        words[entry + X_SOURCE] === source &&
        words[entry + X_DESTINATION] === destination &&
        words[entry + X_KEY] === key &&
        words[entry + X_STATE] !== FRAGMENT_FREE &&
        ((words[entry + X_EXPIRES]! - tick) | 0) > 0
      ) {
        return entry;
      }
    }
    return -1;
  }

  function choose(
    key: number,
    source: number,
    destination: number,
    id: number,
    tick: number,
  ): number {
    const set = setOf(key, source, destination, id);
    let chosen = set;
    let least = 0x7fffffff;
    for (let entry = set; entry < set + setWords; entry += ENTRY_WORDS) {
      if (words[entry + X_STATE] === FRAGMENT_FREE) return entry;
      const left = (words[entry + X_EXPIRES]! - tick) | 0;
      if (left >= least) continue;
      least = left;
      chosen = entry;
    }
    return chosen;
  }

  function begin(
    entry: number,
    key: number,
    source: number,
    destination: number,
    id: number,
    tick: number,
  ): void {
    const map = (entry / ENTRY_WORDS) * MAP_WORDS;
    const used = (words[entry + X_UNITS_HIGH]! + 31) >>> 5;
    for (let word = map; word < map + used; word++) maps[word] = 0;
    words[entry + X_STATE] = FRAGMENT_WAITING;
    words[entry + X_KEY] = key;
    words[entry + X_SOURCE] = source;
    words[entry + X_DESTINATION] = destination;
    words[entry + X_ID] = id;
    words[entry + X_EXPIRES] = (tick + FRAGMENT_TIMEOUT_MS) | 0;
    words[entry + X_HELD_FIRST] = 0;
    words[entry + X_HELD_LAST] = 0;
    words[entry + X_HELD_COUNT] = 0;
    words[entry + X_UNITS] = 0;
    words[entry + X_UNITS_SEEN] = 0;
    words[entry + X_UNITS_HIGH] = 0;
  }

  /** Bits of word `word` of a map that units first..end - 1 have. */
  function bitsIn(word: number, first: number, end: number): number {
    const low = Math.max(first - 32 * word, 0);
    const high = Math.min(end - 32 * word, 32);
    const upTo = high === 32 ? -1 : (1 << high) - 1;
    return upTo & (-1 << low);
  }

  function cover(entry: number, first: number, units: number, isLast: boolean): number {
    const map = (entry / ENTRY_WORDS) * MAP_WORDS;
    const end = first + units;
    const whole = words[entry + X_UNITS]!;
    let seenBefore = 0;
    let unseen = 0;
    for (let word = first >>> 5; word << 5 < end; word++) {
      const bits = bitsIn(word, first, end);
      seenBefore |= maps[map + word]! & bits;
      unseen |= ~maps[map + word]! & bits;
    }
    // What ends the datagram must be its end, and what does not must lie before it.
    const contradicts = isLast
      ? (whole !== 0 && whole !== end) || words[entry + X_UNITS_HIGH]! > end
      : whole !== 0 && end >= whole;
    if (contradicts) return COVER_OVERLAP;
    if (seenBefore !== 0) return unseen === 0 ? COVER_TWICE : COVER_OVERLAP;
    for (let word = first >>> 5; word << 5 < end; word++) {
      maps[map + word] = maps[map + word]! | bitsIn(word, first, end);
    }
    const seen = words[entry + X_UNITS_SEEN]! + units;
    words[entry + X_UNITS_SEEN] = seen;
    words[entry + X_UNITS_HIGH] = Math.max(words[entry + X_UNITS_HIGH]!, end);
    if (isLast) words[entry + X_UNITS] = end;
    return COVER_NEW;
  }

  function isComplete(entry: number): boolean {
    const whole = words[entry + X_UNITS]!;
    return whole !== 0 && words[entry + X_UNITS_SEEN] === whole;
  }

  function free(entry: number): void {
    words[entry + X_STATE] = FRAGMENT_FREE;
  }

  return { words, find, choose, begin, cover, isComplete, free };
}
