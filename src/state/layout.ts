import { assert } from "../base/assert.ts";
import {
  BACKENDS_MAX,
  DROP_SAMPLE_BYTES,
  DROP_SAMPLES,
  HOPS_MAX,
  ROUTES_MAX,
  WORKERS_MAX,
} from "../base/limits.ts";

/**
 * The mapped region: which sections it has, in which order, and how large they are.
 *
 * One file on tmpfs holds all state of the data plane (design 1.3). Every process and every thread
 * maps the same file; offsets are the same everywhere, so a section is named by its byte offset.
 * All numbers are little-endian 32-bit words but for the counters, which are IEEE doubles (exact to
 * 2^53) so that JavaScript adds to them without allocating.
 *
 *   header | backendSlots | backendKeys | serviceSlots | serviceKeys | hops x 2 | bank x 2
 *          | access lists x 2 | handover rings | shard of worker 0 | shard of worker 1 | ...
 *   shard: workerHeader | flows | flowIndex | flowFree | backendRuns | serviceRuns | counters
 *          | admissionRuns | sources | splices | flowExtensions | passiveRuns | affinity
 *          | affinityFlows | samples
 *
 * Who writes what:
 *   worker    its own shard (but the OTHERS words of backendRuns), and the handover rings that it
 *             sends into
 *   control   all else: header, keys, slots, and the one of two banks, of two hop tables and of two
 *             buffers of access lists that is not in use
 *
 * Every section begins on a page, so no two workers write one cache line, nor two that a processor
 * fetches together.
 */

export const MAGIC = 0x54534748; // "HGST"
/** Changes with any change of the meaning of a byte in the region. */
export const LAYOUT_VERSION = 4;

export const PAGE_BYTES = 4096;

/** One flow, both directions: a cache line. See flow/flow-record.ts. */
export const FLOW_BYTES = 64;
/** The addresses of a flow that has IPv6 ones, beside its record. See flow/flow-record.ts. */
export const EXTENSION_BYTES = 64;
/** One bucket of the flow index: eight entries of hash and reference, a cache line. */
export const BUCKET_BYTES = 64;
/** One backend slot. See service/backend-slots.ts. */
export const BACKEND_SLOT_BYTES = 256;
/** Key of a backend slot or service slot: length-prefixed UTF-8 text. */
export const KEY_BYTES = 256;
/** One service slot. See service/backend-slots.ts. */
export const SERVICE_SLOT_BYTES = 128;
/** What one worker counts of one backend slot, a cache line. See service/backend-slots.ts. */
export const BACKEND_RUN_BYTES = 64;
/** What one worker counts of one service slot, its schedulers' state included: a cache line. */
export const SERVICE_RUN_BYTES = 64;
/** What one worker sees of a backend's answers, a cache line. See service/passive-run.ts. */
export const PASSIVE_RUN_BYTES = 64;
/** What one worker knows of a service's limits and SYN cookies. See admission/admission-run.ts. */
export const ADMISSION_RUN_BYTES = 128;
/** Four token buckets of sources: a cache line. See admission/source-limits.ts. */
export const SOURCE_SET_BYTES = 64;
/** Splice of one flow. See admission/splice.ts. */
export const SPLICE_BYTES = 32;
/** Sixteen entries of the affinity table and their tags. See flow/affinity-record.ts. */
export const AFFINITY_SET_BYTES = 17 * 64;
/** Words of the access lists: a prefix, and a service. See admission/access-table.ts. */
export const ACCESS_PREFIX_BYTES = 32;
export const ACCESS_SERVICE_BYTES = 64;
/** Counters of a worker: 256 doubles. See datapath/counters.ts. */
export const COUNTERS_BYTES = 2048;
/** One sample: 32 bytes of description and the first bytes of the frame. */
export const SAMPLE_BYTES = 32 + DROP_SAMPLE_BYTES;
/** One next hop. See state/hop-table.ts. */
export const HOP_BYTES = 64;
/** One IPv4 route of the table for `replies: route`. */
export const ROUTE_BYTES = 16;
/** One IPv6 route. */
export const ROUTE6_BYTES = 64;

