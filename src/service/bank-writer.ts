import { EXIT, HeadgateError } from "../base/errors.ts";
import {
  MODE_FULL_NAT,
  MODE_NAT,
  STATE_CLOSE,
  STATE_CLOSE_WAIT,
  STATE_COUNT,
  STATE_ESTABLISHED,
  STATE_FIN_WAIT,
  STATE_LAST_ACK,
  STATE_SYN_RECV,
  STATE_SYN_SENT,
  STATE_TIME_WAIT,
  STATE_UDP_ONE_WAY,
  STATE_UDP_REPLIED,
} from "../flow/flow-record.ts";
import { buildMaglevTable } from "../scheduler/maglev-table.ts";
import { seedWord } from "../scheduler/mix.ts";
import {
  buildSourceHashTable,
  greatestCommonDivisor,
  sourceHashSize,
} from "../scheduler/source-hash-table.ts";
import {
  BANK_ADDRESS_BYTES,
  BANK_BACKEND_BYTES,
  BANK_HEADER_BYTES,
  BANK_INTERVAL_BYTES,
  BANK_SERVICE_BYTES,
  bankSize,
  H_BANK_PUBLISHED,
  type RegionViews,
} from "../state/layout.ts";
import { V_USED } from "./backend-slots.ts";
import {
  A_ADDRESS,
  A_ANSWER_PING,
  A_FLAGS,
  A_IS_BACKEND,
  A_IS_HOST,
  A_IS_SNAT,
  A_IS_VIP,
  A_TCP_COUNT,
  A_TCP_FIRST,
  A_UDP_COUNT,
  A_UDP_FIRST,
  A_USED,
  ADDRESS_WORDS,
  addressHash,
  BANK_ADDRESSES_AT,
  BANK_ADDRESSES_MASK,
  BANK_ANNOUNCE,
  BANK_BACKENDS_AT,
  BANK_EVICT,
  BANK_HASH_SLOTS_AT,
  BANK_INTERVALS_AT,
  BANK_LAST_HOP,
  BANK_NUMBER,
  BANK_SEED,
  BANK_SERVICE_COUNT,
  BANK_SERVICES_AT,
  BANK_SNAT_ADDRESSES,
  BANK_SNAT_COUNT,
  BANK_SNAT_PORT_HIGH,
  BANK_SNAT_PORT_LOW,
  E_ADDRESS,
  E_PORT,
  E_SLOT,
  E_WEIGHT,
  ENTRY_WORDS,
  I_PORTS,
  I_SERVICE,
  INTERVAL_WORDS,
  NO_BACKEND_DROP,
  NO_BACKEND_RESET,
  NO_BACKEND_SORRY,
  OUT_OF_STATE_ADOPT,
  OUT_OF_STATE_DROP,
  OUT_OF_STATE_RESET,
  S_BACKENDS_COUNT,
  S_BACKENDS_FIRST,
  S_HASH_FIRST,
  S_HASH_SIZE,
  S_MODE,
  S_NO_BACKEND,
  S_ON_IDLE,
  S_OUT_OF_STATE,
  S_SCHEDULER,
  S_SORRY_SLOT,
  S_TIMEOUTS,
  S_USED,
  S_WEIGHT_GCD,
  S_WEIGHT_MAX,
  S_WEIGHT_SUM,
  SCHEDULER_NAMES,
  SERVICE_WORDS,
} from "./bank.ts";
import type { GatewayDefinition, PortRange, Timeouts } from "./definition.ts";
import { type Eligible, eligibleBackends } from "./effective.ts";
import { type AssignedService, type SlotAssignment, serviceSlotWord } from "./slots.ts";

/** What a bank was made of, for the log. */
export interface BankReport {
  readonly services: number;
  readonly backends: number;
  readonly addresses: number;
  readonly intervals: number;
  readonly hashSlots: number;
}

/**
 * Write a whole bank (service/bank.ts).
 *
 * @param number - its number; it goes to banks[number & 1], which must be neither published nor taken
 * @param hostAddresses - addresses of the host, int32 in host order
 * @throws HeadgateError when a table of the bank is too small for the definition
 */
