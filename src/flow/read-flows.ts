import {
  type Address,
  addressOf4,
  addressOf6,
  type Cidr,
  type Cidr6,
  prefixMask,
  prefixMask6,
  type Words6,
} from "../base/address.ts";
import type { RegionViews } from "../state/layout.ts";
import { flowRows } from "../state/shards.ts";
import {
  backendSlotOf,
  EXTENSION_WORDS,
  F_BACKEND,
  F_BACKEND_ADDR,
  F_BACKEND_REPLY_PORTS,
  F_CLIENT_ADDR,
  F_CLIENT_VIP_PORTS,
  F_CREATED,
  F_EXPIRES,
  F_REPLY_ADDR,
  F_STATE,
  F_VERSION,
  F_VIP_ADDR,
  FLOW_WORDS,
  generationOf,
  hasExtension,
  KEY_IPV6,
  originalKeyOf,
  protocolOf,
  STATE_COUNT,
  STATE_FREE,
  X_BACKEND,
  X_CLIENT,
  X_VIP,
} from "./flow-record.ts";

/**
 * Reading flows beside the worker that writes them (control plane; cold).
 *
 * A record is copied, and the copy counts when the version was even before and is the same after.
 * The worker changes the words that are not (fixed) at any time, also under an even version: each
 * of them is valid by itself. A record that cannot be copied in COPY_TRIES is skipped: it is being
 * made, or its hop changes, and the next listing has it.
 */

/** The worker holds a version odd for some tens of stores. */
const COPY_TRIES = 4;

export interface FlowFilter {
  /** Only flows of these backend slots. */
  readonly backends?: ReadonlySet<number>;
  /** Only flows of clients in this prefix: address (int32, host order) and length 0..32. */
  readonly client?: Cidr | Cidr6;
}

/** One flow as it was at one moment. Addresses are int32 in host order; IPv6 ones: `extension`. */
export interface FlowSnapshot {
  /** Worker that has it, and the row in its shard. */
  readonly worker: number;
  readonly row: number;
  /** STATE_… */
  readonly state: number;
  readonly protocol: number;
  /** MODE_… */
  readonly mode: number;
  /** FLAG_…, at their place in F_STATE. */
  readonly flags: number;
  readonly client: number;
  readonly clientPort: number;
  readonly vip: number;
  readonly vipPort: number;
  readonly backend: number;
  readonly backendPort: number;
  /** SNAT address and port in full-nat; the client's in nat. */
  readonly replyAddress: number;
  readonly replyPort: number;
  readonly backendSlot: number;
  /** Low 16 bits. */
  readonly backendGeneration: number;
  /** Ticks. */
  readonly expires: number;
  readonly created: number;
  /** All addresses of a flow that has IPv6 ones, X_…; null: it has none. */
  readonly extension: Int32Array | null;
}

/** An address of a flow: X_CLIENT, X_VIP, X_BACKEND or X_REPLY. */
export function addressIn(flow: FlowSnapshot, which: number): Address {
  const { extension } = flow;
  if (extension === null) {
    if (which === X_CLIENT) return addressOf4(flow.client);
    if (which === X_VIP) return addressOf4(flow.vip);
    return addressOf4(which === X_BACKEND ? flow.backend : flow.replyAddress);
  }
  const words = wordsAt(extension, which);
  const isMapped = words[0] === 0 && words[1] === 0 && words[2] === 0xffff;
  return isMapped ? addressOf4(words[3]) : addressOf6(words);
}

function wordsAt(words: Int32Array, at: number): Words6 {
  return [words[at]!, words[at + 1]!, words[at + 2]!, words[at + 3]!];
}

export interface FlowListing {
  /** The first `limit` that match, in the order of workers and rows. */
  readonly flows: readonly FlowSnapshot[];
  /** All that match. */
  readonly total: number;
}

/**
 * @param views - a region that is ready
 * @param filter - `{}` for every flow
 * @param limit - at most so many in the list; the rest is only counted
 */
