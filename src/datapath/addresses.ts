import { PROTOCOL_TCP } from "../flow/flow-record.ts";
import {
  A_ADDRESS,
  A_ADDRESS6,
  A_FLAGS,
  A_IS_IPV6,
  A_IS_PREFIX,
  A_PREFIX_LENGTH,
  A_TCP_COUNT,
  A_TCP_FIRST,
  A_UDP_COUNT,
  A_UDP_FIRST,
  ADDRESS_WORDS,
  addressHash,
  addressHash6,
  BANK_PREFIX4_COUNT,
  BANK_PREFIX4_LENGTHS,
  BANK_PREFIX6_COUNT,
  BANK_PREFIX6_LENGTHS,
  I_PORTS,
  I_SERVICE,
  INTERVAL_WORDS,
} from "../service/bank.ts";
import { type Context, R_ADDRESSES, R_ADDRESSES_MASK, R_BANK, R_INTERVALS } from "./context.ts";

/** What the bank in use says of an address. */
export interface Addresses {
  /** First word of the entry of an IPv4 address, or of the longest prefix that has it; or -1. */
  find(address: number): number;
  /** The same for an IPv6 address: its words, host order. */
  find6(w0: number, w1: number, w2: number, w3: number): number;
  /** Service slot of the entry's interval that holds `port`, or -1. */
  serviceAt(entry: number, protocol: number, port: number): number;
}

/**
 * Look-ups in the bank: one hash probe, and one for each length of prefixes in use; then a binary
 * search over the entry's port intervals.
 */
export function createAddresses(context: Context): Addresses {
  const { i32, registers } = context;

  function find(address: number): number {
    if (registers[R_BANK] === 0) return -1;
    const mask = registers[R_ADDRESSES_MASK]!;
    const first = registers[R_ADDRESSES]!;
    let index = addressHash(address, mask);
    // The hash is at most half full, so a free entry ends every search.
    for (;;) {
      const entry = first + index * ADDRESS_WORDS;
      const flags = i32[entry + A_FLAGS]!;
      if (flags === 0) break;
      if (i32[entry + A_ADDRESS] === address && (flags & (A_IS_IPV6 | A_IS_PREFIX)) === 0) {
        return entry;
      }
      index = (index + 1) & mask;
    }
    const lengths = i32[registers[R_BANK]! + BANK_PREFIX4_COUNT]!;
    return lengths === 0 ? -1 : findPrefix(address, lengths);
  }

  /** One look-up for each length that some prefix has, the longest first. */
  function findPrefix(address: number, lengths: number): number {
    const mask = registers[R_ADDRESSES_MASK]!;
    const first = registers[R_ADDRESSES]!;
    const from = registers[R_BANK]! + BANK_PREFIX4_LENGTHS;
    for (let at = from; at < from + lengths; at++) {
      const length = i32[at]!;
      const masked = address & (-1 << (32 - length));
      let index = addressHash(masked, mask);
      for (;;) {
        const entry = first + index * ADDRESS_WORDS;
        const flags = i32[entry + A_FLAGS]!;
        if (flags === 0) break;
        if (
          i32[entry + A_ADDRESS] === masked &&
          i32[entry + A_PREFIX_LENGTH] === length &&
          (flags & (A_IS_IPV6 | A_IS_PREFIX)) === A_IS_PREFIX
        ) {
          return entry;
        }
        index = (index + 1) & mask;
      }
    }
    return -1;
  }

  /** The entry of exactly this address, or prefix of `length` bits. */
  function probe6(w0: number, w1: number, w2: number, w3: number, length: number): number {
    const mask = registers[R_ADDRESSES_MASK]!;
    const first = registers[R_ADDRESSES]!;
    let index = addressHash6(w0, w1, w2, w3, mask);
    for (;;) {
      const entry = first + index * ADDRESS_WORDS;
      const flags = i32[entry + A_FLAGS]!;
      if (flags === 0) return -1;
      if (
        (flags & A_IS_IPV6) !== 0 &&
        i32[entry + A_ADDRESS6 + 3] === w3 &&
        i32[entry + A_ADDRESS6 + 2] === w2 &&
        i32[entry + A_ADDRESS6 + 1] === w1 &&
        i32[entry + A_ADDRESS6] === w0 &&
        i32[entry + A_PREFIX_LENGTH] === length
      ) {
        return entry;
      }
      index = (index + 1) & mask;
    }
  }

  function find6(w0: number, w1: number, w2: number, w3: number): number {
    if (registers[R_BANK] === 0) return -1;
    const found = probe6(w0, w1, w2, w3, 128);
    if (found >= 0) return found;
    const from = registers[R_BANK]! + BANK_PREFIX6_LENGTHS;
    const end = from + i32[registers[R_BANK]! + BANK_PREFIX6_COUNT]!;
    for (let at = from; at < end; at++) {
      const length = i32[at]!;
      const entry = probe6(
        w0 & maskWord(length),
        w1 & maskWord(length - 32),
        w2 & maskWord(length - 64),
        w3 & maskWord(length - 96),
        length,
      );
      if (entry >= 0) return entry;
    }
    return -1;
  }

  function serviceAt(entry: number, protocol: number, port: number): number {
    const tcp = protocol === PROTOCOL_TCP;
    let low = i32[entry + (tcp ? A_TCP_FIRST : A_UDP_FIRST)]!;
    let high = low + i32[entry + (tcp ? A_TCP_COUNT : A_UDP_COUNT)]! - 1;
    const intervals = registers[R_INTERVALS]!;
    while (low <= high) {
      const middle = (low + high) >> 1;
      const at = intervals + middle * INTERVAL_WORDS;
      const ports = i32[at + I_PORTS]!;
      if (port < ports >>> 16) high = middle - 1;
      else if (port > (ports & 0xffff)) low = middle + 1;
      else return i32[at + I_SERVICE]!;
    }
    return -1;
  }

  return { find, find6, serviceAt };
}

/** The first `bits` bits of a word; all for 32 and more, none for 0 and less. */
function maskWord(bits: number): number {
  if (bits >= 32) return -1;
  return bits <= 0 ? 0 : -1 << (32 - bits);
}
