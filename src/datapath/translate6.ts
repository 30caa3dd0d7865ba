import {
  D_BYTES,
  D_VNET,
  VNET_F_NEEDS_CSUM,
  VNET_GSO_ECN,
  VNET_GSO_NONE,
} from "../device/device.ts";
import {
  F_BACKEND_REPLY_PORTS,
  F_CLIENT_VIP_PORTS,
  F_DELTA,
  F_STATE,
  KEY_ANY_IPV6,
  MODE_FULL_NAT,
  modeOf,
  ORIGINAL,
  PROTOCOL_TCP,
  X_BACKEND,
  X_CLIENT,
  X_REPLY,
  X_VIP,
} from "../flow/flow-record.ts";
import { updateChecksum, updatePartial } from "../wire/checksum.ts";
import { ICMP6_PACKET_TOO_BIG, ICMP6_TIME_EXCEEDED } from "../wire/icmpv6.ts";
import {
  IPV6_DESTINATION_AT,
  IPV6_SOURCE_AT,
  ipv6HopLimit,
  ipv6TotalBytes,
  setIpv6Address,
  setIpv6HopLimit,
} from "../wire/ipv6.ts";
import { setTcpPorts, TCP_CHECKSUM_AT, tcpHeaderBytes } from "../wire/tcp.ts";
import { UDP_CHECKSUM_AT, UDP_HEADER_BYTES } from "../wire/udp.ts";
import {
  type Context,
  R_FRAGMENT_AT,
  R_L4_AT,
  R_OUT_INTERFACE,
  R_OUT_MAC_HIGH,
  R_OUT_MAC_LOW,
  R_OUT_MTU,
} from "./context.ts";
import type { Output } from "./output.ts";
import type { Reply6 } from "./reply6.ts";
import { createSplices } from "./splices.ts";
import type { Translator46 } from "./translate46.ts";
import { FORWARDED } from "./verdict.ts";

/** Changes a packet of a flow that has IPv6 addresses in place, and sends it on. */
export interface Translator6 {
  /** As Translator.forward(); the transport header of an IPv6 packet is at R_L4_AT. */
  forward(
    rxWord: number,
    ipAt: number,
    flowWord: number,
    direction: number,
    protocol: number,
  ): number;
}

/** Whether a GSO packet's segments, with `headerBytes` before their data, fit the MTU. */
export function segmentsFit(vnet: number, headerBytes: number, mtu: number): boolean {
  const gso = (vnet >>> 8) & 0xff & ~VNET_GSO_ECN;
  return gso !== VNET_GSO_NONE && headerBytes + (vnet >>> 16) <= mtu;
}

export function createTranslator6(
  context: Context,
  output: Output,
  reply: Reply6,
  between: Translator46,
): Translator6 {
  const { i32, link, registers, rx, table, view } = context;
  const splices = createSplices(context);

  /** Addresses, ports and the checksum: see translate.ts; there is no header checksum. */
  function rewrite(
    ipAt: number,
    flowWord: number,
    direction: number,
    protocol: number,
    partial: boolean,
  ): void {
    const l4At = registers[R_L4_AT]!;
    const extension = table.extensionOf(flowWord);
    const isOriginal = direction === ORIGINAL;
    const flip = isOriginal ? 0 : 0xffff;
    const delta = i32[flowWord + F_DELTA]!;
    const source = extension + (isOriginal ? X_REPLY : X_VIP);
    const destination = extension + (isOriginal ? X_BACKEND : X_CLIENT);
    setIpv6Address(view, ipAt + IPV6_SOURCE_AT, i32, source);
    setIpv6Address(view, ipAt + IPV6_DESTINATION_AT, i32, destination);
    // A later fragment has the addresses alone: ports and checksum are the first one's.
    if (isLater()) return;
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

  function isLater(): boolean {
    const headerAt = registers[R_FRAGMENT_AT]!;
    return headerAt !== 0 && view.getUint16(headerAt + 2) >>> 3 !== 0;
  }

  /** Where an ICMPv6 error comes from: see errorSource() of translate.ts. */
  function errorSource(flowWord: number, direction: number): number {
    const extension = table.extensionOf(flowWord);
    const isFullNat = modeOf(i32[flowWord + F_STATE]!) === MODE_FULL_NAT;
    return extension + (direction === ORIGINAL || !isFullNat ? X_VIP : X_REPLY);
  }

  function forward(
    rxWord: number,
    ipAt: number,
    flowWord: number,
    direction: number,
    protocol: number,
  ): number {
    if (((i32[flowWord + F_STATE]! >>> 8) & KEY_ANY_IPV6) !== KEY_ANY_IPV6) {
      return view.getUint8(ipAt) >>> 4 === 6
        ? between.toIpv4(rxWord, ipAt, flowWord, direction, protocol)
        : between.toIpv6(rxWord, ipAt, flowWord, direction, protocol);
    }
    // On TUN the kernel counts the hop, when it takes the packet back.
    if (link !== 0 && ipv6HopLimit(view, ipAt) <= 1) {
      const from = errorSource(flowWord, direction);
      return reply.answerError(rxWord, ipAt, from, ICMP6_TIME_EXCEEDED, 0, 0);
    }
    const total = ipv6TotalBytes(view, ipAt);
    const vnet = rx[rxWord + D_VNET]!;
    const mtu = registers[R_OUT_MTU]!;
    if (mtu !== 0 && total > mtu) {
      const l4At = registers[R_L4_AT]!;
      const l4Bytes = protocol === PROTOCOL_TCP ? tcpHeaderBytes(view, l4At) : UDP_HEADER_BYTES;
      // Nobody on the way splits an IPv6 packet (RFC 8200 section 5).
      if (!segmentsFit(vnet, l4At - ipAt + l4Bytes, mtu)) {
        const from = errorSource(flowWord, direction);
        return reply.answerError(rxWord, ipAt, from, ICMP6_PACKET_TOO_BIG, 0, mtu);
      }
    }
    rewrite(ipAt, flowWord, direction, protocol, (vnet & VNET_F_NEEDS_CSUM) !== 0);
    if (link !== 0) setIpv6HopLimit(view, ipAt, ipv6HopLimit(view, ipAt) - 1);
    const egress = registers[R_OUT_INTERFACE]!;
    output.setLink(ipAt, egress, registers[R_OUT_MAC_HIGH]!, registers[R_OUT_MAC_LOW]!);
    rx[rxWord + D_BYTES] = link + total;
    output.sendReceived(rxWord, egress);
    return FORWARDED;
  }

  return { forward };
}
