import { fold, pseudoSumIpv6, sumBytes } from "./checksum.ts";
import { IPV6_HEADER_BYTES, WALK_L4_AT, WALK_OK, WALK_PROTOCOL, walkExtensions } from "./ipv6.ts";

/**
 * ICMPv6 (RFC 4443). `at` is the first byte of the message.
 *
 *    0               2               4
 *   +-------+-------+---------------+
 *   | Type  | Code  |   Checksum    |   over the pseudo header too (section 2.3)
 *   |  depends on the type          |   echo: identifier, sequence; packet too big: MTU
 *   |  echo: data. error: as much of the packet at fault as fits in 1,280 bytes
 *
 * Types below 128 are errors.
 */

const CHECKSUM = 2;
const PARAMETER = 4;

export const ICMP6_HEADER_BYTES = 8;
/** IP protocol number. */
export const ICMP6_PROTOCOL = 58;

export const ICMP6_UNREACHABLE = 1;
export const ICMP6_PACKET_TOO_BIG = 2;
export const ICMP6_TIME_EXCEEDED = 3;
export const ICMP6_PARAMETER_PROBLEM = 4;
export const ICMP6_ECHO_REQUEST = 128;
export const ICMP6_ECHO_REPLY = 129;
export const ICMP6_REDIRECT = 137;

/** Codes of ICMP6_UNREACHABLE. */
export const ICMP6_CODE_NO_ROUTE = 0;
export const ICMP6_CODE_ADMIN_PROHIBITED = 1;
export const ICMP6_CODE_BEYOND_SCOPE = 2;
export const ICMP6_CODE_ADDRESS_UNREACHABLE = 3;
export const ICMP6_CODE_PORT_UNREACHABLE = 4;
/** Code of ICMP6_PARAMETER_PROBLEM: the next header is not known. */
export const ICMP6_CODE_NEXT_HEADER = 1;

export const ICMP6_OK = 0;
export const ICMP6_MALFORMED = 1;
export const ICMP6_CHECKSUM_WRONG = 2;

/**
 * Check the message: eight bytes of header, and its checksum.
 *
 * @param ipAt - IPv6 header, checked
 * @param at - the message
 * @param bytes - of the message; may be 0
 * @returns ICMP6_OK, ICMP6_MALFORMED or ICMP6_CHECKSUM_WRONG
 */
export function checkIcmp6(view: DataView, ipAt: number, at: number, bytes: number): number {
  if (bytes < ICMP6_HEADER_BYTES) return ICMP6_MALFORMED;
  const pseudo = pseudoSumIpv6(view, ipAt, ICMP6_PROTOCOL, bytes);
  return sumBytes(view, at, bytes, pseudo) === 0xffff ? ICMP6_OK : ICMP6_CHECKSUM_WRONG;
}

export function icmp6Type(view: DataView, at: number): number {
  return view.getUint8(at);
}

export function icmp6Code(view: DataView, at: number): number {
  return view.getUint8(at + 1);
}

/** MTU of a packet too big, pointer of a parameter problem; as an uint32. */
export function icmp6Parameter(view: DataView, at: number): number {
  return view.getUint32(at + PARAMETER);
}

export function isIcmp6Error(type: number): boolean {
  return type < 128;
}

/** Compute the checksum anew, with the addresses of the header at `ipAt`. */
export function fillIcmp6Checksum(view: DataView, ipAt: number, at: number, bytes: number): void {
  view.setUint16(at + CHECKSUM, 0);
  const pseudo = pseudoSumIpv6(view, ipAt, ICMP6_PROTOCOL, bytes);
  view.setUint16(at + CHECKSUM, ~fold(sumBytes(view, at, bytes, pseudo)) & 0xffff);
}

/**
 * Write the eight bytes before the quote. The checksum is 0: fillIcmp6Checksum().
 *
 * @param parameter - MTU or pointer, else 0
 */
export function writeIcmp6ErrorHeader(
  view: DataView,
  at: number,
  type: number,
  code: number,
  parameter: number,
): void {
  view.setInt32(at, (type << 24) | (code << 16));
  view.setInt32(at + PARAMETER, parameter);
}

/**
 * Check the packet that an error quotes: a whole IPv6 header, and its transport header as far as the
 * ports and four bytes behind them.
 *
 * @param at - first byte of the quoted header
 * @param bytes - bytes of the message from `at` on; may be 0
 * @param result - WALK_WORDS words
 * @returns ICMP6_OK or ICMP6_MALFORMED
 */
export function checkQuote6(view: DataView, at: number, bytes: number, result: Int32Array): number {
  if (bytes < IPV6_HEADER_BYTES || view.getUint8(at) >>> 4 !== 6) return ICMP6_MALFORMED;
  if (walkExtensions(view, at, at + bytes, result) !== WALK_OK) return ICMP6_MALFORMED;
  const isCut = result[WALK_L4_AT]! + 8 > at + bytes;
  return isCut || result[WALK_PROTOCOL] === 0 ? ICMP6_MALFORMED : ICMP6_OK;
}

/** Whether there is no route, or address or port cannot be reached (RFC 4443 section 3.1). */
export function isIcmp6Unreachable(view: DataView, at: number): boolean {
  if (icmp6Type(view, at) !== ICMP6_UNREACHABLE) return false;
  const code = icmp6Code(view, at);
  return (
    code === ICMP6_CODE_NO_ROUTE ||
    code === ICMP6_CODE_ADDRESS_UNREACHABLE ||
    code === ICMP6_CODE_PORT_UNREACHABLE
  );
}
