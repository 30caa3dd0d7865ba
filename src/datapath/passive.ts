import { PHASE_MASK, PHASE_OPENING, X_PHASE } from "../admission/splice.ts";
import { assert } from "../base/assert.ts";
import {
  backendSlotOf,
  F_ACK_REPLY,
  F_BACKEND,
  F_CREATED,
  F_STATE,
  FLAG_AWAITS,
  FLAG_PROBE,
  ORIGINAL,
  PROTOCOL_TCP,
  protocolOf,
} from "../flow/flow-record.ts";
import { SEGMENT_FIN, SEGMENT_RST, SEGMENT_SYN, SEGMENT_SYN_ACK } from "../flow/tcp-state.ts";
import {
  B_EJECTED,
  B_PASSIVE_EPOCH,
  B_SERVICE,
  BACKEND_WORDS,
  EJECTED_YES,
} from "../service/backend-slots.ts";
import { S_ANSWERS, S_BACKENDS_COUNT, SERVICE_WORDS } from "../service/bank.ts";
import {
  FAILED_REFUSED,
  FAILED_SILENT,
  FAILED_UNANSWERED,
  FAILED_UNREACHABLE,
  LATENCY_MAX_US,
  LATENCY_SCALE,
  LATENCY_SHIFT,
  P_ANSWER_TICK,
  P_ANSWERS,
  P_EPOCH,
  P_LATENCY,
  P_OPEN,
  P_OPEN_TICK,
  P_RUN,
  P_RUN_TICK,
  PASSIVE_RUN_WORDS,
  PF_FAILED,
} from "../service/passive-run.ts";
import { H_NODE_DRAINED } from "../state/layout.ts";
import { type Context, R_MICROS, R_SERVICES, R_TICK } from "./context.ts";
import { createSplices } from "./splices.ts";

/**
 * What flows say of their backends at no cost: a health check that every client makes.
 *
 * Theory of operation
 *
 * A flow begins with FLAG_AWAITS and the microseconds in F_ACK_REPLY, a word that means nothing
 * before the backend has acknowledged something. The flag goes with the first thing that happens:
 *
 *   SYN-ACK (UDP: a datagram back)   answered; the time that it took is a sample
 *   RST in answer to the SYN         failed
 *   ICMP not reachable               failed
 *   the client's SYN again           failed, if an answer is overdue; no sample any more, since an
 *                                    answer could be to either (Karn's rule, RFC 6298 section 3)
 *   the flow expires                 failed
 *
 * So a flow fails once at most, and a client that sends SYNs as fast as it can is no judge: whatever
 * it does, the backend's answers come back through here. A failure that is known late counts for the
 * run of failures only if the backend has answered nobody since the flow began.
 *
 * Packets of established flows never come here: a flow leaves SYN_SENT and UDP_ONE_WAY once.
 */
export interface Passive {
  /** Microseconds that a flow which begins now keeps (F_ACK_REPLY). */
  stamp(): number;
  /** A flow with FLAG_AWAITS was made: its first packet goes to its backend. */
  sent(flowWord: number): void;
  /**
   * A segment of a flow in SYN_SENT, before the flow changes.
   *
   * @returns true: the client's SYN comes again for a backend that is ejected: schedule it anew
   */
  segment(flowWord: number, direction: number, kind: number): boolean;
  /** The backend's first answer. @param stamp - stamp() of the flow, however it is kept */
  answered(flowWord: number, stamp: number): void;
  refused(flowWord: number): void;
  /** An ICMP error says that the backend cannot be reached. */
  unreachable(flowWord: number): void;
  /** What the backend was sent is sent again, or the flow is given up. */
  silent(flowWord: number): void;
}

/**
 * An answer is overdue for a client that sends again: the least that any stack waits (Linux, TCP_RTO_MIN;
 * for a first SYN it is a second, RFC 6298 section 2.1).
 */
const REPEAT_MS_MIN = 200;
/** A row is counted up to this: P_RUN has two bits more. */
const RUN_MAX = 1 << 24;

assert(LATENCY_MAX_US * LATENCY_SCALE < 2 ** 30, "a mean and a difference of two fit in a word");

