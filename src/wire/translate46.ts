import { fold, pseudoSumIpv4, sumBytes } from "./checksum.ts";
import {
  ICMP_CODE_FRAGMENTATION_NEEDED,
  ICMP_CODE_HOST_UNREACHABLE,
  ICMP_CODE_PORT_UNREACHABLE,
  ICMP_CODE_PROTOCOL_UNREACHABLE,
  ICMP_PARAMETER_PROBLEM,
  ICMP_TIME_EXCEEDED,
  ICMP_UNREACHABLE,
} from "./icmp.ts";
import {
  ICMP6_CODE_ADMIN_PROHIBITED,
  ICMP6_CODE_NEXT_HEADER,
  ICMP6_CODE_NO_ROUTE,
  ICMP6_CODE_PORT_UNREACHABLE,
  ICMP6_PACKET_TOO_BIG,
  ICMP6_PARAMETER_PROBLEM,
  ICMP6_TIME_EXCEEDED,
  ICMP6_UNREACHABLE,
} from "./icmpv6.ts";
import { IPV4_HEADER_BYTES, ipv4Destination, ipv4Source } from "./ipv4.ts";
import { IPV6_HEADER_BYTES, IPV6_MTU_MIN } from "./ipv6.ts";

/** Between the families: headers, and errors of ICMP and ICMPv6 (RFC 7915). */

/** Code of ICMP_UNREACHABLE (RFC 1122 section 3.2.2.1). */
const CODE_HOST_PROHIBITED = 10;

/** What a packet grows by on its way from IPv4 to IPv6. */
export const FAMILY_BYTES = IPV6_HEADER_BYTES - IPV4_HEADER_BYTES;
/** An IPv4 packet up to this size is sent without Don't Fragment (RFC 7915 section 5.1). */
export const FRAGMENTABLE_BYTES = IPV6_MTU_MIN - FAMILY_BYTES;

/** Type, code and second word of a translated error; type -1: it is dropped. */
export const ERROR_TYPE = 0;
export const ERROR_CODE = 1;
export const ERROR_REST = 2;
export const ERROR_WORDS = 4;
const DROPPED = -1;

/** Code of ICMP_UNREACHABLE -> code of ICMP6_UNREACHABLE (RFC 7915 section 4.2); -1: not so. */
const UNREACHABLE_4_TO_6 = Int8Array.of(
  ICMP6_CODE_NO_ROUTE, // 0 net
  ICMP6_CODE_NO_ROUTE, // 1 host
  DROPPED, // 2 protocol: a parameter problem
  ICMP6_CODE_PORT_UNREACHABLE, // 3 port
  DROPPED, // 4 fragmentation needed: packet too big
  ICMP6_CODE_NO_ROUTE, // 5 source route failed
  ICMP6_CODE_NO_ROUTE, // 6 net unknown
  ICMP6_CODE_NO_ROUTE, // 7 host unknown
  ICMP6_CODE_NO_ROUTE, // 8 source isolated
  ICMP6_CODE_ADMIN_PROHIBITED, // 9 net prohibited
  ICMP6_CODE_ADMIN_PROHIBITED, // 10 host prohibited
  ICMP6_CODE_NO_ROUTE, // 11 net for this service
  ICMP6_CODE_NO_ROUTE, // 12 host for this service
  ICMP6_CODE_ADMIN_PROHIBITED, // 13 prohibited
  DROPPED, // 14 host precedence
  ICMP6_CODE_ADMIN_PROHIBITED, // 15 precedence cutoff
);
/** Pointer into the IPv4 header -> into the IPv6 header (RFC 7915 figure 3); -1: none. */
const POINTER_4_TO_6 = Int8Array.of(
  0,
  1,
  4,
  4,
  -1,
  -1,
  -1,
  -1,
  7,
  6,
  -1,
  -1,
  8,
  8,
  8,
  8,
  24,
  24,
  24,
  24,
);
/** And back (figure 6), by the bytes 0-39 of the IPv6 header. */
const POINTER_6_TO_4 = Int8Array.of(0, 1, -1, -1, 2, 2, 9, 8);

/**
 * What an ICMP error is as one of ICMPv6.
 *
 * @param rest - second word of its header: MTU in the low half, pointer in the top byte
 * @param result - ERROR_WORDS words
 * @returns false: there is no such error, and it is dropped
 */
