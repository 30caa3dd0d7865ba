import { isRefused4, isRefused6 } from "../admission/access-table.ts";
import {
  ADMISSION_RUN_WORDS,
  N_FLOWS,
  N_PACKETS_TICK,
  NF_PACKET_TOKENS,
} from "../admission/admission-run.ts";
import { shareOf, takeSourceToken } from "../admission/source-limits.ts";
import { maskWord } from "../base/prefix.ts";
import { flowHash } from "../flow/flow-hash.ts";
import { PROTOCOL_TCP } from "../flow/flow-record.ts";
import {
  B_MAX_CONNECTIONS,
  BACKEND_RUN_WORDS,
  BACKEND_WORDS,
  R_FLOWS,
  R_FULL,
} from "../service/backend-slots.ts";
import {
  ADMIT_ACCESS,
  ADMIT_ACCESS_RESETS,
  ADMIT_LIMITS_RESET,
  S_ACCESS_4,
  S_ACCESS_6,
  S_ADMISSION,
  S_LIMIT_BACKEND,
  S_LIMIT_CONNECTIONS,
  S_LIMIT_PACKETS,
  S_SOURCE_BITS,
  S_SOURCE_BURST,
  S_SOURCE_RATE,
} from "../service/bank.ts";
import { H_SECRET } from "../state/layout.ts";
import { ICMP_CODE_PORT_UNREACHABLE, ICMP_UNREACHABLE } from "../wire/icmp.ts";
import { type Context, R_ACCESS, R_IS_IPV6, R_SOURCE6, R_TICK } from "./context.ts";
import { C_REFUSED } from "./counters.ts";
import type { Reply } from "./reply.ts";
import {
  DROP_ACCESS_DENIED,
  DROP_BACKENDS_FULL,
  DROP_CONNECTIONS_LIMITED,
  DROP_SOURCE_RATE_LIMITED,
  DROPPED,
  REFUSED_ACCESS,
  REFUSED_BACKENDS,
  REFUSED_CONNECTIONS,
  REFUSED_SOURCE_RATE,
} from "./verdict.ts";

/**
 * Who may open a flow: access lists and limits of a service, asked before and while a backend is
 * chosen. A flow that is there is never asked again, but for the rate of its packets.
 *
 * Every limit is the gateway's: with several workers each counts by itself and has its share.
 */
export interface Admission {
  /**
   * Access lists. A SYN that is admitted may then be answered by a cookie.
   *
   * @param serviceWord - first word of the service in the bank; it has ADMIT_ACCESS or not
   * @param vip - the packet's destination: where a refusal comes from
   * @returns ADMITTED, or the packet's verdict
   */
  admit(
    rxWord: number,
    ipAt: number,
    protocol: number,
    client: number,
    vip: number,
    serviceWord: number,
  ): number;
  /** Flows at once and by source; likewise. A token of the source is taken. */
  limit(
    rxWord: number,
    ipAt: number,
    protocol: number,
    client: number,
    vip: number,
    serviceWord: number,
    service: number,
  ): number;
  /** Whether the packets are within the service's rate; their tokens are taken then. */
  takePackets(serviceWord: number, service: number, packets: number): boolean;
  /** Whether a backend has as many flows as it or its service says, and was not down at three quarters since. */
  isFull(serviceWord: number, slot: number): boolean;
  /** No backend has room. @returns the packet's verdict */
  refuseFull(
    rxWord: number,
    ipAt: number,
    protocol: number,
    vip: number,
    serviceWord: number,
  ): number;
}

/** No verdict is negative. */
export const ADMITTED = -1;