export function createPassive(context: Context): Passive {
  const { f64, i32, layout, registers } = context;
  const runs = layout.passiveRuns.at >> 2;
  const slots = layout.backendSlots.at >> 2;
  const splices = createSplices(context);

  function runOf(flowWord: number): number {
    return runs + backendSlotOf(i32[flowWord + F_BACKEND]!) * PASSIVE_RUN_WORDS;
  }

  function slotOf(flowWord: number): number {
    return slots + backendSlotOf(i32[flowWord + F_BACKEND]!) * BACKEND_WORDS;
  }

  function awaits(flowWord: number): boolean {
    return (i32[flowWord + F_STATE]! & FLAG_AWAITS) !== 0;
  }

  /** The microseconds are no acknowledgement; a flow that is opening has its number there already. */
  function awaitNoMore(flowWord: number): void {
    const word = i32[flowWord + F_STATE]!;
    if ((word & FLAG_AWAITS) === 0) return;
    i32[flowWord + F_STATE] = word & ~FLAG_AWAITS;
    const isOpening =
      splices.exist && (i32[splices.wordOf(flowWord) + X_PHASE]! & PHASE_MASK) === PHASE_OPENING;
    if (!isOpening) i32[flowWord + F_ACK_REPLY] = 0;
  }

  /** Counts that began before the last ejection or return are not of this time. */
  function follow(run: number, flowWord: number): void {
    const epoch = i32[slotOf(flowWord) + B_PASSIVE_EPOCH]!;
    if (i32[run + P_EPOCH] === epoch) return;
    i32[run + P_OPEN] = 0;
    i32[run + P_RUN] = 0;
    i32[run + P_EPOCH] = epoch;
  }

  function sent(flowWord: number): void {
    const run = runOf(flowWord);
    follow(run, flowWord);
    if (i32[run + P_OPEN] === 0) i32[run + P_OPEN_TICK] = registers[R_TICK]!;
    i32[run + P_OPEN] = i32[run + P_OPEN]! + 1;
  }

  /** @param since - tick since when the backend can have answered no one, for this to be in a row */
  function failed(flowWord: number, kind: number, since: number): void {
    awaitNoMore(flowWord);
    const run = runOf(flowWord);
    const total = (run >> 1) + PF_FAILED + kind;
    f64[total] = f64[total]! + 1;
    follow(run, flowWord);
    if (i32[run + P_ANSWERS] !== 0 && ((i32[run + P_ANSWER_TICK]! - since) | 0) > 0) return;
    const count = i32[run + P_RUN]! >> 2;
    if (count === 0) i32[run + P_RUN_TICK] = since;
    i32[run + P_RUN] = (Math.min(count + 1, RUN_MAX) << 2) | kind;
  }

  function answered(flowWord: number, stamp: number): void {
    const run = runOf(flowWord);
    i32[run + P_OPEN] = 0;
    i32[run + P_RUN] = 0;
    i32[run + P_ANSWERS] = (i32[run + P_ANSWERS]! + 1) | 0;
    i32[run + P_ANSWER_TICK] = registers[R_TICK]!;
    if (!awaits(flowWord)) return;
    awaitNoMore(flowWord);
    // What a datagram back answers only its service knows.
    const isTcp = protocolOf(i32[flowWord + F_STATE]!) === PROTOCOL_TCP;
    if (!isTcp && !answersAll(flowWord)) return;
    const sample = (registers[R_MICROS]! - stamp) | 0;
    if (sample < 0 || sample > LATENCY_MAX_US) return;
    const scaled = sample * LATENCY_SCALE;
    const mean = i32[run + P_LATENCY]!;
    const next = mean === 0 ? scaled : mean + ((scaled - mean) >> LATENCY_SHIFT);
    i32[run + P_LATENCY] = next === 0 ? 1 : next;
  }

  function refused(flowWord: number): void {
    failed(flowWord, FAILED_REFUSED, registers[R_TICK]!);
    // It is there, only nobody listens.
    i32[runOf(flowWord) + P_OPEN] = 0;
  }

  function unreachable(flowWord: number): void {
    // A flow that was answered has its own ways to notice (RFC 5927 section 5.2: soft errors).
    if (awaits(flowWord)) failed(flowWord, FAILED_UNREACHABLE, registers[R_TICK]!);
  }

  function answersAll(flowWord: number): boolean {
    const service = i32[slotOf(flowWord) + B_SERVICE]!;
    return i32[registers[R_SERVICES]! + service * SERVICE_WORDS + S_ANSWERS] !== 0;
  }

  function silent(flowWord: number): void {
    if (!awaits(flowWord)) return;
    const isTcp = protocolOf(i32[flowWord + F_STATE]!) === PROTOCOL_TCP;
    if (isTcp) failed(flowWord, FAILED_SILENT, i32[flowWord + F_CREATED]!);
    else if (answersAll(flowWord)) {
      failed(flowWord, FAILED_UNANSWERED, i32[flowWord + F_CREATED]!);
    }
  }

  /** The backend is ejected, and another one takes new flows. */
  function mustMove(flowWord: number): boolean {
    const slot = slotOf(flowWord);
    // A check of this backend is no flow that another one could have.
    if ((i32[flowWord + F_STATE]! & FLAG_PROBE) !== 0) return false;
    if (i32[slot + B_EJECTED] !== EJECTED_YES || i32[H_NODE_DRAINED] !== 0) return false;
    const service = registers[R_SERVICES]! + i32[slot + B_SERVICE]! * SERVICE_WORDS;
    return i32[service + S_BACKENDS_COUNT] !== 0;
  }

  function repeated(flowWord: number): boolean {
    const ageMs = (registers[R_TICK]! - i32[flowWord + F_CREATED]!) | 0;
    if (ageMs >= REPEAT_MS_MIN) silent(flowWord);
    else awaitNoMore(flowWord);
    return mustMove(flowWord);
  }

  function segment(flowWord: number, direction: number, kind: number): boolean {
    if (direction === ORIGINAL) {
      // The client gives up: what the backend says to that is acknowledged in the microseconds' place.
      if (kind === SEGMENT_RST || kind === SEGMENT_FIN) awaitNoMore(flowWord);
      return kind === SEGMENT_SYN && repeated(flowWord);
    }
    if (kind === SEGMENT_SYN_ACK) answered(flowWord, i32[flowWord + F_ACK_REPLY]!);
    else if (kind === SEGMENT_RST) refused(flowWord);
    // A challenge, or nonsense: its number takes the place of the microseconds.
    else awaitNoMore(flowWord);
    return false;
  }

  return {
    stamp: () => registers[R_MICROS]!,
    sent,
    segment,
    answered,
    refused,
    unreachable,
    silent,
  };
}
