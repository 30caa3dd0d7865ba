import { sumBytes } from "./checksum.ts";

/**
 * ICMP for IPv4 (RFC 792). `at` is the first byte of the message.
 *
 *    0               2               4
 *   +-------+-------+---------------+
 *   | Type  | Code  |   Checksum    |
 *   |  depends on the type          |   echo: identifier, sequence; fragmentation needed: 0, MTU
 *   |  echo: data. error: the IP header of the packet at fault and at least 8 bytes after it
 */

const CHECKSUM = 2;
const REST = 4;

export const ICMP_HEADER_BYTES = 8;

export const ICMP_ECHO_REPLY = 0;
export const ICMP_UNREACHABLE = 3;
export const ICMP_SOURCE_QUENCH = 4;
export const ICMP_REDIRECT = 5;
export const ICMP_ECHO_REQUEST = 8;
export const ICMP_TIME_EXCEEDED = 11;
export const ICMP_PARAMETER_PROBLEM = 12;

/** Codes of ICMP_UNREACHABLE (RFC 792; 13: RFC 1812 5.2.7.1). */
export const ICMP_CODE_NET_UNREACHABLE = 0;
export const ICMP_CODE_HOST_UNREACHABLE = 1;
export const ICMP_CODE_PROTOCOL_UNREACHABLE = 2;
export const ICMP_CODE_PORT_UNREACHABLE = 3;
export const ICMP_CODE_FRAGMENTATION_NEEDED = 4;
export const ICMP_CODE_ADMIN_PROHIBITED = 13;
/** Codes of ICMP_TIME_EXCEEDED. */
export const ICMP_CODE_TTL_EXCEEDED = 0;
export const ICMP_CODE_REASSEMBLY_EXCEEDED = 1;

export const ICMP_OK = 0;
/** Too short, or, for a quote, not the start of an IPv4 packet. */
export const ICMP_MALFORMED = 1;
export const ICMP_CHECKSUM_WRONG = 2;

/**
 * Check the message: eight bytes of header, and its checksum.
 *
 * @param l4Bytes - bytes of the message, from the IP total length; may be 0
 * @param verifyChecksum - false where the checksum is partial or cannot be whole (a fragment)
 * @returns ICMP_OK, ICMP_MALFORMED or ICMP_CHECKSUM_WRONG
 */
export function checkIcmp(
  view: DataView,
  at: number,
  l4Bytes: number,
  verifyChecksum: boolean,
): number {
  if (l4Bytes < ICMP_HEADER_BYTES) return ICMP_MALFORMED;
  if (verifyChecksum && sumBytes(view, at, l4Bytes) !== 0xffff) return ICMP_CHECKSUM_WRONG;
  return ICMP_OK;
}

export function icmpType(view: DataView, at: number): number {
  return view.getUint8(at);
}

export function icmpCode(view: DataView, at: number): number {
  return view.getUint8(at + 1);
}

export function icmpChecksum(view: DataView, at: number): number {
  return view.getUint16(at + CHECKSUM);
}

export function setIcmpChecksum(view: DataView, at: number, checksum: number): void {
  view.setUint16(at + CHECKSUM, checksum);
}

/**
 * Types that quote the packet they are about (RFC 1122 3.2.2). Such a message is never answered
 * with another error.
 *
 * @param type - 0..255
 */
export function isIcmpError(type: number): boolean {
  return (
    type === ICMP_UNREACHABLE ||
    type === ICMP_TIME_EXCEEDED ||
    type === ICMP_SOURCE_QUENCH ||
    type === ICMP_REDIRECT ||
    type === ICMP_PARAMETER_PROBLEM
  );
}

/**
 * Check the packet that an error quotes: an IPv4 header, and the first 8 bytes of its transport
 * (RFC 792), which hold the ports. The quote may end there, so its total length is not checked; nor
 * is its header checksum, which routers on the way may have left wrong (RFC 5508 4.2). A later
 * fragment is no good: those 8 bytes are data, and nobody may send an error about it (RFC 1122
 * 3.2.2).
 *
 * @param at - first byte of the quoted header, `ICMP_HEADER_BYTES` after the message's start
 * @param bytes - bytes of the message from `at` on; may be 0
 * @returns ICMP_OK or ICMP_MALFORMED
 */
export function checkQuote(view: DataView, at: number, bytes: number): number {
  if (bytes < 28) return ICMP_MALFORMED;
  const versionIhl = view.getUint8(at);
  const headerBytes = (versionIhl & 0x0f) << 2;
  if (versionIhl >>> 4 !== 4 || headerBytes < 20 || headerBytes + 8 > bytes) return ICMP_MALFORMED;
  return (view.getUint16(at + 6) & 0x1fff) === 0 ? ICMP_OK : ICMP_MALFORMED;
}

/**
 * Write the eight bytes before the quote. The checksum is 0: the caller adds it.
 *
 * @param mtuOrZero - next-hop MTU for fragmentation needed (RFC 1191 4), else 0
 */
export function writeIcmpErrorHeader(
  view: DataView,
  at: number,
  type: number,
  code: number,
  mtuOrZero: number,
): void {
  view.setInt32(at, (type << 24) | (code << 16));
  view.setInt32(at + REST, mtuOrZero & 0xffff);
}

/** Whether the message says that network, host, protocol or port cannot be reached (RFC 792). */
export function isUnreachable(view: DataView, at: number): boolean {
  return (
    icmpType(view, at) === ICMP_UNREACHABLE && icmpCode(view, at) <= ICMP_CODE_PORT_UNREACHABLE
  );
}
