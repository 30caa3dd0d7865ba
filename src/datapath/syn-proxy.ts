import {
  ADMISSION_RUN_WORDS,
  LEARNT_ECN,
  LEARNT_NO_SACK,
  LEARNT_NO_TIMESTAMPS,
  LEARNT_SCALE,
  LEARNT_SCALE_MASK,
  N_COOKIE_SENT,
  N_COOKIE_TICK,
  N_COOKIES_ON,
  N_HALF_OPEN,
  N_LEARNT,
  N_LEARNT_MSS,
} from "../admission/admission-run.ts";
import {
  PHASE_MASK,
  PHASE_OPENING,
  PHASE_SPLICED,
  scaleWindow,
  X_CLIENT_SEQUENCE,
  X_CLIENT_TIMESTAMP,
  X_COOKIE,
  X_ECN,
  X_OPTIONS,
  X_OUR_TIMESTAMP,
  X_PHASE,
  X_SACK,
  X_SCALE_AT,
  X_SEQUENCE_DELTA,
  X_TIMESTAMP_DELTA,
  X_TIMESTAMPS,
  X_TRIES_AT,
} from "../admission/splice.ts";
import {
  COOKIE_ECN,
  COOKIE_MINUTE_MS,
  COOKIE_MINUTES,
  COOKIE_NO_SCALE,
  COOKIE_SACK,
  COOKIE_SCALE_MASK,
  cookieTimestamp,
  createSynCookies,
  keptInTimestamp,
} from "../admission/syn-cookie.ts";
import { D_BYTES, D_CSUM, D_INTERFACE, D_VNET, VNET_F_NEEDS_CSUM } from "../device/device.ts";
import {
  backendSlotOf,
  F_ACK_ORIGINAL,
  F_ACK_REPLY,
  F_BACKEND,
  F_EXPIRES,
  F_STATE,
  KEY_SLOW,
  ORIGINAL,
  PROTOCOL_TCP,
  STATE_CLOSE,
  STATE_ESTABLISHED,
} from "../flow/flow-record.ts";
import { B_SERVICE } from "../service/backend-slots.ts";
import {
  S_SYN_HALF_OPEN,
  S_SYN_MSS,
  S_SYN_OPTIONS,
  S_SYN_PROXY,
  S_SYN_WINDOW_SCALE,
  SYN_OPTION_LEARN_SACK,
  SYN_OPTION_LEARN_TIMESTAMPS,
  SYN_OPTION_SACK,
  SYN_OPTION_TIMESTAMPS,
  SYN_PROXY_ON,
} from "../service/bank.ts";
import { H_SECRET, W_FLOWS_USED } from "../state/layout.ts";
import { pseudoSumIpv4, pseudoSumIpv6, sumBytes } from "../wire/checksum.ts";
import { sourceMacHigh, sourceMacLow } from "../wire/ethernet.ts";
import { ipv4Destination, ipv4Source, ipv4TotalBytes } from "../wire/ipv4.ts";
import { ipv6TotalBytes, isIpv6Unspecified } from "../wire/ipv6.ts";
import {
  TCP_ACK,
  TCP_RST,
  TCP_SYN,
  tcpAcknowledgement,
  tcpFlags,
  tcpPorts,
  tcpSequence,
} from "../wire/tcp.ts";
import {
  readTcpOptions,
  TCP_OPTION_WORDS,
  TO_MSS,
  TO_SACK_PERMITTED,
  TO_TIMESTAMPS,
  TO_TSECR,
  TO_TSVAL,
  TO_WINDOW_SCALE,
} from "../wire/tcp-options.ts";
import {
  type Context,
  R_DESTINATION_FOLD,
  R_IS_IPV6,
  R_OUT_INTERFACE,
  R_OUT_MAC_HIGH,
  R_OUT_MAC_LOW,
  R_SOURCE_FOLD,
  R_TICK,
} from "./context.ts";
import {
  C_ORIGINATED_LOST,
  C_SYN_COOKIES_ACCEPTED,
  C_SYN_COOKIES_REJECTED,
  C_SYN_COOKIES_SENT,
  C_SYN_RETRANSMITTED,
} from "./counters.ts";
import type { Flows } from "./flows.ts";
import { HOP_FOUND, type Hops } from "./hops.ts";
import { ORIGINATED, type Output } from "./output.ts";
import { createOwnSegments } from "./own-segments.ts";
import type { Passive } from "./passive.ts";
import type { Reply } from "./reply.ts";
import { createSplices } from "./splices.ts";
import {
  CONSUMED,
  DROP_OUT_OF_STATE,
  DROP_REPLY_NOT_ALLOWED,
  DROPPED,
  REPLIED,
} from "./verdict.ts";

