import { SWEEP_ROWS_MAX } from "../base/limits.ts";
import {
  F_EXPIRES,
  F_STATE,
  KEY_SLOW,
  PROTOCOL_TCP,
  PROTOCOL_UDP,
  protocolOf,
  STATE_ESTABLISHED,
  STATE_FREE,
} from "../flow/flow-record.ts";
import { WALK_DONE, WALK_PAUSE } from "../flow/flow-table.ts";
import { B_SERVICE } from "../service/backend-slots.ts";
import {
  ADMIT_PACKETS,
  BANK_UDP_SWEEP,
  S_ADMISSION,
  S_ON_IDLE,
  SERVICE_WORDS,
} from "../service/bank.ts";
import { H_SWEEP_REQUESTED, W_FLOWS_HIGH_WATER, W_SWEEP_DONE } from "../state/layout.ts";
import { createAffinitySweep } from "./affinity.ts";
import {
  type Context,
  R_BANK,
  R_SERVICES,
  R_SWEEP_OWED,
  R_SWEEP_TICK,
  R_TICK,
  R_WALK,
  R_WALK_PENDING,
} from "./context.ts";
import { C_FLOWS_EXPIRED, C_FLOWS_RESET } from "./counters.ts";
import type { Flows } from "./flows.ts";
import type { Output } from "./output.ts";
import type { Passive } from "./passive.ts";
import type { SynProxy } from "./syn-proxy.ts";
import type { UdpFlows } from "./udp.ts";

/** Every row is looked at once in this time, as long as batches come often enough. */
const SWEEP_PERIOD_MS = 1000;
/** Spares that a reset of a flow can take. */
const SPARES_PER_RESET = 2;

/**
 * The end of flows that no packet ends: a sweep for expired ones, a share of the table per
 * millisecond that passed; and a walk over all, when control asks for it, for flows whose backend
 * gives them up, or whose packets have to be counted from now on.
 */
export interface Expiry {
  run(): void;
}

export function createExpiry(
  context: Context,
  flows: Flows,
  synProxy: SynProxy,
  udp: UdpFlows,
  output: Output,
  passive: Passive,
  countersAt: number,
): Expiry {
  const { f64, i32, layout, registers, table } = context;
  const highWater = layout.workerWord + W_FLOWS_HIGH_WATER;
  const sweepDone = layout.workerWord + W_SWEEP_DONE;
  const sweepAffinity = createAffinitySweep(context);

  function rowsDue(): number {
    const tick = registers[R_TICK]!;
    const elapsed = (tick - registers[R_SWEEP_TICK]!) | 0;
    if (elapsed === 0) return 0;
    registers[R_SWEEP_TICK] = tick;
    const ms = elapsed < 0 || elapsed > SWEEP_PERIOD_MS ? SWEEP_PERIOD_MS : elapsed;
    const owed = registers[R_SWEEP_OWED]! + ms * i32[highWater]!;
    const rows = (owed / SWEEP_PERIOD_MS) | 0;
    if (rows >= SWEEP_ROWS_MAX) {
      registers[R_SWEEP_OWED] = 0;
      return SWEEP_ROWS_MAX;
    }
    registers[R_SWEEP_OWED] = owed - rows * SWEEP_PERIOD_MS;
    return rows;
  }

  function sweep(): void {
    const rows = rowsDue();
    if (rows === 0) return;
    table.sweepBegin(rows);
    if (i32[registers[R_BANK]! + BANK_UDP_SWEEP] !== 0) sweepEvery();
    else sweepExpired();
  }

  function sweepExpired(): void {
    const tick = registers[R_TICK]!;
    for (let row = table.sweepNext(tick); row >= 0; row = table.sweepNext(tick)) {
      expire(row);
    }
  }

  /**
   * UDP flows that are too old, or of a kind that their service no longer has, go here: the fast lane
   * would keep a busy one alive.
   */
  function sweepEvery(): void {
    const tick = registers[R_TICK]!;
    for (let row = table.sweepNextLive(); row >= 0; row = table.sweepNextLive()) {
      const flowWord = table.word(row);
      const isUdp = protocolOf(i32[flowWord + F_STATE]!) === PROTOCOL_UDP;
      if (((i32[flowWord + F_EXPIRES]! - tick) | 0) <= 0) expire(row);
      else if (isUdp && udp.isOver(flowWord, flows.backendWord(flowWord))) expire(row);
    }
  }

  function expire(row: number): void {
    const flowWord = table.word(row);
    passive.silent(flowWord);
    if (synProxy.isOpening(flowWord)) {
      if (synProxy.retry(flowWord)) return;
      // The backend has not answered, and the client waits: `reset` tells both.
      if (output.sparesLeft() >= SPARES_PER_RESET) flows.reset(flowWord);
    } else if (resetsOnIdle(flowWord)) {
      if (output.sparesLeft() >= SPARES_PER_RESET) flows.reset(flowWord);
    }
    flows.close(row);
    f64[countersAt + C_FLOWS_EXPIRED] = f64[countersAt + C_FLOWS_EXPIRED]! + 1;
  }

  /** `onIdle: reset` is about established connections; a half-open or closing one just goes. */
  function resetsOnIdle(flowWord: number): boolean {
    const word = i32[flowWord + F_STATE]!;
    if ((word & 0xff) !== STATE_ESTABLISHED || protocolOf(word) !== PROTOCOL_TCP) return false;
    const service = i32[flows.backendWord(flowWord) + B_SERVICE]!;
    return i32[registers[R_SERVICES]! + service * SERVICE_WORDS + S_ON_IDLE] !== 0;
  }

  /** A flow from before its service had a limit of packets: the fast lane would not count them. */
  function limitPackets(flowWord: number, backend: number): void {
    const service = registers[R_SERVICES]! + i32[backend + B_SERVICE]! * SERVICE_WORDS;
    if ((i32[service + S_ADMISSION]! & ADMIT_PACKETS) === 0) return;
    i32[flowWord + F_STATE] = i32[flowWord + F_STATE]! | (KEY_SLOW << 8);
  }

  function walk(): void {
    const wanted = i32[H_SWEEP_REQUESTED]!;
    if (registers[R_WALK] !== wanted) {
      registers[R_WALK] = wanted;
      table.walkBegin();
    } else if (i32[sweepDone] === wanted) return;
    for (;;) {
      // Without room for its packets a flow would go unheard: the rest waits for the next batch.
      if (output.sparesLeft() < SPARES_PER_RESET) return;
      const row =
        registers[R_WALK_PENDING] === 0 ? table.walkNext() : registers[R_WALK_PENDING]! - 1;
      registers[R_WALK_PENDING] = 0;
      if (row === WALK_PAUSE) return;
      if (row === WALK_DONE) break;
      const flowWord = table.word(row);
      // A row that had to wait can have become free, or another flow's, since.
      if ((i32[flowWord + F_STATE]! & 0xff) === STATE_FREE) continue;
      const backend = flows.backendWord(flowWord);
      if (!flows.mustEnd(flowWord, backend)) {
        limitPackets(flowWord, backend);
        continue;
      }
      if (!flows.reset(flowWord)) {
        registers[R_WALK_PENDING] = row + 1;
        return;
      }
      flows.close(row);
      f64[countersAt + C_FLOWS_RESET] = f64[countersAt + C_FLOWS_RESET]! + 1;
    }
    Atomics.store(i32, sweepDone, wanted);
  }

  function run(): void {
    sweep();
    sweepAffinity();
    walk();
  }

  return { run };
}
