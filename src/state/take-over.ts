import { ADMISSION_RUN_WORDS, N_FLOWS, N_HALF_OPEN } from "../admission/admission-run.ts";
import { PHASE_NONE, SPLICE_WORDS, X_PHASE } from "../admission/splice.ts";
import { assert } from "../base/assert.ts";
import { flowIsSound } from "../flow/check-record.ts";
import {
  backendSlotOf,
  EXTENSION_WORDS,
  F_BACKEND,
  F_BACKEND_REPLY_PORTS,
  F_CLIENT_ADDR,
  F_CLIENT_VIP_PORTS,
  F_STATE,
  F_VERSION,
  FLAG_ACTIVE,
  FLOW_WORDS,
  GENERATION_MASK,
  generationOf,
  hasExtension,
  KEY_IPV6,
  originalKeyOf,
  PROTOCOL_TCP,
  PROTOCOL_UDP,
  STATE_CLOSE,
  STATE_FREE,
  STATE_SYN_RECV,
  STATE_SYN_SENT,
  STATE_TIME_WAIT,
  STATE_UDP_ONE_WAY,
  X_CLIENT,
} from "../flow/flow-record.ts";
import {
  createFlowTable,
  type FlowTable,
  INSERT_INDEX_FULL,
  INSERT_TABLE_FULL,
} from "../flow/flow-table.ts";
import { isScattered, ownerOfClient, ownerWord6 } from "../flow/owner.ts";
import {
  ADMIN_NAMES,
  B_ADDRESS,
  B_ADDRESS6,
  B_ADMIN,
  B_EJECTED,
  B_EXISTING,
  B_GENERATION,
  B_HEALTH,
  B_PORT,
  B_PROTOCOL,
  B_SERVICE,
  B_USED,
  B_WEIGHT,
  B_WEIGHT_OVERRIDE,
  BACKEND_RUN_WORDS,
  BACKEND_WORDS,
  BF_BYTES_OUT,
  BF_CONNECTIONS,
  EJECTED_YES,
  EXISTING_MOVE_LATER,
  HEALTH_NAMES,
  R_ACTIVE,
  R_CURRENT_WEIGHT,
  R_FLOWS,
  R_OTHERS_ACTIVE,
  SERVICE_SLOT_WORDS,
  V_USED,
  VF_CONNECTIONS,
  VF_DROPS,
} from "../service/backend-slots.ts";
import {
  FAILED_NAMES,
  P_LATENCY,
  PASSIVE_RUN_WORDS,
  PF_FAILED,
  restartPassiveRuns,
} from "../service/passive-run.ts";
import type { AffinityMove } from "./affinity-take-over.ts";
import {
  BACKEND_RUN_BYTES,
  H_OWNER_HOST_BITS,
  H_OWNER_PORT_MASK,
  H_SECRET,
  KEY_BYTES,
  type RegionLayout,
  type RegionViews,
  SERVICE_RUN_BYTES,
  viewShard,
} from "./layout.ts";

/**
 * Taking over what another process left in a region (design 1.4; cold).
 *
 * Theory of operation
 *
 * The records are the truth: flows, backend slots, service slots, keys, counters. All else (index,
 * free list, counts of flows per slot) is made again from them, because the other process can have
 * died between any two stores. A record is dropped when it is half-written or could not be the work
 * of this program; a flow also when its backend slot is not in use with the flow's generation. What
 * is dropped becomes free at once, so nothing later needs to check again.
 *
 *   same capacities    in place: takeOverFlows()
 *   other capacities   into a new region: moveFlows(). The old one is only read, so that a process
 *                      that dies meanwhile leaves it to the next one as it was. So do other workers:
 *                      each flow goes to the shard of the worker that owns it now (flow/owner.ts).
 */

/** Counts of a backend's run and of a service's. */
const BACKEND_DOUBLES = BF_BYTES_OUT - BF_CONNECTIONS + 1;
const SERVICE_DOUBLES = VF_DROPS - VF_CONNECTIONS + 1;

/** What became of the flows and slots found. */
export interface TakeOverCounts {
  /** Flows that go on. */
  readonly flowsKept: number;
  /** Half-written or damaged records, or such without their backend. */
  readonly flowsDropped: number;
  /** Sound flows that the new capacities have no room for. */
  readonly flowsNoRoom: number;
  /** Backend and service slots that were damaged, or do not fit. */
  readonly slotsDropped: number;
}

/**
 * Check slots, flows and counters of a region in place, and make index, free list and counts anew.
 *
 * @param views - a region whose header has been checked
 */
