import { PROTOCOL_TCP } from "../flow/flow-record.ts";
import {
  A_ADDRESS,
  A_FLAGS,
  A_TCP_COUNT,
  A_TCP_FIRST,
  A_UDP_COUNT,
  A_UDP_FIRST,
  ADDRESS_WORDS,
  addressHash,
  I_PORTS,
  I_SERVICE,
  INTERVAL_WORDS,
} from "../service/bank.ts";
import { type Context, R_ADDRESSES, R_ADDRESSES_MASK, R_BANK, R_INTERVALS } from "./context.ts";

/** What the bank in use says of an address. */
export interface Addresses {
  /** First word of the address entry, or -1. */
  find(address: number): number;
  /** Service slot of the entry's interval that holds `port`, or -1. */
  serviceAt(entry: number, protocol: number, port: number): number;
}

/** Look-ups in the bank: one hash probe, then a binary search over the entry's port intervals. */
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
      if (i32[entry + A_FLAGS] === 0) return -1;
      if (i32[entry + A_ADDRESS] === address) return entry;
      index = (index + 1) & mask;
    }
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

  return { find, serviceAt };
}
