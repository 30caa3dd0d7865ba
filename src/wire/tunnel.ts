import { fold, sumBytes } from "./checksum.ts";

/**
 * Outer headers of tunnels: IP in IP (RFC 2003 4in4, RFC 2473 6in6 and 4in6, RFC 4213 6in4) and
 * GUE variant 1 (draft-ietf-intarea-gue-09 section 4: an IP packet straight behind UDP; its version,
 * 0100 or 0110, begins with the bits 01, which are the variant).
 *
 *   outer IPv4 (20) or IPv6 (40) | GUE: UDP (8) | inner packet, not a byte of it changed
 *
 * Type of service or traffic class is the inner one, ECN included (RFC 6040 section 4.1, normal
 * mode). Writers write whole headers; the UDP checksum is the caller's (udpTunnelChecksum…).
 */

/** Protocol numbers of an inner packet: IPv4 (RFC 2003), IPv6 (RFC 2473). */
export const PROTOCOL_IPV4 = 4;
export const PROTOCOL_IPV6 = 41;
const PROTOCOL_UDP = 17;
/** Next header of an IPv6 fragment header (RFC 8200 section 4.5). */
export const NEXT_HEADER_FRAGMENT = 44;

export const OUTER_IPV4_BYTES = 20;
export const OUTER_IPV6_BYTES = 40;
export const OUTER_UDP_BYTES = 8;
export const IPV6_FRAGMENT_HEADER_BYTES = 8;
/** The largest header that is put before a packet: IPv6 and UDP. */
export const OUTER_BYTES_MAX = OUTER_IPV6_BYTES + OUTER_UDP_BYTES;

/** TTL and hop limit of the outer header: enough to reach the exit (RFC 2003 section 3.1). */
export const OUTER_TTL = 64;

/** First and number of source ports of GUE (RFC 6335 section 6: dynamic ports). */
export const GUE_SOURCE_PORT_FIRST = 49_152;
const GUE_SOURCE_PORTS_MASK = 0x3fff;

/** Source port of GUE for a flow with this hash, 49152..65535. */
export function gueSourcePort(hash: number): number {
  return GUE_SOURCE_PORT_FIRST + (hash & GUE_SOURCE_PORTS_MASK);
}

/** IP version of the packet at `at`: 4 or 6, or what stands there. */
export function ipVersion(view: DataView, at: number): number {
  return view.getUint8(at) >>> 4;
}

/** Type of service (IPv4) or traffic class (IPv6) of a packet, DSCP and ECN: 8 bits. */
export function innerTos(view: DataView, at: number): number {
  const first = view.getUint16(at);
  return first >>> 12 === 6 ? (first >>> 4) & 0xff : first & 0xff;
}

/** Bytes of the IP packet at `at`, from its own length field: without what lies behind it. */
export function innerBytes(view: DataView, at: number): number {
  if (view.getUint8(at) >>> 4 === 6) return 40 + view.getUint16(at + 4);
  return view.getUint16(at + 2);
}

/**
 * Write an outer IPv4 header of 20 bytes with its checksum (RFC 2003 section 3.1).
 *
 * @param totalBytes - outer header and all behind it, at most 65,535
 * @param fragmentWord - flags and offset
 * @param source - int32
 * @param destination - int32
 */
export function writeOuterIpv4(
  view: DataView,
  at: number,
  totalBytes: number,
  tos: number,
  id: number,
  fragmentWord: number,
  protocol: number,
  source: number,
  destination: number,
): void {
  const first = 0x4500 | tos;
  const ttlAndProtocol = (OUTER_TTL << 8) | protocol;
  const sum =
    first +
    totalBytes +
    id +
    fragmentWord +
    ttlAndProtocol +
    (source >>> 16) +
    (source & 0xffff) +
    (destination >>> 16) +
    (destination & 0xffff);
  view.setInt32(at, (first << 16) | totalBytes);
  view.setInt32(at + 4, (id << 16) | fragmentWord);
  view.setInt32(at + 8, (ttlAndProtocol << 16) | (~fold(sum) & 0xffff));
  view.setInt32(at + 12, source);
  view.setInt32(at + 16, destination);
}

/**
 * Write an outer IPv6 header (RFC 8200 section 3).
 *
 * @param payloadBytes - all behind it, at most 65,535
 * @param flowLabel - 20 bits; of the inner flow, so that routers spread tunnels (RFC 6438)
 * @param words - where the addresses lie, four words each in host order
 * @param sourceAt - first word of the source
 * @param destinationAt - first word of the destination
 */
export function writeOuterIpv6(
  view: DataView,
  at: number,
  payloadBytes: number,
  tos: number,
  flowLabel: number,
  nextHeader: number,
  words: Int32Array,
  sourceAt: number,
  destinationAt: number,
): void {
  view.setInt32(at, 0x6000_0000 | (tos << 20) | (flowLabel & 0xfffff));
  view.setInt32(at + 4, (payloadBytes << 16) | (nextHeader << 8) | OUTER_TTL);
  for (let word = 0; word < 4; word++) {
    view.setInt32(at + 8 + 4 * word, words[sourceAt + word]!);
    view.setInt32(at + 24 + 4 * word, words[destinationAt + word]!);
  }
}

/**
 * Write an IPv6 fragment header (RFC 8200 section 4.5).
 *
 * @param offset - bytes, a multiple of 8
 * @param more - 1 unless it is the last piece
 */
export function writeIpv6FragmentHeader(
  view: DataView,
  at: number,
  nextHeader: number,
  offset: number,
  more: number,
  id: number,
): void {
  view.setInt32(at, (nextHeader << 24) | offset | more);
  view.setInt32(at + 4, id);
}

/** Write the UDP header of GUE with checksum 0. @param udpBytes - header and inner packet */
export function writeGueHeader(
  view: DataView,
  at: number,
  sourcePort: number,
  destinationPort: number,
  udpBytes: number,
): void {
  view.setInt32(at, (sourcePort << 16) | destinationPort);
  view.setInt32(at + 4, udpBytes << 16);
}

/** Sum of the pseudo header that the addresses of the outer header at `at` give, not folded twice. */
function outerPseudoSum(view: DataView, at: number, udpBytes: number): number {
  const isIpv6 = view.getUint8(at) >>> 4 === 6;
  const addresses = isIpv6 ? sumBytes(view, at + 8, 32) : sumBytes(view, at + 12, 8);
  return addresses + PROTOCOL_UDP + udpBytes;
}

/**
 * The UDP checksum of GUE (RFC 768; RFC 8200 section 8.1): never 0, which says "none".
 *
 * @param outerAt - outer IP header, written
 * @param udpAt - UDP header, written, its checksum field 0
 * @param innerAt - the inner packet; it need not lie behind the UDP header
 */
export function gueChecksum(
  view: DataView,
  outerAt: number,
  udpAt: number,
  innerAt: number,
  innerLength: number,
): number {
  const pseudo = outerPseudoSum(view, outerAt, OUTER_UDP_BYTES + innerLength);
  const header = sumBytes(view, udpAt, OUTER_UDP_BYTES, pseudo);
  const sum = ~sumBytes(view, innerAt, innerLength, header) & 0xffff;
  return sum === 0 ? 0xffff : sum;
}
