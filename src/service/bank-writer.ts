import type { Address } from "../base/address.ts";
import { EXIT, HeadgateError } from "../base/errors.ts";
import { foldAddress6 } from "../flow/flow-hash.ts";
import {
  MODE_DSR,
  MODE_FULL_NAT,
  MODE_GUE,
  MODE_IPIP,
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
import { seedWord } from "../scheduler/mix.ts";
import {
  BANK_ADDRESS_BYTES,
  BANK_BACKEND_BYTES,
  BANK_HEADER_BYTES,
  BANK_INTERVAL_BYTES,
  BANK_SERVICE_BYTES,
  type BankSize,
  bankSize,
  H_BANK_PUBLISHED,
  H_SECRET,
  type RegionLayout,
  type RegionViews,
} from "../state/layout.ts";
import { type AccessBuffers, createAccessBuffers, type PlacedAccess } from "./access-buffers.ts";
import { writeAdmission } from "./admission-words.ts";
import { createAffinityWriter } from "./affinity-words.ts";
import { V_USED } from "./backend-slots.ts";
import {
  A_ADDRESS,
  A_ADDRESS6,
  A_ANSWER_PING,
  A_FLAGS,
  A_IS_PREFIX,
  A_PREFIX_LENGTH,
  A_TCP_COUNT,
  A_TCP_FIRST,
  A_UDP_COUNT,
  A_UDP_FIRST,
  A_USED,
  ADDRESS_WORDS,
  addressHash,
  addressHash6,
  BANK_ACCESS,
  BANK_ADDRESSES_AT,
  BANK_ADDRESSES_MASK,
  BANK_ANNOUNCE,
  BANK_BACKENDS_AT,
  BANK_EVICT,
  BANK_GUE_CHECKSUM,
  BANK_GUE_PORT,
  BANK_HASH_SLOTS_AT,
  BANK_INTERVALS_AT,
  BANK_LAST_HOP,
  BANK_NUMBER,
  BANK_PREFIX4_COUNT,
  BANK_PREFIX4_LENGTHS,
  BANK_PREFIX6_COUNT,
  BANK_PREFIX6_LENGTHS,
  BANK_SEED,
  BANK_SERVICE_COUNT,
  BANK_SERVICES_AT,
  BANK_SNAT_ADDRESSES,
  BANK_SNAT_COUNT,
  BANK_SNAT_PORT_HIGH,
  BANK_SNAT_PORT_LOW,
  BANK_SNAT6_ADDRESSES,
  BANK_SNAT6_COUNT,
  BANK_SNAT6_FOLDS,
  BANK_STATELESS_ABOVE,
  BANK_TUNNEL_SOURCE,
  BANK_TUNNEL_SOURCE_IPV6,
  BANK_UDP_SWEEP,
  E_ADDRESS,
  E_PORT,
  E_SLOT,
  E_WEIGHT,
  ENTRY_WORDS,
  GUE_CHECKSUM_IPV4,
  GUE_CHECKSUM_IPV6,
  I_PORTS,
  I_SERVICE,
  INTERVAL_WORDS,
  MSS_AUTO,
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
  S_MSS,
  S_NO_BACKEND,
  S_ON_IDLE,
  S_OUT_OF_STATE,
  S_PROBE,
  S_QUIC,
  S_SCHEDULER,
  S_SORRY_SLOT,
  S_TIMEOUTS,
  S_TOO_BIG,
  S_USED,
  SCHEDULER_POLICY,
  SERVICE_WORDS,
  TOO_BIG_FRAGMENT,
  TOO_BIG_ICMP,
} from "./bank.ts";
import {
  flattenIntervals,
  type Interval,
  type KnownAddress,
  knownAddresses,
} from "./bank-addresses.ts";
import type { GatewayDefinition, Timeouts } from "./definition.ts";
import { type Eligible, eligibleBackends } from "./effective.ts";
import { createHashTables, type HashTables } from "./hash-tables.ts";
import {
  decidedList,
  decidedTable,
  inForce,
  NO_DECISIONS,
  type PolicyDecisions,
} from "./policy.ts";
import { writeSchedulerWords } from "./scheduler-words.ts";
import { type AssignedService, type SlotAssignment, serviceSlotWord } from "./slots.ts";
import {
  ENTRIES_PER_SERVER_ID,
  needsUdpSweep,
  serverIdsOf,
  writeServerIds,
  writeUdpWords,
} from "./udp-words.ts";

/** What a bank was made of, for the log. */
export interface BankReport {
  readonly services: number;
  readonly backends: number;
  readonly addresses: number;
  readonly intervals: number;
  readonly hashSlots: number;
}

/** Where a bank and its tables lie. */
interface Place {
  readonly number: number;
  readonly size: BankSize;
  /** First word of the bank. */
  readonly bank: number;
  /** Bytes from the start of the bank. */
  readonly addressesAt: number;
  readonly intervalsAt: number;
  readonly servicesAt: number;
  readonly backendsAt: number;
  readonly hashSlotsAt: number;
}

function placeOf(layout: RegionLayout, number: number): Place {
  const size = bankSize(layout);
  let at = BANK_HEADER_BYTES;
  const take = (bytes: number): number => {
    const from = at;
    at += bytes;
    return from;
  };
  return {
    number,
    size,
    bank: layout.banks[(number & 1) as 0 | 1].at >> 2,
    addressesAt: take(size.addressEntries * BANK_ADDRESS_BYTES),
    intervalsAt: take(size.intervals * BANK_INTERVAL_BYTES),
    servicesAt: take(size.services * BANK_SERVICE_BYTES),
    backendsAt: take(size.backendEntries * BANK_BACKEND_BYTES),
    hashSlotsAt: take(size.hashSlots * 2),
  };
}

/**
 * Write a whole bank (service/bank.ts).
 *
 * @param number - its number; it goes to banks[number & 1], which must be neither published nor taken
 * @param hostAddresses - addresses of the host
 * @param decisions - what policies have said of their services
 * @throws HeadgateError when a table of the bank is too small for the definition; the bank must not
 *   be published then
 */
export function writeBank(
  views: RegionViews,
  number: number,
  definition: GatewayDefinition,
  assignment: SlotAssignment,
  hostAddresses: readonly Address[],
  decisions: PolicyDecisions = NO_DECISIONS,
): BankReport {
  const place = placeOf(views.layout, number);
  const seed = seedWord(definition.hash.seed);
  const lists = new Map(
    assignment.services.map((service) => {
      const list = eligibleBackends(views, service);
      return [service, decidedList(list, decisions.of(service))];
    }),
  );
  const isAlive = (service: AssignedService): boolean =>
    lists.get(service)!.some((backend) => !backend.isDown);
  // All but the hash slots, of which only those of a service are read.
  views.i32.fill(0, place.bank, place.bank + (place.hashSlotsAt >> 2));
  keepRemoved(views, place, assignment);
  const access = keptAccess(views).place(assignment);
  if (access === null) throw tooManyPrefixes(views, assignment);
  const services = writeServices(views, place, lists, seed, access, definition, decisions);
  const known = knownAddresses(definition, assignment, isAlive, hostAddresses);
  const intervals = writeAddresses(views.i32, place, known);
  writeHeader(views, place, definition, assignment.services.length, seed);
  writePool(views.i32, place.bank, definition.snat.addresses);
  views.i32[place.bank + BANK_UDP_SWEEP] = assignment.services.some(needsUdpSweep) ? 1 : 0;
  views.i32[place.bank + BANK_ACCESS] = access.which;
  return {
    services: assignment.services.length,
    backends: services.listed,
    addresses: known.length,
    intervals,
    hashSlots: services.hashSlots,
  };
}

function writeHeader(
  views: RegionViews,
  place: Place,
  definition: GatewayDefinition,
  serviceCount: number,
  seed: number,
): void {
  const { i32 } = views;
  const { bank } = place;
  const { device, flows, snat } = definition;
  i32[bank + BANK_NUMBER] = place.number;
  i32[bank + BANK_ADDRESSES_AT] = place.addressesAt;
  i32[bank + BANK_ADDRESSES_MASK] = place.size.addressEntries - 1;
  i32[bank + BANK_INTERVALS_AT] = place.intervalsAt;
  i32[bank + BANK_SERVICES_AT] = place.servicesAt;
  i32[bank + BANK_SERVICE_COUNT] = serviceCount;
  i32[bank + BANK_BACKENDS_AT] = place.backendsAt;
  i32[bank + BANK_HASH_SLOTS_AT] = place.hashSlotsAt;
  i32[bank + BANK_SNAT_PORT_LOW] = snat.ports.low;
  i32[bank + BANK_SNAT_PORT_HIGH] = snat.ports.high;
  i32[bank + BANK_SEED] = seed;
  i32[bank + BANK_ANNOUNCE] = device.announce ? 1 : 0;
  i32[bank + BANK_LAST_HOP] = device.replies === "last-hop" ? 1 : 0;
  i32[bank + BANK_EVICT] = flows.whenFull === "evict" ? 1 : 0;
  i32[bank + BANK_STATELESS_ABOVE] = flows.statelessAbove ?? 0;
  writeTunnel(views, place, definition);
}

/** The SNAT pool, by family. */
function writePool(i32: Int32Array, bank: number, addresses: readonly Address[]): void {
  const four = addresses.filter(({ family }) => family === 4);
  const six = addresses.filter(({ family }) => family === 6);
  i32[bank + BANK_SNAT_COUNT] = four.length;
  i32[bank + BANK_SNAT6_COUNT] = six.length;
  four.forEach(({ value }, index) => {
    i32[bank + BANK_SNAT_ADDRESSES + index] = value;
  });
  six.forEach(({ words }, index) => {
    const fold = foldAddress6(i32[H_SECRET]!, i32[H_SECRET + 1]!, ...words);
    i32[bank + BANK_SNAT6_FOLDS + index] = fold;
    i32.set(words, bank + BANK_SNAT6_ADDRESSES + 4 * index);
  });
}

/** Flows of a mode that the configuration has given up go on with the source that they had. */
function writeTunnel(
  { i32, layout }: RegionViews,
  { number, bank }: Place,
  { tunnel }: GatewayDefinition,
): void {
  const { sourceIpv4, sourceIpv6, gue } = tunnel;
  const published = i32[H_BANK_PUBLISHED]!;
  if (published !== 0 && (published & 1) !== (number & 1)) {
    const previous = layout.banks[(published & 1) as 0 | 1].at >> 2;
    for (let word = BANK_TUNNEL_SOURCE; word < BANK_GUE_PORT; word++) {
      i32[bank + word] = i32[previous + word]!;
    }
  }
  if (sourceIpv4 !== null) i32[bank + BANK_TUNNEL_SOURCE] = sourceIpv4.value;
  sourceIpv6?.words.forEach((value, index) => {
    i32[bank + BANK_TUNNEL_SOURCE_IPV6 + index] = value;
  });
  i32[bank + BANK_GUE_PORT] = gue.port;
  // IPv6 asks for a checksum (RFC 8200 section 8.1) unless somebody knows better (RFC 6936 section 5).
  const computed = { zero: 0, computed: GUE_CHECKSUM_IPV4 | GUE_CHECKSUM_IPV6 };
  i32[bank + BANK_GUE_CHECKSUM] =
    gue.checksum === null ? GUE_CHECKSUM_IPV6 : computed[gue.checksum];
}

const MODES = {
  nat: MODE_NAT,
  "full-nat": MODE_FULL_NAT,
  dsr: MODE_DSR,
  ipip: MODE_IPIP,
  gue: MODE_GUE,
} as const;

function writeServices(
  views: RegionViews,
  place: Place,
  lists: ReadonlyMap<AssignedService, readonly Eligible[]>,
  seed: number,
  access: PlacedAccess,
  definition: GatewayDefinition,
  decisions: PolicyDecisions,
): { listed: number; hashSlots: number } {
  const { i32, u16 } = views;
  const { bank, size } = place;
  const tables = keptTables(views);
  const writeAffinity = createAffinityWriter(views, [...lists.keys()]);
  let entries = 0;
  let listed = 0;
  let hashSlots = 0;
  for (const [service, list] of lists) {
    if (entries + list.length > size.backendEntries) {
      throw tooSmall("limits.backends", entries + list.length, size.backendEntries);
    }
    const decision = inForce(list, decisions.of(service));
    const decided = decidedTable(list, decision, seed);
    const table = decided ?? tables.tableOf(service, list, seed, decision);
    if (hashSlots + table.length > size.hashSlots) {
      throw tooSmall("limits.hashSlots", hashSlots + table.length, size.hashSlots);
    }
    const word = bank + (place.servicesAt >> 2) + service.slot * SERVICE_WORDS;
    writeService(i32, word, service, list);
    writeSchedulerWords(i32, word, service, list, seed);
    if (decided !== null) i32[word + S_SCHEDULER] = SCHEDULER_POLICY;
    writeAdmission(i32, word, service, access.tables.get(service.slot), views.layout.workers);
    writeAffinity(word, service);
    i32[word + S_PROBE] = probedBy(definition, service);
    i32[word + S_BACKENDS_FIRST] = entries;
    i32[word + S_HASH_FIRST] = hashSlots;
    i32[word + S_HASH_SIZE] = table.length;
    u16.set(table, (bank << 1) + (place.hashSlotsAt >> 1) + hashSlots);
    hashSlots += table.length;
    listed += list.length;
    for (const backend of list) {
      const entry = bank + (place.backendsAt >> 2) + entries * ENTRY_WORDS;
      i32[entry + E_SLOT] = backend.slot;
      i32[entry + E_WEIGHT] = backend.weight;
      i32[entry + E_ADDRESS] = backend.address;
      i32[entry + E_PORT] = backend.port;
      entries++;
    }
    const needed = entries + serverIdsOf(service).length * ENTRIES_PER_SERVER_ID;
    if (needed > size.backendEntries) {
      throw tooSmall("limits.backends", needed, size.backendEntries);
    }
    const backends = bank + (place.backendsAt >> 2);
    entries += writeServerIds(i32, word, service, backends, entries);
  }
  return { listed, hashSlots };
}

/** S_PROBE: the probe's interface follows those that the configuration names. */
function probedBy({ device, probe }: GatewayDefinition, { definition }: AssignedService): number {
  const isProbed = probe != null && definition.health?.through === "path";
  return isProbed ? device.interfaces.length + 1 : 0;
}

/** @returns intervals written */
function writeAddresses(i32: Int32Array, place: Place, known: readonly KnownAddress[]): number {
  const { bank, size } = place;
  const mask = size.addressEntries - 1;
  if (known.length * 2 > size.addressEntries) {
    throw tooSmall("limits.services", known.length * 2, size.addressEntries);
  }
  let next = 0;
  function writeIntervals(intervals: readonly Interval[]): number {
    const first = next;
    if (first + intervals.length > size.intervals) {
      throw tooSmall("limits.services", first + intervals.length, size.intervals);
    }
    for (const { low, high, service } of intervals) {
      const word = bank + (place.intervalsAt >> 2) + next * INTERVAL_WORDS;
      i32[word + I_PORTS] = (low << 16) | high;
      i32[word + I_SERVICE] = service;
      next++;
    }
    return first;
  }
  const entryAt = (index: number): number =>
    bank + (place.addressesAt >> 2) + index * ADDRESS_WORDS;
  for (const one of known) {
    const { family, value, words } = one.address;
    let index = family === 4 ? addressHash(value, mask) : addressHash6(...words, mask);
    while (i32[entryAt(index) + A_FLAGS] !== 0) index = (index + 1) & mask;
    const word = entryAt(index);
    const tcp = flattenIntervals(one.tcp);
    const udp = flattenIntervals(one.udp);
    i32[word + A_FLAGS] = A_USED | one.flags;
    i32[word + A_ADDRESS] = value;
    i32[word + A_TCP_FIRST] = writeIntervals(tcp);
    i32[word + A_TCP_COUNT] = tcp.length;
    i32[word + A_UDP_FIRST] = writeIntervals(udp);
    i32[word + A_UDP_COUNT] = udp.length;
    i32[word + A_ANSWER_PING] = one.answersPing ? 1 : 0;
    i32[word + A_PREFIX_LENGTH] = one.prefixLength;
    if (family === 6) i32.set(words, word + A_ADDRESS6);
  }
  writeLengths(i32, bank, known);
  return next;
}

/** The prefix lengths that a search has to try, longest first. */
function writeLengths(i32: Int32Array, bank: number, known: readonly KnownAddress[]): void {
  const write = (family: 4 | 6, count: number, lengths: number): void => {
    const prefixes = known.filter(
      ({ address, flags }) => address.family === family && (flags & A_IS_PREFIX) !== 0,
    );
    const different = [...new Set(prefixes.map(({ prefixLength }) => prefixLength))];
    different.sort((a, b) => b - a);
    i32[bank + count] = different.length;
    i32.set(different, bank + lengths);
  };
  write(4, BANK_PREFIX4_COUNT, BANK_PREFIX4_LENGTHS);
  write(6, BANK_PREFIX6_COUNT, BANK_PREFIX6_LENGTHS);
}

function tooSmall(key: string, needed: number, got: number): HeadgateError {
  const message = `${key}: expected room for ${needed} table entries, got ${got}; raise it and restart`;
  return new HeadgateError("HEADGATE_CONFIG", message, EXIT.configuration);
}

function tooManyPrefixes(views: RegionViews, { services }: SlotAssignment): HeadgateError {
  const needed = services.reduce((sum, one) => sum + (one.definition.access.rules?.count ?? 0), 0);
  const got = views.layout.size.accessPrefixes ?? 0;
  const message = `limits.accessPrefixes: expected room for ${needed} prefixes, got ${got}; raise it and restart`;
  return new HeadgateError("HEADGATE_CONFIG", message, EXIT.configuration);
}

function writeService(
  i32: Int32Array,
  word: number,
  service: AssignedService,
  list: readonly Eligible[],
): void {
  const { definition } = service;
  i32[word + S_USED] = 1;
  i32[word + S_MODE] = MODES[definition.mode];
  const { mss } = definition;
  i32[word + S_MSS] = typeof mss === "number" ? mss : { off: 0, auto: MSS_AUTO }[mss];
  i32[word + S_TOO_BIG] = definition.mtu.tooBig === "fragment" ? TOO_BIG_FRAGMENT : TOO_BIG_ICMP;
  i32[word + S_BACKENDS_COUNT] = list.length;
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
  writeTimeouts(i32, word, definition.timeouts);
  writeUdpWords(i32, word, service);
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
  { number, bank, servicesAt }: Place,
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
    const to = bank + (servicesAt >> 2) + slot * SERVICE_WORDS;
    const from = previous + (i32[previous + BANK_SERVICES_AT]! >> 2) + slot * SERVICE_WORDS;
    if (hasPrevious && i32[from + S_USED] !== 0) {
      i32.copyWithin(to, from, from + SERVICE_WORDS);
    } else {
      i32[to + S_USED] = 1;
      i32[to + S_SORRY_SLOT] = -1;
      writeTimeouts(i32, to, DEFAULT_TIMEOUTS);
    }
    i32[to + S_BACKENDS_COUNT] = 0;
    i32[to + S_QUIC] = 0;
    i32[to + S_HASH_SIZE] = 0;
  }
}

/** One a region: a writer has no state but the tables it has built. */
const hashTablesOf = new WeakMap<RegionViews, HashTables>();

const accessBuffersOf = new WeakMap<RegionViews, AccessBuffers>();

function keptAccess(views: RegionViews): AccessBuffers {
  const buffers = accessBuffersOf.get(views) ?? createAccessBuffers(views);
  accessBuffersOf.set(views, buffers);
  return buffers;
}

function keptTables(views: RegionViews): HashTables {
  const tables = hashTablesOf.get(views) ?? createHashTables(views);
  hashTablesOf.set(views, tables);
  return tables;
}
