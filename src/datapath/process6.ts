import { D_VNET, VNET_F_NEEDS_CSUM, VNET_GSO_TCPV6 } from "../device/device.ts";
import { ORIGINAL, PROTOCOL_ICMPV6, PROTOCOL_TCP, PROTOCOL_UDP } from "../flow/flow-record.ts";
import { A_FLAGS, A_IS_BACKEND, A_IS_HOST, A_IS_SNAT, A_IS_VIP } from "../service/bank.ts";
import {
  checkIpv6,
  IPV6_HEADER_BYTES,
  IPV6_LENGTH_WRONG,
  IPV6_OK,
  IPV6_SOURCE_INVALID,
  ipv6TotalBytes,
  isIpv6Group,
  WALK_FRAGMENT,
  WALK_FRAGMENT_AT,
  WALK_L4_AT,
  WALK_OK,
  WALK_PROTOCOL,
  WALK_ROUTING,
  WALK_TOO_MANY,
  WALK_WORDS,
  walkExtensions,
} from "../wire/ipv6.ts";
import { checkTcp, TCP_MALFORMED, TCP_OK, tcpPorts } from "../wire/tcp.ts";
import { checkUdp, UDP_OK, udpChecksum } from "../wire/udp.ts";
import type { Addresses } from "./addresses.ts";
import { type Balancer, OPENED, STATELESS } from "./balance.ts";
import {
  type Context,
  R_DESTINATION_FOLD,
  R_DESTINATION6,
  R_FLOW,
  R_FRAGMENT_AT,
  R_IS_IPV6,
  R_L4_AT,
  R_SOURCE_FOLD,
  R_SOURCE6,
} from "./context.ts";
import type { Handover } from "./handover.ts";
import type { Icmp6 } from "./icmp6.ts";
import type { Keys6 } from "./keys6.ts";
import type { Owners } from "./owners.ts";
import type { PartialChecksums } from "./partial.ts";
import {
  DROP_FRAME_TOO_SHORT,
  DROP_IPV6_EXTENSION_MALFORMED,
  DROP_IPV6_EXTENSIONS_TOO_MANY,
  DROP_IPV6_HEADER_MALFORMED,
  DROP_IPV6_LENGTH_WRONG,
  DROP_IPV6_NOT_SUPPORTED,
  DROP_IPV6_ROUTING_HEADER,
  DROP_IPV6_SOURCE_INVALID,
  DROP_NO_SERVICE,
  DROP_OUT_OF_STATE,
  DROP_TCP_FLAGS_INVALID,
  DROP_TCP_HEADER_MALFORMED,
  DROP_UDP_CHECKSUM_MISSING,
  DROP_UDP_HEADER_MALFORMED,
  DROP_VNET_HEADER_INVALID,
  DROPPED,
  PASSED,
} from "./verdict.ts";

/** The answer of Transport.processFlow when the packet must be looked at as one without a flow. */
export const FLOW_OVER = -1;

/** What is the same for packets of both families, and lies in process.ts. */
export interface Transport {
  /** Leave it to the kernel. */
  pass(rxWord: number): number;
  /** @returns a verdict, or FLOW_OVER */
  processFlow(
    rxWord: number,
    ipAt: number,
    l4At: number,
    protocol: number,
    reference: number,
  ): number;
  sendOriginal(rxWord: number, ipAt: number, protocol: number, row: number): number;
  sendStateless(rxWord: number, ipAt: number, protocol: number): number;
  /** A fragment: see FragmentPath.process6(). */
  processFragment6(rxWord: number, ipAt: number, protocol: number, end: number): number;
  /** @param tcpGso - VNET_GSO_… that a TCP packet may have */
  isVnetSane(
    rxWord: number,
    ipAt: number,
    l4At: number,
    l4Bytes: number,
    protocol: number,
    vnet: number,
    tcpGso: number,
  ): boolean;
}

/** One IPv6 packet, one verdict: process.ts for the other family. */
export interface Processor6 {
  /** A packet to this host, or of a TUN device. */
  process(rxWord: number, ipAt: number, bytes: number): number;
  /** TCP or UDP with checked headers, addresses loaded (Keys6), and R_L4_AT set. */
  processTransport(rxWord: number, ipAt: number, l4At: number, protocol: number): number;
  /** A frame to an Ethernet group (33:33:…). */
  processGroup(rxWord: number, ipAt: number, bytes: number): number;
}