/** What sizes a region; a restart with other values re-inserts the flows. */
export interface RegionSize {
  /** Flows of all workers together. */
  readonly flowCapacity: number;
  readonly services: number;
  readonly backends: number;
  readonly hashSlots: number;
  /** 1..WORKERS_MAX */
  readonly workers: number;
  /** Room for flows with IPv6 addresses. Left out: none. */
  readonly ipv6?: boolean;
  /** Prefixes of all access lists together; left out: none fit. */
  readonly accessPrefixes?: number;
  /** Token buckets of sources, of all workers together; left out: none. */
  readonly sources?: number;
  /** 1: flows have room for a splice (`synProxy`). */
  readonly splices?: number;
  /** Clients that affinity remembers, of all workers together; left out: none. */
  readonly affinity?: number;
}

export interface Section {
  /** Byte offset in the region. */
  readonly at: number;
  readonly bytes: number;
}

/** What one worker writes. */
export interface Shard {
  /** Its number, 0..workers - 1. */
  readonly worker: number;
  /** Int32 index of the first word of workerHeader: the words W_… are relative to it. */
  readonly workerWord: number;
  readonly workerHeader: Section;
  /** Flows of this worker. */
  readonly flowCapacity: number;
  readonly flows: Section;
  readonly flowIndex: Section;
  /** Buckets of the flow index, a power of two. */
  readonly flowBuckets: number;
  readonly flowFree: Section;
  /** A row of BACKEND_RUN_BYTES a backend slot. */
  readonly backendRuns: Section;
  /** A row of SERVICE_RUN_BYTES a service slot. */
  readonly serviceRuns: Section;
  readonly counters: Section;
  /** A row of ADMISSION_RUN_BYTES a service slot. */
  readonly admissionRuns: Section;
  /** Sets of token buckets; sourceSets of them, a power of two, or none. */
  readonly sources: Section;
  readonly sourceSets: number;
  /** A row of SPLICE_BYTES a flow, or nothing. */
  readonly splices: Section;
  readonly samples: Section;
  /** Sets of AFFINITY_SET_BYTES; affinitySets of them, a power of two, or none. */
  readonly affinity: Section;
  readonly affinitySets: number;
  /** A word a flow: the entry of the table that it counts for. Empty where there is no table. */
  readonly affinityFlows: Section;
  /** A row of EXTENSION_BYTES a flow; empty where the region has no room for IPv6. */
  readonly flowExtensions: Section;
  /** A row of PASSIVE_RUN_BYTES a backend slot. */
  readonly passiveRuns: Section;
}

/** The sections that all workers share, and the shards. */
export interface RegionLayout {
  readonly size: RegionSize;
  readonly services: number;
  readonly backends: number;
  readonly hashSlots: number;
  readonly workers: number;
  /** Flows can have IPv6 addresses: the shards have flowExtensions. */
  readonly ipv6: boolean;
  readonly bytes: number;
  readonly header: Section;
  readonly backendSlots: Section;
  readonly backendKeys: Section;
  readonly serviceSlots: Section;
  readonly serviceKeys: Section;
  /** Two hop tables: header, a row a backend slot, HOPS_MAX hashed rows, routes of each family. */
  readonly hops: readonly [Section, Section];
  /** Two banks of planned services. See service/bank.ts. */
  readonly banks: readonly [Section, Section];
  /** Two buffers of access lists. See admission/access-table.ts. */
  readonly access: readonly [Section, Section];
  /** A ring of handoverBytes for every ordered pair of workers; none for one worker. */
  readonly handover: Section;
  readonly handoverBytes: number;
  /** In the order of the workers. */
  readonly shards: readonly Shard[];
}

/** The layout as one worker sees it: what all share, and its own shard. */
export interface WorkerLayout extends RegionLayout, Shard {}

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
/** Data-plane threads: the shards that the file has. */
export const H_WORKERS = 17;
/** Bits of the client's port that decide which worker has a flow (flow/owner.ts). */
export const H_OWNER_PORT_MASK = 18;
/** The words from here on belong to the process that runs: a take-over clears them. */
export const H_RUN_WORDS = 19;
/** Number of the bank that control has published; the bank is number & 1. */
export const H_BANK_PUBLISHED = 19;
/** The same for the hop tables. */
export const H_HOPS_PUBLISHED = 20;
/** Control raises it to make every worker walk its whole flow table once, for slots that reset. */
export const H_SWEEP_REQUESTED = 21;
/** Control sets it to end the workers: 0 run, 1 stop. */
export const H_STOP = 22;
/** 1: no new flows at all (`headgate drain`). */
export const H_NODE_DRAINED = 23;
/** Generation of the configuration that is running; counts reloads. */
export const H_CONFIG_GENERATION = 24;
/** Control raises it to have worker 0 send gratuitous ARP for every VIP and SNAT address. */
export const H_ANNOUNCE_REQUESTED = 25;
/**
 * 1: full-NAT flows may lie with a worker that does not own their port (flow/owner.ts), because a
 * process with another number of workers made them.
 */
