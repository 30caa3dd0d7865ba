import { PROTOCOL_TCP } from "../flow/flow-record.ts";
import { fold, sumBytes } from "../wire/checksum.ts";
import { ipVersion } from "../wire/tunnel.ts";
import type { Context } from "./context.ts";

/**
 * Segmentation of GSO packets in software, for what cannot leave whole: a packet that gets a header
 * before it, or a header of another size (design section 2).
 *
 * The caller takes a spare for each segment and has it written at a place of its choice, so that it
 * can put any header before it:
 *
 *   const count = segmenter.begin(ipAt, l4At, endAt, protocol, segmentBytes);
 *   for (let index = 0; index < count; index++) bytes = segmenter.write(index, spare + prefix);
 *
 * What a segment has, as the kernel makes it (net/ipv4/tcp_offload.c, tcp_gso_segment;
 * net/ipv4/udp_offload.c, __udp_gso_segment; net/ipv4/af_inet.c, inet_gso_segment):
 *   IPv4  total length, identification + index, header checksum
 *   IPv6  payload length
 *   TCP   sequence number; FIN and PSH on the last only, CWR on the first only (RFC 3168 6.1.2);
 *         checksum in full, whether the packet's was partial or not
 *   UDP   length; checksum in full, or none where the packet has none (complete, IPv4)
 */
export interface Segmenter {
  /**
   * Prepare the packet; nothing is changed. It stays where it is until its last segment is written.
   *
   * @param ipAt - IPv4 or IPv6 header, checked, extension headers included
   * @param l4At - TCP or UDP header, checked
   * @param endAt - first byte after the packet
   * @param segmentBytes - payload of a segment after the transport header, at least 1
   * @returns segments, at least 1
   */
  begin(ipAt: number, l4At: number, endAt: number, protocol: number, segmentBytes: number): number;
  /** Bytes of the largest segment, from its IP header on. */
  largest(): number;
  /**
   * Write segment `index` (0-based) at `toAt`, IP header first.
   *
   * @returns its bytes
   */
  write(index: number, toAt: number): number;
}

const P_IP_AT = 0;
const P_L4_AT = 1;
const P_END_AT = 2;
const P_PROTOCOL = 3;
const P_SEGMENT = 4;
const P_COUNT = 5;
const P_HEADERS = 6; // IP and transport header
const P_VERSION = 7;
const P_NO_CHECKSUM = 8;
const P_PSEUDO = 9; // addresses and protocol, not yet the length
const PLAN_WORDS = 16;

const UDP_HEADER_BYTES = 8;
const TCP_SEQUENCE_AT = 4;
const TCP_OFFSET_AT = 12;
const TCP_FLAGS_AT = 13;
const TCP_CHECKSUM_AT = 16;
const UDP_CHECKSUM_AT = 6;
const FIN_PSH = 0x09;
const CWR = 0x80;

/** @param context - of which only the frame memory is used */
export function createSegmenter(context: Pick<Context, "view">): Segmenter {
  const { view } = context;
  const bytes = new Uint8Array(view.buffer);
  const plan = new Int32Array(PLAN_WORDS);

  function begin(
    ipAt: number,
    l4At: number,
    endAt: number,
    protocol: number,
    segmentBytes: number,
  ): number {
    const tcp = protocol === PROTOCOL_TCP;
    const l4Bytes = tcp ? (view.getUint8(l4At + TCP_OFFSET_AT) >>> 4) << 2 : UDP_HEADER_BYTES;
    const headers = l4At - ipAt + l4Bytes;
    const payload = endAt - ipAt - headers;
    const version = ipVersion(view, ipAt);
    const addresses = version === 4 ? sumBytes(view, ipAt + 12, 8) : sumBytes(view, ipAt + 8, 32);
    plan[P_IP_AT] = ipAt;
    plan[P_L4_AT] = l4At;
    plan[P_END_AT] = endAt;
    plan[P_PROTOCOL] = protocol;
    plan[P_SEGMENT] = segmentBytes;
    plan[P_COUNT] = payload <= segmentBytes ? 1 : Math.ceil(payload / segmentBytes) | 0;
    plan[P_HEADERS] = headers;
    plan[P_VERSION] = version;
    plan[P_NO_CHECKSUM] =
      !tcp && version === 4 && view.getUint16(l4At + UDP_CHECKSUM_AT) === 0 ? 1 : 0;
    plan[P_PSEUDO] = addresses + protocol;
    return plan[P_COUNT]!;
  }

  function largest(): number {
    const payload = plan[P_END_AT]! - plan[P_IP_AT]! - plan[P_HEADERS]!;
    return plan[P_HEADERS]! + Math.min(payload, plan[P_SEGMENT]!);
  }

  function write(index: number, toAt: number): number {
    const ipAt = plan[P_IP_AT]!;
    const headers = plan[P_HEADERS]!;
    const fromAt = ipAt + headers + index * plan[P_SEGMENT]!;
    const payload = Math.min(plan[P_SEGMENT]!, plan[P_END_AT]! - fromAt);
    const total = headers + payload;
    bytes.copyWithin(toAt, ipAt, ipAt + headers);
    bytes.copyWithin(toAt + headers, fromAt, fromAt + payload);
    if (plan[P_VERSION] === 4) {
      const headerBytes = plan[P_L4_AT]! - ipAt;
      view.setUint16(toAt + 2, total);
      view.setUint16(toAt + 4, (view.getUint16(toAt + 4) + index) & 0xffff);
      view.setUint16(toAt + 10, 0);
      view.setUint16(toAt + 10, ~sumBytes(view, toAt, headerBytes) & 0xffff);
    } else {
      view.setUint16(toAt + 4, total - 40);
    }
    const l4At = toAt + plan[P_L4_AT]! - ipAt;
    const l4Bytes = total - (l4At - toAt);
    if (plan[P_PROTOCOL] === PROTOCOL_TCP) finishTcp(index, l4At, l4Bytes);
    else finishUdp(l4At, l4Bytes);
    return total;
  }

  function finishTcp(index: number, l4At: number, l4Bytes: number): void {
    const sequence = view.getInt32(l4At + TCP_SEQUENCE_AT);
    view.setInt32(l4At + TCP_SEQUENCE_AT, (sequence + index * plan[P_SEGMENT]!) | 0);
    let flags = view.getUint8(l4At + TCP_FLAGS_AT);
    if (index !== plan[P_COUNT]! - 1) flags &= ~FIN_PSH;
    if (index !== 0) flags &= ~CWR;
    view.setUint8(l4At + TCP_FLAGS_AT, flags);
    view.setUint16(l4At + TCP_CHECKSUM_AT, 0);
    const sum = sumBytes(view, l4At, l4Bytes, plan[P_PSEUDO]! + l4Bytes);
    view.setUint16(l4At + TCP_CHECKSUM_AT, ~sum & 0xffff);
  }

  function finishUdp(l4At: number, l4Bytes: number): void {
    view.setUint16(l4At + 4, l4Bytes);
    if (plan[P_NO_CHECKSUM] === 1) return;
    view.setUint16(l4At + UDP_CHECKSUM_AT, 0);
    const sum = ~fold(sumBytes(view, l4At, l4Bytes, plan[P_PSEUDO]! + l4Bytes)) & 0xffff;
    // RFC 768: a computed 0 is sent as all ones.
    view.setUint16(l4At + UDP_CHECKSUM_AT, sum === 0 ? 0xffff : sum);
  }

  return { begin, largest, write };
}
