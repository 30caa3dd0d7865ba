import {
  D_AT,
  D_BYTES,
  D_CSUM,
  D_VNET,
  VNET_F_NEEDS_CSUM,
  VNET_GSO_ECN,
  VNET_GSO_NONE,
  VNET_GSO_TCPV4,
  VNET_GSO_TCPV6,
} from "../device/device.ts";
import {
  F_BACKEND_ADDR,
  F_BACKEND_REPLY_PORTS,
  F_CLIENT_ADDR,
  F_CLIENT_VIP_PORTS,
  F_DELTA,
  F_REPLY_ADDR,
  F_VIP_ADDR,
  ORIGINAL,
  PROTOCOL_TCP,
  PROTOCOL_UDP,
  X_BACKEND,
  X_CLIENT,
  X_REPLY,
  X_VIP,
} from "../flow/flow-record.ts";
import { sumBytes, updateChecksum, updatePartial } from "../wire/checksum.ts";
import { ETHERTYPE_IPV4, ETHERTYPE_IPV6, setEtherType } from "../wire/ethernet.ts";
import { ICMP_CODE_TTL_EXCEEDED, ICMP_TIME_EXCEEDED } from "../wire/icmp.ts";
import { ICMP6_PACKET_TOO_BIG, ICMP6_TIME_EXCEEDED } from "../wire/icmpv6.ts";
import {
  hasDontFragment,
  IPV4_DONT_FRAGMENT,
  IPV4_HEADER_BYTES,
  IPV4_MORE_FRAGMENTS,
  IPV4_OFFSET_MASK,
  ipv4FragmentWord,
  ipv4HeaderBytes,
  ipv4Id,
  ipv4TotalBytes,
  ipv4Ttl,
  isFragment,
  isLaterFragment,
  writeIpv4Header,
} from "../wire/ipv4.ts";
import {
  IPV6_DESTINATION_AT,
  IPV6_FRAGMENT,
  IPV6_FRAGMENT_HEADER_BYTES,
  IPV6_HEADER_BYTES,
  IPV6_MTU_MIN,
  IPV6_SOURCE_AT,
  ipv6HopLimit,
  ipv6TotalBytes,
  ipv6TrafficClass,
  setIpv6Address,
  writeIpv6Header,
} from "../wire/ipv6.ts";
import { setTcpPorts, TCP_CHECKSUM_AT, tcpHeaderBytes } from "../wire/tcp.ts";
import { FAMILY_BYTES, FRAGMENTABLE_BYTES, udpChecksumOf4 } from "../wire/translate46.ts";
import { UDP_CHECKSUM_AT, UDP_HEADER_BYTES, udpChecksum, udpLength } from "../wire/udp.ts";
import {
  type Context,
  R_FRAGMENT_AT,
  R_L4_AT,
  R_OUT_INTERFACE,
  R_OUT_MAC_HIGH,
  R_OUT_MAC_LOW,
  R_OUT_MTU,
} from "./context.ts";
import type { Fragmenter } from "./fragmenter.ts";
import { ORIGINATED, type Output } from "./output.ts";
import type { Reply } from "./reply.ts";
import { createSplices } from "./splices.ts";
import {
  DROP_FAMILY_NOT_TRANSLATED,
  DROP_TOO_BIG,
  DROP_UDP_CHECKSUM_MISSING,
  DROPPED,
  FORWARDED,
} from "./verdict.ts";

/**
 * Packets of a flow whose client and backend are of different families (RFC 7915).
 *
 * The header is written anew right before the transport header: 20 bytes more go into the headroom
 * before the frame, 20 fewer leave it where it was. The difference of the flow (F_DELTA) is that of
 * the pseudo headers of both families, whose lengths and protocols count alike. A GSO packet changes
 * its type, and its segments shrink where the larger header needs room.
 */