/**
 * The gateway's own half of a handshake (`synProxy`).
 *
 *   client            gateway                         backend
 *     SYN ------------> cookie
 *     <--- SYN-ACK ---- window 0, nothing kept
 *     ACK ------------> cookie right: flow, PHASE_OPENING
 *                       SYN ------------------------->        again after 1, 2, 4 s, then given up
 *                       <---------------- SYN-ACK ----
 *                       ACK ------------------------->
 *     <--- ACK -------- window of the backend: the client may send
 *     <===============> PHASE_SPLICED <==============>        numbers shifted (admission/splice.ts)
 *
 * A window of 0 keeps the client's data with the client until there is someone to have it; what
 * comes all the same is taken and not kept, and the client sends it again. A SYN costs no memory,
 * no token and no second frame: its own is turned round.
 */
export interface SynProxy {
  /** Whether a SYN to the service is answered by a cookie now. */
  answers(serviceWord: number, service: number): boolean;
  /** Turn the SYN into our SYN-ACK and send it back. @returns REPLIED, or a drop: nobody to answer */
  answer(rxWord: number, ipAt: number, l4At: number, serviceWord: number, service: number): number;
  /**
   * Whether an ACK without a flow brings a cookie back; what it says is kept for `begin`.
   */
  accepts(
    rxWord: number,
    ipAt: number,
    l4At: number,
    serviceWord: number,
    service: number,
  ): boolean;
  /** The flow that the accepted ACK has opened. @returns CONSUMED */
  begin(l4At: number, row: number): number;
  /** Whether the flow waits for its backend. */
  isOpening(flowWord: number): boolean;
  /** A segment of a flow that is opening. @returns its verdict */
  receive(rxWord: number, ipAt: number, l4At: number, row: number, direction: number): number;
  /**
   * The time of a flow that is opening is over.
   *
   * @returns true: the SYN was sent again, and the flow goes on
   */
  retry(flowWord: number): boolean;
  /** Learn from a backend's SYN-ACK. @param own - it answers a SYN of ours, with `offered` X_… */
  learn(l4At: number, service: number, own: boolean, offered: number): void;
}

/** SYNs to the backend, the first one included, and the wait after the first. */
const TRIES = 4;
const RETRY_MS = 1000;
/** Part of the flow table that, in use, begins `auto`, and the part under which it ends. */
const TABLE_BEGIN = 0.75;
const TABLE_END = 0.625;
/** Until a backend has said (RFC 9293 3.7.1 counts options out: 1500 - 40, or 60). */
const MSS_UNKNOWN = 1460;
const MSS_UNKNOWN_6 = 1440;
/** What a client of IPv6 means that says none (RFC 9293 3.7.1). */
const MSS_UNSAID_6 = 1220;
const SCALE_UNKNOWN = 7;

const TCP_ECE = 0x40;
const TCP_CWR = 0x80;

