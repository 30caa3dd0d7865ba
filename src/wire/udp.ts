/**
 * UDP header (RFC 768). `at` is its first byte.
 *
 *    0               2
 *   +---------------+---------------+
 *   |  Source Port  | Dest. Port    |
 *   |    Length     |   Checksum    |
 *
 * Once checkUdp() has returned UDP_OK, no getter or setter leaves the datagram.
 *
 * The checksum's zero is the caller's, because it differs by path (RFC 768):
 * - complete, field 0: the sender made none. Leave it 0, do not update it;
 * - complete, updateChecksum() gives 0: write 0xffff, or it would say "none";
 * - partial (NEEDS_CSUM): 0 is a sum like any other. Update it always, and never write 0xffff for it.
 */

const LENGTH = 4;
const CHECKSUM = 6;

export const UDP_HEADER_BYTES = 8;
/** Byte offset of the checksum field; csum_offset of a partial checksum. */
export const UDP_CHECKSUM_AT = CHECKSUM;

export const UDP_OK = 0;
/** Fewer than 8 bytes, or a length field that is below 8 or beyond the IP payload. */
export const UDP_MALFORMED = 1;

/**
 * Check the header. A length shorter than the IP payload is allowed, as in __udp4_lib_rcv()
 * (net/ipv4/udp.c). A GSO packet's length field covers all of its segments, so it passes unchanged.
 *
 * @param l4Bytes - bytes of the datagram, from the IP total length; may be 0
 * @returns UDP_OK or UDP_MALFORMED
 */
export function checkUdp(view: DataView, at: number, l4Bytes: number): number {
  if (l4Bytes < UDP_HEADER_BYTES) return UDP_MALFORMED;
  const length = view.getUint16(at + LENGTH);
  return length < UDP_HEADER_BYTES || length > l4Bytes ? UDP_MALFORMED : UDP_OK;
}

/**
 * Check the header of a datagram that comes in fragments: its length says more than is here.
 *
 * @param l4Bytes - bytes of the first fragment
 * @returns UDP_OK or UDP_MALFORMED
 */
export function checkUdpFirst(view: DataView, at: number, l4Bytes: number): number {
  if (l4Bytes < UDP_HEADER_BYTES) return UDP_MALFORMED;
  return view.getUint16(at + LENGTH) < UDP_HEADER_BYTES ? UDP_MALFORMED : UDP_OK;
}

/** Source port << 16 | destination port, int32. */
export function udpPorts(view: DataView, at: number): number {
  return view.getInt32(at);
}

/** Write both ports; the checksum is left as it was. */
export function setUdpPorts(view: DataView, at: number, ports: number): void {
  view.setInt32(at, ports);
}

/** Length of header and data in bytes. */
export function udpLength(view: DataView, at: number): number {
  return view.getUint16(at + LENGTH);
}

/** 0: the sender made none (complete checksums only). */
export function udpChecksum(view: DataView, at: number): number {
  return view.getUint16(at + CHECKSUM);
}

export function setUdpChecksum(view: DataView, at: number, checksum: number): void {
  view.setUint16(at + CHECKSUM, checksum);
}
