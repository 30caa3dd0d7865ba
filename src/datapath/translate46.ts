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
  VNET_GSO_UDP_L4,
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
import { updateChecksum, updatePartial } from "../wire/checksum.ts";
import { ETHERTYPE_IPV4, ETHERTYPE_IPV6, setEtherType } from "../wire/ethernet.ts";
import { ICMP_CODE_TTL_EXCEEDED, ICMP_TIME_EXCEEDED } from "../wire/icmp.ts";
import { ICMP6_PACKET_TOO_BIG, ICMP6_TIME_EXCEEDED } from "../wire/icmpv6.ts";
import {
  IPV4_DONT_FRAGMENT,
  IPV4_HEADER_BYTES,
  ipv4HeaderBytes,
  ipv4TotalBytes,
  ipv4Ttl,
  isFragment,
  writeIpv4Header,
} from "../wire/ipv4.ts";
import {
  IPV6_DESTINATION_AT,
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
import { UDP_CHECKSUM_AT, UDP_HEADER_BYTES, udpLength } from "../wire/udp.ts";
import {
  type Context,
  R_L4_AT,
  R_OUT_INTERFACE,
  R_OUT_MAC_HIGH,
  R_OUT_MAC_LOW,
  R_OUT_MTU,
} from "./context.ts";
import type { Fragmenter } from "./fragmenter.ts";
import type { Output } from "./output.ts";
import type { Reply } from "./reply.ts";
import { DROP_FAMILY_NOT_TRANSLATED, DROP_TOO_BIG, DROPPED, FORWARDED } from "./verdict.ts";

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
    rewriteTransport(l4At, flowWord, direction, protocol, (vnet & VNET_F_NEEDS_CSUM) !== 0);
    const at = l4At - IPV4_HEADER_BYTES;
    const splits = !isGso && total <= FRAGMENTABLE_BYTES;
    writeIpv4Header(
      view,
      at,
      total,
      splits || isGso ? reply.nextId() : 0,
      splits ? 0 : IPV4_DONT_FRAGMENT,
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
    const total = IPV6_HEADER_BYTES + payload;
    const at = l4At - IPV6_HEADER_BYTES;
    // A fragment's place among the others would need a header of its own.
    if (isFragment(view, ipAt) || ipAt - at > device.headroomBytes) {
      return DROPPED | (DROP_FAMILY_NOT_TRANSLATED << 8);
    }
    const vnet = rx[rxWord + D_VNET]!;
    const mtu = registers[R_OUT_MTU]!;
    const gso = gsoOf(vnet);
    const wire =
      gso === VNET_GSO_NONE ? total : IPV6_HEADER_BYTES + segmentBytes(l4At, protocol, vnet);
    let size = vnet >>> 16;
    if (mtu !== 0 && wire > mtu) {
      if (gso !== VNET_GSO_TCPV4) return refuse(rxWord, ipAt, from, mtu);
      // Smaller segments are what its sender would have made for this path.
      size -= wire - mtu;
      if (size <= 0) return DROPPED | (DROP_TOO_BIG << 8);
    }
    const partial = (vnet & VNET_F_NEEDS_CSUM) !== 0;
    if (protocol === PROTOCOL_UDP && !partial && view.getUint16(l4At + UDP_CHECKSUM_AT) === 0) {
      const sum = udpChecksumOf4(view, ipAt, l4At, udpLength(view, l4At));
      view.setUint16(l4At + UDP_CHECKSUM_AT, sum);
    }
    const tos = view.getUint8(ipAt + 1);
    rewriteTransport(l4At, flowWord, direction, protocol, partial);
    writeIpv6Header(view, at, payload, protocol, link === 0 ? ttl : ttl - 1, tos);
    const extension = table.extensionOf(flowWord);
    const source = extension + (isOriginal ? X_REPLY : X_VIP);
    const destination = extension + (isOriginal ? X_BACKEND : X_CLIENT);
    setIpv6Address(view, at + IPV6_SOURCE_AT, i32, source);
    setIpv6Address(view, at + IPV6_DESTINATION_AT, i32, destination);
    if (gso === VNET_GSO_TCPV4) setGso(rxWord, vnet, VNET_GSO_TCPV6, size);
    else if (gso === VNET_GSO_UDP_L4) setGso(rxWord, vnet, VNET_GSO_UDP_L4, size);
    send(rxWord, at, l4At, total, ETHERTYPE_IPV6);
    return FORWARDED;
  }

  /** The MTU that is told leaves room for the larger header; one that may be split is not told of. */
  function refuse(rxWord: number, ipAt: number, from: number, mtu: number): number {
    return fragmenter.refuse(rxWord, ipAt, from, mtu - FAMILY_BYTES);
  }

  return { toIpv4, toIpv6 };
}
