import { assert } from "../base/assert.ts";
import {
  STATE_CLOSE,
  STATE_ESTABLISHED,
  STATE_FIN_WAIT,
  STATE_FREE,
  STATE_SYN_RECV,
} from "./flow-record.ts";
import { SEGMENT_KINDS, TCP_IGNORE, TCP_INVALID, TCP_NEW_FLOW } from "./tcp-state.ts";

/**
 * TCP states of a flow of which only the client's half is seen (dsr, ipip, gue): [kind of segment]
 * [state] -> state. IPVS has such a table too (net/netfilter/ipvs/ip_vs_proto_tcp.c, tcp_states,
 * INPUT_ONLY); what differs is marked "ours".
 *
 * What the backend sends goes to the client by another way, so every state is what the client's own
 * segments prove:
 *
 *   SYN_RECV     SYN seen. IPVS names it so: a SYN+ACK may have been sent. Timeout synReceived
 *   ESTABLISHED  an ACK without SYN seen: the client has had the SYN+ACK
 *   FIN_WAIT     the client's FIN seen. Data of the other direction may still flow, and its
 *                acknowledgements keep the flow; the backend's FIN, and so the end, is never seen
 *   CLOSE        the client's RST seen
 *
 * The other states do not occur: they say what the backend has sent. A flow that closes in order
 * therefore ends with the timer finWait, not timeWait.
 */

const SR = STATE_SYN_RECV;
const ES = STATE_ESTABLISHED;
const FW = STATE_FIN_WAIT;
const CL = STATE_CLOSE;
const IG = TCP_IGNORE;
const IV = TCP_INVALID;
const NF = TCP_NEW_FLOW;

const COLUMNS = 9;
const STRIDE = 16;

// biome-ignore format: a table
const CELLS: readonly number[] = [
  //  no  SS  SR  ES  FW  CW  LA  TW  CL
  /* SYN */
      IV, IV, SR, IG, NF, IV, IV, IV, NF,
  // SR -> SR  the SYN again
  // ES -> IG  the same backend answers it: with a challenge ACK (RFC 9293 section 3.10.7.4), and the
  //           client's RST then makes way; or, when it has no such connection any more, with a SYN+ACK
  // FW -> NF  ours (IPVS keeps the record and the backend): the client has closed and uses the port
  //           anew. One that closed second is done with the connection once its FIN is acknowledged,
  //           which is not seen here
  // CL -> NF  opened anew after a RST
  /* SYN+ACK */
      IV, IV, IG, IG, IG, IV, IV, IV, IG,
  // An error that the backend settles.
  /* FIN */
      IV, IV, FW, FW, FW, IV, IV, IV, CL,
  // SR -> FW  closed before the first data; its ACK is that of the SYN+ACK
  // FW -> FW  the FIN again
  /* ACK */
      IV, IV, ES, ES, FW, IV, IV, IV, CL,
  // SR -> ES  the handshake is complete
  // FW -> FW  acknowledges data of the direction that is open, or the backend's FIN: alike from here
  // CL -> CL  still underway when the RST passed
  /* RST */
      IV, IV, CL, CL, CL, IV, IV, IV, CL,
  /* none of them */
      IV, IV, IV, IV, IV, IV, IV, IV, IV,
];
assert(CELLS.length === SEGMENT_KINDS * COLUMNS, "one cell a kind and state");
assert(STATE_FREE === 0 && STATE_CLOSE === COLUMNS - 1, "columns are the states in their order");

const NEXT = new Int8Array(SEGMENT_KINDS * STRIDE).fill(TCP_INVALID);
CELLS.forEach((next, index) => {
  NEXT[Math.floor(index / COLUMNS) * STRIDE + (index % COLUMNS)] = next;
});

/** State of a one-way flow whose first segment is a SYN, or an adopted one. */
export const ONE_WAY_FIRST_STATE = STATE_SYN_RECV;

/**
 * @param state - STATE_SYN_RECV..STATE_CLOSE
 * @param kind - SEGMENT_… of a segment of the client
 * @returns the state after the segment, or TCP_IGNORE, TCP_INVALID, TCP_NEW_FLOW
 */
export function nextOneWayState(state: number, kind: number): number {
  return NEXT[kind * STRIDE + (state & (STRIDE - 1))]!;
}
