import { ADMISSION_RUN_WORDS, N_FLOWS, N_HALF_OPEN } from "../admission/admission-run.ts";
import { PHASE_MASK, PHASE_OPENING, X_PHASE } from "../admission/splice.ts";
import {
  backendSlotOf,
  F_ACK_ORIGINAL,
  F_ACK_REPLY,
  F_BACKEND,
  F_BACKEND_ADDR,
  F_BACKEND_REPLY_PORTS,
  F_CLIENT_ADDR,
  F_CLIENT_VIP_PORTS,
  F_EXPIRES,
  F_REPLY_ADDR,
  F_STATE,
  F_VIP_ADDR,
  FLAG_ACTIVE,
  FLAG_PROBE,
  FLOW_WORDS,
  GENERATION_MASK,
  generationOf,
  isOneWay,
  KEY_IPV6,
  originalKeyOf,
  PROTOCOL_TCP,
  protocolOf,
  replyKeyOf,
  STATE_CLOSE,
  STATE_CLOSE_WAIT,
  STATE_ESTABLISHED,
  STATE_FIN_WAIT,
  STATE_LAST_ACK,
  STATE_SYN_RECV,
  STATE_SYN_SENT,
  STATE_TIME_WAIT,
  STATE_UDP_REPLIED,
  X_BACKEND,
  X_CLIENT,
  X_REPLY,
  X_VIP,
} from "../flow/flow-record.ts";
import {
  B_DEADLINE,
  B_EXISTING,
  B_GENERATION,
  B_SERVICE,
  BACKEND_RUN_WORDS,
  EXISTING_DEADLINE,
  EXISTING_RESET,
  R_ACTIVE,
  R_FLOWS,
} from "../service/backend-slots.ts";
import { S_TIMEOUTS, SERVICE_WORDS } from "../service/bank.ts";
import { BACKEND_SLOT_BYTES } from "../state/layout.ts";
import {
  type Context,
  R_OUT_INTERFACE,
  R_OUT_MAC_HIGH,
  R_OUT_MAC_LOW,
  R_SERVICES,
  R_TICK,
} from "./context.ts";
import { C_ORIGINATED_LOST } from "./counters.ts";
import type { Encapsulator } from "./encapsulate.ts";
import { HOP_FOUND, type Hops } from "./hops.ts";
import { ORIGINATED, type Output } from "./output.ts";
import type { Reply } from "./reply.ts";
import { createSplices } from "./splices.ts";
import type { TokenBucket } from "./token-bucket.ts";

const BACKEND_SLOT_WORDS = BACKEND_SLOT_BYTES >> 2;

/** A TCP handshake that is not done. */
function isHalfOpen(state: number): boolean {
  return state === STATE_SYN_SENT || state === STATE_SYN_RECV;
}

/** What happens to a flow between its first and its last packet. */
export interface Flows {
  /**
   * What the backend's sequence numbers have more than those that the client knows: not 0 where a SYN
   * cookie began the flow.
   */
  sequenceDelta(flowWord: number): number;
  /** First word of the slot of the flow's backend. */
  backendWord(flowWord: number): number;
  /** True when the flow's backend is another one by now, or must give its flows up. */
  mustEnd(flowWord: number, backendWord: number): boolean;
  /** Timeout in ms of `state` for the service of the backend. */
  timeoutMs(backendWord: number, state: number): number;
  /** Enter `state` (active or not is counted in the backend's run) and start its timer. */
  enter(flowWord: number, backendWord: number, state: number): void;
  /** Count a flow that was just inserted. */
  opened(flowWord: number): void;
  /** Remove the flow and what it counted for. */
  close(row: number): void;
  /**
   * Tell both ends that the flow is over: RST (TCP) or port unreachable (UDP, to the client).
   *
   * @returns false when no token was left and nothing was sent
   */
  reset(flowWord: number): boolean;
}

/**
 * Whether a flow in this state is an active connection (ActiveConn): one that opens is, as in LVS
 * (ip_vs_proto_tcp.c, tcp_state_active_table), and one that closes is not.
 */
export function isActive(state: number): boolean {
  return isAnswered(state) || isHalfOpen(state);
}

/** Both ends take part. */
function isAnswered(state: number): boolean {
  return state === STATE_ESTABLISHED || state === STATE_UDP_REPLIED;
}

