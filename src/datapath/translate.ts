import {
  D_BYTES,
  D_VNET,
  VNET_F_NEEDS_CSUM,
  VNET_GSO_ECN,
  VNET_GSO_NONE,
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
} from "../flow/flow-record.ts";
import { updateChecksum, updatePartial } from "../wire/checksum.ts";
import { ICMP_CODE_TTL_EXCEEDED, ICMP_TIME_EXCEEDED } from "../wire/icmp.ts";
import {
  decrementTtl,
  ipv4HeaderBytes,
  ipv4TotalBytes,
  ipv4Ttl,
  isLaterFragment,
  setIpv4Destination,
  setIpv4Id,
  setIpv4Source,
  updateIpv4HeaderChecksum,
} from "../wire/ipv4.ts";
import { setTcpPorts, TCP_CHECKSUM_AT } from "../wire/tcp.ts";
import { UDP_CHECKSUM_AT } from "../wire/udp.ts";
import {
  type Context,
  R_FRAGMENT_ID,
  R_OUT_INTERFACE,
  R_OUT_MAC_HIGH,
  R_OUT_MAC_LOW,
  R_OUT_MTU,
} from "./context.ts";
import type { Fragmenter } from "./fragmenter.ts";
import type { Output } from "./output.ts";
import type { Reply } from "./reply.ts";
import { createSplices } from "./splices.ts";
import { FORWARDED } from "./verdict.ts";

/** Changes a packet of a flow in place, and sends it on. */
export interface Translator {
  /**
   * Translate and send the packet of flow `flowWord` towards the hop in the registers.
   *
   * @param direction - ORIGINAL or REPLY
   * @returns the verdict: FORWARDED, or what became of a packet whose TTL or size does not do
   */
  forward(
    rxWord: number,
    ipAt: number,
    flowWord: number,
    direction: number,
    protocol: number,
  ): number;
}

