import { assert } from "../base/assert.ts";
import { DROP_SAMPLE_BYTES, DROP_SAMPLES, HOPS_MAX, ROUTES_MAX } from "../base/limits.ts";

/**
 * The mapped region: which sections it has, in which order, and how large they are.
 *
 * One file on tmpfs holds all state of the data plane (design 1.3). Every process and every thread
 * maps the same file; offsets are the same everywhere, so a section is named by its byte offset.
 * All numbers are little-endian 32-bit words but for the counters, which are IEEE doubles (exact to
 * 2^53) so that JavaScript adds to them without allocating.
 *
 *   header | flows | flowIndex | flowFree | backendSlots | backendKeys | serviceSlots | serviceKeys
 *          | counters | samples | hops x 2 | bank x 2
 *
 * Who writes what:
 *   worker    flows, flowIndex, flowFree, counters, samples, the RUN words of slots
 *   control   header (but the words marked worker), keys, the PLAN words of slots, and the one of
 *             two banks and of two hop tables that is not in use
 */

export const MAGIC = 0x54534748; // "HGST"
/** Changes with any change of the meaning of a byte in the region. */
export const LAYOUT_VERSION = 1;

export const PAGE_BYTES = 4096;

/** One flow, both directions: a cache line. See flow/flow-record.ts. */
export const FLOW_BYTES = 64;
/** One bucket of the flow index: eight entries of hash and reference, a cache line. */
export const BUCKET_BYTES = 64;
/** One backend slot. See service/backend-slots.ts. */
export const BACKEND_SLOT_BYTES = 128;
/** Key of a backend slot or service slot: length-prefixed UTF-8 text. */
export const KEY_BYTES = 256;
/** One service slot: run-time state of a scheduler and counters. See service/service-slots.ts. */
export const SERVICE_SLOT_BYTES = 128;
/** Global counters: 256 doubles. See datapath/counters.ts. */
export const COUNTERS_BYTES = 2048;
/** One sample: 32 bytes of description and the first bytes of the frame. */
export const SAMPLE_BYTES = 32 + DROP_SAMPLE_BYTES;
/** One next hop. See state/hop-table.ts. */
export const HOP_BYTES = 32;
/** One route of the table for `replies: route`. */
export const ROUTE_BYTES = 16;

/** What sizes a region; a restart with other values re-inserts the flows. */
export interface RegionSize {
  readonly flowCapacity: number;
  readonly services: number;
  readonly backends: number;
  readonly hashSlots: number;
}

export interface Section {
  /** Byte offset in the region. */
  readonly at: number;
  readonly bytes: number;
}

export interface RegionLayout extends RegionSize {
  readonly bytes: number;
  readonly header: Section;
  readonly flows: Section;
  readonly flowIndex: Section;
  /** Buckets of the flow index, a power of two. */
  readonly flowBuckets: number;
  readonly flowFree: Section;
  readonly backendSlots: Section;
  readonly backendKeys: Section;
  readonly serviceSlots: Section;
  readonly serviceKeys: Section;
  readonly counters: Section;
  readonly samples: Section;
  /** Two hop tables: header, a row a backend slot, HOPS_MAX hashed rows, ROUTES_MAX routes. */
  readonly hops: readonly [Section, Section];
  /** Two banks of planned services. See service/bank.ts. */
  readonly banks: readonly [Section, Section];
}

/** Words of the header, as int32 indexes into the region. */
export const H_MAGIC = 0;
export const H_VERSION = 1;
export const H_LAYOUT_HASH = 2;
export const H_BYTES_LOW = 3;
export const H_BYTES_HIGH = 4;
export const H_FLOW_CAPACITY = 5;
export const H_SERVICES = 6;
export const H_BACKENDS = 7;
export const H_HASH_SLOTS = 8;
/** Secret of the flow hash, 2 words; random, made with the file, kept across take-overs. */
export const H_SECRET = 9;
/** 1 once the file is completely made; 0 while it is not. */
export const H_READY = 11;
/** Process that holds the file, and its start tick. */
export const H_OWNER_PID = 12;
export const H_STARTED_TICK = 13;
/**
 * How far the owner has come, RUN_…. Who finds it at RUN_BEGUN knows that the owner died before the
 * file was seen to be good, or died of itself: either may be the file's fault. A death at
 * RUN_PROVEN is not: somebody killed the process.
 */
export const H_RUN = 14;
export const RUN_BEGUN = 0;
export const RUN_ENDED = 1;
export const RUN_PROVEN = 2;
/** Ticks of the last deaths found at start, newest first, 2 words; 0: none. */
export const H_DEATHS = 15;
/** Number of the bank that control has published; the bank is number & 1. */
export const H_BANK_PUBLISHED = 17;
/** Number of the bank that the worker uses (worker writes). */
export const H_BANK_TAKEN = 18;
/** The same pair for the hop tables. */
export const H_HOPS_PUBLISHED = 19;
export const H_HOPS_TAKEN = 20;
/** Control raises it to make the worker walk the whole flow table once, for slots that reset. */
export const H_SWEEP_REQUESTED = 21;
export const H_SWEEP_DONE = 22;
/** Control sets it to end the worker: 0 run, 1 stop. */
export const H_STOP = 23;
/** Worker raises it every batch, so that control sees a worker that hangs. */
export const H_BATCHES = 24;
/** 1: no new flows at all (`headgate drain`). */
export const H_NODE_DRAINED = 25;
/** Live flows (worker writes). */
export const H_FLOWS_USED = 26;
/** Rows of the flow table ever used since take-over; the sweep stops there (worker writes). */
export const H_FLOWS_HIGH_WATER = 27;
/** Generation of the configuration that is running; counts reloads. */
export const H_CONFIG_GENERATION = 28;
/** Requests to probe next hops: ring of HOP_REQUESTS addresses (worker writes entries and head). */
export const H_HOP_REQUEST_HEAD = 29;
/** Control raises it to have the worker send gratuitous ARP for every VIP and SNAT address. */
export const H_ANNOUNCE_REQUESTED = 30;
/** The last announcement that is done (worker writes). */
export const H_ANNOUNCE_DONE = 31;
export const H_HOP_REQUESTS = 32;
export const HOP_REQUESTS = 64;
/** Each request is 2 words: address (int32, host order), interface index in the device's list. */
/** Interfaces that partial checksums came in on, one bit each (worker writes; AF_XDP only). */
export const H_PARTIAL_CHECKSUMS = H_HOP_REQUESTS + 2 * HOP_REQUESTS;
export const HEADER_WORDS = H_PARTIAL_CHECKSUMS + 1;