export function createProcessor6(
  context: Context,
  addresses: Addresses,
  owners: Owners,
  handover: Handover,
  icmp: Icmp6,
  keys: Keys6,
  balancer: Balancer,
  partial: PartialChecksums,
  transport: Transport,
): Processor6 {
  const { device, i32, layout, link, registers, rx, view } = context;
  const { worker, workers } = layout;
  const isXdp = device.type === "xdp";
  const walked = new Int32Array(WALK_WORDS);

  function drop(reason: number): number {
    return DROPPED | (reason << 8);
  }

  function processGroup(rxWord: number, ipAt: number, bytes: number): number {
    if (checkIpv6(view, ipAt, bytes) !== IPV6_OK || !isIpv6Group(view, ipAt)) return PASSED;
    return icmp.processGroup(rxWord, ipAt);
  }

  function process(rxWord: number, ipAt: number, bytes: number): number {
    const checked = checkIpv6(view, ipAt, bytes);
    if (checked !== IPV6_OK) return malformedIpv6(rxWord, ipAt, bytes, checked);
    if (isIpv6Group(view, ipAt)) {
      // What the kernel says on its own account on a new TUN device (router solicitations, MLD).
      return link === 0 ? drop(DROP_IPV6_NOT_SUPPORTED) : PASSED;
    }
    keys.load(ipAt);
    const end = ipAt + ipv6TotalBytes(view, ipAt);
    const walk = walkExtensions(view, ipAt, end, walked);
    if (walk !== WALK_OK) return notWalked(rxWord, ipAt, walk, end);
    const protocol = walked[WALK_PROTOCOL]!;
    const l4At = walked[WALK_L4_AT]!;
    const l4Bytes = end - l4At;
    registers[R_L4_AT] = l4At;
    registers[R_FRAGMENT_AT] = walked[WALK_FRAGMENT_AT]!;
    if (protocol === PROTOCOL_TCP) {
      const tcp = checkTcp(view, l4At, l4Bytes);
      if (tcp !== TCP_OK) {
        const reason = tcp === TCP_MALFORMED ? DROP_TCP_HEADER_MALFORMED : DROP_TCP_FLAGS_INVALID;
        return malformed(rxWord, reason);
      }
    } else if (protocol === PROTOCOL_UDP) {
      if (checkUdp(view, l4At, l4Bytes) !== UDP_OK) {
        return malformed(rxWord, DROP_UDP_HEADER_MALFORMED);
      }
      // RFC 8200 section 8.1: no datagram goes without.
      if (udpChecksum(view, l4At) === 0 && (rx[rxWord + D_VNET]! & VNET_F_NEEDS_CSUM) === 0) {
        return malformed(rxWord, DROP_UDP_CHECKSUM_MISSING);
      }
    } else if (protocol === PROTOCOL_ICMPV6) {
      const verdict = icmp.process(rxWord, ipAt, l4At);
      return verdict === PASSED ? transport.pass(rxWord) : verdict;
    } else {
      return processOther(rxWord);
    }
    if (isXdp) partial.mark6(rxWord, ipAt, l4At, l4Bytes, protocol);
    const vnet = rx[rxWord + D_VNET]!;
    if (
      vnet !== 0 &&
      !transport.isVnetSane(rxWord, ipAt, l4At, l4Bytes, protocol, vnet, VNET_GSO_TCPV6)
    ) {
      return malformed(rxWord, DROP_VNET_HEADER_INVALID);
    }
    return processTransport(rxWord, ipAt, l4At, protocol);
  }

  function processTransport(rxWord: number, ipAt: number, l4At: number, protocol: number): number {
    const ports = tcpPorts(view, l4At);
    const reference = keys.find(protocol, ports);
    if (reference >= 0) {
      const verdict = transport.processFlow(rxWord, ipAt, l4At, protocol, reference);
      if (verdict !== FLOW_OVER) return verdict;
    }
    const entry = entryOf(R_DESTINATION6);
    const flags = entry < 0 ? 0 : i32[entry + A_FLAGS]!;
    if (workers !== 1) {
      const owner = owners.ofPacket(
        rxWord,
        flags,
        keys.sourceOwner(),
        keys.destinationOwner(),
        ports,
      );
      if (owner !== worker && isGatewayOwned(flags, protocol, ports)) {
        return handover.send(rxWord, owner);
      }
    }
    if ((flags & A_IS_VIP) !== 0) {
      const service = addresses.serviceAt(entry, protocol, ports & 0xffff);
      if (service >= 0 && layout.ipv6) return open(rxWord, ipAt, l4At, protocol, ports, service);
      if ((flags & A_IS_HOST) === 0) return drop(DROP_NO_SERVICE);
      return transport.pass(rxWord);
    }
    if ((flags & A_IS_SNAT) !== 0) return drop(DROP_OUT_OF_STATE);
    if (link !== 0 && (flags & A_IS_HOST) === 0 && isBackend(protocol, ports >>> 16)) {
      return drop(DROP_OUT_OF_STATE);
    }
    return transport.pass(rxWord);
  }

  function open(
    rxWord: number,
    ipAt: number,
    l4At: number,
    protocol: number,
    ports: number,
    service: number,
  ): number {
    registers[R_IS_IPV6] = 1;
    const verdict = balancer.open(
      rxWord,
      ipAt,
      l4At,
      protocol,
      registers[R_SOURCE_FOLD]!,
      registers[R_DESTINATION_FOLD]!,
      ports,
      service,
      0,
    );
    registers[R_IS_IPV6] = 0;
    if (verdict === STATELESS) return transport.sendStateless(rxWord, ipAt, protocol);
    if (verdict !== OPENED) return verdict;
    const row = balancer.opened[0]!;
    registers[R_FLOW] = (row << 1) | ORIGINAL;
    return transport.sendOriginal(rxWord, ipAt, protocol, row);
  }

  function entryOf(register: number): number {
    return addresses.find6(
      registers[register]!,
      registers[register + 1]!,
      registers[register + 2]!,
      registers[register + 3]!,
    );
  }

  function flagsOf(register: number): number {
    const entry = entryOf(register);
    return entry < 0 ? 0 : i32[entry + A_FLAGS]!;
  }

  function isGatewayOwned(flags: number, protocol: number, ports: number): boolean {
    if (link === 0 || (flags & (A_IS_VIP | A_IS_SNAT)) !== 0) return true;
    return isBackend(protocol, ports >>> 16);
  }

  function isBackend(protocol: number, port: number): boolean {
    const entry = entryOf(R_SOURCE6);
    return (
      entry >= 0 &&
      (i32[entry + A_FLAGS]! & A_IS_BACKEND) !== 0 &&
      addresses.serviceAt(entry, protocol, port) >= 0
    );
  }

  /** Not TCP, UDP or ICMPv6: no service has it. */
  function processOther(rxWord: number): number {
    const flags = flagsOf(R_DESTINATION6);
    const ours = (flags & (A_IS_VIP | A_IS_SNAT)) !== 0 && (flags & A_IS_HOST) === 0;
    return ours ? drop(DROP_NO_SERVICE) : transport.pass(rxWord);
  }

  function notWalked(rxWord: number, ipAt: number, walk: number, end: number): number {
    if (walk === WALK_FRAGMENT) {
      registers[R_L4_AT] = walked[WALK_L4_AT]!;
      registers[R_FRAGMENT_AT] = walked[WALK_FRAGMENT_AT]!;
      return transport.processFragment6(rxWord, ipAt, walked[WALK_PROTOCOL]!, end);
    }
    let reason = DROP_IPV6_EXTENSION_MALFORMED;
    if (walk === WALK_TOO_MANY) reason = DROP_IPV6_EXTENSIONS_TOO_MANY;
    else if (walk === WALK_ROUTING) reason = DROP_IPV6_ROUTING_HEADER;
    return malformed(rxWord, reason);
  }

  /** A broken packet that is not for an address of ours is left as it came. */
  function malformed(rxWord: number, reason: number): number {
    const isOwned = (flagsOf(R_DESTINATION6) & (A_IS_VIP | A_IS_SNAT)) !== 0;
    if (isOwned || (flagsOf(R_SOURCE6) & A_IS_BACKEND) !== 0) return drop(reason);
    return transport.pass(rxWord);
  }

  function malformedIpv6(rxWord: number, ipAt: number, bytes: number, checked: number): number {
    // Too short to say whose it is, so it is nobody's: no stack takes it either.
    if (bytes < IPV6_HEADER_BYTES) return drop(DROP_FRAME_TOO_SHORT);
    keys.load(ipAt);
    if (checked === IPV6_LENGTH_WRONG) return malformed(rxWord, DROP_IPV6_LENGTH_WRONG);
    if (checked === IPV6_SOURCE_INVALID) return malformed(rxWord, DROP_IPV6_SOURCE_INVALID);
    return malformed(rxWord, DROP_IPV6_HEADER_MALFORMED);
  }

  return { process, processGroup, processTransport };
}
