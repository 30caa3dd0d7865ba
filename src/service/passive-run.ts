import { assert } from "../base/assert.ts";
import { PASSIVE_RUN_BYTES, type RegionViews } from "../state/layout.ts";

/**
 * What one worker has seen of a backend's answers to new flows: a row a backend slot in the shard's
 * passiveRuns. The worker writes (datapath/passive.ts), control reads (control/passive.ts).
 */

/** New flows whose first packet went to the backend since it last answered one, and the tick of the first. */
export const P_OPEN = 0;
export const P_OPEN_TICK = 1;
/**
 * Flows that failed since the backend last answered one: how many << 2 | FAILED_… of the last; and the
 * tick from which the first of them knows of no answer.
 */
export const P_RUN = 2;
export const P_RUN_TICK = 3;
/** Flows that the backend has answered (wraps round), and the tick of the last. */
export const P_ANSWERS = 4;
export const P_ANSWER_TICK = 5;
/**
 * Microseconds from first packet to answer, times LATENCY_SCALE: a mean in which each sample weighs an
 * eighth, as in TCP's own (RFC 6298 section 2). 0: there was no sample.
 */
export const P_LATENCY = 6;
/** B_PASSIVE_EPOCH that P_OPEN and P_RUN belong to. */
export const P_EPOCH = 7;
/** Doubles, index (row bytes / 8) + PF_FAILED + FAILED_…: flows that failed, by kind. */
export const PF_FAILED = 4;

/** No answer came: the client has sent its SYN again, or the flow has expired. */
export const FAILED_SILENT = 0;
/** A RST in answer to a SYN. */
export const FAILED_REFUSED = 1;
/** ICMP: port, host, network or protocol not reachable. */
export const FAILED_UNREACHABLE = 2;
/** UDP: no answer came where the service says that there is one. */
export const FAILED_UNANSWERED = 3;
export const FAILED_NAMES = ["silent", "refused", "unreachable", "unanswered"] as const;
assert(FAILED_NAMES.length === 4, "P_RUN has two bits for the kind");

/** Weight of a new sample as a shift: 1/8. */
export const LATENCY_SHIFT = 3;
/** Without a fraction the mean would stop up to 7 us beside a steady sample. */
export const LATENCY_SCALE = 16;
/** A longer one is none: half of P_LATENCY's range. */
export const LATENCY_MAX_US = 60_000_000;

export const PASSIVE_RUN_WORDS = 16;
assert(PASSIVE_RUN_WORDS * 4 === PASSIVE_RUN_BYTES, "a row is one section record");

/** First word of the row of a backend slot in a worker's shard. */
export function passiveRunWord(views: RegionViews, worker: number, slot: number): number {
  return (views.layout.shards[worker]!.passiveRuns.at >> 2) + slot * PASSIVE_RUN_WORDS;
}

/** Flows of a backend that failed in this way, of all workers together. */
export function failedTotal(views: RegionViews, slot: number, kind: number): number {
  return views.layout.shards.reduce(
    (sum, { worker }) =>
      sum + views.f64[(passiveRunWord(views, worker, slot) >> 1) + PF_FAILED + kind]!,
    0,
  );
}

/** A slot has a new user: nothing is known of it. */
export function clearPassiveRuns(views: RegionViews, slot: number): void {
  for (const { worker } of views.layout.shards) {
    const at = passiveRunWord(views, worker, slot);
    views.i32.fill(0, at, at + PASSIVE_RUN_WORDS);
  }
}

/**
 * Take-over: what was under way when nobody looked says nothing of the backend. Latencies, answers and
 * failures counted stay; words that cannot be are forgotten.
 */
export function restartPassiveRuns(views: RegionViews): void {
  const { f64, i32, layout } = views;
  for (const { worker } of layout.shards) {
    for (let slot = 0; slot < layout.backends; slot++) {
      const at = passiveRunWord(views, worker, slot);
      i32.fill(0, at + P_OPEN, at + P_RUN_TICK + 1);
      const latency = i32[at + P_LATENCY]!;
      if (latency < 0 || latency > LATENCY_MAX_US * LATENCY_SCALE) i32[at + P_LATENCY] = 0;
      for (let kind = 0; kind < FAILED_NAMES.length; kind++) {
        const count = f64[(at >> 1) + PF_FAILED + kind]!;
        if (!Number.isFinite(count) || count < 0) f64[(at >> 1) + PF_FAILED + kind] = 0;
      }
    }
  }
}