export function listFlows(views: RegionViews, filter: FlowFilter, limit: number): FlowListing {
  const { i32, layout } = views;
  const flows: FlowSnapshot[] = [];
  const copy = new Int32Array(FLOW_WORDS);
  const extension = new Int32Array(EXTENSION_WORDS);
  const isClient = clientFilter(filter.client);
  let total = 0;
  for (const shard of layout.shards) {
    const rows = flowRows(views, shard);
    for (let row = 0; row < rows; row++) {
      const at = (shard.flows.at >> 2) + row * FLOW_WORDS;
      const extensionAt = (shard.flowExtensions.at >> 2) + row * EXTENSION_WORDS;
      if ((i32[at + F_STATE]! & 0xff) === STATE_FREE) continue;
      if (!copyRecord(i32, at, extensionAt, copy, extension)) continue;
      const extended = layout.ipv6 && hasExtension(copy[F_STATE]!);
      if (!isClient(copy, extended ? extension : null)) continue;
      if (filter.backends !== undefined && !filter.backends.has(backendSlotOf(copy[F_BACKEND]!))) {
        continue;
      }
      if (total++ < limit) {
        flows.push(snapshot(shard.worker, row, copy, extended ? extension.slice() : null));
      }
    }
  }
  return { flows, total };
}

/** Whether the client of a record, with its extension where it has one, is one that is asked for. */
function clientFilter(
  client: FlowFilter["client"],
): (record: Int32Array, extension: Int32Array | null) => boolean {
  if (client === undefined) return () => true;
  if ("address" in client) {
    const mask = prefixMask(client.prefixLength);
    return (record, extension) => {
      if (extension !== null && addressKindOf(record) === 6) return false;
      return ((record[F_CLIENT_ADDR]! ^ client.address) & mask) === 0;
    };
  }
  const mask = prefixMask6(client.prefixLength);
  return (record, extension) =>
    extension !== null &&
    addressKindOf(record) === 6 &&
    mask.every((bits, word) => ((extension[X_CLIENT + word]! ^ client.words[word]!) & bits) === 0);
}

/** Family of a record's client. */
function addressKindOf(record: Int32Array): 4 | 6 {
  return (originalKeyOf(record[F_STATE]!) & KEY_IPV6) === 0 ? 4 : 6;
}

/** @returns whether the copies hold a live flow as it was at one moment */
function copyRecord(
  i32: Int32Array,
  at: number,
  extensionAt: number,
  copy: Int32Array,
  extension: Int32Array,
): boolean {
  for (let attempt = 0; attempt < COPY_TRIES; attempt++) {
    const before = Atomics.load(i32, at + F_VERSION);
    if ((before & 1) !== 0) continue;
    for (let word = 0; word < FLOW_WORDS; word++) copy[word] = i32[at + word]!;
    if (hasExtension(copy[F_STATE]!)) {
      for (let word = 0; word < EXTENSION_WORDS; word++) {
        extension[word] = i32[extensionAt + word] ?? 0;
      }
    }
    if (Atomics.load(i32, at + F_VERSION) !== before) continue;
    const state = copy[F_STATE]! & 0xff;
    return state !== STATE_FREE && state < STATE_COUNT;
  }
  return false;
}

function snapshot(
  worker: number,
  row: number,
  words: Int32Array,
  extension: Int32Array | null,
): FlowSnapshot {
  const state = words[F_STATE]!;
  return {
    worker,
    row,
    state: state & 0xff,
    protocol: protocolOf(state),
    mode: (state >>> 16) & 0xff,
    flags: state & ~0xffffff,
    client: words[F_CLIENT_ADDR]!,
    clientPort: words[F_CLIENT_VIP_PORTS]! >>> 16,
    vip: words[F_VIP_ADDR]!,
    vipPort: words[F_CLIENT_VIP_PORTS]! & 0xffff,
    backend: words[F_BACKEND_ADDR]!,
    backendPort: words[F_BACKEND_REPLY_PORTS]! >>> 16,
    replyAddress: words[F_REPLY_ADDR]!,
    replyPort: words[F_BACKEND_REPLY_PORTS]! & 0xffff,
    backendSlot: backendSlotOf(words[F_BACKEND]!),
    backendGeneration: generationOf(words[F_BACKEND]!),
    expires: words[F_EXPIRES]!,
    created: words[F_CREATED]!,
    extension,
  };
}
