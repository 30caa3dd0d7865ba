import { assert } from "../base/assert.ts";
import {
  STATE_CLOSE,
  STATE_CLOSE_WAIT,
  STATE_ESTABLISHED,
  STATE_FIN_WAIT,
  STATE_FREE,
  STATE_LAST_ACK,
  STATE_SYN_RECV,
  STATE_SYN_SENT,
  STATE_TIME_WAIT,
} from "./flow-record.ts";

/**
 * TCP states of a flow, as netfilter has them: [direction][kind of segment][state] -> state
 * (Linux, net/netfilter/nf_conntrack_proto_tcp.c, tcp_conntracks). What differs is marked "ours".
 *
 * We are in the middle: a segment that we have seen may be lost behind us, so each state is what
 * the sender of the latest segment is likely to think. Sequence numbers are not looked at.
 *
 *   NONE         no flow; never in a record (the caller handles a segment without a flow)
 *   SYN_SENT     client's SYN seen
 *   SYN_RECV     backend's SYN+ACK seen
 *   ESTABLISHED  client's ACK seen
 *   FIN_WAIT     a FIN seen
 *   CLOSE_WAIT   an ACK seen after it
 *   LAST_ACK     a FIN seen after a FIN
 *   TIME_WAIT    the last ACK seen
 *   CLOSE        a RST seen
 *
 * Netfilter's SYN_SENT2 is left out (ours): it is the state of a simultaneous open, in which both
 * ends send a SYN. A backend cannot open towards the client here: its SYN would have to leave from
 * the VIP's port towards the client's, while the client's SYN is under way. A SYN from a backend
 * that belongs to a flow is therefore invalid in every state.
 */

/** Kinds of segments: what get_conntrack_index() of the same file makes of the flags. */
export const SEGMENT_SYN = 0;
export const SEGMENT_SYN_ACK = 1;
export const SEGMENT_FIN = 2;
export const SEGMENT_ACK = 3;
export const SEGMENT_RST = 4;
export const SEGMENT_NONE = 5;
export const SEGMENT_KINDS = 6;

/** Pass the segment, keep the state and its timer: it may be valid or not, the receiver knows. */
export const TCP_IGNORE = -1;
/** Not a segment of this flow: out of state. */
export const TCP_INVALID = -2;
/** The flow is over and this SYN begins another one: remove it and schedule anew. */
export const TCP_NEW_FLOW = -3;

/** Flags of the TCP header (RFC 9293 section 3.1). */
const FIN = 0x01;
const SYN = 0x02;
const RST = 0x04;
const ACK = 0x10;

const SS = STATE_SYN_SENT;
const SR = STATE_SYN_RECV;
const ES = STATE_ESTABLISHED;
const FW = STATE_FIN_WAIT;
const CW = STATE_CLOSE_WAIT;
const LA = STATE_LAST_ACK;
const TW = STATE_TIME_WAIT;
const CL = STATE_CLOSE;
const IG = TCP_IGNORE;
const IV = TCP_INVALID;
const NF = TCP_NEW_FLOW;

const COLUMNS = 9;
/** Room for every value of the four low bits, so that no state reads beside the table. */
const STRIDE = 16;