export function errorTo6(type: number, code: number, rest: number, result: Int32Array): boolean {
  let type6 = DROPPED;
  let code6 = 0;
  let rest6 = 0;
  if (type === ICMP_UNREACHABLE && code <= 15) {
    if (code === ICMP_CODE_FRAGMENTATION_NEEDED) {
      type6 = ICMP6_PACKET_TOO_BIG;
      // A router of before RFC 1191 says 0: the smallest that IPv6 knows then.
      rest6 = Math.max(IPV6_MTU_MIN, (rest & 0xffff) + FAMILY_BYTES);
    } else if (code === ICMP_CODE_PROTOCOL_UNREACHABLE) {
      type6 = ICMP6_PARAMETER_PROBLEM;
      code6 = ICMP6_CODE_NEXT_HEADER;
      rest6 = 6;
    } else {
      code6 = UNREACHABLE_4_TO_6[code]!;
      if (code6 >= 0) type6 = ICMP6_UNREACHABLE;
    }
  } else if (type === ICMP_TIME_EXCEEDED) {
    type6 = ICMP6_TIME_EXCEEDED;
    code6 = code;
  } else if (type === ICMP_PARAMETER_PROBLEM && (code === 0 || code === 2)) {
    const pointer = rest >>> 24;
    rest6 = pointer < POINTER_4_TO_6.length ? POINTER_4_TO_6[pointer]! : DROPPED;
    if (rest6 >= 0) type6 = ICMP6_PARAMETER_PROBLEM;
  }
  result[ERROR_TYPE] = type6;
  result[ERROR_CODE] = code6;
  result[ERROR_REST] = rest6;
  return type6 !== DROPPED;
}

/** The other way (RFC 7915 section 5.2); `rest` is the MTU or the pointer. */
export function errorTo4(type: number, code: number, rest: number, result: Int32Array): boolean {
  let type4 = DROPPED;
  let code4 = 0;
  let rest4 = 0;
  if (type === ICMP6_UNREACHABLE && code <= 4) {
    type4 = ICMP_UNREACHABLE;
    if (code === ICMP6_CODE_PORT_UNREACHABLE) code4 = ICMP_CODE_PORT_UNREACHABLE;
    else if (code === ICMP6_CODE_ADMIN_PROHIBITED) code4 = CODE_HOST_PROHIBITED;
    else code4 = ICMP_CODE_HOST_UNREACHABLE;
  } else if (type === ICMP6_PACKET_TOO_BIG) {
    type4 = ICMP_UNREACHABLE;
    code4 = ICMP_CODE_FRAGMENTATION_NEEDED;
    const mtu = rest >>> 0;
    rest4 = (mtu > 0xffff ? 0xffff : Math.max(mtu, IPV6_MTU_MIN)) - FAMILY_BYTES;
  } else if (type === ICMP6_TIME_EXCEEDED) {
    type4 = ICMP_TIME_EXCEEDED;
    code4 = code;
  } else if (type === ICMP6_PARAMETER_PROBLEM && code === ICMP6_CODE_NEXT_HEADER) {
    type4 = ICMP_UNREACHABLE;
    code4 = ICMP_CODE_PROTOCOL_UNREACHABLE;
  } else if (type === ICMP6_PARAMETER_PROBLEM && code === 0) {
    const pointer = pointerTo4(rest >>> 0);
    if (pointer >= 0) type4 = ICMP_PARAMETER_PROBLEM;
    rest4 = pointer << 24;
  }
  result[ERROR_TYPE] = type4;
  result[ERROR_CODE] = code4;
  result[ERROR_REST] = rest4;
  return type4 !== DROPPED;
}

function pointerTo4(pointer: number): number {
  if (pointer < POINTER_6_TO_4.length) return POINTER_6_TO_4[pointer]!;
  if (pointer < 24) return 12;
  return pointer < 40 ? 16 : DROPPED;
}

/**
 * The checksum of a datagram that came over IPv4 without one, as IPv6 needs it (RFC 7915 section
 * 4.5), for the addresses that it has now: as if its sender had made one.
 *
 * @param bytes - UDP length
 * @returns 16 bits, never 0
 */
export function udpChecksumOf4(view: DataView, ipAt: number, udpAt: number, bytes: number): number {
  const pseudo = pseudoSumIpv4(ipv4Source(view, ipAt), ipv4Destination(view, ipAt), 17, bytes);
  const sum = ~fold(sumBytes(view, udpAt, bytes, pseudo)) & 0xffff;
  return sum === 0 ? 0xffff : sum;
}