export function createTranslator(
  context: Context,
  output: Output,
  reply: Reply,
  fragmenter: Fragmenter,
): Translator {
  const { i32, link, registers, rx, view } = context;
  const splices = createSplices(context);
  const hasSplices = splices.exist;

  /** A later fragment has the addresses alone: ports and checksum are the first one's. */
  function rewriteLater(ipAt: number, flowWord: number, direction: number): void {
    const addresses = i32[flowWord + F_DELTA]! >>> 16;
    if (direction === ORIGINAL) {
      setIpv4Source(view, ipAt, i32[flowWord + F_REPLY_ADDR]!);
      setIpv4Destination(view, ipAt, i32[flowWord + F_BACKEND_ADDR]!);
      updateIpv4HeaderChecksum(view, ipAt, addresses);
    } else {
      setIpv4Source(view, ipAt, i32[flowWord + F_VIP_ADDR]!);
      setIpv4Destination(view, ipAt, i32[flowWord + F_CLIENT_ADDR]!);
      updateIpv4HeaderChecksum(view, ipAt, addresses ^ 0xffff);
    }
  }

  /**
   * Addresses, ports and the two checksums. The whole difference was computed when the flow was
   * made (RFC 1624 eqn 3). A partial checksum (NEEDS_CSUM) is the sum of the pseudo header, not
   * complemented: it takes the difference of the addresses alone, and ports are not in it.
   */
  function rewrite(
    ipAt: number,
    l4At: number,
    flowWord: number,
    direction: number,
    protocol: number,
    partial: boolean,
  ): void {
    const delta = i32[flowWord + F_DELTA]!;
    let addresses = delta >>> 16;
    let all = delta & 0xffff;
    if (direction === ORIGINAL) {
      setIpv4Source(view, ipAt, i32[flowWord + F_REPLY_ADDR]!);
      setIpv4Destination(view, ipAt, i32[flowWord + F_BACKEND_ADDR]!);
      const ports = i32[flowWord + F_BACKEND_REPLY_PORTS]!;
      setTcpPorts(view, l4At, (ports << 16) | (ports >>> 16));
    } else {
      setIpv4Source(view, ipAt, i32[flowWord + F_VIP_ADDR]!);
      setIpv4Destination(view, ipAt, i32[flowWord + F_CLIENT_ADDR]!);
      const ports = i32[flowWord + F_CLIENT_VIP_PORTS]!;
      setTcpPorts(view, l4At, (ports << 16) | (ports >>> 16));
      addresses ^= 0xffff;
      all ^= 0xffff;
    }
    updateIpv4HeaderChecksum(view, ipAt, addresses);
    const tcp = protocol === PROTOCOL_TCP;
    if (hasSplices && tcp) splices.rewrite(l4At, flowWord, direction, partial);
    const checksumAt = l4At + (tcp ? TCP_CHECKSUM_AT : UDP_CHECKSUM_AT);
    const checksum = view.getUint16(checksumAt);
    if (partial) {
      view.setUint16(checksumAt, updatePartial(checksum, addresses));
    } else if (tcp) {
      view.setUint16(checksumAt, updateChecksum(checksum, all));
    } else if (checksum !== 0) {
      // RFC 768: 0 says "no checksum"; a computed 0 is sent as all ones.
      const updated = updateChecksum(checksum, all);
      view.setUint16(checksumAt, updated === 0 ? 0xffff : updated);
    }
  }

  function forward(
    rxWord: number,
    ipAt: number,
    flowWord: number,
    direction: number,
    protocol: number,
  ): number {
    // On TUN the kernel counts the hop, when it takes the packet back.
    if (link !== 0 && ipv4Ttl(view, ipAt) <= 1) {
      return reply.answerIcmpError(
        rxWord,
        ipAt,
        errorSource(flowWord, direction),
        ICMP_TIME_EXCEEDED,
        ICMP_CODE_TTL_EXCEEDED,
        0,
      );
    }
    const headerBytes = ipv4HeaderBytes(view, ipAt);
    const total = ipv4TotalBytes(view, ipAt);
    const vnet = rx[rxWord + D_VNET]!;
    const mtu = registers[R_OUT_MTU]!;
    const fits =
      mtu === 0 || total <= mtu || fitsAsSegments(ipAt, headerBytes, protocol, vnet, mtu);
    if (!fits && fragmenter.mustRefuse(ipAt, vnet, protocol)) {
      return fragmenter.refuse(rxWord, ipAt, errorSource(flowWord, direction), mtu);
    }
    if (registers[R_FRAGMENT_ID] !== 0) {
      setIpv4Id(view, ipAt, registers[R_FRAGMENT_ID]! & 0xffff);
    }
    if (isLaterFragment(view, ipAt)) {
      rewriteLater(ipAt, flowWord, direction);
    } else {
      rewrite(
        ipAt,
        ipAt + headerBytes,
        flowWord,
        direction,
        protocol,
        (vnet & VNET_F_NEEDS_CSUM) !== 0,
      );
    }
    if (link !== 0) decrementTtl(view, ipAt);
    const egress = registers[R_OUT_INTERFACE]!;
    output.setLink(ipAt, egress, registers[R_OUT_MAC_HIGH]!, registers[R_OUT_MAC_LOW]!);
    if (!fits) return fragmenter.send(rxWord, ipAt, egress, mtu);
    // What lies behind the packet is the padding of a short frame (RFC 894).
    rx[rxWord + D_BYTES] = link + total;
    output.sendReceived(rxWord, egress);
    return FORWARDED;
  }

  /** An ICMP error comes from an address of ours that its receiver knows: the SNAT address for the
   * backend of a full-NAT flow, else the VIP. */
  function errorSource(flowWord: number, direction: number): number {
    if (direction === ORIGINAL) return i32[flowWord + F_VIP_ADDR]!;
    const replyTo = i32[flowWord + F_REPLY_ADDR]!;
    return replyTo === i32[flowWord + F_CLIENT_ADDR] ? i32[flowWord + F_VIP_ADDR]! : replyTo;
  }

  /** A GSO packet is as large as its segments: the size of one is what the MTU limits. */
  function fitsAsSegments(
    ipAt: number,
    headerBytes: number,
    protocol: number,
    vnet: number,
    mtu: number,
  ): boolean {
    if (((vnet >>> 8) & 0xff & ~VNET_GSO_ECN) === VNET_GSO_NONE) return false;
    const l4Bytes =
      protocol === PROTOCOL_TCP ? (view.getUint8(ipAt + headerBytes + 12) >>> 4) * 4 : 8;
    return headerBytes + l4Bytes + (vnet >>> 16) <= mtu;
  }

  return { forward };
}
