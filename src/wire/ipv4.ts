import { fold, updateChecksum } from "./checksum.ts";

/**
 * IPv4 header (RFC 791 3.1). `at` is its first byte.
 *
 *    0                   1                   2                   3
 *    0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1
 *   +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
 *   |Version|  IHL  |Type of Service|          Total Length         |
 *   |         Identification        |Flags|      Fragment Offset    |
 *   |  Time to Live |    Protocol   |         Header Checksum       |
 *   |                       Source Address                          |
 *   |                    Destination Address                        |
 *   |                    Options, padded to a word                  |
 *
 * Once checkIpv4() has returned IPV4_OK, no getter or setter leaves the packet, and the bytes from
 * `at + ipv4HeaderBytes()` to `at + ipv4TotalBytes()` are the transport's. A `set…` writes its field
 * only; the checksum is then the caller's (updateIpv4HeaderChecksum).
 */

const TOTAL_LENGTH = 2;
const IDENTIFICATION = 4;
const FLAGS_AND_OFFSET = 6;
const TTL = 8;
const PROTOCOL = 9;
const CHECKSUM = 10;
const SOURCE = 12;
const DESTINATION = 16;

/** Header without options: IHL 5 (RFC 791 3.1). */
export const IPV4_HEADER_BYTES = 20;
/** Flag Don't Fragment in the fragment word. */
export const IPV4_DONT_FRAGMENT = 0x4000;
/** Flag More Fragments in the fragment word. */
export const IPV4_MORE_FRAGMENTS = 0x2000;
/** Fragment offset in units of eight bytes, in the fragment word. */
export const IPV4_OFFSET_MASK = 0x1fff;

export const IPV4_OK = 0;
/** Fewer than 20 bytes. */
export const IPV4_TOO_SHORT = 1;
/** Version, IHL, or the length of an option. */
export const IPV4_HEADER_MALFORMED = 2;
export const IPV4_CHECKSUM_WRONG = 3;
/** Total length shorter than the header, or longer than what is there. */
export const IPV4_LENGTH_WRONG = 4;
/** Loose or strict source route (RFC 7126 4.3, 4.4: drop). */
export const IPV4_SOURCE_ROUTE = 5;
/** A source that no host can have (RFC 1122 3.2.1.3, RFC 1812 5.3.7). */
export const IPV4_SOURCE_INVALID = 6;

const OPTION_END = 0;
const OPTION_NO_OPERATION = 1;
const OPTION_LOOSE_SOURCE_ROUTE = 131;
const OPTION_STRICT_SOURCE_ROUTE = 137;

/**
 * Check the header, in the order of ip_rcv_core() (net/ipv4/ip_input.c): version and IHL, checksum,
 * total length; then options and source address. Bytes after the total length are link padding and
 * allowed.
 *
 * @param bytes - bytes of the frame from `at` on; may be 0 or negative
 * @returns IPV4_OK, or the first finding, IPV4_…
 */
export function checkIpv4(view: DataView, at: number, bytes: number): number {
  if (bytes < IPV4_HEADER_BYTES) return IPV4_TOO_SHORT;
  const first = view.getInt32(at);
  const second = view.getInt32(at + 4);
  const third = view.getInt32(at + 8);
  const source = view.getInt32(at + SOURCE);
  const destination = view.getInt32(at + DESTINATION);
  const headerBytes = (first >>> 22) & 0x3c;
  if (first >>> 28 !== 4 || headerBytes < IPV4_HEADER_BYTES || headerBytes > bytes) {
    return IPV4_HEADER_MALFORMED;
  }
  let sum =
    (first >>> 16) +
    (first & 0xffff) +
    (second >>> 16) +
    (second & 0xffff) +
    (third >>> 16) +
    (third & 0xffff) +
    (source >>> 16) +
    (source & 0xffff) +
    (destination >>> 16) +
    (destination & 0xffff);
  if (headerBytes !== IPV4_HEADER_BYTES) sum += sumOptions(view, at, headerBytes);
  if (fold(sum) !== 0xffff) return IPV4_CHECKSUM_WRONG;
  const totalBytes = first & 0xffff;
  if (totalBytes < headerBytes || totalBytes > bytes) return IPV4_LENGTH_WRONG;
  if (headerBytes !== IPV4_HEADER_BYTES) {
    const finding = checkOptions(view, at + IPV4_HEADER_BYTES, at + headerBytes);
    if (finding !== IPV4_OK) return finding;
  }
  // 0.0.0.0/8, 127.0.0.0/8, multicast 224.0.0.0/4, reserved and broadcast 240.0.0.0/4.
  const network = source >>> 24;
  if (network === 0 || network === 127 || network >= 224) return IPV4_SOURCE_INVALID;
  return IPV4_OK;
}

function sumOptions(view: DataView, at: number, headerBytes: number): number {
  let sum = 0;
  for (let next = IPV4_HEADER_BYTES; next < headerBytes; next += 2) {
    sum += view.getUint16(at + next);
  }
  return sum;
}

/** Walk the options (RFC 791 3.1): each but End and No Operation has a length of at least 2. */
function checkOptions(view: DataView, at: number, end: number): number {
  let next = at;
  while (next < end) {
    const type = view.getUint8(next);
    if (type === OPTION_END) return IPV4_OK;
    if (type === OPTION_NO_OPERATION) {
      next++;
      continue;
    }
    if (next + 2 > end) return IPV4_HEADER_MALFORMED;
    const optionBytes = view.getUint8(next + 1);
    if (optionBytes < 2 || next + optionBytes > end) return IPV4_HEADER_MALFORMED;
    if (type === OPTION_LOOSE_SOURCE_ROUTE || type === OPTION_STRICT_SOURCE_ROUTE) {
      return IPV4_SOURCE_ROUTE;
    }
    next += optionBytes;
  }
  return IPV4_OK;
}