export function takeOverFlows(views: RegionViews): TakeOverCounts {
  const slotsDropped = dropUnsoundSlots(views);
  repairCounters(views);
  const counts = { flowsKept: 0, flowsDropped: 0, flowsNoRoom: 0 };
  for (const { worker } of views.layout.shards) {
    const report = createFlowTable(viewShard(views, worker)).rebuild((slot, generation) =>
      isBackend(views, slot, generation),
    );
    counts.flowsKept += report.kept;
    counts.flowsDropped += report.dropped;
    counts.flowsNoRoom += report.noRoom;
  }
  clearSplices(views);
  restartPassiveRuns(views);
  recount(views);
  return { ...counts, slotsDropped };
}

/** A free row has no splice: its next flow would be taken for a spliced one. */
function clearSplices(views: RegionViews): void {
  const { i32, layout } = views;
  for (const { flows, flowCapacity, splices } of layout.shards) {
    if (splices.bytes === 0) continue;
    for (let row = 0; row < flowCapacity; row++) {
      const isFree = i32[(flows.at >> 2) + row * FLOW_WORDS + F_STATE] === STATE_FREE;
      if (isFree) i32[(splices.at >> 2) + row * SPLICE_WORDS + X_PHASE] = PHASE_NONE;
    }
  }
}

/** First word of the splice of the flow at `at`, or -1. */
function spliceWord({ layout }: RegionViews, worker: number, at: number): number {
  const { flows, splices } = layout.shards[worker]!;
  if (splices.bytes === 0) return -1;
  return (splices.at >> 2) + ((at - (flows.at >> 2)) / FLOW_WORDS) * SPLICE_WORDS;
}

/**
 * Copy slots, keys, counters and flows to a region of other capacities or workers. Slots keep their
 * number; one whose number is too high is left behind, with its flows. When there are more flows
 * than rows, half-open and closed ones are left behind first. What a worker has counted that is no
 * more counts as another's.
 *
 * @param from - a region whose header has been checked; only read
 * @param to - a new region, all zero but for its header
 * @param carry - told of each flow that is kept: rows and workers
 */
export function moveFlows(
  from: RegionViews,
  to: RegionViews,
  carry: AffinityMove["carry"] = () => undefined,
): TakeOverCounts {
  const slotsLeft = moveSlots(from, to);
  moveRuns(from, to);
  const slotsDropped = slotsLeft + dropUnsoundSlots(to);
  repairCounters(to);
  const tables = to.layout.shards.map(({ worker }) => createFlowTable(viewShard(to, worker)));
  for (const table of tables) table.rebuild();
  const counts = { kept: 0, dropped: 0, noRoom: 0 };
  forEachRow(from, (at, worker) => {
    if (isExpendable(from.i32[at + F_STATE]!)) return;
    counts[moveFlow(from, to, tables, at, worker, carry)]++;
  });
  forEachRow(from, (at, worker) => {
    const isUsed = from.i32[at + F_STATE] !== STATE_FREE || (from.i32[at + F_VERSION]! & 1) !== 0;
    if (isUsed && isExpendable(from.i32[at + F_STATE]!)) {
      counts[moveFlow(from, to, tables, at, worker, carry)]++;
    }
  });
  restartPassiveRuns(to);
  recount(to);
  return {
    flowsKept: counts.kept,
    flowsDropped: counts.dropped,
    flowsNoRoom: counts.noRoom,
    slotsDropped,
  };
}

/** Whether some full-NAT flow lies with a worker that does not own its port. */
export function hasScatteredFlows(views: RegionViews): boolean {
  const { i32, layout } = views;
  if (layout.workers === 1) return false;
  let found = false;
  forEachRow(views, (at, worker) => {
    const state = i32[at + F_STATE]!;
    if ((state & 0xff) === STATE_FREE) return;
    const replyPort = i32[at + F_BACKEND_REPLY_PORTS]! & 0xffff;
    found ||= isScattered((state >>> 16) & 0xff, replyPort, worker, layout.workers);
  });
  return found;
}

/** Every row of every shard: index of its first word, and the worker. */
function forEachRow({ layout }: RegionViews, look: (at: number, worker: number) => void): void {
  for (const { worker, flows, flowCapacity } of layout.shards) {
    const first = flows.at >> 2;
    const end = first + flowCapacity * FLOW_WORDS;
    for (let at = first; at < end; at += FLOW_WORDS) look(at, worker);
  }
}