export function createAdmission(context: Context, reply: Reply, countersAt: number): Admission {
  const { f64, i32, layout, registers } = context;
  const { worker, workers } = layout;
  const runs = layout.admissionRuns.at >> 2;
  const backendRuns = layout.backendRuns.at >> 2;
  const slots = layout.backendSlots.at >> 2;
  const sources = layout.sources.at >> 2;
  const sourceMask = layout.sourceSets - 1;

  function admit(
    rxWord: number,
    ipAt: number,
    protocol: number,
    client: number,
    vip: number,
    serviceWord: number,
  ): number {
    const asks = i32[serviceWord + S_ADMISSION]!;
    if ((asks & ADMIT_ACCESS) === 0) return ADMITTED;
    if (!isRefused(serviceWord, client)) return ADMITTED;
    const resets = (asks & ADMIT_ACCESS_RESETS) !== 0;
    return refuse(rxWord, ipAt, protocol, vip, REFUSED_ACCESS, DROP_ACCESS_DENIED, resets);
  }

  function limit(
    rxWord: number,
    ipAt: number,
    protocol: number,
    client: number,
    vip: number,
    serviceWord: number,
    service: number,
  ): number {
    const resets = (i32[serviceWord + S_ADMISSION]! & ADMIT_LIMITS_RESET) !== 0;
    const most = i32[serviceWord + S_LIMIT_CONNECTIONS]!;
    const flows = i32[runs + service * ADMISSION_RUN_WORDS + N_FLOWS]!;
    if (most !== 0 && flows >= shareOf(most, worker, workers)) {
      const reason = DROP_CONNECTIONS_LIMITED;
      return refuse(rxWord, ipAt, protocol, vip, REFUSED_CONNECTIONS, reason, resets);
    }
    if (i32[serviceWord + S_SOURCE_RATE] !== 0 && !takeSource(serviceWord, service, client)) {
      const reason = DROP_SOURCE_RATE_LIMITED;
      return refuse(rxWord, ipAt, protocol, vip, REFUSED_SOURCE_RATE, reason, resets);
    }
    return ADMITTED;
  }

  function isRefused(serviceWord: number, client: number): boolean {
    const first = registers[R_ACCESS]!;
    if (registers[R_IS_IPV6] === 0) {
      return isRefused4(i32, first + i32[serviceWord + S_ACCESS_4]!, client);
    }
    return isRefused6(
      i32,
      first + i32[serviceWord + S_ACCESS_6]!,
      registers[R_SOURCE6]!,
      registers[R_SOURCE6 + 1]!,
      registers[R_SOURCE6 + 2]!,
      registers[R_SOURCE6 + 3]!,
    );
  }

  /** One word for the client's prefix: of IPv6 a keyed hash of its words. */
  function sourceOf(client: number, bits: number): number {
    if (registers[R_IS_IPV6] === 0) return client & maskWord(bits, 0);
    return flowHash(
      i32[H_SECRET]!,
      i32[H_SECRET + 1]!,
      registers[R_SOURCE6]! & maskWord(bits, 0),
      registers[R_SOURCE6 + 1]! & maskWord(bits, 1),
      registers[R_SOURCE6 + 2]! & maskWord(bits, 2),
      registers[R_SOURCE6 + 3]! & maskWord(bits, 3),
    );
  }

  function takeSource(serviceWord: number, service: number, client: number): boolean {
    if (sourceMask < 0) return true;
    const isIpv6 = registers[R_IS_IPV6] !== 0;
    const allBits = i32[serviceWord + S_SOURCE_BITS]!;
    const bits = isIpv6 ? allBits >>> 8 : allBits & 0xff;
    const prefix = sourceOf(client, bits);
    const owner = isIpv6 ? ~service : service + 1;
    // All flows of a source lie with one worker (flow/owner.ts), which has its whole rate.
    return takeSourceToken(
      i32,
      sources,
      sourceMask,
      flowHash(i32[H_SECRET]!, i32[H_SECRET + 1]!, owner, prefix, 0, 0),
      owner,
      prefix,
      i32[serviceWord + S_SOURCE_RATE]!,
      i32[serviceWord + S_SOURCE_BURST]!,
      registers[R_TICK]!,
    );
  }

  /** A token bucket that holds a tenth of a second: what comes in one batch is no burst. */
  function takePackets(serviceWord: number, service: number, packets: number): boolean {
    const rate = i32[serviceWord + S_LIMIT_PACKETS]! / workers;
    const run = runs + service * ADMISSION_RUN_WORDS;
    const at = (run >> 1) + NF_PACKET_TOKENS;
    const most = Math.max(rate / 10, 1);
    const tick = registers[R_TICK]!;
    const elapsed = (tick - i32[run + N_PACKETS_TICK]!) | 0;
    let tokens = f64[at]!;
    if (elapsed !== 0) {
      i32[run + N_PACKETS_TICK] = tick;
      tokens =
        elapsed < 0 || elapsed > 1000 ? most : Math.min(most, tokens + (elapsed * rate) / 1000);
    }
    // One with many segments may overdraw the bucket, or it would never pass; who comes next waits.
    const has = tokens >= 1;
    f64[at] = has ? tokens - packets : tokens;
    return has;
  }

  function isFull(serviceWord: number, slot: number): boolean {
    const own = i32[slots + slot * BACKEND_WORDS + B_MAX_CONNECTIONS]!;
    const limit = own === 0 ? i32[serviceWord + S_LIMIT_BACKEND]! : own;
    if (limit === 0) return false;
    const most = shareOf(limit, worker, workers);
    const run = backendRuns + slot * BACKEND_RUN_WORDS;
    const flows = i32[run + R_FLOWS]!;
    if (i32[run + R_FULL] === 0) {
      if (flows < most) return false;
      i32[run + R_FULL] = 1;
      return true;
    }
    if (flows * 4 > most * 3) return true;
    i32[run + R_FULL] = 0;
    return false;
  }

  function refuseFull(
    rxWord: number,
    ipAt: number,
    protocol: number,
    vip: number,
    serviceWord: number,
  ): number {
    const resets = (i32[serviceWord + S_ADMISSION]! & ADMIT_LIMITS_RESET) !== 0;
    return refuse(rxWord, ipAt, protocol, vip, REFUSED_BACKENDS, DROP_BACKENDS_FULL, resets);
  }

  function refuse(
    rxWord: number,
    ipAt: number,
    protocol: number,
    vip: number,
    refusal: number,
    reason: number,
    resets: boolean,
  ): number {
    const at = countersAt + C_REFUSED + refusal;
    f64[at] = f64[at]! + 1;
    if (!resets) return DROPPED | (reason << 8);
    if (protocol === PROTOCOL_TCP) return reply.answerReset(rxWord, ipAt);
    return reply.answerIcmpError(
      rxWord,
      ipAt,
      vip,
      ICMP_UNREACHABLE,
      ICMP_CODE_PORT_UNREACHABLE,
      0,
    );
  }

  return { admit, limit, takePackets, isFull, refuseFull };
}