export function writeBank(
  views: RegionViews,
  number: number,
  definition: GatewayDefinition,
  assignment: SlotAssignment,
  hostAddresses: readonly number[],
): BankReport {
  const { i32, u16, layout } = views;
  const size = bankSize(layout);
  const section = layout.banks[(number & 1) as 0 | 1];
  const bank = section.at >> 2;
  let at = BANK_HEADER_BYTES;
  const take = (bytes: number): number => {
    const from = at;
    at += bytes;
    return from;
  };
  const addressesAt = take(size.addressEntries * BANK_ADDRESS_BYTES);
  const intervalsAt = take(size.intervals * BANK_INTERVAL_BYTES);
  const servicesAt = take(size.services * BANK_SERVICE_BYTES);
  const backendsAt = take(size.backendEntries * BANK_BACKEND_BYTES);
  const hashSlotsAt = take(size.hashSlots * 2);

  // All but the hash slots, of which only those of a service are read.
  i32.fill(0, bank, bank + (hashSlotsAt >> 2));
  i32[bank + BANK_NUMBER] = number;
  i32[bank + BANK_ADDRESSES_AT] = addressesAt;
  i32[bank + BANK_ADDRESSES_MASK] = size.addressEntries - 1;
  i32[bank + BANK_INTERVALS_AT] = intervalsAt;
  i32[bank + BANK_SERVICES_AT] = servicesAt;
  i32[bank + BANK_SERVICE_COUNT] = assignment.services.length;
  i32[bank + BANK_BACKENDS_AT] = backendsAt;
  i32[bank + BANK_HASH_SLOTS_AT] = hashSlotsAt;
  i32[bank + BANK_SNAT_PORT_LOW] = definition.snat.ports.low;
  i32[bank + BANK_SNAT_PORT_HIGH] = definition.snat.ports.high;
  i32[bank + BANK_SNAT_COUNT] = definition.snat.addresses.length;
  i32[bank + BANK_SEED] = seedWord(definition.hash.seed);
  i32[bank + BANK_ANNOUNCE] = definition.device.announce ? 1 : 0;
  i32[bank + BANK_LAST_HOP] = definition.device.replies === "last-hop" ? 1 : 0;
  i32[bank + BANK_EVICT] = definition.flows.whenFull === "evict" ? 1 : 0;
  definition.snat.addresses.forEach((address, index) => {
    i32[bank + BANK_SNAT_ADDRESSES + index] = address.value;
  });

  const eligible = new Map(
    assignment.services.map((service) => [service, eligibleBackends(views, service)]),
  );
  const hashSlots = writeServices();
  const { addresses, intervals } = writeAddresses();
  return {
    services: assignment.services.length,
    backends: [...eligible.values()].reduce((sum, list) => sum + list.length, 0),
    addresses,
    intervals,
    hashSlots,
  };

  function writeServices(): number {
    keepRemoved(views, number, bank + (servicesAt >> 2), assignment);
    let entries = 0;
    let hashed = 0;
    for (const service of assignment.services) {
      const list = eligible.get(service)!;
      const word = bank + (servicesAt >> 2) + service.slot * SERVICE_WORDS;
      if (entries + list.length > size.backendEntries) {
        throw tooSmall("limits.backends", entries + list.length, size.backendEntries);
      }
      const table = hashTable(views, service, list, i32[bank + BANK_SEED]!);
      if (hashed + table.length > size.hashSlots) {
        throw tooSmall("limits.hashSlots", hashed + table.length, size.hashSlots);
      }
      writeService(i32, word, service, list, entries, hashed, table.length);
      list.forEach((backend, index) => {
        const entry = bank + (backendsAt >> 2) + (entries + index) * ENTRY_WORDS;
        i32[entry + E_SLOT] = backend.slot;
        i32[entry + E_WEIGHT] = backend.weight;
        i32[entry + E_ADDRESS] = backend.address;
        i32[entry + E_PORT] = backend.port;
      });
      u16.set(table, ((section.at + hashSlotsAt) >> 1) + hashed);
      entries += list.length;
      hashed += table.length;
    }
    return hashed;
  }

  function writeAddresses(): { addresses: number; intervals: number } {
    const known = knownAddresses(definition, assignment, eligible, hostAddresses);
    if (known.size * 2 > size.addressEntries) {
      throw tooSmall("limits.services", known.size * 2, size.addressEntries);
    }
    let next = 0;
    const writeIntervals = (intervals: readonly Interval[]): number => {
      if (next + intervals.length > size.intervals) {
        throw tooSmall("limits.services", next + intervals.length, size.intervals);
      }
      const first = next;
      for (const interval of intervals) {
        const word = bank + (intervalsAt >> 2) + next * INTERVAL_WORDS;
        i32[word + I_PORTS] = (interval.low << 16) | interval.high;
        i32[word + I_SERVICE] = interval.service;
        next++;
      }
      return first;
    };
    for (const [value, address] of known) {
      let index = addressHash(value, size.addressEntries - 1);
      const entryAt = (position: number): number =>
        bank + (addressesAt >> 2) + position * ADDRESS_WORDS;
      while (i32[entryAt(index) + A_FLAGS] !== 0) index = (index + 1) & (size.addressEntries - 1);
      const word = entryAt(index);
      const tcp = flatten(address.tcp);
      const udp = flatten(address.udp);
      i32[word + A_ADDRESS] = value;
      i32[word + A_TCP_FIRST] = writeIntervals(tcp);
      i32[word + A_TCP_COUNT] = tcp.length;
      i32[word + A_UDP_FIRST] = writeIntervals(udp);
      i32[word + A_UDP_COUNT] = udp.length;
      i32[word + A_ANSWER_PING] = address.answersPing ? 1 : 0;
      i32[word + A_FLAGS] = A_USED | address.flags;
    }
    return { addresses: known.size, intervals: next };
  }
}

