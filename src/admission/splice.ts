import { assert } from "../base/assert.ts";
import { SPLICE_BYTES } from "../state/layout.ts";
import { add16, difference16, difference32, updateChecksum } from "../wire/checksum.ts";
import { TCP_ACK, TCP_CHECKSUM_AT, TCP_SYN, tcpFlags } from "../wire/tcp.ts";
import { shiftTcpOptions } from "../wire/tcp-options.ts";

/**
 * Splices: two TCP connections joined to one. Where the gateway has answered a SYN itself, client
 * and backend count the backend's bytes from different numbers for the life of the flow, and maybe
 * its timestamps and windows too.
 *
 *   client -> backend   acknowledgement + D, SACK blocks + D, echoed timestamp + T
 *   backend -> client   sequence - D, timestamp - T
 *
 * D: the backend's initial sequence number less ours; T: its first timestamp less ours. The client's
 * own numbers are the same on both sides. Windows are brought to the scale that their reader uses.
 *
 * A flow's splice lies in a row of its own with the flow's row number. S_PHASE is 0 unless the
 * flow has one, and is 0 again before the row is free; a flow with a splice has KEY_SLOW.
 */

/** PHASE_…; the words below mean something when it is not 0. */
export const X_PHASE = 0;
/** D. While opening: the microseconds at which the SYN went to the backend (datapath/passive.ts). */
export const X_SEQUENCE_DELTA = 1;
/** T; 0 where one of the two has no timestamps. */
export const X_TIMESTAMP_DELTA = 2;
/** Initial sequence numbers: the client's, and ours. */
export const X_CLIENT_SEQUENCE = 3;
export const X_COOKIE = 4;
/**
 * Opening: the client's MSS | its window scale (0xf: none) << 16 | X_SACK.. | tries << 24.
 * Spliced: bits that windows of the client are shifted left | those of the backend << 8 (as int8).
 */
export const X_OPTIONS = 5;
/** Opening: the client's timestamp, and ours that it has echoed. */
export const X_CLIENT_TIMESTAMP = 6;
export const X_OUR_TIMESTAMP = 7;
export const SPLICE_WORDS = 8;
assert(SPLICE_WORDS * 4 === SPLICE_BYTES, "a splice is one section record");

export const PHASE_NONE = 0;
/** The client has a connection, the backend was sent a SYN. Bits 8-23: the client's window. */
export const PHASE_OPENING = 1;
export const PHASE_SPLICED = 2;
export const PHASE_MASK = 0xff;

export const X_SCALE_AT = 16;
export const X_SACK = 1 << 20;
export const X_TIMESTAMPS = 1 << 21;
export const X_ECN = 1 << 22;
export const X_TRIES_AT = 24;

/**
 * Rewrite a segment of a spliced flow: all but its addresses and ports.
 *
 * @param at - its TCP header, checked
 * @param word - first word of the splice, PHASE_SPLICED
 * @param toBackend - the client has sent it
 * @param partial - its checksum is that of the pseudo header alone
 */
export function spliceSegment(
  view: DataView,
  at: number,
  i32: Int32Array,
  word: number,
  toBackend: boolean,
  partial: boolean,
): void {
  const sequenceDelta = i32[word + X_SEQUENCE_DELTA]!;
  const timestampDelta = i32[word + X_TIMESTAMP_DELTA]!;
  const shifts = i32[word + X_OPTIONS]!;
  const flags = tcpFlags(view, at);
  let delta: number;
  if (toBackend) {
    delta = (flags & TCP_ACK) === 0 ? 0 : shiftField(view, at + 8, sequenceDelta);
    delta = add16(delta, shiftTcpOptions(view, at, sequenceDelta, 0, timestampDelta));
  } else {
    delta = shiftField(view, at + 4, -sequenceDelta | 0);
    delta = add16(delta, shiftTcpOptions(view, at, 0, -timestampDelta | 0, 0));
  }
  // RFC 7323 2.2: the window of a SYN is never scaled.
  const shift = toBackend ? (shifts << 24) >> 24 : (shifts << 16) >> 24;
  if (shift !== 0 && (flags & TCP_SYN) === 0) delta = add16(delta, shiftWindow(view, at, shift));
  // A partial checksum says nothing of the header: who completes it sums what is there then.
  if (partial) return;
  const field = at + TCP_CHECKSUM_AT;
  view.setUint16(field, updateChecksum(view.getUint16(field), delta));
}

function shiftField(view: DataView, field: number, by: number): number {
  const before = view.getInt32(field);
  const after = (before + by) | 0;
  view.setInt32(field, after);
  return difference32(before, after);
}

function shiftWindow(view: DataView, at: number, shift: number): number {
  const before = view.getUint16(at + 14);
  const after = scaleWindow(before, shift);
  view.setUint16(at + 14, after);
  return difference16(before, after);
}

/**
 * A window field in another scale, at most 0xffff. It is 0 only for 0: a window too small for the scale
 * counts as one unit, or its reader would wait for ever.
 */
export function scaleWindow(window: number, shift: number): number {
  if (shift >= 0) return Math.min(window << shift, 0xffff);
  const less = window >>> -shift;
  return less === 0 && window !== 0 ? 1 : less;
}