// biome-ignore format: a table
const CELLS: readonly number[] = [
  // ORIGINAL: client to VIP
  //  no  SS  SR  ES  FW  CW  LA  TW  CL
  /* SYN */
      IV, SS, IG, IG, IG, IG, NF, NF, NF,
  // SS -> SS  the SYN again
  // SR -> IG  the SYN again, late; or the SYN+ACK was lost behind us: the backend answers
  // ES -> IG  the backend answers with a challenge ACK (RFC 9293 section 3.10.7.4); if the client
  //           has forgotten the connection it resets it then, and its next SYN finds CLOSE
  // FW -> IG  as ES: one direction may still carry data
  // CW -> IG  as ES
  // LA -> NF  ours (netfilter ignores it): both ends have sent their FIN, only an ACK is missing,
  //           and a client that opens anew from this port has had it
  // TW -> NF  opened anew (RFC 1122 section 4.2.2.13); netfilter goes to SYN_SENT in the same
  //           record, a load balancer schedules again
  // CL -> NF  as TW, after a RST
  /* SYN+ACK */
      IV, IV, IG, IG, IG, IG, IG, IG, IG,
  // SS -> IV  a client cannot send SYN, then SYN+ACK
  // SR..CL -> IG  an error, if it is in window; the backend answers with a RST or not at all
  /* FIN */
      IV, IV, FW, FW, LA, LA, LA, TW, CL,
  // SS -> IV  a SYN+ACK must have come first
  // SR -> FW  closed before the first data; the ACK of the SYN+ACK was lost before us, or is this
  // ES -> FW  the close begins
  // FW -> LA  FIN seen in both directions; or the same FIN again (the caller that knows, by
  //           FLAG_FIN_…, that it is the same one gives SEGMENT_ACK)
  // CW -> LA  the other FIN
  // LA -> LA  the FIN again
  // TW -> TW  the FIN again, the last ACK was lost behind us
  // CL -> CL  still underway when the RST passed
  /* ACK */
      IV, IV, ES, ES, CW, CW, TW, TW, CL,
  // SS -> IV  we have seen no SYN+ACK that it could acknowledge
  // SR -> ES  the handshake is complete
  // ES -> ES  data or acknowledgement
  // FW -> CW  the FIN is acknowledged; or data of the direction that is open
  // CW -> CW  data of the direction that is open
  // LA -> TW  the last ACK
  // TW -> TW  the last ACK again
  // CL -> CL  still underway when the RST passed
  /* RST */
      IV, CL, CL, CL, CL, CL, CL, CL, CL,
  // The client gives up. The flow stays for the timeout of CLOSE (RFC 7857 section 2.2), so that
  // segments still underway, and a RST that was forged, do no harm to the other end.
  /* none of them */
      IV, IV, IV, IV, IV, IV, IV, IV, IV,
  // Every segment after the first SYN has ACK or RST (RFC 9293 section 3.10.7).

  // REPLY: backend to client
  //  no  SS  SR  ES  FW  CW  LA  TW  CL
  /* SYN */
      IV, IV, IV, IV, IV, IV, IV, IV, IV,
  // SS -> IV  ours (netfilter: SYN_SENT2): see above, no simultaneous open
  // SR..CL -> IV  a backend does not open
  /* SYN+ACK */
      IV, SR, IG, IG, IG, IG, IG, IG, IG,
  // SS -> SR  the standard open
  // SR -> IG  the SYN+ACK again
  // ES -> IG  late, or our client's ACK was lost behind us
  // FW..CL -> IG  the answer to a SYN that was ignored; the client settles it with a RST
  /* FIN */
      IV, IV, FW, FW, LA, LA, LA, TW, CL,
  // SS -> IV  a SYN+ACK must come first
  // SR -> FW  the backend closes at once; the client's ACK was lost before us
  // else as ORIGINAL
  /* ACK */
      IV, IG, SR, ES, CW, CW, TW, TW, CL,
  // SS -> IG  the backend holds a dead connection of the same addresses and ports and challenges
  //           the SYN (RFC 9293 section 3.10.7.4): the client needs it, to reset that connection
  // SR -> SR  the backend answers a SYN that came again; only the client completes the handshake
  // else as ORIGINAL
  /* RST */
      IV, CL, CL, CL, CL, CL, CL, CL, CL,
  // SS -> CL  the port is closed: the client's next SYN is scheduled anew
  /* none of them */
      IV, IV, IV, IV, IV, IV, IV, IV, IV,
];
assert(CELLS.length === 2 * SEGMENT_KINDS * COLUMNS, "one cell a direction, kind and state");
assert(STATE_FREE === 0 && STATE_CLOSE === COLUMNS - 1, "columns are the states in their order");

const NEXT = new Int8Array(2 * SEGMENT_KINDS * STRIDE).fill(TCP_INVALID);
CELLS.forEach((next, index) => {
  const row = Math.floor(index / COLUMNS);
  NEXT[row * STRIDE + (index % COLUMNS)] = next;
});

/**
 * @param flags - flags byte of the TCP header; combinations that no stack sends are sorted out
 *   before (wire/tcp.ts, checkTcp)
 * @returns SEGMENT_…: the first of RST, SYN (with ACK or not), FIN, ACK that is set
 */
export function segmentKind(flags: number): number {
  if ((flags & RST) !== 0) return SEGMENT_RST;
  if ((flags & SYN) !== 0) return (flags & ACK) !== 0 ? SEGMENT_SYN_ACK : SEGMENT_SYN;
  if ((flags & FIN) !== 0) return SEGMENT_FIN;
  return (flags & ACK) !== 0 ? SEGMENT_ACK : SEGMENT_NONE;
}

/**
 * @param state - STATE_SYN_SENT..STATE_CLOSE
 * @param direction - ORIGINAL or REPLY
 * @param kind - SEGMENT_…
 * @returns the state after the segment, or TCP_IGNORE, TCP_INVALID, TCP_NEW_FLOW
 */
export function nextState(state: number, direction: number, kind: number): number {
  return NEXT[(direction * SEGMENT_KINDS + kind) * STRIDE + (state & (STRIDE - 1))]!;
}
