import { StateError } from "../base/errors.ts";
import { ACCESS_PREFIXES_MAX, AFFINITY_MAX, SOURCES_MAX, WORKERS_MAX } from "../base/limits.ts";
import {
  ACCESS_PREFIX_BYTES,
  ADMISSION_RUN_BYTES,
  AFFINITY_SET_BYTES,
  BACKEND_RUN_BYTES,
  BACKEND_SLOT_BYTES,
  BANK_ADDRESS_BYTES,
  BANK_BACKEND_BYTES,
  BANK_INTERVAL_BYTES,
  BANK_SERVICE_BYTES,
  BUCKET_BYTES,
  EXTENSION_BYTES,
  FLOW_BYTES,
  H_ACCESS_PREFIXES,
  H_AFFINITY,
  H_BACKENDS,
  H_BYTES_HIGH,
  H_BYTES_LOW,
  H_FLOW_CAPACITY,
  H_HASH_SLOTS,
  H_IPV6,
  H_LAYOUT_HASH,
  H_MAGIC,
  H_READY,
  H_SERVICES,
  H_SOURCES,
  H_SPLICES,
  H_VERSION,
  H_WORKERS,
  HEADER_WORDS,
  HOP_BYTES,
  KEY_BYTES,
  LAYOUT_VERSION,
  MAGIC,
  PAGE_BYTES,
  PASSIVE_RUN_BYTES,
  planRegion,
  type RegionLayout,
  type RegionSize,
  ROUTE_BYTES,
  SAMPLE_BYTES,
  SERVICE_RUN_BYTES,
  SERVICE_SLOT_BYTES,
  type Section,
  SOURCE_SET_BYTES,
  SPLICE_BYTES,
  WORKER_WORDS,
} from "./layout.ts";

/**
 * The part of the header that says what the file is: written once, before H_READY, in an order in
 * which every prefix is recognised: magic, then version, then the rest.
 */

/** Largest values that a header may name; planRegion has the bound of the flow capacity. */
const FLOW_CAPACITY_MAX = 1 << 24;
const SLOTS_MAX = 1 << 16; // F_BACKEND has 16 bits for the slot
const HASH_SLOTS_MAX = 1 << 28;

/**
 * Write all that says what the file is; H_READY stays 0.
 *
 * @param words - the region, all zero
 */
export function writeHeader(words: Int32Array, layout: RegionLayout): void {
  words[H_MAGIC] = MAGIC;
  words[H_VERSION] = LAYOUT_VERSION;
  words[H_LAYOUT_HASH] = layoutHash(layout);
  words[H_BYTES_LOW] = layout.bytes | 0;
  words[H_BYTES_HIGH] = Math.floor(layout.bytes / 2 ** 32);
  words[H_FLOW_CAPACITY] = layout.size.flowCapacity;
  words[H_SERVICES] = layout.services;
  words[H_BACKENDS] = layout.backends;
  words[H_HASH_SLOTS] = layout.hashSlots;
  words[H_WORKERS] = layout.workers;
  words[H_IPV6] = layout.ipv6 ? 1 : 0;
  words[H_ACCESS_PREFIXES] = layout.size.accessPrefixes ?? 0;
  words[H_SOURCES] = layout.size.sources ?? 0;
  words[H_SPLICES] = layout.size.splices ?? 0;
  words[H_AFFINITY] = layout.size.affinity ?? 0;
}

/** What a file holds. */
export type Found =
  | { readonly kind: "ready"; readonly layout: RegionLayout }
  | { readonly kind: "unfinished" }
  | { readonly kind: "damaged"; readonly reason: string };

/**
 * Judge a file by its header.
 *
 * @param buffer - the whole file
 * @param path - for messages
 * @returns `ready`: a region, with the layout it was made with; `unfinished`: a process died while
 *   it made the file; `damaged`: ours, but its header contradicts itself
 * @throws StateError - the file is not ours to touch: another magic or layout version
 */
export function examineHeader(buffer: ArrayBuffer, path: string): Found {
  const words = new Int32Array(buffer, 0, buffer.byteLength >> 2);
  if (words.every((word) => word === 0)) return { kind: "unfinished" };
  if (words.length < HEADER_WORDS || words[H_MAGIC] !== MAGIC) {
    throw new StateError(
      `state file ${path}: not a state file of headgate, left as it is; ` +
        "move it away or set flows.stateFile to another path",
    );
  }
  const version = words[H_VERSION]!;
  // The version is the header's second store: without it nothing else is there.
  if (version === 0) return { kind: "unfinished" };
  if (version !== LAYOUT_VERSION) {
    throw new StateError(
      `state file ${path}: has layout version ${version}, this headgate knows version ` +
        `${LAYOUT_VERSION}; start the release that made it, or move the file away ` +
        "(its flows end then) and start again",
    );
  }
  if (words[H_READY] === 0) return { kind: "unfinished" };
  return checkHeader(words, buffer.byteLength);
}