function tooSmall(key: string, needed: number, got: number): HeadgateError {
  const message = `${key}: expected room for ${needed} table entries, got ${got}; raise it and restart`;
  return new HeadgateError("HEADGATE_CONFIG", message, EXIT.configuration);
}

interface Interval extends PortRange {
  readonly service: number;
}

interface KnownAddress {
  flags: number;
  answersPing: boolean;
  readonly tcp: Interval[];
  readonly udp: Interval[];
}

function knownAddresses(
  definition: GatewayDefinition,
  assignment: SlotAssignment,
  eligible: ReadonlyMap<AssignedService, readonly Eligible[]>,
  hostAddresses: readonly number[],
): Map<number, KnownAddress> {
  const known = new Map<number, KnownAddress>();
  const at = (value: number): KnownAddress => {
    const found = known.get(value) ?? { flags: 0, answersPing: false, tcp: [], udp: [] };
    known.set(value, found);
    return found;
  };
  for (const service of assignment.services) {
    const { definition: one, protocol, slot } = service;
    const answers =
      one.ping === "always" ||
      (one.ping === "healthy" && eligible.get(service)!.some((backend) => !backend.isDown));
    for (const vip of one.vips) {
      const address = at(vip.value);
      address.flags |= A_IS_VIP;
      if (answers) address.answersPing = true;
      address[protocol].push(...one.ports.map((range) => ({ ...range, service: slot })));
    }
    if (one.mode !== "nat") continue;
    for (const backend of one.backends) {
      const address = at(backend.address.value);
      address.flags |= A_IS_BACKEND;
      const { port } = backend;
      const range = port === 0 ? { low: 0, high: 65_535 } : { low: port, high: port };
      address[protocol].push({ ...range, service: slot });
    }
  }
  for (const address of definition.snat.addresses) at(address.value).flags |= A_IS_SNAT;
  for (const value of hostAddresses) at(value).flags |= A_IS_HOST;
  return known;
}

/** Exact beats range beats any (design section 3): a narrower interval cuts a wider one. */
function flatten(intervals: readonly Interval[]): Interval[] {
  const byWidth = [...intervals].sort((a, b) => a.high - a.low - (b.high - b.low));
  let free: Interval[] = [];
  const placed: Interval[] = [];
  for (const interval of byWidth) {
    free = [interval];
    for (const taken of placed) {
      free = free.flatMap((part) => [
        ...(part.low < taken.low ? [{ ...part, high: Math.min(part.high, taken.low - 1) }] : []),
        ...(part.high > taken.high ? [{ ...part, low: Math.max(part.low, taken.high + 1) }] : []),
      ]);
    }
    placed.push(...free);
  }
  return placed.sort((a, b) => a.low - b.low);
}

function writeService(
  i32: Int32Array,
  word: number,
  service: AssignedService,
  list: readonly Eligible[],
  firstEntry: number,
  firstHashSlot: number,
  hashSize: number,
): void {
  const { definition } = service;
  const weights = list.map((backend) => backend.weight);
  i32[word + S_USED] = 1;
  i32[word + S_MODE] = definition.mode === "full-nat" ? MODE_FULL_NAT : MODE_NAT;
  i32[word + S_SCHEDULER] = SCHEDULER_NAMES.indexOf(definition.scheduler);
  i32[word + S_BACKENDS_FIRST] = firstEntry;
  i32[word + S_BACKENDS_COUNT] = list.length;
  i32[word + S_HASH_FIRST] = firstHashSlot;
  i32[word + S_HASH_SIZE] = hashSize;
  i32[word + S_OUT_OF_STATE] = {
    adopt: OUT_OF_STATE_ADOPT,
    reset: OUT_OF_STATE_RESET,
    drop: OUT_OF_STATE_DROP,
  }[definition.outOfState];
  i32[word + S_ON_IDLE] = definition.onIdle === "reset" ? 1 : 0;
  i32[word + S_NO_BACKEND] = {
    reset: NO_BACKEND_RESET,
    drop: NO_BACKEND_DROP,
    // Where even panic has nobody to list, there is nobody to answer.
    panic: NO_BACKEND_RESET,
    sorry: NO_BACKEND_SORRY,
  }[definition.noBackend.action];
  i32[word + S_SORRY_SLOT] = service.sorry;
  i32[word + S_WEIGHT_MAX] = weights.reduce((most, weight) => Math.max(most, weight), 0);
  i32[word + S_WEIGHT_GCD] = weights.reduce(greatestCommonDivisor, 0);
  i32[word + S_WEIGHT_SUM] = weights.reduce((sum, weight) => sum + weight, 0);
  writeTimeouts(i32, word, definition.timeouts);
}