/** Words of one bank before the tables whose size follows RegionSize (service/bank.ts). */
export const BANK_HEADER_BYTES = PAGE_BYTES;
/** VIP addresses, SNAT addresses and host addresses of one bank, each 32 bytes, hashed. */
export const BANK_ADDRESS_BYTES = 32;
/** Port intervals, 8 bytes each. */
export const BANK_INTERVAL_BYTES = 8;
/** One service of a bank. */
export const BANK_SERVICE_BYTES = 256;
/** One entry of a service's backend list. */
export const BANK_BACKEND_BYTES = 16;

/** Port intervals that the VIPs of a service may need, on average. */
export const VIP_INTERVALS_PER_SERVICE = 32;

/** Sizes of the tables of a bank, all derived from the region's size. */
export interface BankSize {
  /** Entries of the address hash; a power of two, at most half full. */
  readonly addressEntries: number;
  readonly intervals: number;
  readonly services: number;
  readonly backendEntries: number;
  readonly hashSlots: number;
}

/** How many entries each table of a bank has. */
export function bankSize(size: RegionSize): BankSize {
  return {
    addressEntries: powerOfTwoAtLeast(16 * size.services + 2 * size.backends + 2048),
    intervals: VIP_INTERVALS_PER_SERVICE * size.services + 2 * size.backends,
    services: size.services,
    backendEntries: 2 * size.backends,
    hashSlots: size.hashSlots,
  };
}

/** Bytes of one bank. */
export function bankBytes(size: RegionSize): number {
  const bank = bankSize(size);
  return (
    BANK_HEADER_BYTES +
    bank.addressEntries * BANK_ADDRESS_BYTES +
    bank.intervals * BANK_INTERVAL_BYTES +
    bank.services * BANK_SERVICE_BYTES +
    bank.backendEntries * BANK_BACKEND_BYTES +
    bank.hashSlots * 2
  );
}

/**
 * Where every section lies.
 *
 * @param size - capacities; each at least 1, flowCapacity at most 2^24
 */
export function planRegion(size: RegionSize): RegionLayout {
  assert(size.flowCapacity >= 1 && size.flowCapacity <= 1 << 24, "flow capacity is 1..2^24");
  let at = 0;
  const take = (bytes: number): Section => {
    const section = { at, bytes };
    at += Math.ceil(bytes / PAGE_BYTES) * PAGE_BYTES;
    return section;
  };
  // Two index entries a flow in buckets of eight, at most half full: 32 bytes a flow.
  const flowBuckets = powerOfTwoAtLeast(Math.max(2, Math.ceil((size.flowCapacity * 4) / 8)));
  const hopBytes = hopTableBytes(size);
  const layout = {
    ...size,
    flowBuckets,
    header: take(HEADER_WORDS * 4),
    flows: take(size.flowCapacity * FLOW_BYTES),
    flowIndex: take(flowBuckets * BUCKET_BYTES),
    flowFree: take(size.flowCapacity * 4),
    backendSlots: take(size.backends * BACKEND_SLOT_BYTES),
    backendKeys: take(size.backends * KEY_BYTES),
    serviceSlots: take(size.services * SERVICE_SLOT_BYTES),
    serviceKeys: take(size.services * KEY_BYTES),
    counters: take(COUNTERS_BYTES),
    samples: take(DROP_SAMPLES * SAMPLE_BYTES),
    hops: [take(hopBytes), take(hopBytes)] as const,
    banks: [take(bankBytes(size)), take(bankBytes(size))] as const,
  };
  return { ...layout, bytes: at };
}

/** Bytes of one hop table: header, one row a backend slot, HOPS_MAX hashed rows, routes. */
export function hopTableBytes(size: RegionSize): number {
  return PAGE_BYTES + (size.backends + HOPS_MAX) * HOP_BYTES + ROUTES_MAX * ROUTE_BYTES;
}

/** Smallest power of two that is at least `count`; `count` in 1..2^30. */
export function powerOfTwoAtLeast(count: number): number {
  let power = 1;
  while (power < count) power *= 2;
  return power;
}

/** Views on the whole region: made once an isolate, so that V8 sees constant arrays. */
export interface RegionViews {
  readonly layout: RegionLayout;
  readonly i32: Int32Array;
  readonly u16: Uint16Array;
  readonly u8: Uint8Array;
  readonly f64: Float64Array;
}

/** @throws AssertionError when the buffer is smaller than the layout says */
export function viewRegion(buffer: ArrayBufferLike, layout: RegionLayout): RegionViews {
  assert(buffer.byteLength >= layout.bytes, "the mapping covers the whole region");
  const bytes = layout.bytes;
  return {
    layout,
    i32: new Int32Array(buffer, 0, bytes / 4),
    u16: new Uint16Array(buffer, 0, bytes / 2),
    u8: new Uint8Array(buffer, 0, bytes),
    f64: new Float64Array(buffer, 0, bytes / 8),
  };
}