/** Header length in bytes, 20..60 (IHL x 4). */
export function ipv4HeaderBytes(view: DataView, at: number): number {
  return (view.getUint8(at) & 0x0f) << 2;
}

/** Total length in bytes, header included. */
export function ipv4TotalBytes(view: DataView, at: number): number {
  return view.getUint16(at + TOTAL_LENGTH);
}

export function ipv4Id(view: DataView, at: number): number {
  return view.getUint16(at + IDENTIFICATION);
}

/** Write the identification, and bring the header checksum up to date. */
export function setIpv4Id(view: DataView, at: number, id: number): void {
  const before = view.getUint16(at + IDENTIFICATION);
  view.setUint16(at + IDENTIFICATION, id);
  // RFC 1624 eqn 3, of one word: the complement of the old one and the new one.
  updateIpv4HeaderChecksum(view, at, fold((~before & 0xffff) + id));
}

/** Flags and fragment offset: 16 bits, see IPV4_DONT_FRAGMENT, _MORE_FRAGMENTS, _OFFSET_MASK. */
export function ipv4FragmentWord(view: DataView, at: number): number {
  return view.getUint16(at + FLAGS_AND_OFFSET);
}

export function ipv4Ttl(view: DataView, at: number): number {
  return view.getUint8(at + TTL);
}

export function ipv4Protocol(view: DataView, at: number): number {
  return view.getUint8(at + PROTOCOL);
}

export function ipv4Checksum(view: DataView, at: number): number {
  return view.getUint16(at + CHECKSUM);
}

/** Source address: int32, host order. */
export function ipv4Source(view: DataView, at: number): number {
  return view.getInt32(at + SOURCE);
}

/** Destination address: int32, host order. */
export function ipv4Destination(view: DataView, at: number): number {
  return view.getInt32(at + DESTINATION);
}

/** One piece of a larger datagram: more follow, or it does not start at 0. */
export function isFragment(view: DataView, at: number): boolean {
  return (view.getUint16(at + FLAGS_AND_OFFSET) & (IPV4_MORE_FRAGMENTS | IPV4_OFFSET_MASK)) !== 0;
}

/** A fragment that does not start at 0: it has no transport header. */
export function isLaterFragment(view: DataView, at: number): boolean {
  return (view.getUint16(at + FLAGS_AND_OFFSET) & IPV4_OFFSET_MASK) !== 0;
}

export function hasDontFragment(view: DataView, at: number): boolean {
  return (view.getUint16(at + FLAGS_AND_OFFSET) & IPV4_DONT_FRAGMENT) !== 0;
}

/** Write the source address; checksums are left as they were. */
export function setIpv4Source(view: DataView, at: number, value: number): void {
  view.setInt32(at + SOURCE, value);
}

/** Write the destination address; checksums are left as they were. */
export function setIpv4Destination(view: DataView, at: number, value: number): void {
  view.setInt32(at + DESTINATION, value);
}

/**
 * Bring the header checksum up to date (RFC 1624 eqn 3).
 *
 * @param delta - of all header words changed; see wire/checksum.ts
 */
export function updateIpv4HeaderChecksum(view: DataView, at: number, delta: number): void {
  view.setUint16(at + CHECKSUM, updateChecksum(view.getUint16(at + CHECKSUM), delta));
}

/** Delta of TTL - 1: the word TTL | protocol falls by 0x0100 (RFC 1141; zero as RFC 1624 has it). */
const TTL_DELTA = 0xfeff;

/**
 * TTL less one, checksum brought up to date: one load, one store, the bytes of ip_decrease_ttl()
 * (include/net/ip.h).
 *
 * The TTL must be at least 1. What to do at 1 is the caller's (RFC 1812 5.3.1: time exceeded).
 */
export function decrementTtl(view: DataView, at: number): void {
  const word = view.getInt32(at + TTL);
  const checksum = updateChecksum(word & 0xffff, TTL_DELTA);
  view.setInt32(at + TTL, ((word - 0x0100_0000) & 0xffff_0000) | checksum);
}

/**
 * Write a whole header of 20 bytes with its checksum. Type of service is 0.
 *
 * @param totalBytes - header and payload, 20..65,535
 * @param id - 16 bits
 * @param flagsAndOffset - the fragment word
 * @param source - int32
 * @param destination - int32
 */
export function writeIpv4Header(
  view: DataView,
  at: number,
  totalBytes: number,
  id: number,
  flagsAndOffset: number,
  ttl: number,
  protocol: number,
  source: number,
  destination: number,
): void {
  const ttlAndProtocol = (ttl << 8) | protocol;
  const sum =
    0x4500 +
    totalBytes +
    id +
    flagsAndOffset +
    ttlAndProtocol +
    (source >>> 16) +
    (source & 0xffff) +
    (destination >>> 16) +
    (destination & 0xffff);
  view.setInt32(at, 0x4500_0000 | totalBytes);
  view.setInt32(at + IDENTIFICATION, (id << 16) | flagsAndOffset);
  view.setInt32(at + TTL, (ttlAndProtocol << 16) | (~fold(sum) & 0xffff));
  view.setInt32(at + SOURCE, source);
  view.setInt32(at + DESTINATION, destination);
}
