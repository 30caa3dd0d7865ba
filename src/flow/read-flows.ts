import type { RegionViews } from "../state/layout.ts";
import { flowRows } from "../state/shards.ts";
import {
  backendSlotOf,
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
  protocolOf,
  STATE_COUNT,
  STATE_FREE,
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
  readonly client?: { readonly address: number; readonly prefixLength: number };
}

/** One flow as it was at one moment. Addresses are int32 in host order. */
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
  const prefixLength = filter.client?.prefixLength ?? 0;
  const mask = prefixLength === 0 ? 0 : -1 << (32 - prefixLength);
  const prefix = (filter.client?.address ?? 0) & mask;
  let total = 0;
  for (const shard of layout.shards) {
    const rows = flowRows(views, shard);
    for (let row = 0; row < rows; row++) {
      const at = (shard.flows.at >> 2) + row * FLOW_WORDS;
      if ((i32[at + F_STATE]! & 0xff) === STATE_FREE || !copyRecord(i32, at, copy)) continue;
      if ((copy[F_CLIENT_ADDR]! & mask) !== prefix) continue;
      if (filter.backends !== undefined && !filter.backends.has(backendSlotOf(copy[F_BACKEND]!))) {
        continue;
      }
      if (total++ < limit) flows.push(snapshot(shard.worker, row, copy));
    }
  }
  return { flows, total };
}

/** @returns whether `copy` holds a live flow as it was at one moment */
function copyRecord(i32: Int32Array, at: number, copy: Int32Array): boolean {
  for (let attempt = 0; attempt < COPY_TRIES; attempt++) {
    const before = Atomics.load(i32, at + F_VERSION);
    if ((before & 1) !== 0) continue;
    for (let word = 0; word < FLOW_WORDS; word++) copy[word] = i32[at + word]!;
    if (Atomics.load(i32, at + F_VERSION) !== before) continue;
    const state = copy[F_STATE]! & 0xff;
    return state !== STATE_FREE && state < STATE_COUNT;
  }
  return false;
}

function snapshot(worker: number, row: number, words: Int32Array): FlowSnapshot {
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
  };
}
