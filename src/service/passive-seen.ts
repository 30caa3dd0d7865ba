import type { RegionViews } from "../state/layout.ts";
import { B_LATENCY_US, B_PASSIVE_EPOCH } from "./backend-slots.ts";
import type { PassiveDefinition } from "./definition.ts";
import {
  FAILED_SILENT,
  LATENCY_SCALE,
  P_ANSWER_TICK,
  P_ANSWERS,
  P_EPOCH,
  P_LATENCY,
  P_OPEN,
  P_OPEN_TICK,
  P_RUN,
  P_RUN_TICK,
  passiveRunWord,
} from "./passive-run.ts";
import { backendSlotWord } from "./slots.ts";

/**
 * What the workers have seen of a backend together, and what follows from it.
 *
 * "In a row" is about all workers: a worker's run counts when it began after the last answer that any
 * of them has seen. So one worker's clients that cannot reach the backend (their network is
 * blocked there) do not eject it while another's are answered.
 */
export interface Seen {
  /** New flows without an answer since the last answer. */
  readonly open: number;
  /** How long the first of them has waited, ms. */
  readonly openMs: number;
  /** Flows that failed in a row, and FAILED_… of the last. */
  readonly failures: number;
  readonly kind: number;
  /** Changes with every answer. */
  readonly answers: number;
  /** Milliseconds since the last answer; null: there was none. */
  readonly answerMs: number | null;
}

/** A flow may begin before an answer to another one and not be behind it: what a round trip is. */
const TIE_MS = 1;

/**
 * Sum up the workers.
 *
 * @param now - tick
 */
export function seenOf(views: RegionViews, slot: number, now: number): Seen {
  const { i32, layout } = views;
  const at = backendSlotWord(views, slot);
  const epoch = i32[at + B_PASSIVE_EPOCH]!;
  const tie = TIE_MS + Math.ceil(i32[at + B_LATENCY_US]! / 1000);
  let answers = 0;
  let answerMs: number | null = null;
  for (const { worker } of layout.shards) {
    const run = passiveRunWord(views, worker, slot);
    if (i32[run + P_ANSWERS] === 0) continue;
    answers = (answers + i32[run + P_ANSWERS]!) | 0;
    const ms = (now - i32[run + P_ANSWER_TICK]!) | 0;
    if (answerMs === null || ms < answerMs) answerMs = ms;
  }
  let open = 0;
  let openMs = 0;
  let failures = 0;
  let kind = FAILED_SILENT;
  for (const { worker } of layout.shards) {
    const run = passiveRunWord(views, worker, slot);
    if (i32[run + P_EPOCH] !== epoch) continue;
    const isNewer = (ms: number): boolean => answerMs === null || ms <= answerMs + tie;
    const count = i32[run + P_OPEN]!;
    const ms = (now - i32[run + P_OPEN_TICK]!) | 0;
    if (count > 0 && isNewer(ms)) {
      open += count;
      openMs = Math.max(openMs, ms);
    }
    const failed = i32[run + P_RUN]! >> 2;
    if (failed > 0 && isNewer((now - i32[run + P_RUN_TICK]!) | 0)) {
      failures += failed;
      kind = i32[run + P_RUN]! & 3;
    }
  }
  return { open, openMs, failures, kind, answers, answerMs };
}

/** Why a backend is to be ejected. */
export interface Verdict {
  /** FAILED_…. */
  readonly kind: number;
  readonly count: number;
  /** It was silent: nothing came at all, which no client can have made up. */
  readonly isSilence: boolean;
}

/** How often its mean latency a backend may be silent. */
const SILENCE_LATENCIES = 8;
/** Of a backend that has never answered nobody knows how far it is: a first retransmission time-out. */
const SILENCE_UNKNOWN_MS = 1000;

/**
 * @param latencyUs - mean latency of the backend; 0: unknown
 * @param isUdp - silence means something only with `answers`
 * @returns null: nothing to say against it
 */
export function judge(
  definition: PassiveDefinition,
  seen: Seen,
  latencyUs: number,
  isUdp: boolean,
): Verdict | null {
  const { failures, silenceMs, answers } = definition;
  const known = (SILENCE_LATENCIES * latencyUs) / 1000;
  const silence = Math.max(silenceMs, latencyUs === 0 ? SILENCE_UNKNOWN_MS : known);
  const counts = !isUdp || answers;
  if (counts && seen.open >= failures && seen.openMs >= silence) {
    return { kind: FAILED_SILENT, count: seen.open, isSilence: true };
  }
  if (seen.failures < failures) return null;
  return { kind: seen.kind, count: seen.failures, isSilence: false };
}

/** Length of an ejection, the `times`-th. */
export function ejectionMs(definition: PassiveDefinition, times: number): number {
  return Math.min(definition.ejectionMs * times, definition.maximumMs);
}

/**
 * How many of `total` backends may be ejected at once: the share rounded down, but one where any may;
 * never all of them.
 */
export function ejectableOf(definition: PassiveDefinition, total: number): number {
  if (definition.ejectAtMost === 0) return 0;
  return Math.min(total - 1, Math.max(1, Math.floor(total * definition.ejectAtMost)));
}

/** Cost decays to 1/e in this time without an answer (Finagle, Peak EWMA: decayTime 10 s). */
const COST_DECAY_MS = 10_000;

/**
 * What least-latency goes by. Without answers it goes down, so that a backend that was slow gets a
 * flow again; while a flow waits for its answer it is at least the time that it has waited, so that
 * one that is dead never looks fast.
 */
export function costOf(seen: Seen, latencyUs: number): number {
  const idleMs = Math.max(0, seen.answerMs ?? 0);
  const decayed = latencyUs === 0 ? 0 : Math.max(1, latencyUs * Math.exp(-idleMs / COST_DECAY_MS));
  const waited = seen.open === 0 ? 0 : Math.max(0, seen.openMs - TIE_MS) * 1000;
  return Math.min(Math.round(waited > latencyUs ? waited : decayed), 1 << 27);
}

/** Mean latencies over the workers, each worth as many flows as it has seen answered since the last. */
export interface LatencyMeter {
  /** Microseconds; 0: none was measured. */
  read(slot: number): number;
}

export function createLatencyMeter(views: RegionViews): LatencyMeter {
  const { i32, layout } = views;
  const before = new Int32Array(layout.backends * layout.workers);
  return {
    read(slot) {
      let sum = 0;
      let weight = 0;
      let only = 0;
      for (const { worker } of layout.shards) {
        const run = passiveRunWord(views, worker, slot);
        const place = slot * layout.workers + worker;
        const answers = i32[run + P_ANSWERS]!;
        const count = Math.max(0, (answers - before[place]!) | 0);
        before[place] = answers;
        const mean = i32[run + P_LATENCY]!;
        if (mean === 0) continue;
        only = mean;
        sum += mean * count;
        weight += count;
      }
      if (weight > 0) return Math.max(1, Math.round(sum / weight / LATENCY_SCALE));
      // Nothing new: what was known stays, also what another process has known.
      const known = i32[backendSlotWord(views, slot) + B_LATENCY_US]!;
      return known !== 0 || only === 0 ? known : Math.max(1, Math.round(only / LATENCY_SCALE));
    },
  };
}