export const H_FLOWS_SCATTERED = 26;
/** The words from here on are the file's again: what it has room for beside the above. */
export const H_RUN_WORDS_END = 56;
export const H_ACCESS_PREFIXES = 57;
export const H_SOURCES = 58;
export const H_SPLICES = 59;
/** 1: flows can have IPv6 addresses (RegionSize.ipv6). */
export const H_IPV6 = 60;
/** Clients that affinity remembers (RegionSize.affinity). */
export const H_AFFINITY = 61;
/**
 * Bits at the end of a client's address that do not decide which worker has its flows: of IPv4, and
 * << 8 of IPv6 (flow/owner.ts).
 */
export const H_OWNER_HOST_BITS = 62;
export const HEADER_WORDS = 64;

/** Words of a worker's header page, relative to Shard.workerWord. */
/** Number of the bank that the worker uses. */
export const W_BANK_TAKEN = 0;
/** Number of the hop table that it uses. */
export const W_HOPS_TAKEN = 1;
/** The last walk that it has finished (H_SWEEP_REQUESTED). */
export const W_SWEEP_DONE = 2;
/** The last announcement that is done (worker 0). */
export const W_ANNOUNCE_DONE = 3;
/** Raised every batch, so that control sees a worker that hangs. */
export const W_BATCHES = 4;
/** Live flows. */
export const W_FLOWS_USED = 5;
/** Rows of its flow table ever used since take-over; sweep and readers stop there. */
export const W_FLOWS_HIGH_WATER = 6;
/** Requests to probe next hops: ring of HOP_REQUESTS addresses, and its head. */
export const W_HOP_REQUEST_HEAD = 7;
/** 1 while it sleeps, or is about to: whoever hands it a frame then wakes it. */
export const W_SLEEPS = 8;
/** Interfaces that partial checksums came in on, one bit each (AF_XDP only). */
export const W_PARTIAL_CHECKSUMS = 9;
/** The flow that a packet without one would have: a row as in the flow table (datapath/stateless.ts). */
export const W_STATELESS_FLOW = 16;
export const W_HOP_REQUESTS = 32;
export const HOP_REQUESTS = 64;
/**
 * Words of a request: interface index in the device's list, and the address in four words (host
 * order; IPv4 mapped, ::ffff:a.b.c.d).
 */
export const HOP_REQUEST_WORDS = 5;
/** By receiver: head of the handover ring to it. See datapath/handover.ts. */
export const W_HANDOVER_HEADS = W_HOP_REQUESTS + HOP_REQUEST_WORDS * HOP_REQUESTS;
/** By sender: tail of the ring from it. */
export const W_HANDOVER_TAILS = W_HANDOVER_HEADS + WORKERS_MAX;
export const WORKER_WORDS = W_HANDOVER_TAILS + WORKERS_MAX;

/** Words of one bank before the tables whose size follows RegionSize (service/bank.ts). */
export const BANK_HEADER_BYTES = 3 * PAGE_BYTES;
/** VIPs, SNAT addresses, backends and host addresses of one bank, each 64 bytes, hashed. */
export const BANK_ADDRESS_BYTES = 64;
/** Port intervals, 8 bytes each. */
export const BANK_INTERVAL_BYTES = 8;
/** One service of a bank. */
export const BANK_SERVICE_BYTES = 256;
/** One entry of a service's backend list. */
export const BANK_BACKEND_BYTES = 16;

/** Port intervals that the VIPs of a service may need, on average. */
export const VIP_INTERVALS_PER_SERVICE = 32;

