import {
  D_AT,
  D_BYTES,
  D_CSUM,
  D_VNET,
  VNET_F_NEEDS_CSUM,
  VNET_GSO_ECN,
  VNET_GSO_NONE,
} from "../device/device.ts";
import { completeChecksum } from "../device/partial-checksum.ts";
import {
  F_STATE,
  F_VIP_ADDR,
  MODE_DSR,
  MODE_GUE,
  modeOf,
  PROTOCOL_TCP,
  PROTOCOL_UDP,
  protocolOf,
} from "../flow/flow-record.ts";
import { B_PATH_MTU, B_PATH_MTU_UNTIL } from "../service/backend-slots.ts";
import { ETHERTYPE_IPV6, setEtherType } from "../wire/ethernet.ts";
import { ICMP_CODE_FRAGMENTATION_NEEDED, ICMP_UNREACHABLE } from "../wire/icmp.ts";
import { hasDontFragment, IPV4_MORE_FRAGMENTS } from "../wire/ipv4.ts";
import {
  gueChecksum,
  IPV6_FRAGMENT_HEADER_BYTES,
  innerBytes,
  ipVersion,
  NEXT_HEADER_FRAGMENT,
  OUTER_IPV4_BYTES,
  OUTER_IPV6_BYTES,
  OUTER_UDP_BYTES,
  writeIpv6FragmentHeader,
} from "../wire/tunnel.ts";
import {
  type Context,
  R_OUT_INTERFACE,
  R_OUT_MAC_HIGH,
  R_OUT_MAC_LOW,
  R_OUT_MTU,
  R_TICK,
} from "./context.ts";
import type { Fragmenter } from "./fragmenter.ts";
import { createOuterHeaders } from "./outer-headers.ts";
import { ORIGINATED, type Output } from "./output.ts";
import type { Reply } from "./reply.ts";
import type { Segmenter } from "./segment.ts";
import { DROP_TOO_BIG, DROPPED, FORWARDED } from "./verdict.ts";

/** The smallest MTU of an IPv6 path (RFC 8200 section 5). */
const IPV6_MTU_MIN = 1280;
/** The smallest MTU that IPv4 knows (RFC 791 section 3.2). */
const IPV4_MTU_MIN = 68;

/**
 * Forwarding of one-way flows: dsr, ipip, gue (design section 2). The inner packet stays as it came,
 * to the byte, TTL included.
 *
 *   dsr       both MACs
 *   ipip/gue  an outer header before the packet, in the headroom of its frame where there is some,
 *             else in front of a copy. DF of the outer header is the inner one's (RFC 2003 section
 *             3.1); over an IPv6 packet it is set
 *
 * Larger than the path takes, header included:
 *   DF or IPv6  ICMP to the client with the MTU that is left inside (RFC 2003 section 4.1, RFC 4459
 *               section 3.1), unless the service says `fragment`
 *   else        the outer packet is sent in fragments, which the tunnel's end puts together
 *   GSO         segmented here (segment.ts): one of TCP whose segments are too large, and may be cut,
 *               into smaller ones
 */
export interface Encapsulator {
  /**
   * Send the packet at `ipAt` to the backend of one-way flow `flowWord`, whose hop is in the
   * registers.
   *
   * @param l4At - its transport header; only GSO packets need it
   */
  forward(rxWord: number, ipAt: number, l4At: number, flowWord: number): number;
  /** Bytes that the flow's mode puts before a packet: 0 but in ipip and gue. */
  overhead(flowWord: number): number;
  /**
   * Whether a packet that is too large for its flow's way is answered, not sent in fragments.
   *
   * @param length - bytes of the packet at `ipAt`, of which only the header has to be there
   */
  mustRefuse(ipAt: number, length: number, flowWord: number): boolean;
  /** MTU towards the backend of the flow, or what a path has told: 0 where nothing is known. */
  pathMtu(flowWord: number): number;
  /**
   * Put the outer header before a packet of our own, at `ipAt + overhead`, in a spare.
   *
   * @returns bytes from `ipAt` on
   */
  wrap(ipAt: number, flowWord: number): number;
}