export function createFlows(
  context: Context,
  hops: Hops,
  output: Output,
  reply: Reply,
  bucket: TokenBucket,
  encapsulator: Encapsulator,
  countersAt: number,
): Flows {
  const { affinity, i32, f64, layout, registers, table } = context;
  const slots = layout.backendSlots.at >> 2;
  const runs = layout.backendRuns.at >> 2;
  const rows = layout.flows.at >> 2;
  const admissionRuns = layout.admissionRuns.at >> 2;
  const splices = createSplices(context);
  const { sequenceDelta } = splices;

  function backendWord(flowWord: number): number {
    return slots + backendSlotOf(i32[flowWord + F_BACKEND]!) * BACKEND_SLOT_WORDS;
  }

  /** First word of what this worker counts of the flow's backend. */
  function runWord(flowWord: number): number {
    return runs + backendSlotOf(i32[flowWord + F_BACKEND]!) * BACKEND_RUN_WORDS;
  }

  /** First word of what admission counts of the flow's service. */
  function admissionWord(backend: number): number {
    return admissionRuns + i32[backend + B_SERVICE]! * ADMISSION_RUN_WORDS;
  }

  function mustEnd(flowWord: number, backend: number): boolean {
    if (
      (i32[backend + B_GENERATION]! & GENERATION_MASK) !==
      generationOf(i32[flowWord + F_BACKEND]!)
    )
      return true;
    const existing = i32[backend + B_EXISTING]!;
    if (existing === 0) return false;
    // Whether its backend is well again is what it is there to find out.
    if ((i32[flowWord + F_STATE]! & FLAG_PROBE) !== 0) return false;
    if (existing === EXISTING_RESET) return true;
    return (
      existing === EXISTING_DEADLINE && ((registers[R_TICK]! - i32[backend + B_DEADLINE]!) | 0) >= 0
    );
  }

  function timeoutMs(backend: number, state: number): number {
    const service = registers[R_SERVICES]! + i32[backend + B_SERVICE]! * SERVICE_WORDS;
    return i32[service + S_TIMEOUTS + state]!;
  }

  function enter(flowWord: number, backend: number, state: number): void {
    const word = i32[flowWord + F_STATE]!;
    const run = runWord(flowWord);
    let next = (word & ~0xff) | state;
    if (isActive(state)) {
      if ((word & FLAG_ACTIVE) === 0) {
        next |= FLAG_ACTIVE;
        i32[run + R_ACTIVE] = i32[run + R_ACTIVE]! + 1;
      }
    } else if ((word & FLAG_ACTIVE) !== 0) {
      next &= ~FLAG_ACTIVE;
      i32[run + R_ACTIVE] = i32[run + R_ACTIVE]! - 1;
    }
    if (affinity.exists && isAnswered(state) && !isAnswered(word & 0xff)) {
      affinity.answered(((flowWord - rows) / FLOW_WORDS) | 0);
    }
    if (isHalfOpen(word & 0xff) !== isHalfOpen(state)) {
      const admission = admissionWord(backend);
      i32[admission + N_HALF_OPEN] = i32[admission + N_HALF_OPEN]! + (isHalfOpen(state) ? 1 : -1);
    }
    i32[flowWord + F_STATE] = next;
    // A backend that is checked every second would always have a hundred health checks that are over.
    const isOver = state === STATE_TIME_WAIT && (word & FLAG_PROBE) !== 0;
    const time = timeoutMs(backend, isOver ? STATE_CLOSE : state);
    i32[flowWord + F_EXPIRES] = (registers[R_TICK]! + time) | 0;
  }

  function opened(flowWord: number): void {
    const run = runWord(flowWord);
    i32[run + R_FLOWS] = i32[run + R_FLOWS]! + 1;
    if ((i32[flowWord + F_STATE]! & FLAG_ACTIVE) !== 0) {
      i32[run + R_ACTIVE] = i32[run + R_ACTIVE]! + 1;
    }
    const admission = admissionWord(backendWord(flowWord));
    i32[admission + N_FLOWS] = i32[admission + N_FLOWS]! + 1;
    if (isHalfOpen(i32[flowWord + F_STATE]! & 0xff)) {
      i32[admission + N_HALF_OPEN] = i32[admission + N_HALF_OPEN]! + 1;
    }
  }

  function close(row: number): void {
    const flowWord = table.word(row);
    const backend = backendWord(flowWord);
    // A slot of another generation has counted anew since, without this flow.
    if (
      (i32[backend + B_GENERATION]! & GENERATION_MASK) ===
      generationOf(i32[flowWord + F_BACKEND]!)
    ) {
      const run = runWord(flowWord);
      i32[run + R_FLOWS] = i32[run + R_FLOWS]! - 1;
      if ((i32[flowWord + F_STATE]! & FLAG_ACTIVE) !== 0) {
        i32[run + R_ACTIVE] = i32[run + R_ACTIVE]! - 1;
      }
      const admission = admissionWord(backend);
      i32[admission + N_FLOWS] = i32[admission + N_FLOWS]! - 1;
      if (isHalfOpen(i32[flowWord + F_STATE]! & 0xff)) {
        i32[admission + N_HALF_OPEN] = i32[admission + N_HALF_OPEN]! - 1;
      }
    }
    if (affinity.exists) affinity.detach(row, registers[R_TICK]!);
    // The next flow of this row has none, whatever its process lives to write.
    if (splices.exist) i32[splices.wordOf(flowWord) + X_PHASE] = 0;
    table.remove(row);
  }

  /** States in which both ends know a connection, and a RST with the last numbers is in window. */
  function isSynchronised(state: number): boolean {
    return (
      state === STATE_ESTABLISHED ||
      state === STATE_SYN_RECV ||
      state === STATE_FIN_WAIT ||
      state === STATE_CLOSE_WAIT ||
      state === STATE_LAST_ACK
    );
  }

  function originate(ipAt: number, bytes: number): void {
    const egress = registers[R_OUT_INTERFACE]!;
    output.setLink(ipAt, egress, registers[R_OUT_MAC_HIGH]!, registers[R_OUT_MAC_LOW]!);
    output.sendSpare(ipAt, bytes, egress, ORIGINATED);
  }

  function lost(): void {
    f64[countersAt + C_ORIGINATED_LOST] = f64[countersAt + C_ORIGINATED_LOST]! + 1;
  }

  function resetClient(flowWord: number, tcp: boolean): void {
    const ipAt = hops.toClient(flowWord) === HOP_FOUND ? output.takeSpare() : -1;
    if (ipAt < 0) {
      lost();
      return;
    }
    if ((originalKeyOf(i32[flowWord + F_STATE]!) & KEY_IPV6) !== 0) {
      originate(ipAt, writeToClient6(flowWord, ipAt, tcp));
      return;
    }
    const vip = i32[flowWord + F_VIP_ADDR]!;
    const client = i32[flowWord + F_CLIENT_ADDR]!;
    const ports = i32[flowWord + F_CLIENT_VIP_PORTS]!;
    const back = (ports << 16) | (ports >>> 16);
    const bytes = tcp
      ? reply.writeReset(
          ipAt,
          vip,
          client,
          back,
          i32[flowWord + F_ACK_ORIGINAL]!,
          i32[flowWord + F_ACK_REPLY]!,
        )
      : reply.writePortUnreachable(ipAt, vip, client, back);
    originate(ipAt, bytes);
  }

  function writeToClient6(flowWord: number, ipAt: number, tcp: boolean): number {
    const extension = table.extensionOf(flowWord);
    const ports = i32[flowWord + F_CLIENT_VIP_PORTS]!;
    const back = (ports << 16) | (ports >>> 16);
    const vip = extension + X_VIP;
    const client = extension + X_CLIENT;
    if (!tcp) return reply.six.writePortUnreachable(ipAt, vip, client, back);
    return reply.six.writeReset(
      ipAt,
      vip,
      client,
      back,
      i32[flowWord + F_ACK_ORIGINAL]!,
      i32[flowWord + F_ACK_REPLY]!,
    );
  }

  function resetBackend(flowWord: number): void {
    const slot = backendSlotOf(i32[flowWord + F_BACKEND]!);
    const ipAt = hops.toBackend(slot) === HOP_FOUND ? output.takeSpare() : -1;
    if (ipAt < 0) {
      lost();
      return;
    }
    const ports = i32[flowWord + F_BACKEND_REPLY_PORTS]!;
    // In a one-way flow the backend has the VIP, and the packet comes as the client's do.
    const oneWay = isOneWay(i32[flowWord + F_STATE]!);
    const key = oneWay ? originalKeyOf : replyKeyOf;
    if ((key(i32[flowWord + F_STATE]!) & KEY_IPV6) !== 0) {
      const extension = table.extensionOf(flowWord);
      const bytes6 = reply.six.writeReset(
        ipAt + encapsulator.overhead(flowWord),
        extension + (oneWay ? X_CLIENT : X_REPLY),
        extension + (oneWay ? X_VIP : X_BACKEND),
        (ports << 16) | (ports >>> 16),
        i32[flowWord + F_ACK_REPLY]!,
        (i32[flowWord + F_ACK_ORIGINAL]! + sequenceDelta(flowWord)) | 0,
      );
      originate(ipAt, oneWay ? encapsulator.wrap(ipAt, flowWord) : bytes6);
      return;
    }
    const bytes = reply.writeReset(
      ipAt + encapsulator.overhead(flowWord),
      i32[flowWord + (oneWay ? F_CLIENT_ADDR : F_REPLY_ADDR)]!,
      i32[flowWord + (oneWay ? F_VIP_ADDR : F_BACKEND_ADDR)]!,
      (ports << 16) | (ports >>> 16),
      i32[flowWord + F_ACK_REPLY]!,
      (i32[flowWord + F_ACK_ORIGINAL]! + sequenceDelta(flowWord)) | 0,
    );
    originate(ipAt, oneWay ? encapsulator.wrap(ipAt, flowWord) : bytes);
  }

  /** The client has a connection already, by a SYN cookie. */
  function isOpening(flowWord: number): boolean {
    return (
      splices.exist && (i32[splices.wordOf(flowWord) + X_PHASE]! & PHASE_MASK) === PHASE_OPENING
    );
  }

  function reset(flowWord: number): boolean {
    const word = i32[flowWord + F_STATE]!;
    const tcp = protocolOf(word) === PROTOCOL_TCP;
    if (tcp && !isSynchronised(word & 0xff) && !isOpening(flowWord)) return true;
    if (!bucket.take()) return false;
    resetClient(flowWord, tcp);
    // One that has never answered has sent no number that a RST could carry.
    if (tcp && i32[flowWord + F_ACK_REPLY] !== 0) resetBackend(flowWord);
    return true;
  }

  return { backendWord, mustEnd, timeoutMs, enter, opened, close, reset, sequenceDelta };
}
