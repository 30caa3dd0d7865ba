import {
  type Address,
  addressOfWords,
  type Cidr,
  type Cidr6,
  prefixMask,
  prefixMask6,
} from "../base/address.ts";
import type { RegionViews } from "../state/layout.ts";
import {
  AE_ANSWERED,
  AE_BACKEND,
  AE_BITS,
  AE_CLIENT,
  AE_EXPIRES,
  AE_FLOWS,
  AE_GROUP,
  AE_PORT,
  AE_VERSION,
  AE_WORDS,
  AFFINITY_SET_WORDS,
  AFFINITY_WAYS,
  affinityBits,
} from "./affinity-record.ts";

/**
 * Reading the affinity table beside the worker that writes it (control plane; cold): an entry counts
 * when its version was even before it was copied, and is the same after.
 */

export interface AffinityFilter {
  /** Entries that belong to one of these alone. */
  readonly groups?: ReadonlySet<number>;
  /** Only clients that lie in this prefix. */
  readonly client?: Cidr | Cidr6;
  /** Only of this backend; port 0: any. */
  readonly backend?: { readonly address: Address; readonly port: number };
}

/** One entry as it was at one moment. */
export interface AffinitySnapshot {
  readonly worker: number;
  readonly group: number;
  readonly client: Address;
  /** Bits of the client's address that count, 1..32 or 1..128. */
  readonly bits: number;
  readonly backend: Address;
  /** 0: the packet's. */
  readonly port: number;
  readonly flows: number;
  /** Tick; without a meaning while there are flows. */
  readonly expires: number;
  readonly answered: boolean;
}

export interface AffinityListing {
  /** The first `limit` that match. */
  readonly entries: readonly AffinitySnapshot[];
  /** All that match. */
  readonly total: number;
}

/**
 * @param filter - `{}` for every entry
 * @param limit - at most so many in the list; the rest is only counted
 */
export function listAffinity(
  views: RegionViews,
  filter: AffinityFilter,
  limit: number,
): AffinityListing {
  const entries: AffinitySnapshot[] = [];
  let total = 0;
  const copy = new Int32Array(AE_WORDS);
  for (const { worker, affinity, affinitySets } of views.layout.shards) {
    for (let set = 0; set < affinitySets; set++) {
      const tags = (affinity.at >> 2) + set * AFFINITY_SET_WORDS;
      for (let way = 0; way < AFFINITY_WAYS; way++) {
        if (views.i32[tags + way] === 0) continue;
        if (!copyEntry(views.i32, tags + AFFINITY_WAYS + way * AE_WORDS, copy)) continue;
        const entry = snapshot(worker, copy);
        if (!matches(entry, filter)) continue;
        if (total++ < limit) entries.push(entry);
      }
    }
  }
  return { entries, total };
}

/** Entries in use, by what they belong to. */
export function countAffinity({ i32, layout }: RegionViews): Map<number, number> {
  const counts = new Map<number, number>();
  for (const { affinity, affinitySets } of layout.shards) {
    for (let set = 0; set < affinitySets; set++) {
      const tags = (affinity.at >> 2) + set * AFFINITY_SET_WORDS;
      for (let way = 0; way < AFFINITY_WAYS; way++) {
        if (i32[tags + way] === 0) continue;
        const group = i32[tags + AFFINITY_WAYS + way * AE_WORDS + AE_GROUP]!;
        if (group !== 0) counts.set(group, (counts.get(group) ?? 0) + 1);
      }
    }
  }
  return counts;
}

function copyEntry(i32: Int32Array, at: number, copy: Int32Array): boolean {
  const before = Atomics.load(i32, at + AE_VERSION);
  if ((before & 1) !== 0) return false;
  for (let word = 0; word < AE_WORDS; word++) copy[word] = i32[at + word]!;
  return Atomics.load(i32, at + AE_VERSION) === before && copy[AE_GROUP] !== 0;
}

function snapshot(worker: number, copy: Int32Array): AffinitySnapshot {
  const addressAt = (from: number): Address =>
    addressOfWords([copy[from]!, copy[from + 1]!, copy[from + 2]!, copy[from + 3]!]);
  const client = addressAt(AE_CLIENT);
  const bits = affinityBits(copy[AE_BITS]!);
  return {
    worker,
    group: copy[AE_GROUP]!,
    client,
    bits: client.family === 4 ? bits - 96 : bits,
    backend: addressAt(AE_BACKEND),
    port: copy[AE_PORT]! & 0xffff,
    flows: copy[AE_FLOWS]!,
    expires: copy[AE_EXPIRES]!,
    answered: (copy[AE_BITS]! & AE_ANSWERED) !== 0,
  };
}

function matches(entry: AffinitySnapshot, { groups, client, backend }: AffinityFilter): boolean {
  if (groups !== undefined && !groups.has(entry.group)) return false;
  if (backend !== undefined) {
    if (entry.backend.text !== backend.address.text) return false;
    if (backend.port !== 0 && backend.port !== entry.port) return false;
  }
  if (client === undefined) return true;
  if ("address" in client) {
    const mask = prefixMask(client.prefixLength);
    return entry.client.family === 4 && ((entry.client.value ^ client.address) & mask) === 0;
  }
  const mask = prefixMask6(client.prefixLength);
  return (
    entry.client.family === 6 &&
    mask.every((bits, word) => ((entry.client.words[word]! ^ client.words[word]!) & bits) === 0)
  );
}