/** Free, half-open or closed: moved last, when there may be no room left (design 1.7). */
function isExpendable(word: number): boolean {
  const state = word & 0xff;
  return (
    state === STATE_FREE ||
    state === STATE_SYN_SENT ||
    state === STATE_SYN_RECV ||
    state === STATE_UDP_ONE_WAY ||
    state === STATE_TIME_WAIT ||
    state === STATE_CLOSE
  );
}

function moveFlow(
  from: RegionViews,
  to: RegionViews,
  tables: readonly FlowTable[],
  at: number,
  worker: number,
  carry: AffinityMove["carry"],
): "kept" | "dropped" | "noRoom" {
  const extension = extensionOf(from.layout, at);
  if (!flowIsSound(from, at, extension)) return "dropped";
  const backend = from.i32[at + F_BACKEND]!;
  const slot = backendSlotOf(backend);
  if (!isBackend(from, slot, generationOf(backend))) return "dropped";
  if (!isBackend(to, slot, generationOf(backend))) return "noRoom";
  const extended = hasExtension(from.i32[at + F_STATE]!);
  if (extended && !to.layout.ipv6) return "noRoom";
  const owner = ownerOfClient(
    to.i32[H_SECRET]!,
    to.i32[H_SECRET + 1]!,
    clientWord(from.i32, at, extension, to.i32[H_OWNER_HOST_BITS]!),
    from.i32[at + F_CLIENT_VIP_PORTS]! >>> 16,
    to.i32[H_OWNER_PORT_MASK]!,
    tables.length,
    to.i32[H_OWNER_HOST_BITS]!,
  );
  const splice = spliceWord(from, worker, at);
  const isSpliced = splice >= 0 && from.i32[splice + X_PHASE] !== PHASE_NONE;
  // Without its splice a flow's numbers would make no sense to either end.
  if (isSpliced && to.layout.shards[owner]!.splices.bytes === 0) return "noRoom";
  const table = tables[owner]!;
  table.draft.set(from.i32.subarray(at, at + FLOW_WORDS));
  if (extended) {
    table.draftExtension.set(from.i32.subarray(extension, extension + EXTENSION_WORDS));
  }
  const row = table.insert();
  if (row === INSERT_TABLE_FULL || row === INSERT_INDEX_FULL) return "noRoom";
  if (row >= 0 && isSpliced) {
    const words = from.i32.subarray(splice, splice + SPLICE_WORDS);
    to.i32.set(words, spliceWord(to, owner, table.word(row)));
  }
  if (row >= 0) {
    carry(worker, (at - (from.layout.shards[worker]!.flows.at >> 2)) / FLOW_WORDS, owner, row);
  }
  // What is left are keys that another flow has: one of the two is damaged.
  return row >= 0 ? "kept" : "dropped";
}

/** First word of the extension of the row whose record begins at `at`. */
function extensionOf({ shards }: RegionLayout, at: number): number {
  const shard = shards.find(
    ({ flows }) => at >= flows.at >> 2 && at < (flows.at + flows.bytes) >> 2,
  )!;
  const row = (at - (shard.flows.at >> 2)) / FLOW_WORDS;
  return (shard.flowExtensions.at >> 2) + row * EXTENSION_WORDS;
}

/** The client of a sound record as ownerOfClient() takes it. */
function clientWord(i32: Int32Array, at: number, extension: number, hostBits: number): number {
  if ((originalKeyOf(i32[at + F_STATE]!) & KEY_IPV6) === 0) return i32[at + F_CLIENT_ADDR]!;
  const from = extension + X_CLIENT;
  return ownerWord6(i32[from]!, i32[from + 1]!, i32[from + 2]!, i32[from + 3]!, hostBits);
}

/** @returns used slots whose number does not fit */
function moveSlots(from: RegionViews, to: RegionViews): number {
  const backends = Math.min(from.layout.backends, to.layout.backends);
  const services = Math.min(from.layout.services, to.layout.services);
  const { backendSlots, backendKeys, serviceSlots, serviceKeys } = from.layout;
  moveBytes(from, to, backendSlots.at, to.layout.backendSlots.at, backends * BACKEND_WORDS * 4);
  moveBytes(from, to, backendKeys.at, to.layout.backendKeys.at, backends * KEY_BYTES);
  moveBytes(
    from,
    to,
    serviceSlots.at,
    to.layout.serviceSlots.at,
    services * SERVICE_SLOT_WORDS * 4,
  );
  moveBytes(from, to, serviceKeys.at, to.layout.serviceKeys.at, services * KEY_BYTES);
  let left = 0;
  for (let slot = backends; slot < from.layout.backends; slot++) {
    if (from.i32[backendWord(from, slot) + B_USED] !== 0) left++;
  }
  for (let slot = services; slot < from.layout.services; slot++) {
    if (from.i32[serviceWord(from, slot) + V_USED] !== 0) left++;
  }
  return left;
}