export function createEncapsulator(
  context: Context,
  output: Output,
  reply: Reply,
  fragmenter: Fragmenter,
  segmenter: Segmenter,
): Encapsulator {
  const { device, i32, link, registers, rx, view } = context;
  const headers = createOuterHeaders(context, output, reply);
  const { fragmentsAlways, hashOf, innerProtocol, isOuterIpv6, overhead, setLink, slotWord } =
    headers;
  const bytes = new Uint8Array(device.memory);
  const { headroomBytes } = device;
  const sparesEnd = device.spareAt + device.spareCount * device.spareBytes;

  function pathMtu(flowWord: number): number {
    const egress = registers[R_OUT_MTU]!;
    const at = slotWord(flowWord);
    const told = i32[at + B_PATH_MTU]!;
    if (told === 0 || ((i32[at + B_PATH_MTU_UNTIL]! - registers[R_TICK]!) | 0) <= 0) return egress;
    return egress === 0 || told < egress ? told : egress;
  }

  function wrap(ipAt: number, flowWord: number): number {
    const before = overhead(flowWord);
    const innerAt = ipAt + before;
    const innerLength = innerBytes(view, innerAt);
    if (before !== 0) {
      headers.write(innerAt, innerLength, flowWord);
      if (isOuterIpv6(flowWord) && link !== 0) setEtherType(view, ipAt - link, ETHERTYPE_IPV6);
    }
    return before + innerLength;
  }

  function gsoOf(rxWord: number): number {
    const vnet = rx[rxWord + D_VNET]!;
    return ((vnet >>> 8) & 0xff & ~VNET_GSO_ECN) === VNET_GSO_NONE ? 0 : vnet >>> 16;
  }

  /** Nobody completes a checksum inside a tunnel for us. */
  function finishChecksum(rxWord: number, ipAt: number, length: number): void {
    if ((rx[rxWord + D_VNET]! & VNET_F_NEEDS_CSUM) === 0) return;
    const csum = rx[rxWord + D_CSUM]!;
    const before = ipAt - rx[rxWord + D_AT]!;
    completeChecksum(view, rx[rxWord + D_AT]!, before + length, csum & 0xffff, csum >>> 16);
    rx[rxWord + D_VNET] = rx[rxWord + D_VNET]! & ~VNET_F_NEEDS_CSUM;
    rx[rxWord + D_CSUM] = 0;
  }

  /** A copy that was held (fragments.ts): what is listed must not be sent before it, nor its spare. */
  function isSpare(at: number): boolean {
    return at >= device.spareAt && at < sparesEnd;
  }

  function forward(rxWord: number, ipAt: number, l4At: number, flowWord: number): number {
    if (modeOf(i32[flowWord + F_STATE]!) === MODE_DSR) {
      return forwardDirect(rxWord, ipAt, l4At, flowWord);
    }
    const segment = gsoOf(rxWord);
    if (segment !== 0) return forwardSegments(rxWord, ipAt, l4At, flowWord, segment);
    const before = overhead(flowWord);
    const mtu = pathMtu(flowWord);
    const length = innerBytes(view, ipAt);
    finishChecksum(rxWord, ipAt, length);
    if (mtu !== 0 && before + length > mtu) return tooBig(rxWord, ipAt, length, flowWord, mtu);
    const outerAt = ipAt - before;
    if (before <= headroomBytes || isSpare(ipAt)) {
      headers.write(ipAt, length, flowWord);
      setLink(outerAt, flowWord);
      rx[rxWord + D_AT] = outerAt - link;
      rx[rxWord + D_BYTES] = link + before + length;
      rx[rxWord + D_VNET] = 0;
      rx[rxWord + D_CSUM] = 0;
      output.sendReceived(rxWord, registers[R_OUT_INTERFACE]!);
      return FORWARDED;
    }
    return forwardCopy(rxWord, ipAt, length, flowWord);
  }

  function forwardCopy(rxWord: number, ipAt: number, length: number, flowWord: number): number {
    const before = overhead(flowWord);
    if (before + length > output.spareBytes || !output.reserve(1)) {
      return DROPPED | (DROP_TOO_BIG << 8);
    }
    const spare = output.takeSpare();
    bytes.copyWithin(spare + before, ipAt, ipAt + length);
    sendWrapped(spare, length, flowWord, rxWord);
    return FORWARDED;
  }

  /** Write the outer header before the packet at spare + overhead, and send it. */
  function sendWrapped(spare: number, length: number, flowWord: number, user: number): void {
    const before = overhead(flowWord);
    headers.write(spare + before, length, flowWord);
    setLink(spare, flowWord);
    output.sendSpare(spare, before + length, registers[R_OUT_INTERFACE]!, user);
  }

  /** dsr: the packet as it is, with other MACs. */
  function forwardDirect(rxWord: number, ipAt: number, l4At: number, flowWord: number): number {
    const mtu = pathMtu(flowWord);
    const length = innerBytes(view, ipAt);
    const segment = gsoOf(rxWord);
    const protocol = protocolOf(i32[flowWord + F_STATE]!);
    const largest = segment === 0 ? length : l4At - ipAt + l4HeaderBytes(l4At, protocol) + segment;
    const fits = mtu === 0 || largest <= mtu;
    const vnet = rx[rxWord + D_VNET]!;
    if (!fits && ipVersion(view, ipAt) === 6) return refuse(rxWord, ipAt, flowWord, mtu);
    if (!fits && fragmenter.mustRefuse(ipAt, vnet, protocol)) {
      return fragmenter.refuse(rxWord, ipAt, i32[flowWord + F_VIP_ADDR]!, mtu);
    }
    const egress = registers[R_OUT_INTERFACE]!;
    output.setLink(ipAt, egress, registers[R_OUT_MAC_HIGH]!, registers[R_OUT_MAC_LOW]!);
    if (!fits) return fragmenter.send(rxWord, ipAt, egress, mtu);
    rx[rxWord + D_BYTES] = ipAt - rx[rxWord + D_AT]! + length;
    output.sendReceived(rxWord, egress);
    return FORWARDED;
  }

  function l4HeaderBytes(l4At: number, protocol: number): number {
    return protocol === PROTOCOL_TCP ? (view.getUint8(l4At + 12) >>> 4) << 2 : OUTER_UDP_BYTES;
  }

  /** Tell the client what fits: RFC 1191 section 4, RFC 4443 section 3.2. */
  function refuse(rxWord: number, ipAt: number, flowWord: number, inside: number): number {
    const least = ipVersion(view, ipAt) === 6 ? IPV6_MTU_MIN : IPV4_MTU_MIN;
    return reply.answerIcmpError(
      rxWord,
      ipAt,
      i32[flowWord + F_VIP_ADDR]!,
      ICMP_UNREACHABLE,
      ICMP_CODE_FRAGMENTATION_NEEDED,
      Math.max(inside, least),
    );
  }

  /**
   * Whether the client hears of a packet that is too large. An IPv6 packet of at most 1280 bytes may
   * not be refused: the tunnel has to carry it (RFC 2473 section 7.1).
   */
  function mustRefuse(ipAt: number, length: number, flowWord: number): boolean {
    if (ipVersion(view, ipAt) === 6 && length <= IPV6_MTU_MIN) return false;
    if (fragmentsAlways(flowWord)) return false;
    return ipVersion(view, ipAt) === 6 || hasDontFragment(view, ipAt);
  }

  function tooBig(
    rxWord: number,
    ipAt: number,
    length: number,
    flowWord: number,
    mtu: number,
  ): number {
    if (mustRefuse(ipAt, length, flowWord)) {
      return refuse(rxWord, ipAt, flowWord, mtu - overhead(flowWord));
    }
    return fragmentOuter(rxWord, ipAt, length, flowWord, mtu, isSpare(ipAt))
      ? FORWARDED
      : DROPPED | (DROP_TOO_BIG << 8);
  }

  /**
   * Send the packet encapsulated, in fragments of the outer packet; the verdict hangs on the last.
   *
   * @param user - rxWord, or ORIGINATED for all of them
   * @param kept - the packet lies in a spare: none may be given back before the last piece
   * @returns false when the spares do not suffice: the receiver needs all fragments or none
   */
  function fragmentOuter(
    user: number,
    innerAt: number,
    length: number,
    flowWord: number,
    mtu: number,
    kept: boolean,
  ): boolean {
    const outerIpv6 = isOuterIpv6(flowWord);
    const gueBytes = modeOf(i32[flowWord + F_STATE]!) === MODE_GUE ? OUTER_UDP_BYTES : 0;
    const outerBytes = outerIpv6 ? OUTER_IPV6_BYTES + IPV6_FRAGMENT_HEADER_BYTES : OUTER_IPV4_BYTES;
    const piece = (Math.min(mtu, output.spareBytes) - outerBytes) & ~7;
    const payload = gueBytes + length;
    if (piece < 8) return false;
    const pieces = Math.ceil(payload / piece);
    if (kept ? output.sparesLeft() < pieces : !output.reserve(pieces)) return false;
    const hash = hashOf(flowWord);
    const id = reply.nextId();
    const protocol = gueBytes === 0 ? innerProtocol(innerAt) : PROTOCOL_UDP;
    for (let offset = 0; offset < payload; offset += piece) {
      const size = Math.min(piece, payload - offset);
      const more = offset + size < payload;
      const outerAt = output.takeSpare();
      const payloadAt = outerAt + outerBytes;
      const skip = offset === 0 ? gueBytes : 0;
      const from = innerAt + offset + skip - gueBytes;
      bytes.copyWithin(payloadAt + skip, from, from + size - skip);
      headers.writeIp(
        outerAt,
        innerAt,
        flowWord,
        size + (outerIpv6 ? IPV6_FRAGMENT_HEADER_BYTES : 0),
        outerIpv6 ? NEXT_HEADER_FRAGMENT : protocol,
        id,
        (offset >>> 3) | (more ? IPV4_MORE_FRAGMENTS : 0),
        hash,
      );
      if (outerIpv6) {
        const headerAt = outerAt + OUTER_IPV6_BYTES;
        writeIpv6FragmentHeader(view, headerAt, protocol, offset, more ? 1 : 0, id);
      }
      if (skip !== 0) {
        headers.writeUdp(payloadAt, length, hash);
        if (headers.computesChecksum(flowWord)) {
          const checksum = gueChecksum(view, outerAt, payloadAt, innerAt, length);
          view.setUint16(payloadAt + 6, checksum);
        }
      }
      setLink(outerAt, flowWord);
      const egress = registers[R_OUT_INTERFACE]!;
      output.sendSpare(outerAt, outerBytes + size, egress, more ? ORIGINATED : user);
    }
    return true;
  }

  /** A GSO packet: each segment gets an outer header of its own; the verdict hangs on the last. */
  function forwardSegments(
    rxWord: number,
    ipAt: number,
    l4At: number,
    flowWord: number,
    gsoBytes: number,
  ): number {
    const protocol = protocolOf(i32[flowWord + F_STATE]!);
    const before = overhead(flowWord);
    const mtu = pathMtu(flowWord);
    const innerHeaders = l4At - ipAt + l4HeaderBytes(l4At, protocol);
    let segment = gsoBytes;
    let splits = false;
    if (mtu !== 0 && before + innerHeaders + segment > mtu) {
      if (mustRefuse(ipAt, innerHeaders + segment, flowWord)) {
        return refuse(rxWord, ipAt, flowWord, mtu - before);
      }
      if (protocol === PROTOCOL_TCP) segment = mtu - before - innerHeaders;
      else splits = true;
    }
    const largest = before + innerHeaders + segment;
    if (segment < 1 || largest > output.spareBytes) return DROPPED | (DROP_TOO_BIG << 8);
    const end = ipAt + innerBytes(view, ipAt);
    const count = segmenter.begin(ipAt, l4At, end, protocol, segment);
    if (splits) return fragmentSegments(rxWord, count, flowWord, mtu);
    for (let index = 0; index < count; index++) {
      if (!output.reserve(1)) return DROPPED | (DROP_TOO_BIG << 8);
      const spare = output.takeSpare();
      const length = segmenter.write(index, spare + before);
      sendWrapped(spare, length, flowWord, index === count - 1 ? rxWord : ORIGINATED);
    }
    return FORWARDED;
  }

  /** Datagrams of a UDP GSO packet, each in fragments: a spare holds the datagram meanwhile. */
  function fragmentSegments(rxWord: number, count: number, flowWord: number, mtu: number): number {
    const pieces = 2 + Math.ceil(segmenter.largest() / Math.max(8, mtu - OUTER_IPV6_BYTES - 16));
    for (let index = 0; index < count; index++) {
      if (!output.reserve(1 + pieces)) return DROPPED | (DROP_TOO_BIG << 8);
      const scratch = output.takeSpare();
      const length = segmenter.write(index, scratch);
      const user = index === count - 1 ? rxWord : ORIGINATED;
      if (!fragmentOuter(user, scratch, length, flowWord, mtu, true)) {
        return DROPPED | (DROP_TOO_BIG << 8);
      }
    }
    return FORWARDED;
  }

  return { forward, mustRefuse, overhead, pathMtu, wrap };
}