/** The size that a header names; nothing is checked. */
export function readSize(words: Int32Array): Required<RegionSize> {
  return {
    flowCapacity: words[H_FLOW_CAPACITY]!,
    services: words[H_SERVICES]!,
    backends: words[H_BACKENDS]!,
    hashSlots: words[H_HASH_SLOTS]!,
    workers: words[H_WORKERS]!,
    ipv6: words[H_IPV6] === 1,
    accessPrefixes: words[H_ACCESS_PREFIXES]!,
    sources: words[H_SOURCES]!,
    splices: words[H_SPLICES]!,
    affinity: words[H_AFFINITY]!,
  };
}

function checkHeader(words: Int32Array, bytes: number): Found {
  const size = readSize(words);
  const within = (value: number, most: number): boolean => value >= 1 && value <= most;
  const isPossible =
    words[H_READY] === 1 &&
    within(size.flowCapacity, FLOW_CAPACITY_MAX) &&
    within(size.services, SLOTS_MAX) &&
    within(size.backends, SLOTS_MAX) &&
    within(size.hashSlots, HASH_SLOTS_MAX) &&
    within(size.workers, WORKERS_MAX) &&
    size.accessPrefixes >= 0 &&
    size.accessPrefixes <= ACCESS_PREFIXES_MAX &&
    size.sources >= 0 &&
    size.sources <= SOURCES_MAX &&
    (size.splices === 0 || size.splices === 1) &&
    size.affinity >= 0 &&
    size.affinity <= AFFINITY_MAX &&
    (words[H_IPV6] === 0 || words[H_IPV6] === 1);
  if (!isPossible) return { kind: "damaged", reason: "its header names impossible sizes" };
  const layout = planRegion(size);
  if (words[H_LAYOUT_HASH] !== layoutHash(layout)) {
    return { kind: "damaged", reason: "its header does not fit its sizes" };
  }
  const named = (words[H_BYTES_LOW]! >>> 0) + (words[H_BYTES_HIGH]! >>> 0) * 2 ** 32;
  if (named !== layout.bytes || bytes !== layout.bytes) {
    const reason = `it has ${bytes} bytes instead of ${layout.bytes}`;
    return { kind: "damaged", reason };
  }
  return { kind: "ready", layout };
}

/**
 * One word that differs when sections lie elsewhere or records have another size: FNV-1a over all
 * of them (Fowler, Noll, Vo; 32 bits).
 */
export function layoutHash(layout: RegionLayout): number {
  const sections: readonly Section[] = [
    layout.header,
    layout.backendSlots,
    layout.backendKeys,
    layout.serviceSlots,
    layout.serviceKeys,
    ...layout.hops,
    ...layout.banks,
    ...layout.access,
    layout.handover,
    ...layout.shards.flatMap((shard) => [
      shard.workerHeader,
      shard.flows,
      shard.flowIndex,
      shard.flowFree,
      shard.backendRuns,
      shard.serviceRuns,
      shard.counters,
      shard.admissionRuns,
      shard.sources,
      shard.splices,
      shard.affinity,
      shard.affinityFlows,
      shard.samples,
      shard.flowExtensions,
      shard.passiveRuns,
    ]),
  ];
  const numbers = [
    LAYOUT_VERSION,
    PAGE_BYTES,
    FLOW_BYTES,
    EXTENSION_BYTES,
    BUCKET_BYTES,
    BACKEND_RUN_BYTES,
    BACKEND_SLOT_BYTES,
    SERVICE_SLOT_BYTES,
    BACKEND_RUN_BYTES,
    SERVICE_RUN_BYTES,
    ADMISSION_RUN_BYTES,
    PASSIVE_RUN_BYTES,
    SOURCE_SET_BYTES,
    SPLICE_BYTES,
    AFFINITY_SET_BYTES,
    ACCESS_PREFIX_BYTES,
    KEY_BYTES,
    SAMPLE_BYTES,
    HOP_BYTES,
    ROUTE_BYTES,
    BANK_ADDRESS_BYTES,
    BANK_INTERVAL_BYTES,
    BANK_SERVICE_BYTES,
    BANK_BACKEND_BYTES,
    HEADER_WORDS,
    WORKER_WORDS,
    layout.handoverBytes,
    ...layout.shards.flatMap((shard) => [shard.flowBuckets, shard.sourceSets, shard.affinitySets]),
    ...sections.flatMap(({ at, bytes }) => [at, bytes]),
  ];
  let hash = 0x811c9dc5 | 0;
  for (const number of numbers) {
    // Offsets may need more than 32 bits.
    for (let rest = number, byte = 0; byte < 6; byte++, rest = Math.floor(rest / 256)) {
      hash = Math.imul(hash ^ (rest % 256), 0x01000193);
    }
  }
  return hash;
}