function moveBytes(
  from: RegionViews,
  to: RegionViews,
  fromAt: number,
  toAt: number,
  bytes: number,
): void {
  to.u8.set(from.u8.subarray(fromAt, fromAt + bytes), toAt);
}

function backendWord(views: RegionViews, slot: number): number {
  return (views.layout.backendSlots.at >> 2) + slot * BACKEND_WORDS;
}

function serviceWord(views: RegionViews, slot: number): number {
  return (views.layout.serviceSlots.at >> 2) + slot * SERVICE_SLOT_WORDS;
}

/** Whether a sound slot in use has this number and generation (GENERATION_MASK bits). */
function isBackend(views: RegionViews, slot: number, generation: number): boolean {
  if (slot >= views.layout.backends) return false;
  const at = backendWord(views, slot);
  return (
    views.i32[at + B_USED] === 1 &&
    (views.i32[at + B_GENERATION]! & GENERATION_MASK) === generation &&
    backendSlotIsSound(views, slot)
  );
}

/** Whether no reader of the slot could be led astray; weights and the like are in their range. */
function backendSlotIsSound(views: RegionViews, slot: number): boolean {
  const { i32, layout } = views;
  const at = backendWord(views, slot);
  const within = (word: number, low: number, high: number): boolean =>
    i32[at + word]! >= low && i32[at + word]! <= high;
  const protocol = i32[at + B_PROTOCOL];
  return (
    i32[at + B_USED] === 1 &&
    within(B_SERVICE, 0, layout.services - 1) &&
    (protocol === PROTOCOL_TCP || protocol === PROTOCOL_UDP) &&
    (i32[at + B_ADDRESS] !== 0 || i32[at + B_ADDRESS6] !== 0) &&
    within(B_PORT, 0, 0xffff) &&
    within(B_WEIGHT, 0, 0xffff) &&
    within(B_WEIGHT_OVERRIDE, -1, 0xffff) &&
    within(B_ADMIN, 0, ADMIN_NAMES.length - 1) &&
    within(B_HEALTH, 0, HEALTH_NAMES.length - 1) &&
    within(B_EXISTING, 0, EXISTING_MOVE_LATER) &&
    within(B_EJECTED, 0, EJECTED_YES)
  );
}

/** Free every slot that is neither free nor sound. @returns how many */
function dropUnsoundSlots(views: RegionViews): number {
  const { i32, u8, layout } = views;
  let dropped = 0;
  for (let slot = 0; slot < layout.backends; slot++) {
    const at = backendWord(views, slot);
    if (i32[at + B_USED] === 0 || backendSlotIsSound(views, slot)) continue;
    const generation = i32[at + B_GENERATION]!;
    i32.fill(0, at, at + BACKEND_WORDS);
    // Whatever still names the slot must not find its next user.
    i32[at + B_GENERATION] = (generation + 1) | 0;
    const key = layout.backendKeys.at + slot * KEY_BYTES;
    u8.fill(0, key, key + KEY_BYTES);
    dropped++;
  }
  for (let slot = 0; slot < layout.services; slot++) {
    const at = serviceWord(views, slot);
    if (i32[at + V_USED] === 0 || i32[at + V_USED] === 1) continue;
    i32.fill(0, at, at + SERVICE_SLOT_WORDS);
    const key = layout.serviceKeys.at + slot * KEY_BYTES;
    u8.fill(0, key, key + KEY_BYTES);
    dropped++;
  }
  return dropped;
}

/** A counter that is no count would make every later sum of it NaN. */
function repairCounters({ f64, layout }: RegionViews): void {
  const repair = (first: number, count: number): void => {
    for (let index = first; index < first + count; index++) f64[index] = countOf(f64[index]!);
  };
  for (const { counters, backendRuns, serviceRuns } of layout.shards) {
    repair(counters.at >> 3, counters.bytes >> 3);
    for (let slot = 0; slot < layout.backends; slot++) {
      repair((backendRuns.at + slot * BACKEND_RUN_BYTES) / 8 + BF_CONNECTIONS, BACKEND_DOUBLES);
    }
    for (let slot = 0; slot < layout.services; slot++) {
      repair((serviceRuns.at + slot * SERVICE_RUN_BYTES) / 8 + VF_CONNECTIONS, SERVICE_DOUBLES);
    }
  }
}

function countOf(value: number): number {
  return Number.isFinite(value) && value >= 0 ? value : 0;
}