function writeTimeouts(i32: Int32Array, word: number, { tcp, udp }: Timeouts): void {
  const timeouts = new Array<number>(STATE_COUNT).fill(0);
  timeouts[STATE_SYN_SENT] = tcp.synSent;
  timeouts[STATE_SYN_RECV] = tcp.synReceived;
  timeouts[STATE_ESTABLISHED] = tcp.established;
  timeouts[STATE_FIN_WAIT] = tcp.finWait;
  timeouts[STATE_CLOSE_WAIT] = tcp.closeWait;
  timeouts[STATE_LAST_ACK] = tcp.lastAck;
  timeouts[STATE_TIME_WAIT] = tcp.timeWait;
  timeouts[STATE_CLOSE] = tcp.close;
  timeouts[STATE_UDP_ONE_WAY] = udp.oneWay;
  timeouts[STATE_UDP_REPLIED] = udp.replied;
  timeouts.forEach((ms, state) => {
    i32[word + S_TIMEOUTS + state] = ms;
  });
}

/** Design section 3, for the flows of a service whose record is lost (the region changed its size). */
const DEFAULT_TIMEOUTS: Timeouts = {
  tcp: {
    synSent: 30_000,
    synReceived: 60_000,
    established: 7_440_000,
    finWait: 240_000,
    closeWait: 240_000,
    lastAck: 30_000,
    timeWait: 120_000,
    close: 10_000,
  },
  udp: { oneWay: 120_000, replied: 300_000 },
};

/** The flows of a service that is gone go on by its last record, which takes no new ones. */
function keepRemoved(
  views: RegionViews,
  number: number,
  servicesWord: number,
  assignment: SlotAssignment,
): void {
  const { i32, layout } = views;
  const configured = new Set(assignment.services.map((service) => service.slot));
  const published = i32[H_BANK_PUBLISHED]!;
  const previous = layout.banks[(published & 1) as 0 | 1].at >> 2;
  const hasPrevious =
    published !== 0 &&
    (published & 1) !== (number & 1) &&
    i32[previous + BANK_NUMBER] === published;
  for (let slot = 0; slot < layout.services; slot++) {
    if (configured.has(slot) || i32[serviceSlotWord(views, slot) + V_USED] === 0) continue;
    const to = servicesWord + slot * SERVICE_WORDS;
    const from = previous + (i32[previous + BANK_SERVICES_AT]! >> 2) + slot * SERVICE_WORDS;
    if (hasPrevious && i32[from + S_USED] !== 0) {
      i32.copyWithin(to, from, from + SERVICE_WORDS);
    } else {
      i32[to + S_USED] = 1;
      writeTimeouts(i32, to, DEFAULT_TIMEOUTS);
    }
    i32[to + S_BACKENDS_COUNT] = 0;
    i32[to + S_HASH_SIZE] = 0;
  }
}

interface CachedTable {
  readonly key: string;
  readonly table: Uint16Array;
}

/** The last table of every service slot: health changes come far more often than new tables. */
const tables = new WeakMap<RegionViews, Map<number, CachedTable>>();

function hashTable(
  views: RegionViews,
  service: AssignedService,
  list: readonly Eligible[],
  seed: number,
): Uint16Array {
  const { scheduler, tableSize } = service.definition;
  if ((scheduler !== "maglev" && scheduler !== "source-hash") || list.length === 0) {
    return new Uint16Array(0);
  }
  const cache = tables.get(views) ?? new Map<number, CachedTable>();
  tables.set(views, cache);
  const backends = list.map(({ address, port, weight }) => `${address}:${port}*${weight}`);
  const key = `${scheduler} ${tableSize} ${seed} ${backends.join(" ")}`;
  const cached = cache.get(service.slot);
  if (cached?.key === key) return cached.table;
  const weights = list.map((backend) => backend.weight);
  const table =
    scheduler === "maglev"
      ? buildMaglevTable(list, tableSize, seed)
      : buildSourceHashTable(weights, sourceHashSize(weights));
  cache.set(service.slot, { key, table });
  return table;
}
