import {
  A_ADDRESS,
  A_ANSWER_PING,
  A_FLAGS,
  A_TCP_COUNT,
  A_TCP_FIRST,
  A_UDP_COUNT,
  A_UDP_FIRST,
  ADDRESS_WORDS,
  addressHash,
  BANK_ADDRESSES_AT,
  BANK_ADDRESSES_MASK,
  BANK_BACKENDS_AT,
  BANK_HASH_SLOTS_AT,
  BANK_INTERVALS_AT,
  BANK_SERVICES_AT,
  E_ADDRESS,
  E_PORT,
  E_SLOT,
  E_WEIGHT,
  ENTRY_WORDS,
  I_PORTS,
  I_SERVICE,
  INTERVAL_WORDS,
  S_BACKENDS_COUNT,
  S_BACKENDS_FIRST,
  S_HASH_FIRST,
  S_HASH_SIZE,
  SERVICE_WORDS,
} from "../../src/service/bank.ts";
import type { ProtocolName } from "../../src/service/definition.ts";
import type { RegionViews } from "../../src/state/layout.ts";

/** A written bank, read word by word as service/bank.ts describes it, with nothing shared but that. */
export interface BankReader {
  /** A word of the header. */
  header(word: number): number;
  /** A word of the record of a service slot. */
  service(slot: number, word: number): number;
  address(value: number): BankAddress | null;
  /** Service slot that has this port of the address, or null. */
  serviceAt(value: number, protocol: ProtocolName, port: number): number | null;
  list(slot: number): BankEntry[];
  /** Positions in the list, by hash slot. */
  table(slot: number): number[];
}

export interface BankAddress {
  readonly flags: number;
  readonly answersPing: number;
  readonly tcp: readonly BankInterval[];
  readonly udp: readonly BankInterval[];
}

export interface BankInterval {
  readonly low: number;
  readonly high: number;
  readonly service: number;
}

export interface BankEntry {
  readonly slot: number;
  readonly weight: number;
  readonly address: number;
  readonly port: number;
}

export function bankWord(views: RegionViews, number: number): number {
  return views.layout.banks[(number & 1) as 0 | 1].at >> 2;
}

/** First word of the record of a service slot. */
export function serviceRecordWord(views: RegionViews, number: number, slot: number): number {
  const bank = bankWord(views, number);
  return bank + (views.i32[bank + BANK_SERVICES_AT]! >> 2) + slot * SERVICE_WORDS;
}

export function readBank(views: RegionViews, number: number): BankReader {
  const { i32, u16 } = views;
  const bank = bankWord(views, number);
  const header = (word: number): number => i32[bank + word]!;
  const service = (slot: number, word: number): number =>
    i32[serviceRecordWord(views, number, slot) + word]!;

  function intervals(first: number, count: number): BankInterval[] {
    return Array.from({ length: count }, (_, index) => {
      const at = bank + (header(BANK_INTERVALS_AT) >> 2) + (first + index) * INTERVAL_WORDS;
      const ports = i32[at + I_PORTS]!;
      return { low: ports >>> 16, high: ports & 0xffff, service: i32[at + I_SERVICE]! };
    });
  }

  function address(value: number): BankAddress | null {
    const mask = header(BANK_ADDRESSES_MASK);
    let index = addressHash(value, mask);
    for (;;) {
      const at = bank + (header(BANK_ADDRESSES_AT) >> 2) + index * ADDRESS_WORDS;
      const flags = i32[at + A_FLAGS]!;
      if (flags === 0) return null;
      if (i32[at + A_ADDRESS] === value) {
        return {
          flags,
          answersPing: i32[at + A_ANSWER_PING]!,
          tcp: intervals(i32[at + A_TCP_FIRST]!, i32[at + A_TCP_COUNT]!),
          udp: intervals(i32[at + A_UDP_FIRST]!, i32[at + A_UDP_COUNT]!),
        };
      }
      index = (index + 1) & mask;
    }
  }

  return {
    header,
    service,
    address,
    serviceAt(value, protocol, port) {
      const all = address(value)?.[protocol] ?? [];
      return all.find(({ low, high }) => port >= low && port <= high)?.service ?? null;
    },
    list(slot) {
      const first = service(slot, S_BACKENDS_FIRST);
      return Array.from({ length: service(slot, S_BACKENDS_COUNT) }, (_, index) => {
        const at = bank + (header(BANK_BACKENDS_AT) >> 2) + (first + index) * ENTRY_WORDS;
        return {
          slot: i32[at + E_SLOT]!,
          weight: i32[at + E_WEIGHT]!,
          address: i32[at + E_ADDRESS]!,
          port: i32[at + E_PORT]!,
        };
      });
    },
    table(slot) {
      const first = (bank << 1) + (header(BANK_HASH_SLOTS_AT) >> 1) + service(slot, S_HASH_FIRST);
      return [...u16.subarray(first, first + service(slot, S_HASH_SIZE))];
    },
  };
}
