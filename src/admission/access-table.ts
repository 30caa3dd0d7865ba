import { type AccessRules, type Rule, rulesOf } from "../service/access-rules.ts";

/**
 * Access lists in the form that the data plane reads (longest prefix match).
 *
 * Theory of operation
 *
 * Prefixes are ranges of addresses, nested or apart, never crossing. Laid out along the addresses
 * they cut them into intervals, each with the verdict of the longest prefix that covers it. Two
 * neighbours with one verdict are one interval, so verdicts alternate: the number of interval
 * starts at or below an address says, by its parity, what becomes of it. n prefixes make at most
 * 2 n starts, and nothing else is kept.
 *
 *   a look-up   a binary search: at most 1 + log2(2 n) steps, 18 for 131,072 prefixes, and never
 *               more than the address has bits, since starts are different addresses. For IPv4 the
 *               address's first bits index a root of as many entries as there are starts (at most
 *               2^16) that says which of them to search: two or three steps for lists that are spread
 *   two buffers a reload writes the one that no bank in use names, so the data plane changes over
 *               between two batches, with the bank (BANK_ACCESS)
 *   room        ACCESS_WORDS_PER_PREFIX a prefix of either family, all taken at start
 *
 * Addresses are kept with their sign bit turned, so that int32 comparisons order them as unsigned.
 */

/** Eight words: two starts of four words. IPv4: two words, and at most as much root. */
export const ACCESS_WORDS_PER_PREFIX = 8;
/** Heads of the tables of all services: in a buffer of its own size beside the prefixes. */
export const ACCESS_WORDS_PER_SERVICE = 16;

/** Words of an IPv4 table: shift of the root, verdict of address 0 (1: refused), starts, root. */
const T4_SHIFT = 0;
const T4_FIRST = 1;
const T4_COUNT = 2;
const T4_ROOT = 3;
/** Words of an IPv6 table. */
const T6_FIRST = 0;
const T6_COUNT = 1;
const T6_STARTS = 2;

const ROOT_BITS_MAX = 16;
const SIGN = 0x8000_0000 | 0;

/**
 * Whether an IPv4 client is refused.
 *
 * @param at - word of its service's table (writeAccess4)
 * @param address - int32
 */
export function isRefused4(i32: Int32Array, at: number, address: number): boolean {
  const shift = i32[at + T4_SHIFT]!;
  const root = at + T4_ROOT;
  const slice = address >>> shift;
  const starts = root + (1 << (32 - shift)) + 1;
  const sought = address ^ SIGN;
  let low = i32[root + slice]!;
  let high = i32[root + slice + 1]!;
  while (low < high) {
    const middle = (low + high) >>> 1;
    if (i32[starts + middle]! <= sought) low = middle + 1;
    else high = middle;
  }
  return ((i32[at + T4_FIRST]! ^ low) & 1) !== 0;
}

/** The same for IPv6; `w0`.. are the address's words, int32. */
export function isRefused6(
  i32: Int32Array,
  at: number,
  w0: number,
  w1: number,
  w2: number,
  w3: number,
): boolean {
  let low = 0;
  let high = i32[at + T6_COUNT]!;
  while (low < high) {
    const middle = (low + high) >>> 1;
    const start = at + T6_STARTS + 4 * middle;
    let word = i32[start]!;
    let sought = w0 ^ SIGN;
    if (word === sought) {
      word = i32[start + 1]!;
      sought = w1 ^ SIGN;
    }
    if (word === sought) {
      word = i32[start + 2]!;
      sought = w2 ^ SIGN;
    }
    if (word === sought) {
      word = i32[start + 3]!;
      sought = w3 ^ SIGN;
    }
    if (word <= sought) low = middle + 1;
    else high = middle;
  }
  return ((i32[at + T6_FIRST]! ^ low) & 1) !== 0;
}

/** Intervals of one family: the verdict of the lowest address, and where it changes. */
interface Intervals {
  readonly firstRefused: boolean;
  readonly starts: readonly bigint[];
}

function flatten(rules: Iterable<Rule>, addressBits: number, admitsOthers: boolean): Intervals {
  const end = 1n << BigInt(addressBits);
  const ranges = [...rules].map(({ words, bits, allows }) => {
    const start = words.reduce((sum, word) => (sum << 32n) | BigInt(word >>> 0), 0n);
    return { start, end: start + (1n << BigInt(addressBits - bits)), bits, allows };
  });
  // Outer before inner; of equal ones the denied last, which then decides.
  ranges.sort((a, b) => {
    if (a.start !== b.start) return a.start < b.start ? -1 : 1;
    return a.bits - b.bits || Number(b.allows) - Number(a.allows);
  });
  const starts: bigint[] = [];
  let firstRefused = !admitsOthers;
  let refused = firstRefused;
  function change(at: bigint, toRefused: boolean): void {
    if (at === end) return;
    if (at === 0n) {
      firstRefused = toRefused;
      refused = toRefused;
      return;
    }
    if (starts.at(-1) === at) {
      starts.pop();
      refused = !refused;
    }
    if (refused === toRefused) return;
    starts.push(at);
    refused = toRefused;
  }
  const open: { end: bigint; refused: boolean }[] = [{ end, refused: firstRefused }];
  function closeUpTo(at: bigint): void {
    while (open.length > 1 && open.at(-1)!.end <= at) {
      const closed = open.pop()!;
      change(closed.end, open.at(-1)!.refused);
    }
  }
  for (const range of ranges) {
    closeUpTo(range.start);
    change(range.start, !range.allows);
    open.push({ end: range.end, refused: !range.allows });
  }
  closeUpTo(end);
  return { firstRefused, starts };
}

/**
 * Write the IPv4 table of a service.
 *
 * @param at - first word
 * @returns words written; at most 4 a prefix and ACCESS_WORDS_PER_SERVICE / 2
 */
export function writeAccess4(i32: Int32Array, at: number, rules: AccessRules): number {
  const { firstRefused, starts } = flatten(rulesOf(rules, 4), 32, rules.admitsOthers);
  let bits = 1;
  while (bits < ROOT_BITS_MAX && 2 << bits <= starts.length) bits++;
  const entries = 1 << bits;
  const root = at + T4_ROOT;
  i32[at + T4_SHIFT] = 32 - bits;
  i32[at + T4_FIRST] = firstRefused ? 1 : 0;
  i32[at + T4_COUNT] = starts.length;
  const first = root + entries + 1;
  let next = 0;
  for (let entry = 0; entry <= entries; entry++) {
    const from = BigInt(entry) << BigInt(32 - bits);
    while (next < starts.length && starts[next]! < from) next++;
    i32[root + entry] = next;
  }
  for (const [index, start] of starts.entries()) i32[first + index] = Number(start) ^ SIGN;
  return T4_ROOT + entries + 1 + starts.length;
}

/** Write the IPv6 table of a service. @returns words written; at most 8 a prefix, and 2 */
export function writeAccess6(i32: Int32Array, at: number, rules: AccessRules): number {
  const { firstRefused, starts } = flatten(rulesOf(rules, 6), 128, rules.admitsOthers);
  i32[at + T6_FIRST] = firstRefused ? 1 : 0;
  i32[at + T6_COUNT] = starts.length;
  for (const [index, start] of starts.entries()) {
    for (let word = 0; word < 4; word++) {
      const value = Number((start >> BigInt(96 - 32 * word)) & 0xffff_ffffn);
      i32[at + T6_STARTS + 4 * index + word] = value ^ SIGN;
    }
  }
  return T6_STARTS + 4 * starts.length;
}
