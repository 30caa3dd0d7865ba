import { flowHash } from "../flow/flow-hash.ts";
import {
  backendSlotOf,
  F_BACKEND,
  F_BACKEND_ADDR,
  F_CLIENT_ADDR,
  F_CLIENT_VIP_PORTS,
  F_STATE,
  F_VIP_ADDR,
  KEY_REPLY_IPV6,
  MODE_DSR,
  MODE_GUE,
  modeOf,
  PROTOCOL_UDP,
  protocolOf,
} from "../flow/flow-record.ts";
import { B_ADDRESS6, B_SERVICE } from "../service/backend-slots.ts";
import {
  BANK_GUE_CHECKSUM,
  BANK_GUE_PORT,
  BANK_TUNNEL_SOURCE,
  BANK_TUNNEL_SOURCE_IPV6,
  GUE_CHECKSUM_IPV4,
  GUE_CHECKSUM_IPV6,
  S_TOO_BIG,
  SERVICE_WORDS,
  TOO_BIG_FRAGMENT,
} from "../service/bank.ts";
import { BACKEND_SLOT_BYTES, H_SECRET } from "../state/layout.ts";
import { ETHERTYPE_IPV4, ETHERTYPE_IPV6, setEtherType } from "../wire/ethernet.ts";
import { hasDontFragment, IPV4_DONT_FRAGMENT } from "../wire/ipv4.ts";
import {
  gueChecksum,
  gueSourcePort,
  innerTos,
  ipVersion,
  OUTER_IPV4_BYTES,
  OUTER_IPV6_BYTES,
  OUTER_UDP_BYTES,
  PROTOCOL_IPV4,
  PROTOCOL_IPV6,
  writeGueHeader,
  writeOuterIpv4,
  writeOuterIpv6,
} from "../wire/tunnel.ts";
import {
  type Context,
  R_BANK,
  R_OUT_INTERFACE,
  R_OUT_MAC_HIGH,
  R_OUT_MAC_LOW,
  R_SERVICES,
} from "./context.ts";
import type { Output } from "./output.ts";
import type { Reply } from "./reply.ts";

const BACKEND_SLOT_WORDS = BACKEND_SLOT_BYTES >> 2;

/** The outer headers of ipip and gue, for flows as their records say (wire/tunnel.ts has the bytes). */
export interface OuterHeaders {
  /** First word of the slot of the flow's backend. */
  slotWord(flowWord: number): number;
  /** Whether the backend, and so the outer header, is of IPv6. */
  isOuterIpv6(flowWord: number): boolean;
  /** Bytes that the flow's mode puts before a packet: 0 but in ipip and gue. */
  overhead(flowWord: number): number;
  /** `mtu.tooBig: fragment`. */
  fragmentsAlways(flowWord: number): boolean;
  /** The same for all packets of a flow, so that routers keep them in order. */
  hashOf(flowWord: number): number;
  /** Protocol number that an outer header has for the packet at `innerAt`. */
  innerProtocol(innerAt: number): number;
  /** Whether the flow's GUE has a checksum. */
  computesChecksum(flowWord: number): boolean;
  /**
   * Write an outer IP header at `at`.
   *
   * @param innerAt - the inner packet, whose TOS it gets
   * @param payload - bytes behind the outer IP header
   * @param protocol - of what is behind it
   * @param id - of an IPv4 outer header
   * @param fragmentWord - flags and offset of an IPv4 outer header
   */
  writeIp(
    at: number,
    innerAt: number,
    flowWord: number,
    payload: number,
    protocol: number,
    id: number,
    fragmentWord: number,
    hash: number,
  ): void;
  /** Write the UDP header of GUE, its checksum 0. */
  writeUdp(at: number, innerLength: number, hash: number): void;
  /** Write the whole outer header so that it ends where the inner packet begins. */
  write(innerAt: number, innerLength: number, flowWord: number): void;
  /** Write the link header before an outer packet, to the hop in the registers. */
  setLink(outerAt: number, flowWord: number): void;
}