export interface Translator46 {
  /** As Translator6.forward(), for an IPv6 packet that leaves as IPv4. */
  toIpv4(
    rxWord: number,
    ipAt: number,
    flowWord: number,
    direction: number,
    protocol: number,
  ): number;
  /** For an IPv4 packet that leaves as IPv6. */
  toIpv6(
    rxWord: number,
    ipAt: number,
    flowWord: number,
    direction: number,
    protocol: number,
  ): number;
}

export function createTranslator46(
  context: Context,
  output: Output,
  reply: Reply,
  fragmenter: Fragmenter,
): Translator46 {
  const { device, i32, link, registers, rx, table, view } = context;
  const splices = createSplices(context);

  /** Ports and checksum of the transport. */
  function rewriteTransport(
    l4At: number,
    flowWord: number,
    direction: number,
    protocol: number,
    partial: boolean,
  ): void {
    const isOriginal = direction === ORIGINAL;
    const flip = isOriginal ? 0 : 0xffff;
    const delta = i32[flowWord + F_DELTA]!;
    const ports = i32[flowWord + (isOriginal ? F_BACKEND_REPLY_PORTS : F_CLIENT_VIP_PORTS)]!;
    setTcpPorts(view, l4At, (ports << 16) | (ports >>> 16));
    const tcp = protocol === PROTOCOL_TCP;
    if (tcp) splices.rewrite(l4At, flowWord, direction, partial);
    const checksumAt = l4At + (tcp ? TCP_CHECKSUM_AT : UDP_CHECKSUM_AT);
    const checksum = view.getUint16(checksumAt);
    if (partial) {
      view.setUint16(checksumAt, updatePartial(checksum, (delta >>> 16) ^ flip));
    } else {
      const updated = updateChecksum(checksum, (delta & 0xffff) ^ flip);
      view.setUint16(checksumAt, updated === 0 && !tcp ? 0xffff : updated);
    }
  }

  function gsoOf(vnet: number): number {
    return (vnet >>> 8) & 0xff & ~VNET_GSO_ECN;
  }

  /** Bytes of transport header and, of a GSO packet, the data of one segment. */
  function segmentBytes(l4At: number, protocol: number, vnet: number): number {
    const l4Bytes = protocol === PROTOCOL_TCP ? tcpHeaderBytes(view, l4At) : UDP_HEADER_BYTES;
    return l4Bytes + (vnet >>> 16);
  }

  /** Send the frame whose new IP header is at `ipAt`; `total` bytes from there on. */
  function send(rxWord: number, ipAt: number, l4At: number, total: number, type: number): void {
    const egress = registers[R_OUT_INTERFACE]!;
    place(rxWord, ipAt, l4At, total, type);
    output.sendReceived(rxWord, egress);
  }

  function place(rxWord: number, ipAt: number, l4At: number, total: number, type: number): void {
    if (link !== 0) setEtherType(view, ipAt - link, type);
    const egress = registers[R_OUT_INTERFACE]!;
    output.setLink(ipAt, egress, registers[R_OUT_MAC_HIGH]!, registers[R_OUT_MAC_LOW]!);
    rx[rxWord + D_AT] = ipAt - link;
    rx[rxWord + D_BYTES] = link + total;
    if ((rx[rxWord + D_VNET]! & VNET_F_NEEDS_CSUM) === 0) return;
    rx[rxWord + D_CSUM] = (rx[rxWord + D_CSUM]! & ~0xffff) | (l4At - ipAt + link);
  }

  function toIpv4(
    rxWord: number,
    ipAt: number,
    flowWord: number,
    direction: number,
    protocol: number,
  ): number {
    const isOriginal = direction === ORIGINAL;
    const hopLimit = ipv6HopLimit(view, ipAt);
    const from = table.extensionOf(flowWord) + (isOriginal ? X_VIP : X_REPLY);
    if (link !== 0 && hopLimit <= 1) {
      return reply.six.answerError(rxWord, ipAt, from, ICMP6_TIME_EXCEEDED, 0, 0);
    }
    const l4At = registers[R_L4_AT]!;
    const before = ipv6TotalBytes(view, ipAt);
    const total = IPV4_HEADER_BYTES + ipAt + before - l4At;
    const vnet = rx[rxWord + D_VNET]!;
    const mtu = registers[R_OUT_MTU]!;
    const isGso = gsoOf(vnet) !== VNET_GSO_NONE;
    const wire = isGso ? IPV4_HEADER_BYTES + segmentBytes(l4At, protocol, vnet) : total;
    const fits = mtu === 0 || wire <= mtu;
    // What IPv6 may always send is split on the way, where the IPv4 link is narrower.
    if (!fits && (isGso || before > IPV6_MTU_MIN)) {
      const told = Math.max(IPV6_MTU_MIN, mtu + FAMILY_BYTES);
      return reply.six.answerError(rxWord, ipAt, from, ICMP6_PACKET_TOO_BIG, 0, told);
    }
    const tos = ipv6TrafficClass(view, ipAt);
    // Offset in units of eight bytes << 3, and the flag More Fragments; 0 for a whole packet.
    const headerAt = registers[R_FRAGMENT_AT]!;
    const piece = headerAt === 0 ? 0 : view.getUint16(headerAt + 2) & 0xfff9;
    // Ports and checksum are in the first piece alone; the sum of the whole takes the same difference.
    if (piece < 8) {
      rewriteTransport(l4At, flowWord, direction, protocol, (vnet & VNET_F_NEEDS_CSUM) !== 0);
    }
    const at = l4At - IPV4_HEADER_BYTES;
    const splits = !isGso && total <= FRAGMENTABLE_BYTES;
    const id = headerAt !== 0 ? view.getUint16(headerAt + 6) : reply.nextId();
    const fragmentWord = (piece >>> 3) | ((piece & 1) !== 0 ? IPV4_MORE_FRAGMENTS : 0);
    const mayFragment = splits || piece !== 0 ? 0 : IPV4_DONT_FRAGMENT;
    writeIpv4Header(
      view,
      at,
      total,
      id,
      fragmentWord | mayFragment,
      link === 0 ? hopLimit : hopLimit - 1,
      protocol,
      i32[flowWord + (isOriginal ? F_REPLY_ADDR : F_VIP_ADDR)]!,
      i32[flowWord + (isOriginal ? F_BACKEND_ADDR : F_CLIENT_ADDR)]!,
    );
    setTos(at, tos);
    if (gsoOf(vnet) === VNET_GSO_TCPV6) setGso(rxWord, vnet, VNET_GSO_TCPV4, vnet >>> 16);
    if (!fits) {
      place(rxWord, at, l4At, total, ETHERTYPE_IPV4);
      return fragmenter.send(rxWord, at, registers[R_OUT_INTERFACE]!, mtu);
    }
    send(rxWord, at, l4At, total, ETHERTYPE_IPV4);
    return FORWARDED;
  }

  /** Type of service, which writeIpv4Header() leaves 0, and the header checksum with it. */
  function setTos(ipAt: number, tos: number): void {
    if (tos === 0) return;
    view.setUint8(ipAt + 1, tos);
    view.setUint16(ipAt + 10, updateChecksum(view.getUint16(ipAt + 10), tos));
  }

  function setGso(rxWord: number, vnet: number, gso: number, size: number): void {
    const ecn = (vnet >>> 8) & VNET_GSO_ECN;
    rx[rxWord + D_VNET] = (vnet & 0xff) | ((gso | ecn) << 8) | (size << 16);
  }

  function toIpv6(
    rxWord: number,
    ipAt: number,
    flowWord: number,
    direction: number,
    protocol: number,
  ): number {
    const isOriginal = direction === ORIGINAL;
    const ttl = ipv4Ttl(view, ipAt);
    const from = i32[flowWord + (isOriginal ? F_VIP_ADDR : F_REPLY_ADDR)]!;
    if (link !== 0 && ttl <= 1) {
      const code = ICMP_CODE_TTL_EXCEEDED;
      return reply.answerIcmpError(rxWord, ipAt, from, ICMP_TIME_EXCEEDED, code, 0);
    }
    const headerBytes = ipv4HeaderBytes(view, ipAt);
    const l4At = ipAt + headerBytes;
    const payload = ipv4TotalBytes(view, ipAt) - headerBytes;
    const isPiece = isFragment(view, ipAt);
    const at = l4At - IPV6_HEADER_BYTES - IPV6_FRAGMENT_HEADER_BYTES;
    if (ipAt - at > device.headroomBytes) return DROPPED | (DROP_FAMILY_NOT_TRANSLATED << 8);
    const vnet = rx[rxWord + D_VNET]!;
    const mtu = registers[R_OUT_MTU]!;
    const gso = gsoOf(vnet);
    const l4OnWire = gso === VNET_GSO_NONE ? payload : segmentBytes(l4At, protocol, vnet);
    const over = IPV6_HEADER_BYTES + l4OnWire - mtu;
    let size = vnet >>> 16;
    if (mtu !== 0 && over > 0 && !isPiece) {
      if (gso === VNET_GSO_TCPV4) {
        // Smaller segments are what its sender would have made for this path.
        size -= over;
        if (size <= 0) return DROPPED | (DROP_TOO_BIG << 8);
      } else if (gso !== VNET_GSO_NONE || hasDontFragment(view, ipAt)) {
        return refuse(rxWord, ipAt, from, mtu);
      }
    }
    const splits = isPiece || (gso === VNET_GSO_NONE && mtu !== 0 && over > 0);
    const partial = (vnet & VNET_F_NEEDS_CSUM) !== 0;
    const isFirst = !isLaterFragment(view, ipAt);
    if (isFirst && protocol === PROTOCOL_UDP && !partial && udpChecksum(view, l4At) === 0) {
      // Of a piece nobody knows the sum of the whole (RFC 7915 section 4.5).
      if (isPiece) return DROPPED | (DROP_UDP_CHECKSUM_MISSING << 8);
      const sum = udpChecksumOf4(view, ipAt, l4At, udpLength(view, l4At));
      view.setUint16(l4At + UDP_CHECKSUM_AT, sum);
    }
    const word = ipv4FragmentWord(view, ipAt);
    const id = isPiece ? ipv4Id(view, ipAt) : reply.nextId();
    const hopLimit = link === 0 ? ttl : ttl - 1;
    const tos = view.getUint8(ipAt + 1);
    if (isFirst) rewriteTransport(l4At, flowWord, direction, protocol, partial);
    const headerAt = splits ? at : at + IPV6_FRAGMENT_HEADER_BYTES;
    const next = splits ? IPV6_FRAGMENT : protocol;
    writeIpv6Header(view, headerAt, payload, next, hopLimit, tos);
    const extension = table.extensionOf(flowWord);
    const source = extension + (isOriginal ? X_REPLY : X_VIP);
    const destination = extension + (isOriginal ? X_BACKEND : X_CLIENT);
    setIpv6Address(view, headerAt + IPV6_SOURCE_AT, i32, source);
    setIpv6Address(view, headerAt + IPV6_DESTINATION_AT, i32, destination);
    if (splits) return sendPieces(rxWord, headerAt, l4At, payload, protocol, word, id, mtu);
    if (gso === VNET_GSO_TCPV4) setGso(rxWord, vnet, VNET_GSO_TCPV6, size);
    send(rxWord, headerAt, l4At, IPV6_HEADER_BYTES + payload, ETHERTYPE_IPV6);
    return FORWARDED;
  }

  /**
   * Send what an IPv4 packet that may be split carries, or a fragment of one, behind the header at
   * `at` and a fragment header: in one piece, or as many as the MTU asks for (RFC 7915 section 4.1).
   *
   * @param word - fragment word of the IPv4 header
   */
  function sendPieces(
    rxWord: number,
    at: number,
    l4At: number,
    payload: number,
    protocol: number,
    word: number,
    id: number,
    mtu: number,
  ): number {
    const headers = IPV6_HEADER_BYTES + IPV6_FRAGMENT_HEADER_BYTES;
    const room = (mtu === 0 ? output.spareBytes : Math.min(mtu, output.spareBytes)) - headers;
    const most = payload <= room ? payload : room & ~7;
    const pieces = most <= 0 ? 0 : Math.ceil(payload / most);
    if (pieces === 0 || pieces - 1 > output.sparesLeft()) return DROPPED | (DROP_TOO_BIG << 8);
    completeChecksum(rxWord, l4At, payload, protocol);
    const egress = registers[R_OUT_INTERFACE]!;
    const offset = (word & IPV4_OFFSET_MASK) << 3;
    const isOpen = (word & IPV4_MORE_FRAGMENTS) !== 0;
    for (let piece = 1; piece < pieces; piece++) {
      const spare = output.takeSpare();
      const bytes = Math.min(payload - piece * most, most);
      for (let index = 0; index < IPV6_HEADER_BYTES; index += 4) {
        view.setInt32(spare + index, view.getInt32(at + index));
      }
      const more = isOpen || piece !== pieces - 1;
      finishPiece(spare, protocol, offset + piece * most, more, id, bytes);
      for (let index = 0; index < bytes; index++) {
        const from = l4At + piece * most + index;
        view.setUint8(spare + headers + index, view.getUint8(from));
      }
      if (link !== 0) setEtherType(view, spare - link, ETHERTYPE_IPV6);
      output.setLink(spare, egress, registers[R_OUT_MAC_HIGH]!, registers[R_OUT_MAC_LOW]!);
      output.sendSpare(spare, headers + bytes, egress, ORIGINATED);
    }
    finishPiece(at, protocol, offset, isOpen || pieces > 1, id, Math.min(most, payload));
    send(rxWord, at, l4At, headers + Math.min(most, payload), ETHERTYPE_IPV6);
    return FORWARDED;
  }

  /** Payload length of the header at `at`, and the fragment header behind it. */
  function finishPiece(
    at: number,
    protocol: number,
    offset: number,
    more: boolean,
    id: number,
    bytes: number,
  ): void {
    view.setUint16(at + 4, IPV6_FRAGMENT_HEADER_BYTES + bytes);
    view.setInt32(at + IPV6_HEADER_BYTES, (protocol << 24) | offset | (more ? 1 : 0));
    view.setInt32(at + IPV6_HEADER_BYTES + 4, id);
  }

  /** A piece has no virtio header that could ask for a checksum: finish it in software. */
  function completeChecksum(rxWord: number, l4At: number, bytes: number, protocol: number): void {
    const vnet = rx[rxWord + D_VNET]!;
    if ((vnet & VNET_F_NEEDS_CSUM) === 0) return;
    const sum = ~sumBytes(view, l4At, bytes) & 0xffff;
    const field = l4At + (protocol === PROTOCOL_TCP ? TCP_CHECKSUM_AT : UDP_CHECKSUM_AT);
    view.setUint16(field, sum === 0 && protocol === PROTOCOL_UDP ? 0xffff : sum);
    rx[rxWord + D_VNET] = vnet & ~VNET_F_NEEDS_CSUM;
    rx[rxWord + D_CSUM] = 0;
  }

  /** The MTU that is told leaves room for the larger header; one that may be split is not told of. */
  function refuse(rxWord: number, ipAt: number, from: number, mtu: number): number {
    return fragmenter.refuse(rxWord, ipAt, from, mtu - FAMILY_BYTES);
  }

  return { toIpv4, toIpv6 };
}