/** What of a region's size decides the size of a bank. */
export type BankLimits = Pick<RegionSize, "services" | "backends" | "hashSlots">;

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
export function bankSize(size: BankLimits): BankSize {
  return {
    addressEntries: powerOfTwoAtLeast(16 * size.services + 2 * size.backends + 2048),
    intervals: VIP_INTERVALS_PER_SERVICE * size.services + 2 * size.backends,
    services: size.services,
    backendEntries: 2 * size.backends,
    hashSlots: size.hashSlots,
  };
}

/** Bytes of one bank. */
export function bankBytes(size: BankLimits): number {
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

/** Bytes of all handover rings together, at most. */
const HANDOVER_BYTES_MAX = 32 << 20;
const HANDOVER_RING_BYTES_MAX = 1 << 20;

/**
 * Bytes of one handover ring: 1 MiB, which holds the sixteen largest GSO frames or 700 of 1,500
 * bytes; from seven workers on less, so that all rings together stay within 32 MiB. Sixteen workers
 * have rings of 128 KiB, which hold the largest frame and more than a batch of ordinary ones.
 */
export function handoverRingBytes(workers: number): number {
  let bytes = HANDOVER_RING_BYTES_MAX;
  while (workers * (workers - 1) * bytes > HANDOVER_BYTES_MAX) bytes /= 2;
  return workers > 1 ? bytes : 0;
}

type Take = (bytes: number) => Section;

function planShard(size: RegionSize, worker: number, take: Take): Shard {
  const flowCapacity = Math.ceil(size.flowCapacity / size.workers);
  // Two index entries a flow in buckets of eight, at most half full: 32 bytes a flow.
  const flowBuckets = powerOfTwoAtLeast(Math.max(2, Math.ceil((flowCapacity * 4) / 8)));
  const workerHeader = take(WORKER_WORDS * 4);
  const sources = Math.ceil((size.sources ?? 0) / size.workers);
  const sourceSets = sources === 0 ? 0 : powerOfTwoAtLeast(Math.ceil(sources / 4));
  const affinitySets = affinitySetsOf(Math.ceil((size.affinity ?? 0) / size.workers));
  return {
    worker,
    workerWord: workerHeader.at >> 2,
    workerHeader,
    flowCapacity,
    flowBuckets,
    flows: take(flowCapacity * FLOW_BYTES),
    flowIndex: take(flowBuckets * BUCKET_BYTES),
    flowFree: take(flowCapacity * 4),
    backendRuns: take(size.backends * BACKEND_RUN_BYTES),
    serviceRuns: take(size.services * SERVICE_RUN_BYTES),
    counters: take(COUNTERS_BYTES),
    admissionRuns: take(size.services * ADMISSION_RUN_BYTES),
    sourceSets,
    sources: take(sourceSets * SOURCE_SET_BYTES),
    splices: take((size.splices ?? 0) === 0 ? 0 : flowCapacity * SPLICE_BYTES),
    flowExtensions: take(size.ipv6 === true ? flowCapacity * EXTENSION_BYTES : 0),
    passiveRuns: take(size.backends * PASSIVE_RUN_BYTES),
    affinitySets,
    affinity: take(affinitySets * AFFINITY_SET_BYTES),
    affinityFlows: take(affinitySets === 0 ? 0 : flowCapacity * 4),
    // The last one: a worker maps its shard up to the end of it.
    samples: take(DROP_SAMPLES * SAMPLE_BYTES),
  };
}

/**
 * Sets of sixteen entries that hold so many clients: thirteen a set on average, at which none of them
 * finds both of its sets full (test/flow/affinity-table.test.ts).
 */
export function affinitySetsOf(clients: number): number {
  return clients === 0 ? 0 : powerOfTwoAtLeast(Math.max(2, Math.ceil(clients / 13)));
}

/**
 * Where every section lies.
 *
 * @param size - capacities; each at least 1, flowCapacity at most 2^24, workers at most WORKERS_MAX
 */
export function planRegion(size: RegionSize): RegionLayout {
  const { services, backends, hashSlots, workers, ipv6 = false } = size;
  const accessPrefixes = size.accessPrefixes ?? 0;
  const sources = size.sources ?? 0;
  const splices = size.splices ?? 0;
  const affinity = size.affinity ?? 0;
  assert(size.flowCapacity >= 1 && size.flowCapacity <= 1 << 24, "flow capacity is 1..2^24");
  assert(backends >= 1 && backends <= BACKENDS_MAX, "a flow's word holds every slot number");
  assert(workers >= 1 && workers <= WORKERS_MAX, "there are 1..WORKERS_MAX workers");
  let at = 0;
  const take = (bytes: number): Section => {
    const section = { at, bytes };
    at += Math.ceil(bytes / PAGE_BYTES) * PAGE_BYTES;
    return section;
  };
  const hopBytes = hopTableBytes(size);
  const handoverBytes = handoverRingBytes(workers);
  const layout = {
    // Exactly these: whoever compares sizes compares all that there is.
    size: {
      flowCapacity: size.flowCapacity,
      services,
      backends,
      hashSlots,
      workers,
      ipv6,
      accessPrefixes,
      sources,
      splices,
      affinity,
    },
    services,
    backends,
    hashSlots,
    workers,
    ipv6,
    header: take(HEADER_WORDS * 4),
    backendSlots: take(backends * BACKEND_SLOT_BYTES),
    backendKeys: take(backends * KEY_BYTES),
    serviceSlots: take(services * SERVICE_SLOT_BYTES),
    serviceKeys: take(services * KEY_BYTES),
    hops: [take(hopBytes), take(hopBytes)] as const,
    banks: [take(bankBytes(size)), take(bankBytes(size))] as const,
    access: [take(accessBytes(size)), take(accessBytes(size))] as const,
    handoverBytes,
    handover: take(workers * (workers - 1) * handoverBytes),
    shards: Array.from({ length: workers }, (_, worker) => planShard(size, worker, take)),
  };
  return { ...layout, bytes: at };
}

/** Bytes of one hop table: header, one row a backend slot, HOPS_MAX hashed rows, routes. */
export function hopTableBytes(size: Pick<RegionSize, "backends">): number {
  const routes = ROUTES_MAX * (ROUTE_BYTES + ROUTE6_BYTES);
  return PAGE_BYTES + (size.backends + HOPS_MAX) * HOP_BYTES + routes;
}

/** Bytes of one buffer of access lists; none where no prefix fits. */
export function accessBytes(size: RegionSize): number {
  const prefixes = size.accessPrefixes ?? 0;
  if (prefixes === 0) return 0;
  return prefixes * ACCESS_PREFIX_BYTES + size.services * ACCESS_SERVICE_BYTES;
}

/** Smallest power of two that is at least `count`; `count` in 1..2^30. */
export function powerOfTwoAtLeast(count: number): number {
  let power = 1;
  while (power < count) power *= 2;
  return power;
}

/** Views on the whole region: made once an isolate, so that V8 sees constant arrays. */
export interface RegionViews {
  /** All sections; the shard's own are those of the worker that the views were made for. */
  readonly layout: WorkerLayout;
  readonly i32: Int32Array;
  readonly u16: Uint16Array;
  readonly u8: Uint8Array;
  readonly f64: Float64Array;
}

/**
 * @param layout - of the region in the buffer
 * @param worker - whose shard `views.layout` names; control reads the others' by `layout.shards`
 * @throws AssertionError when the buffer is smaller than the layout says
 */
export function viewRegion(buffer: ArrayBufferLike, layout: RegionLayout, worker = 0): RegionViews {
  const shard = layout.shards[worker];
  assert(shard !== undefined, "the region has a shard for this worker");
  assert(buffer.byteLength >= layout.bytes, "the mapping covers the whole region");
  const bytes = layout.bytes;
  return {
    layout: { ...layout, ...shard },
    i32: new Int32Array(buffer, 0, bytes / 4),
    u16: new Uint16Array(buffer, 0, bytes / 2),
    u8: new Uint8Array(buffer, 0, bytes),
    f64: new Float64Array(buffer, 0, bytes / 8),
  };
}

/** The same region as another worker sees it: the arrays are shared. */
export function viewShard(views: RegionViews, worker: number): RegionViews {
  const shard = views.layout.shards[worker];
  assert(shard !== undefined, "the region has a shard for this worker");
  return { ...views, layout: { ...views.layout, ...shard } };
}
