import { maskWord } from "../base/prefix.ts";
import {
  AE_ANSWERED,
  AE_BITS,
  AE_CLIENT,
  AE_EXPIRES,
  AE_FLOWS,
  AE_GROUP,
  AE_TIMEOUT_MS,
  AE_VERSION,
  AE_WORDS,
  AFFINITY_WAYS,
  affinityBits,
  MAPPED_WORD,
} from "../flow/affinity-record.ts";
import { type AffinityTable, createAffinityTable } from "../flow/affinity-table.ts";
import {
  EXTENSION_WORDS,
  F_CLIENT_ADDR,
  F_STATE,
  FLOW_WORDS,
  KEY_IPV6,
  originalKeyOf,
  STATE_FREE,
  X_CLIENT,
} from "../flow/flow-record.ts";
import { ownerOfClient, ownerWord6 } from "../flow/owner.ts";
import { H_OWNER_HOST_BITS, H_SECRET, type RegionViews, type Shard, viewShard } from "./layout.ts";

/**
 * Taking over which backends clients have (cold): as take-over.ts does with flows, and after them,
 * since how many flows an entry has is counted anew from the flows that live on.
 *
 * An entry that had flows and has none any more lasts its timeout from now on: its client was there
 * when the other process died. One that was not answered goes.
 */

/** What became of the entries found. */
export interface AffinityCounts {
  readonly affinityKept: number;
  /** Half-written or damaged. */
  readonly affinityDropped: number;
  /** Sound ones that the table of now has no room for. */
  readonly affinityNoRoom: number;
}

export const NO_AFFINITY: AffinityCounts = {
  affinityKept: 0,
  affinityDropped: 0,
  affinityNoRoom: 0,
};

/** As long as the configuration allows: 168 h. */
const TIMEOUT_MS_MAX = 604_800_000;

/** Every entry of a shard: its first word and its set. */
function forEachEntry(table: AffinityTable, look: (entry: number, set: number) => void): void {
  for (let set = 0; set < table.sets; set++) {
    const first = table.setWord(set) + AFFINITY_WAYS;
    for (let way = 0; way < AFFINITY_WAYS; way++) look(first + way * AE_WORDS, set);
  }
}

function isFree(i32: Int32Array, entry: number): boolean {
  return i32[entry + AE_GROUP] === 0 && (i32[entry + AE_VERSION]! & 1) === 0;
}

/** Whether an entry could be the work of the table; its words are in the draft then. */
function isSound(i32: Int32Array, table: AffinityTable, entry: number, set: number): boolean {
  const version = i32[entry + AE_VERSION]!;
  if (version === 0 || (version & 1) !== 0 || i32[entry + AE_GROUP] === 0) return false;
  const bits = affinityBits(i32[entry + AE_BITS]!);
  const timeoutMs = i32[entry + AE_TIMEOUT_MS]!;
  if (bits < 1 || bits > 128 || timeoutMs < 1 || timeoutMs > TIMEOUT_MS_MAX) return false;
  for (let word = 0; word < 4; word++) {
    if ((i32[entry + AE_CLIENT + word]! & ~maskWord(bits, word)) !== 0) return false;
  }
  table.draft.set(i32.subarray(entry, entry + AE_WORDS));
  return table.isIn(set);
}

/** Whether the flow in a row of a shard is of the client of an entry. */
function isOfClient(i32: Int32Array, shard: Shard, row: number, entry: number): boolean {
  const at = (shard.flows.at >> 2) + row * FLOW_WORDS;
  const state = i32[at + F_STATE]!;
  if ((state & 0xff) === STATE_FREE) return false;
  const isSix = (originalKeyOf(state) & KEY_IPV6) !== 0;
  const six = (shard.flowExtensions.at >> 2) + row * EXTENSION_WORDS + X_CLIENT;
  const four = [0, 0, MAPPED_WORD, i32[at + F_CLIENT_ADDR]!];
  const bits = affinityBits(i32[entry + AE_BITS]!);
  return four.every((word, index) => {
    const whole = isSix ? i32[six + index]! : word;
    return (whole & maskWord(bits, index)) === i32[entry + AE_CLIENT + index];
  });
}

/** An entry whose flows are all gone by now. */
function settle(i32: Int32Array, table: AffinityTable, entry: number, tick: number): void {
  if ((i32[entry + AE_BITS]! & AE_ANSWERED) === 0) table.free(entry);
  else i32[entry + AE_EXPIRES] = (tick + i32[entry + AE_TIMEOUT_MS]!) | 0;
}

/**
 * Check the entries of a region in place, and make tags and counts anew; flows were taken over before.
 *
 * @param tick - now
 */
