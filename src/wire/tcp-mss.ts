import { difference16 } from "./checksum.ts";

/** The MSS option of a SYN (RFC 9293 sections 3.2 and 3.7.1), found and lowered. */

const OPTION_END = 0;
const OPTION_NO_OPERATION = 1;
const OPTION_MSS = 2;
const OPTION_MSS_BYTES = 4;

/** Header of a segment without options. */
const TCP_HEADER_BYTES = 20;

/**
 * Where the value of the maximum segment size lies (RFC 9293 section 3.7.1), or -1: there is none,
 * or what stands before it is malformed.
 *
 * @param tcpAt - a checked TCP header; its options lie inside `headerBytes`
 */
export function findMss(view: DataView, tcpAt: number, headerBytes: number): number {
  const end = tcpAt + headerBytes;
  let at = tcpAt + TCP_HEADER_BYTES;
  while (at < end) {
    const kind = view.getUint8(at);
    if (kind === OPTION_END) return -1;
    if (kind === OPTION_NO_OPERATION) {
      at++;
      continue;
    }
    if (at + 2 > end) return -1;
    const bytes = view.getUint8(at + 1);
    if (bytes < 2 || at + bytes > end) return -1;
    if (kind === OPTION_MSS) return bytes === OPTION_MSS_BYTES ? at + 2 : -1;
    at += bytes;
  }
  return -1;
}

/** No option was changed. */
export const MSS_UNCHANGED = -1;

/**
 * Lower the maximum segment size of a SYN to `most`. A segment without the option is left as it is:
 * its peer sends 536 or 1220 bytes at most (RFC 9293 section 3.7.1).
 *
 * @returns the difference that the checksum takes (wire/checksum.ts), or MSS_UNCHANGED
 */
export function clampMss(view: DataView, tcpAt: number, headerBytes: number, most: number): number {
  const at = findMss(view, tcpAt, headerBytes);
  if (at < 0) return MSS_UNCHANGED;
  const before = view.getUint16(at);
  if (before <= most) return MSS_UNCHANGED;
  view.setUint16(at, most);
  // At an odd place the value's bytes are the low half of one word and the high half of the next.
  if (((at - tcpAt) & 1) === 0) return difference16(before, most);
  return difference16(swap16(before), swap16(most));
}

function swap16(value: number): number {
  return ((value & 0xff) << 8) | (value >>> 8);
}
