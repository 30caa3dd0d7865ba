/**
 * TCP header (RFC 9293 3.1). `at` is its first byte.
 *
 *    0                   1                   2                   3
 *    0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1
 *   +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
 *   |          Source Port          |       Destination Port        |
 *   |                        Sequence Number                        |
 *   |                    Acknowledgment Number                      |
 *   |  Data |       |C|E|U|A|P|R|S|F|                               |
 *   | Offset| Rsrvd |W|C|R|C|S|S|Y|I|            Window             |
 *   |       |       |R|E|G|K|H|T|N|N|                               |
 *   |           Checksum            |         Urgent Pointer        |
 *   |                           Options                             |
 *
 * Once checkTcp() has returned TCP_OK, no getter or setter leaves the segment. The checksum is not
 * verified here: it is end to end, and an incremental update keeps a wrong one wrong.
 */

const SEQUENCE = 4;
const ACKNOWLEDGEMENT = 8;
const DATA_OFFSET = 12;
const FLAGS = 13;
const CHECKSUM = 16;

/** Header without options: data offset 5. */
export const TCP_HEADER_BYTES = 20;
/** Byte offset of the checksum field; csum_offset of a partial checksum. */
export const TCP_CHECKSUM_AT = CHECKSUM;

export const TCP_FIN = 1;
export const TCP_SYN = 2;
export const TCP_RST = 4;
export const TCP_PSH = 8;
export const TCP_ACK = 16;
export const TCP_URG = 32;

export const TCP_OK = 0;
/** Fewer than 20 bytes, or a data offset that is too small or too large. */
export const TCP_MALFORMED = 1;
/** A set of flags that no TCP sends. */
export const TCP_FLAGS_INVALID = 2;

const bit = (flags: number): number => 1 << (flags & 31);

/**
 * The sets of flags that occur, one bit each (tcp_valid_flags in
 * net/netfilter/nf_conntrack_proto_tcp.c): without URG, and with it.
 */
const VALID_WITHOUT_URG =
  bit(TCP_SYN) |
  bit(TCP_SYN | TCP_ACK) |
  bit(TCP_RST) |
  bit(TCP_RST | TCP_ACK) |
  bit(TCP_FIN | TCP_ACK) |
  bit(TCP_ACK);
const VALID_WITH_URG =
  bit(TCP_SYN | TCP_URG) | bit(TCP_FIN | TCP_ACK | TCP_URG) | bit(TCP_ACK | TCP_URG);

/** All but PSH, ECE and CWR, which go with any set. */
const CHECKED_FLAGS = TCP_FIN | TCP_SYN | TCP_RST | TCP_ACK | TCP_URG;

/**
 * Check the header: room, data offset, flags.
 *
 * @param l4Bytes - bytes of the segment, from the IP total length; may be 0
 * @returns TCP_OK, TCP_MALFORMED or TCP_FLAGS_INVALID
 */
export function checkTcp(view: DataView, at: number, l4Bytes: number): number {
  if (l4Bytes < TCP_HEADER_BYTES) return TCP_MALFORMED;
  const offsetAndFlags = view.getUint16(at + DATA_OFFSET);
  const headerBytes = (offsetAndFlags >>> 10) & 0x3c;
  if (headerBytes < TCP_HEADER_BYTES || headerBytes > l4Bytes) return TCP_MALFORMED;
  const flags = offsetAndFlags & CHECKED_FLAGS;
  const valid = (flags & TCP_URG) === 0 ? VALID_WITHOUT_URG : VALID_WITH_URG;
  return ((valid >>> (flags & 31)) & 1) !== 0 ? TCP_OK : TCP_FLAGS_INVALID;
}

/** Source port << 16 | destination port, int32. */
export function tcpPorts(view: DataView, at: number): number {
  return view.getInt32(at);
}

/** Write both ports; the checksum is left as it was. */
export function setTcpPorts(view: DataView, at: number, ports: number): void {
  view.setInt32(at, ports);
}

/** Sequence number, int32. */
export function tcpSequence(view: DataView, at: number): number {
  return view.getInt32(at + SEQUENCE);
}

/** Acknowledgment number, int32; means something only with TCP_ACK. */
export function tcpAcknowledgement(view: DataView, at: number): number {
  return view.getInt32(at + ACKNOWLEDGEMENT);
}

/** Header length in bytes, 20..60. */
export function tcpHeaderBytes(view: DataView, at: number): number {
  return (view.getUint8(at + DATA_OFFSET) >>> 4) << 2;
}

/** The six flags with names above. ECE and CWR (RFC 3168) are left out: they change nothing here. */
export function tcpFlags(view: DataView, at: number): number {
  return view.getUint8(at + FLAGS) & 0x3f;
}

export function tcpChecksum(view: DataView, at: number): number {
  return view.getUint16(at + CHECKSUM);
}

export function setTcpChecksum(view: DataView, at: number, checksum: number): void {
  view.setUint16(at + CHECKSUM, checksum);
}

/**
 * Write a header; options, if any, lie behind it already. The checksum is 0: the caller adds it.
 *
 * @param ports - source << 16 | destination
 * @param headerBytes - 20..60, options included
 * @param flags - all eight, ECE and CWR included
 */
export function writeTcpHeader(
  view: DataView,
  at: number,
  ports: number,
  sequence: number,
  acknowledgement: number,
  headerBytes: number,
  flags: number,
  window: number,
): void {
  view.setInt32(at, ports);
  view.setInt32(at + SEQUENCE, sequence);
  view.setInt32(at + ACKNOWLEDGEMENT, acknowledgement);
  view.setInt32(at + DATA_OFFSET, ((headerBytes >> 2) << 28) | (flags << 16) | window);
  view.setInt32(at + CHECKSUM, 0);
}

/**
 * Write a header of 20 bytes for a segment without data or window, such as a RST (RFC 9293 3.10.7.1
 * says which numbers it carries). The checksum is 0: the caller adds it.
 *
 * @param ports - source << 16 | destination
 * @param sequence - int32
 * @param acknowledgement - int32; 0 without TCP_ACK
 * @param flags - TCP_RST, or TCP_RST | TCP_ACK
 */
export function writeTcpRst(
  view: DataView,
  at: number,
  ports: number,
  sequence: number,
  acknowledgement: number,
  flags: number,
): void {
  view.setInt32(at, ports);
  view.setInt32(at + SEQUENCE, sequence);
  view.setInt32(at + ACKNOWLEDGEMENT, acknowledgement);
  view.setInt32(at + DATA_OFFSET, 0x5000_0000 | (flags << 16));
  view.setInt32(at + CHECKSUM, 0);
}