export function createSynProxy(
  context: Context,
  hops: Hops,
  output: Output,
  reply: Reply,
  flows: Flows,
  passive: Passive,
  countersAt: number,
): SynProxy {
  const { f64, i32, layout, link, registers, rx, table, view } = context;
  const cookies = createSynCookies(i32[H_SECRET]!, i32[H_SECRET + 1]!);
  const splices = createSplices(context);
  const own = createOwnSegments(context, reply);
  const runs = layout.admissionRuns.at >> 2;
  const usedWord = layout.workerWord + W_FLOWS_USED;
  const tableBegin = Math.floor(layout.flowCapacity * TABLE_BEGIN);
  const tableEnd = Math.floor(layout.flowCapacity * TABLE_END);
  /** Options of the segment at hand, and of the one being made. */
  const seen = new Int32Array(TCP_OPTION_WORDS);
  const said = own.options;
  /** MSS of the cookie that was accepted last, and the sequence number of its SYN. */
  const accepted = new Int32Array(2);

  function add(counter: number): void {
    f64[countersAt + counter] = f64[countersAt + counter]! + 1;
  }

  function runOf(service: number): number {
    return runs + service * ADMISSION_RUN_WORDS;
  }

  /** The client of the packet at hand as the flow index knows it: an IPv6 address by its keyed fold. */
  function clientOf(ipAt: number): number {
    return registers[R_IS_IPV6] === 0 ? ipv4Source(view, ipAt) : registers[R_SOURCE_FOLD]!;
  }

  function vipOf(ipAt: number): number {
    return registers[R_IS_IPV6] === 0
      ? ipv4Destination(view, ipAt)
      : registers[R_DESTINATION_FOLD]!;
  }

  function answers(serviceWord: number, service: number): boolean {
    if (!splices.exist) return false;
    if (i32[serviceWord + S_SYN_PROXY] === SYN_PROXY_ON) return true;
    const run = runOf(service);
    const halfOpen = i32[run + N_HALF_OPEN]!;
    const used = i32[usedWord]!;
    const threshold = i32[serviceWord + S_SYN_HALF_OPEN]!;
    if (i32[run + N_COOKIES_ON] === 0) {
      if (halfOpen < threshold && used < tableBegin) return false;
      i32[run + N_COOKIES_ON] = 1;
      return true;
    }
    if (halfOpen >= threshold >> 1 || used >= tableEnd) return true;
    i32[run + N_COOKIES_ON] = 0;
    return false;
  }

  /** What a SYN-ACK of ours says to a client that has asked for it: into `said`. */
  function choose(serviceWord: number, service: number): void {
    const run = runOf(service);
    const learnt = i32[run + N_LEARNT]!;
    const options = i32[serviceWord + S_SYN_OPTIONS]!;
    const unknown = registers[R_IS_IPV6] === 0 ? MSS_UNKNOWN : MSS_UNKNOWN_6;
    const mss = i32[serviceWord + S_SYN_MSS]! || i32[run + N_LEARNT_MSS]! || unknown;
    // A client that names no MSS is not told one: the answer must fit into its frame.
    said[TO_MSS] = seen[TO_MSS] === 0 ? 0 : mss;
    const timestamps =
      (options & SYN_OPTION_LEARN_TIMESTAMPS) !== 0
        ? (learnt & LEARNT_NO_TIMESTAMPS) === 0
        : (options & SYN_OPTION_TIMESTAMPS) !== 0;
    said[TO_TIMESTAMPS] = timestamps && seen[TO_TIMESTAMPS] !== 0 ? 1 : 0;
    // What only a timestamp can keep is not offered without one.
    const sack =
      (options & SYN_OPTION_LEARN_SACK) !== 0
        ? (learnt & LEARNT_NO_SACK) === 0
        : (options & SYN_OPTION_SACK) !== 0;
    said[TO_SACK_PERMITTED] = said[TO_TIMESTAMPS] !== 0 && sack ? seen[TO_SACK_PERMITTED]! : 0;
    const scale = toldScale(serviceWord, service);
    said[TO_WINDOW_SCALE] =
      said[TO_TIMESTAMPS] === 0 || scale < 0 || seen[TO_WINDOW_SCALE]! < 0 ? -1 : scale;
  }

  /** The window scale that SYN-ACKs of ours name, or -1. */
  function toldScale(serviceWord: number, service: number): number {
    const set = i32[serviceWord + S_SYN_WINDOW_SCALE]!;
    if (set >= 0) return set;
    const learnt = i32[runOf(service) + N_LEARNT]!;
    if (set !== -1) return -1;
    return (learnt & LEARNT_SCALE) !== 0 ? learnt & LEARNT_SCALE_MASK : SCALE_UNKNOWN;
  }

  function answer(
    rxWord: number,
    ipAt: number,
    l4At: number,
    serviceWord: number,
    service: number,
  ): number {
    const tick = registers[R_TICK]!;
    const isIpv6 = registers[R_IS_IPV6] !== 0;
    if (isIpv6 && isIpv6Unspecified(view, ipAt)) return DROPPED | (DROP_REPLY_NOT_ALLOWED << 8);
    const sequence = tcpSequence(view, l4At);
    const wantsEcn = (view.getUint8(l4At + 13) & (TCP_ECE | TCP_CWR)) === (TCP_ECE | TCP_CWR);
    readTcpOptions(view, l4At, seen);
    choose(serviceWord, service);
    let flags = TCP_SYN | TCP_ACK;
    if (said[TO_TIMESTAMPS] !== 0) {
      const scale = said[TO_WINDOW_SCALE]! < 0 ? COOKIE_NO_SCALE : seen[TO_WINDOW_SCALE]!;
      const ecn = wantsEcn && (i32[runOf(service) + N_LEARNT]! & LEARNT_ECN) !== 0;
      if (ecn) flags |= TCP_ECE;
      const kept =
        scale | (said[TO_SACK_PERMITTED] !== 0 ? COOKIE_SACK : 0) | (ecn ? COOKIE_ECN : 0);
      said[TO_TSVAL] = cookieTimestamp(tick, kept);
      said[TO_TSECR] = seen[TO_TSVAL]!;
    }
    const mss = seen[TO_MSS]! || (isIpv6 ? MSS_UNSAID_6 : 0);
    const ports = tcpPorts(view, l4At);
    const cookie = cookies.make(clientOf(ipAt), vipOf(ipAt), ports, sequence, mss, tick);
    const run = runOf(service);
    i32[run + N_COOKIE_TICK] = tick;
    i32[run + N_COOKIE_SENT] = 1;
    const bytes = own.turnRound(ipAt, l4At, cookie, (sequence + 1) | 0, flags);
    const ingress = rx[rxWord + D_INTERFACE]!;
    if (link !== 0) {
      const ethernet = ipAt - link;
      output.setLink(ipAt, ingress, sourceMacHigh(view, ethernet), sourceMacLow(view, ethernet));
    }
    rx[rxWord + D_BYTES] = link + bytes;
    // The checksum is complete, whatever that of the SYN was.
    rx[rxWord + D_VNET] = 0;
    rx[rxWord + D_CSUM] = 0;
    output.sendReceived(rxWord, ingress);
    add(C_SYN_COOKIES_SENT);
    return REPLIED;
  }

  /** Without a cookie sent in the time that one is good for, no number is worth a look. */
  function mayHaveSent(service: number): boolean {
    const run = runOf(service);
    if (i32[run + N_COOKIE_SENT] === 0) return false;
    const ago = (registers[R_TICK]! - i32[run + N_COOKIE_TICK]!) | 0;
    if (ago >= 0 && ago <= COOKIE_MINUTES * COOKIE_MINUTE_MS) return true;
    i32[run + N_COOKIE_SENT] = 0;
    return false;
  }

  function accepts(
    rxWord: number,
    ipAt: number,
    l4At: number,
    serviceWord: number,
    service: number,
  ): boolean {
    if (!splices.exist || !mayHaveSent(service)) return false;
    const tick = registers[R_TICK]!;
    const client = clientOf(ipAt);
    const vip = vipOf(ipAt);
    const ports = tcpPorts(view, l4At);
    const cookie = (tcpAcknowledgement(view, l4At) - 1) | 0;
    let sequence = (tcpSequence(view, l4At) - 1) | 0;
    let mss = cookies.check(client, vip, ports, sequence, cookie, tick);
    if (mss === 0) {
      // A probe of our window of 0 is one byte back (RFC 9293 3.8.6.1): it comes when the ACK was lost.
      sequence = (sequence + 1) | 0;
      mss = cookies.check(client, vip, ports, sequence, cookie, tick);
    }
    if (mss === 0 || !isChecksumRight(rxWord, ipAt, l4At)) {
      add(C_SYN_COOKIES_REJECTED);
      return false;
    }
    accepted[0] = mss;
    accepted[1] = sequence;
    readTcpOptions(view, l4At, seen);
    // Timestamps that we do not offer are none of ours, whatever their low bits are.
    const options = i32[serviceWord + S_SYN_OPTIONS]!;
    const never = (options & (SYN_OPTION_TIMESTAMPS | SYN_OPTION_LEARN_TIMESTAMPS)) === 0;
    if (never) seen[TO_TIMESTAMPS] = 0;
    seen[TO_WINDOW_SCALE] = toldScale(serviceWord, service);
    add(C_SYN_COOKIES_ACCEPTED);
    return true;
  }

  /** Nothing else of a connection is made from bytes of one segment, so those must be whole. */
  function isChecksumRight(rxWord: number, ipAt: number, l4At: number): boolean {
    if ((rx[rxWord + D_VNET]! & VNET_F_NEEDS_CSUM) !== 0) return true;
    if (registers[R_IS_IPV6] !== 0) {
      const bytes6 = ipv6TotalBytes(view, ipAt) - (l4At - ipAt);
      const pseudo6 = pseudoSumIpv6(view, ipAt, PROTOCOL_TCP, bytes6);
      return sumBytes(view, l4At, bytes6, pseudo6) === 0xffff;
    }
    const bytes = ipv4TotalBytes(view, ipAt) - (l4At - ipAt);
    const source = ipv4Source(view, ipAt);
    const pseudo = pseudoSumIpv4(source, ipv4Destination(view, ipAt), PROTOCOL_TCP, bytes);
    return sumBytes(view, l4At, bytes, pseudo) === 0xffff;
  }

  function begin(l4At: number, row: number): number {
    const flowWord = table.word(row);
    const word = splices.wordOf(flowWord);
    const sequence = accepted[1]!;
    const cookie = (tcpAcknowledgement(view, l4At) - 1) | 0;
    const hasTimestamps = seen[TO_TIMESTAMPS] !== 0;
    const kept = hasTimestamps ? keptInTimestamp(seen[TO_TSECR]!) : COOKIE_NO_SCALE;
    let options = accepted[0]! | ((kept & COOKIE_SCALE_MASK) << X_SCALE_AT);
    if (hasTimestamps) options |= X_TIMESTAMPS;
    if ((kept & COOKIE_SACK) !== 0) options |= X_SACK;
    if ((kept & COOKIE_ECN) !== 0) options |= X_ECN;
    const hasScale = (kept & COOKIE_SCALE_MASK) !== COOKIE_NO_SCALE;
    i32[word + X_SEQUENCE_DELTA] = passive.stamp();
    // Until it is known what the backend's timestamps are: the scale that the client was told.
    i32[word + X_TIMESTAMP_DELTA] = hasScale ? seen[TO_WINDOW_SCALE]! : -1;
    i32[word + X_CLIENT_SEQUENCE] = sequence;
    i32[word + X_COOKIE] = cookie;
    i32[word + X_OPTIONS] = options | (1 << X_TRIES_AT);
    i32[word + X_CLIENT_TIMESTAMP] = seen[TO_TSVAL]!;
    i32[word + X_OUR_TIMESTAMP] = seen[TO_TSECR]!;
    i32[word + X_PHASE] = PHASE_OPENING | (view.getUint16(l4At + 14) << 8);
    i32[flowWord + F_ACK_ORIGINAL] = (cookie + 1) | 0;
    i32[flowWord + F_ACK_REPLY] = (sequence + 1) | 0;
    i32[flowWord + F_EXPIRES] = (registers[R_TICK]! + RETRY_MS) | 0;
    sendSyn(flowWord, word);
    return CONSUMED;
  }

  function isOpening(flowWord: number): boolean {
    return (
      splices.exist &&
      (i32[flowWord + F_STATE]! & (KEY_SLOW << 8)) !== 0 &&
      (i32[splices.wordOf(flowWord) + X_PHASE]! & PHASE_MASK) === PHASE_OPENING
    );
  }

  /** Send the packet at `ipAt` towards the hop in the registers, as one of our own making. */
  function originate(ipAt: number, bytes: number, rxWord: number): void {
    const egress = registers[R_OUT_INTERFACE]!;
    output.setLink(ipAt, egress, registers[R_OUT_MAC_HIGH]!, registers[R_OUT_MAC_LOW]!);
    output.sendSpare(ipAt, bytes, egress, rxWord);
  }

  /** A SYN that cannot be sent now is sent at the next try. */
  function sendSyn(flowWord: number, word: number): void {
    const slot = backendSlotOf(i32[flowWord + F_BACKEND]!);
    const ipAt = hops.toBackend(slot) === HOP_FOUND ? output.takeSpare() : -1;
    if (ipAt < 0) {
      add(C_ORIGINATED_LOST);
      return;
    }
    const options = i32[word + X_OPTIONS]!;
    const scale = (options >>> X_SCALE_AT) & COOKIE_SCALE_MASK;
    said[TO_MSS] = options & 0xffff;
    said[TO_WINDOW_SCALE] = scale === COOKIE_NO_SCALE ? -1 : scale;
    said[TO_SACK_PERMITTED] = (options & X_SACK) !== 0 ? 1 : 0;
    said[TO_TIMESTAMPS] = (options & X_TIMESTAMPS) !== 0 ? 1 : 0;
    said[TO_TSVAL] = i32[word + X_CLIENT_TIMESTAMP]!;
    said[TO_TSECR] = 0;
    const ecn = (options & X_ECN) !== 0 ? TCP_ECE | TCP_CWR : 0;
    const window = (i32[word + X_PHASE]! >>> 8) & 0xffff;
    const sequence = i32[word + X_CLIENT_SEQUENCE]!;
    originate(ipAt, own.toBackend(ipAt, flowWord, sequence, 0, TCP_SYN | ecn, window), ORIGINATED);
  }

  function retry(flowWord: number): boolean {
    const word = splices.wordOf(flowWord);
    const options = i32[word + X_OPTIONS]!;
    const tries = options >>> X_TRIES_AT;
    if (tries >= TRIES) return false;
    i32[word + X_OPTIONS] = options + (1 << X_TRIES_AT);
    i32[flowWord + F_EXPIRES] = (registers[R_TICK]! + (RETRY_MS << tries)) | 0;
    add(C_SYN_RETRANSMITTED);
    sendSyn(flowWord, word);
    return true;
  }

  function receive(
    rxWord: number,
    ipAt: number,
    l4At: number,
    row: number,
    direction: number,
  ): number {
    const flowWord = table.word(row);
    const flags = tcpFlags(view, l4At);
    if (direction === ORIGINAL) {
      // The client has given up: the backend hears of it by the reset.
      if ((flags & TCP_RST) !== 0 && tcpSequence(view, l4At) === i32[flowWord + F_ACK_REPLY]) {
        abandon(flowWord);
        flows.close(row);
      }
      return CONSUMED;
    }
    const expected = i32[flowWord + F_ACK_REPLY]!;
    if ((flags & TCP_ACK) === 0 || tcpAcknowledgement(view, l4At) !== expected) {
      return DROPPED | (DROP_OUT_OF_STATE << 8);
    }
    if ((flags & TCP_RST) !== 0) return refuse(rxWord, flowWord);
    if ((flags & TCP_SYN) === 0) return DROPPED | (DROP_OUT_OF_STATE << 8);
    return join(rxWord, ipAt, l4At, flowWord);
  }

  /** A RST to the backend, which may have a half-open connection by now. */
  function abandon(flowWord: number): void {
    const slot = backendSlotOf(i32[flowWord + F_BACKEND]!);
    const ipAt = hops.toBackend(slot) === HOP_FOUND ? output.takeSpare() : -1;
    if (ipAt < 0) {
      add(C_ORIGINATED_LOST);
      return;
    }
    said.fill(0);
    said[TO_WINDOW_SCALE] = -1;
    const sequence = i32[flowWord + F_ACK_REPLY]!;
    originate(ipAt, own.toBackend(ipAt, flowWord, sequence, 0, TCP_RST, 0), ORIGINATED);
  }

  /** The backend has no room: the client, which takes itself for connected, is reset. */
  function refuse(rxWord: number, flowWord: number): number {
    const backend = flows.backendWord(flowWord);
    const ipAt = hops.toClient(flowWord) === HOP_FOUND ? output.takeSpare() : -1;
    if (ipAt < 0) return DROPPED | (DROP_OUT_OF_STATE << 8);
    passive.refused(flowWord);
    said.fill(0);
    said[TO_WINDOW_SCALE] = -1;
    const bytes = own.toClient(ipAt, flowWord, TCP_RST | TCP_ACK, 0);
    originate(ipAt, bytes, rxWord);
    i32[splices.wordOf(flowWord) + X_PHASE] = 0;
    flows.enter(flowWord, backend, STATE_CLOSE);
    return REPLIED;
  }

  /** The backend's SYN-ACK: from here on the two connections are one. */
  function join(rxWord: number, _ipAt: number, l4At: number, flowWord: number): number {
    const word = splices.wordOf(flowWord);
    const backend = flows.backendWord(flowWord);
    const options = i32[word + X_OPTIONS]!;
    const clientWindow = (i32[word + X_PHASE]! >>> 8) & 0xffff;
    const told = i32[word + X_TIMESTAMP_DELTA]!;
    const first = tcpSequence(view, l4At);
    const backendWindow = view.getUint16(l4At + 14);
    learn(l4At, i32[backend + B_SERVICE]!, true, options);
    readTcpOptions(view, l4At, seen);
    const clientScale = (options >>> X_SCALE_AT) & COOKIE_SCALE_MASK;
    const backendScale = told < 0 ? -1 : seen[TO_WINDOW_SCALE]!;
    // Where the backend scales nothing, the client's windows lose their scale here.
    const toBackend = told >= 0 && backendScale < 0 ? clientScale : 0;
    const toClient = told < 0 ? 0 : Math.max(0, backendScale) - told;
    const both = (options & X_TIMESTAMPS) !== 0 && seen[TO_TIMESTAMPS] !== 0;
    const tsval = seen[TO_TSVAL]!;

    said.fill(0);
    said[TO_WINDOW_SCALE] = -1;
    said[TO_TIMESTAMPS] = both ? 1 : 0;
    said[TO_TSVAL] = i32[word + X_CLIENT_TIMESTAMP]!;
    said[TO_TSECR] = tsval;
    const toBackendAt =
      hops.toBackend(backendSlotOf(i32[flowWord + F_BACKEND]!)) === HOP_FOUND
        ? output.takeSpare()
        : -1;
    // The backend sends its SYN-ACK again, and then there is room.
    if (toBackendAt < 0) return DROPPED | (DROP_OUT_OF_STATE << 8);
    const next = i32[flowWord + F_ACK_REPLY]!;
    const window = scaleWindow(clientWindow, toBackend);
    const bytes = own.toBackend(toBackendAt, flowWord, next, (first + 1) | 0, TCP_ACK, window);
    originate(toBackendAt, bytes, rxWord);

    passive.answered(flowWord, i32[word + X_SEQUENCE_DELTA]!);
    const cookie = i32[word + X_COOKIE]!;
    i32[word + X_SEQUENCE_DELTA] = (first - cookie) | 0;
    i32[word + X_TIMESTAMP_DELTA] = both ? (tsval - i32[word + X_OUR_TIMESTAMP]!) | 0 : 0;
    i32[word + X_OPTIONS] = (toBackend & 0xff) | ((toClient & 0xff) << 8);
    i32[word + X_PHASE] = PHASE_SPLICED;
    flows.enter(flowWord, backend, STATE_ESTABLISHED);
    openWindow(flowWord, word, backendWindow, told, both);
    return REPLIED;
  }

  /** Tell the client that it may send. If it is lost, the client's window probe brings it. */
  function openWindow(
    flowWord: number,
    word: number,
    backendWindow: number,
    told: number,
    hasTimestamps: boolean,
  ): void {
    const ipAt = hops.toClient(flowWord) === HOP_FOUND ? output.takeSpare() : -1;
    if (ipAt < 0) {
      add(C_ORIGINATED_LOST);
      return;
    }
    said.fill(0);
    said[TO_WINDOW_SCALE] = -1;
    said[TO_TIMESTAMPS] = hasTimestamps ? 1 : 0;
    said[TO_TSVAL] = i32[word + X_OUR_TIMESTAMP]!;
    said[TO_TSECR] = i32[word + X_CLIENT_TIMESTAMP]!;
    // The window of a SYN-ACK is not scaled, that of this ACK is.
    const window = scaleWindow(backendWindow, -Math.max(0, told));
    originate(ipAt, own.toClient(ipAt, flowWord, TCP_ACK, window), ORIGINATED);
  }

  function learn(l4At: number, service: number, own: boolean, offered: number): void {
    const run = runOf(service);
    readTcpOptions(view, l4At, seen);
    if (seen[TO_MSS] !== 0) i32[run + N_LEARNT_MSS] = seen[TO_MSS]!;
    let learnt = i32[run + N_LEARNT]!;
    // A client that was told a scale does not say which: it changes only while none was told. A
    // backend with another one, or with none, has its windows brought to it (join).
    const scale = seen[TO_WINDOW_SCALE]!;
    if (scale >= 0 && !mayHaveSent(service)) {
      learnt = (learnt & ~LEARNT_SCALE_MASK) | LEARNT_SCALE | scale;
    }
    if (seen[TO_SACK_PERMITTED] !== 0) learnt &= ~LEARNT_NO_SACK;
    else if (own && (offered & X_SACK) !== 0) learnt |= LEARNT_NO_SACK;
    if (seen[TO_TIMESTAMPS] !== 0) learnt &= ~LEARNT_NO_TIMESTAMPS;
    else if (own && (offered & X_TIMESTAMPS) !== 0) learnt |= LEARNT_NO_TIMESTAMPS;
    const ecn = (view.getUint8(l4At + 13) & (TCP_ECE | TCP_CWR)) === TCP_ECE;
    if (ecn) learnt |= LEARNT_ECN;
    else if (own && (offered & X_ECN) !== 0) learnt &= ~LEARNT_ECN;
    i32[run + N_LEARNT] = learnt;
  }

  return { answers, answer, accepts, begin, isOpening, receive, retry, learn };
}