export function takeOverAffinity(views: RegionViews, tick: number): AffinityCounts {
  const { i32, layout } = views;
  let affinityKept = 0;
  let affinityDropped = 0;
  for (const shard of layout.shards) {
    if (shard.affinitySets === 0) continue;
    const table = createAffinityTable(viewShard(views, shard.worker));
    for (let set = 0; set < table.sets; set++) {
      i32.fill(0, table.setWord(set), table.setWord(set) + AFFINITY_WAYS);
    }
    const had = new Set<number>();
    forEachEntry(table, (entry, set) => {
      if (isFree(i32, entry)) return;
      if (!isSound(i32, table, entry, set) || table.find() >= 0) {
        i32[entry + AE_GROUP] = 0;
        i32[entry + AE_VERSION] = ((i32[entry + AE_VERSION]! | 1) + 1) | 0;
        affinityDropped++;
        return;
      }
      if (i32[entry + AE_FLOWS] !== 0 || (i32[entry + AE_BITS]! & AE_ANSWERED) === 0) {
        had.add(entry);
      }
      i32[entry + AE_FLOWS] = 0;
      table.retag(entry);
      affinityKept++;
    });
    const words = shard.affinityFlows.at >> 2;
    for (let row = 0; row < shard.flowCapacity; row++) {
      const entry = table.entryOf(i32[words + row]!);
      if (entry >= 0 && isOfClient(i32, shard, row, entry)) {
        i32[entry + AE_FLOWS] = i32[entry + AE_FLOWS]! + 1;
      } else i32[words + row] = 0;
    }
    for (const entry of had) if (i32[entry + AE_FLOWS] === 0) settle(i32, table, entry, tick);
  }
  return { affinityKept, affinityDropped, affinityNoRoom: 0 };
}

/** Entries on their way to another region. */
export interface AffinityMove {
  readonly counts: AffinityCounts;
  /** A flow has gone from a row of one region to a row of the other. */
  carry(fromWorker: number, fromRow: number, toWorker: number, toRow: number): void;
  /** All flows have gone. */
  finish(): void;
}

/**
 * Copy the entries to a region of other capacities or workers, each to the worker that has its client
 * now; those that have flows come first.
 *
 * @param from - only read
 * @param to - a new region: its secret and the bits that decide about owners are set
 */
export function moveAffinity(from: RegionViews, to: RegionViews, tick: number): AffinityMove {
  const tables = to.layout.shards.map(({ worker }) => createAffinityTable(viewShard(to, worker)));
  const sources = from.layout.shards.map(({ worker }) =>
    createAffinityTable(viewShard(from, worker)),
  );
  const places = new Map<number, { readonly worker: number; readonly entry: number }>();
  let affinityKept = 0;
  let affinityDropped = 0;
  let affinityNoRoom = 0;
  const move = (source: AffinityTable, entry: number): void => {
    const worker = ownerOf(to, source.draft);
    const table = tables[worker]!;
    table.draft.set(source.draft);
    const place = table.exists && table.find() < 0 ? table.insert(tick, false) : -1;
    if (place < 0) {
      affinityNoRoom++;
      return;
    }
    if ((source.draft[AE_BITS]! & AE_ANSWERED) !== 0) table.setAnswered(place);
    places.set(entry, { worker, entry: place });
    affinityKept++;
  };
  for (const withFlows of [true, false]) {
    for (const source of sources) {
      forEachEntry(source, (entry, set) => {
        if (isFree(from.i32, entry)) return;
        if ((from.i32[entry + AE_FLOWS] !== 0) !== withFlows) return;
        if (!isSound(from.i32, source, entry, set)) affinityDropped++;
        else if (!source.isOver(entry, tick)) move(source, entry);
      });
    }
  }
  return {
    counts: { affinityKept, affinityDropped, affinityNoRoom },
    carry(fromWorker, fromRow, toWorker, toRow) {
      const words = from.layout.shards[fromWorker]!.affinityFlows;
      if (words.bytes === 0) return;
      const entry = sources[fromWorker]!.entryOf(from.i32[(words.at >> 2) + fromRow]!);
      const place = entry < 0 ? undefined : places.get(entry);
      if (place === undefined || place.worker !== toWorker) return;
      const shard = to.layout.shards[toWorker]!;
      if (isOfClient(to.i32, shard, toRow, place.entry)) {
        tables[toWorker]!.attach(toRow, place.entry);
      }
    },
    finish() {
      for (const [entry, place] of places) {
        const isAnswered = (from.i32[entry + AE_BITS]! & AE_ANSWERED) !== 0;
        const hadFlows = from.i32[entry + AE_FLOWS] !== 0 || !isAnswered;
        if (to.i32[place.entry + AE_FLOWS] !== 0 || !hadFlows) continue;
        settle(to.i32, tables[place.worker]!, place.entry, tick);
      }
    },
  };
}

/** The worker that has the flows of the draft's client. */
function ownerOf({ i32, layout }: RegionViews, draft: Int32Array): number {
  const [w0, w1, w2, w3] = draft.subarray(AE_CLIENT, AE_CLIENT + 4);
  const hostBits = i32[H_OWNER_HOST_BITS]!;
  const isFour = w0 === 0 && w1 === 0 && w2 === MAPPED_WORD;
  const word = isFour ? w3! : ownerWord6(w0!, w1!, w2!, w3!, hostBits);
  const k1 = i32[H_SECRET + 1]!;
  return ownerOfClient(i32[H_SECRET]!, k1, word, 0, 0, layout.workers, hostBits);
}
