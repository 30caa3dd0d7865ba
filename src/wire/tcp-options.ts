import { add16, difference32 } from "./checksum.ts";
import { TCP_HEADER_BYTES, tcpHeaderBytes } from "./tcp.ts";

/**
 * TCP options (RFC 9293 3.1, 3.2; RFC 7323; RFC 2018): those of a SYN, and the two that carry
 * numbers of the connection, SACK and timestamps. Every walk stays inside the header: an option that
 * would leave it ends the walk, as stacks do.
 */

const KIND_END = 0;
const KIND_NOP = 1;
const KIND_MSS = 2;
const KIND_WINDOW_SCALE = 3;
const KIND_SACK_PERMITTED = 4;
const KIND_SACK = 5;
const KIND_TIMESTAMPS = 8;

const MSS_BYTES = 4;
const WINDOW_SCALE_BYTES = 3;
const TIMESTAMPS_BYTES = 10;

/** RFC 7323 section 2.3: larger ones count as 14. */
export const WINDOW_SCALE_MAX = 14;

/** Words that readTcpOptions() fills. */
export const TO_MSS = 0; // 0: none
export const TO_WINDOW_SCALE = 1; // -1: none
export const TO_SACK_PERMITTED = 2; // 0 or 1
export const TO_TIMESTAMPS = 3; // 0 or 1
export const TO_TSVAL = 4;
export const TO_TSECR = 5;
export const TCP_OPTION_WORDS = 8;

/**
 * Read the options of a header that checkTcp() has passed.
 *
 * @param into - TCP_OPTION_WORDS words, TO_…
 */
export function readTcpOptions(view: DataView, at: number, into: Int32Array): void {
  into[TO_MSS] = 0;
  into[TO_WINDOW_SCALE] = -1;
  into[TO_SACK_PERMITTED] = 0;
  into[TO_TIMESTAMPS] = 0;
  const end = at + tcpHeaderBytes(view, at);
  let next = at + TCP_HEADER_BYTES;
  while (next < end) {
    const kind = view.getUint8(next);
    if (kind === KIND_END) return;
    if (kind === KIND_NOP) {
      next++;
      continue;
    }
    if (next + 1 >= end) return;
    const bytes = view.getUint8(next + 1);
    if (bytes < 2 || next + bytes > end) return;
    if (kind === KIND_MSS && bytes === MSS_BYTES) into[TO_MSS] = view.getUint16(next + 2);
    else if (kind === KIND_WINDOW_SCALE && bytes === WINDOW_SCALE_BYTES) {
      into[TO_WINDOW_SCALE] = Math.min(view.getUint8(next + 2), WINDOW_SCALE_MAX);
    } else if (kind === KIND_SACK_PERMITTED && bytes === 2) into[TO_SACK_PERMITTED] = 1;
    else if (kind === KIND_TIMESTAMPS && bytes === TIMESTAMPS_BYTES) {
      into[TO_TIMESTAMPS] = 1;
      into[TO_TSVAL] = view.getInt32(next + 2);
      into[TO_TSECR] = view.getInt32(next + 6);
    }
    next += bytes;
  }
}

/**
 * Write the options of a SYN or of an ACK, aligned as Linux does.
 *
 * @param from - TO_…: what to write; 0 and -1 leave an option out
 * @returns bytes, a multiple of 4, at most 20
 */
export function writeTcpOptions(view: DataView, at: number, from: Int32Array): number {
  let next = at;
  const mss = from[TO_MSS]!;
  if (mss !== 0) {
    view.setInt32(next, (KIND_MSS << 24) | (MSS_BYTES << 16) | mss);
    next += 4;
  }
  const sack = from[TO_SACK_PERMITTED] !== 0;
  if (from[TO_TIMESTAMPS] !== 0) {
    const padding = sack ? (KIND_SACK_PERMITTED << 8) | 2 : (KIND_NOP << 8) | KIND_NOP;
    view.setInt32(next, (padding << 16) | (KIND_TIMESTAMPS << 8) | TIMESTAMPS_BYTES);
    view.setInt32(next + 4, from[TO_TSVAL]!);
    view.setInt32(next + 8, from[TO_TSECR]!);
    next += 12;
  } else if (sack) {
    view.setInt32(next, (KIND_NOP << 24) | (KIND_NOP << 16) | (KIND_SACK_PERMITTED << 8) | 2);
    next += 4;
  }
  const scale = from[TO_WINDOW_SCALE]!;
  if (scale >= 0) {
    const head = (KIND_NOP << 24) | (KIND_WINDOW_SCALE << 16) | (WINDOW_SCALE_BYTES << 8);
    view.setInt32(next, head | scale);
    next += 4;
  }
  return next - at;
}

/**
 * Add to the numbers in a segment's options.
 *
 * @param sack - added to both ends of every SACK block
 * @param tsval - added to the timestamp value
 * @param tsecr - added to the echoed timestamp, unless that is 0 (it then says nothing)
 * @returns delta of the checksum, 16 bits
 */
export function shiftTcpOptions(
  view: DataView,
  at: number,
  sack: number,
  tsval: number,
  tsecr: number,
): number {
  const end = at + tcpHeaderBytes(view, at);
  let next = at + TCP_HEADER_BYTES;
  let delta = 0;
  while (next < end) {
    const kind = view.getUint8(next);
    if (kind === KIND_END) return delta;
    if (kind === KIND_NOP) {
      next++;
      continue;
    }
    if (next + 1 >= end) return delta;
    const bytes = view.getUint8(next + 1);
    if (bytes < 2 || next + bytes > end) return delta;
    if (kind === KIND_SACK && sack !== 0) {
      for (let edge = next + 2; edge + 4 <= next + bytes; edge += 4) {
        delta = add16(delta, shiftWord(view, at, edge, sack));
      }
    } else if (kind === KIND_TIMESTAMPS && bytes === TIMESTAMPS_BYTES) {
      if (tsval !== 0) delta = add16(delta, shiftWord(view, at, next + 2, tsval));
      if (tsecr !== 0 && view.getInt32(next + 6) !== 0) {
        delta = add16(delta, shiftWord(view, at, next + 6, tsecr));
      }
    }
    next += bytes;
  }
  return delta;
}

/** A field at an odd place lies across the checksum's words: its delta has its bytes exchanged. */
function shiftWord(view: DataView, at: number, field: number, by: number): number {
  const before = view.getInt32(field);
  const after = (before + by) | 0;
  view.setInt32(field, after);
  const delta = difference32(before, after);
  return ((field - at) & 1) === 0 ? delta : ((delta & 0xff) << 8) | (delta >>> 8);
}