export function createOuterHeaders(context: Context, output: Output, reply: Reply): OuterHeaders {
  const { i32, layout, link, registers, view } = context;
  const slots = layout.backendSlots.at >> 2;

  function slotWord(flowWord: number): number {
    return slots + backendSlotOf(i32[flowWord + F_BACKEND]!) * BACKEND_SLOT_WORDS;
  }

  function isOuterIpv6(flowWord: number): boolean {
    return ((i32[flowWord + F_STATE]! >>> 8) & KEY_REPLY_IPV6) !== 0;
  }

  function overhead(flowWord: number): number {
    const mode = modeOf(i32[flowWord + F_STATE]!);
    if (mode <= MODE_DSR) return 0;
    const ip = isOuterIpv6(flowWord) ? OUTER_IPV6_BYTES : OUTER_IPV4_BYTES;
    return mode === MODE_GUE ? ip + OUTER_UDP_BYTES : ip;
  }

  function fragmentsAlways(flowWord: number): boolean {
    const service = i32[slotWord(flowWord) + B_SERVICE]!;
    const word = registers[R_SERVICES]! + service * SERVICE_WORDS + S_TOO_BIG;
    return i32[word] === TOO_BIG_FRAGMENT;
  }

  function hashOf(flowWord: number): number {
    return flowHash(
      i32[H_SECRET]!,
      i32[H_SECRET + 1]!,
      protocolOf(i32[flowWord + F_STATE]!),
      i32[flowWord + F_CLIENT_ADDR]!,
      i32[flowWord + F_VIP_ADDR]!,
      i32[flowWord + F_CLIENT_VIP_PORTS]!,
    );
  }

  function writeIp(
    at: number,
    innerAt: number,
    flowWord: number,
    payload: number,
    protocol: number,
    id: number,
    fragmentWord: number,
    hash: number,
  ): void {
    const bank = registers[R_BANK]!;
    const tos = innerTos(view, innerAt);
    if (isOuterIpv6(flowWord)) {
      const source = bank + BANK_TUNNEL_SOURCE_IPV6;
      const destination = slotWord(flowWord) + B_ADDRESS6;
      writeOuterIpv6(view, at, payload, tos, hash, protocol, i32, source, destination);
    } else {
      writeOuterIpv4(
        view,
        at,
        OUTER_IPV4_BYTES + payload,
        tos,
        id,
        fragmentWord,
        protocol,
        i32[bank + BANK_TUNNEL_SOURCE]!,
        i32[flowWord + F_BACKEND_ADDR]!,
      );
    }
  }

  function writeUdp(at: number, innerLength: number, hash: number): void {
    const port = i32[registers[R_BANK]! + BANK_GUE_PORT]!;
    writeGueHeader(view, at, gueSourcePort(hash), port, OUTER_UDP_BYTES + innerLength);
  }

  function computesChecksum(flowWord: number): boolean {
    const computed = i32[registers[R_BANK]! + BANK_GUE_CHECKSUM]!;
    return (computed & (isOuterIpv6(flowWord) ? GUE_CHECKSUM_IPV6 : GUE_CHECKSUM_IPV4)) !== 0;
  }

  function innerProtocol(innerAt: number): number {
    return ipVersion(view, innerAt) === 6 ? PROTOCOL_IPV6 : PROTOCOL_IPV4;
  }

  /** DF of the outer header, as the inner one has it; none where the service fragments. */
  function dontFragment(innerAt: number, flowWord: number): number {
    if (fragmentsAlways(flowWord)) return 0;
    if (ipVersion(view, innerAt) === 6) return IPV4_DONT_FRAGMENT;
    return hasDontFragment(view, innerAt) ? IPV4_DONT_FRAGMENT : 0;
  }

  function write(innerAt: number, innerLength: number, flowWord: number): void {
    const gue = modeOf(i32[flowWord + F_STATE]!) === MODE_GUE;
    const hash = hashOf(flowWord);
    const udpAt = innerAt - OUTER_UDP_BYTES;
    const ipBytes = isOuterIpv6(flowWord) ? OUTER_IPV6_BYTES : OUTER_IPV4_BYTES;
    const outerAt = (gue ? udpAt : innerAt) - ipBytes;
    writeIp(
      outerAt,
      innerAt,
      flowWord,
      innerLength + (gue ? OUTER_UDP_BYTES : 0),
      gue ? PROTOCOL_UDP : innerProtocol(innerAt),
      reply.nextId(),
      dontFragment(innerAt, flowWord),
      hash,
    );
    if (!gue) return;
    writeUdp(udpAt, innerLength, hash);
    if (computesChecksum(flowWord)) {
      const checksum = gueChecksum(view, outerAt, udpAt, innerAt, innerLength);
      view.setUint16(udpAt + 6, checksum);
    }
  }

  function setLink(outerAt: number, flowWord: number): void {
    if (link === 0) return;
    const egress = registers[R_OUT_INTERFACE]!;
    output.setLink(outerAt, egress, registers[R_OUT_MAC_HIGH]!, registers[R_OUT_MAC_LOW]!);
    const type = isOuterIpv6(flowWord) ? ETHERTYPE_IPV6 : ETHERTYPE_IPV4;
    setEtherType(view, outerAt - link, type);
  }

  return {
    slotWord,
    isOuterIpv6,
    overhead,
    fragmentsAlways,
    hashOf,
    innerProtocol,
    computesChecksum,
    writeIp,
    writeUdp,
    write,
    setLink,
  };
}