/**
 * Counters, what is counted of slots, and samples: worker to worker, and those of workers that are
 * no more on top of the others', so that every sum stays.
 */
function moveRuns(from: RegionViews, to: RegionViews): void {
  const backends = Math.min(from.layout.backends, to.layout.backends);
  const services = Math.min(from.layout.services, to.layout.services);
  const add = (fromAt: number, toAt: number, count: number): void => {
    for (let index = 0; index < count; index++) {
      const sum = countOf(to.f64[(toAt >> 3) + index]!) + countOf(from.f64[(fromAt >> 3) + index]!);
      to.f64[(toAt >> 3) + index] = sum;
    }
  };
  /** Failures are added up; of several latencies one is as good as the other. */
  const movePassive = (fromAt: number, toAt: number, slot: number): void => {
    const row = slot * PASSIVE_RUN_WORDS * 4;
    add(fromAt + row + PF_FAILED * 8, toAt + row + PF_FAILED * 8, FAILED_NAMES.length);
    to.i32[((toAt + row) >> 2) + P_LATENCY] = from.i32[((fromAt + row) >> 2) + P_LATENCY]!;
  };
  for (const old of from.layout.shards) {
    const next = to.layout.shards[old.worker % to.layout.workers]!;
    add(old.counters.at, next.counters.at, old.counters.bytes >> 3);
    for (let slot = 0; slot < backends; slot++) {
      const at = slot * BACKEND_RUN_BYTES + BF_CONNECTIONS * 8;
      add(old.backendRuns.at + at, next.backendRuns.at + at, BACKEND_DOUBLES);
      movePassive(old.passiveRuns.at, next.passiveRuns.at, slot);
      if (old.worker >= to.layout.workers) continue;
      // Where smooth round robin stands.
      const current = slot * BACKEND_RUN_BYTES + R_CURRENT_WEIGHT * 4;
      moveBytes(from, to, old.backendRuns.at + current, next.backendRuns.at + current, 4);
    }
    for (let slot = 0; slot < services; slot++) {
      const at = slot * SERVICE_RUN_BYTES + VF_CONNECTIONS * 8;
      add(old.serviceRuns.at + at, next.serviceRuns.at + at, SERVICE_DOUBLES);
      if (old.worker >= to.layout.workers) continue;
      // Where the schedulers stand.
      const run = slot * SERVICE_RUN_BYTES;
      moveBytes(from, to, old.serviceRuns.at + run, next.serviceRuns.at + run, VF_CONNECTIONS * 8);
    }
    if (old.worker < to.layout.workers) {
      moveBytes(from, to, old.samples.at, next.samples.at, old.samples.bytes);
    }
  }
}

/** R_FLOWS and R_ACTIVE of every slot and worker, from the flows that live. */
function recount(views: RegionViews): void {
  const { i32, layout } = views;
  for (const { backendRuns } of layout.shards) {
    for (let slot = 0; slot < layout.backends; slot++) {
      const at = (backendRuns.at >> 2) + slot * BACKEND_RUN_WORDS;
      i32.fill(0, at + R_FLOWS, at + R_OTHERS_ACTIVE + 1);
    }
  }
  for (const { admissionRuns } of layout.shards) {
    for (let slot = 0; slot < layout.services; slot++) {
      const at = (admissionRuns.at >> 2) + slot * ADMISSION_RUN_WORDS;
      i32.fill(0, at + N_FLOWS, at + N_HALF_OPEN + 1);
    }
  }
  forEachRow(views, (at, worker) => {
    const state = i32[at + F_STATE]!;
    if (state === STATE_FREE) return;
    const slot = backendSlotOf(i32[at + F_BACKEND]!);
    assert(slot < layout.backends, "a flow that was taken over has a backend slot");
    const run = (layout.shards[worker]!.backendRuns.at >> 2) + slot * BACKEND_RUN_WORDS;
    i32[run + R_FLOWS] = i32[run + R_FLOWS]! + 1;
    if ((state & FLAG_ACTIVE) !== 0) i32[run + R_ACTIVE] = i32[run + R_ACTIVE]! + 1;
    const service = i32[backendWord(views, slot) + B_SERVICE]!;
    const admission =
      (layout.shards[worker]!.admissionRuns.at >> 2) + service * ADMISSION_RUN_WORDS;
    i32[admission + N_FLOWS] = i32[admission + N_FLOWS]! + 1;
    if ((state & 0xff) === STATE_SYN_SENT || (state & 0xff) === STATE_SYN_RECV) {
      i32[admission + N_HALF_OPEN] = i32[admission + N_HALF_OPEN]! + 1;
    }
  });
}
