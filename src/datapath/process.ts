import { SEQUENCE_WINDOW_BYTES } from "../base/limits.ts";
import {
  D_AT,
  D_BYTES,
  D_CSUM,
  D_INTERFACE,
  D_VNET,
  VNET_F_NEEDS_CSUM,
  VNET_GSO_ECN,
  VNET_GSO_NONE,
  VNET_GSO_TCPV4,
  VNET_GSO_UDP_L4,
} from "../device/device.ts";
import {
  backendSlotOf,
  F_ACK_ORIGINAL,
  F_ACK_REPLY,
  F_BACKEND,
  F_CLIENT_ADDR,
  F_CLIENT_VIP_PORTS,
  F_EXPIRES,
  F_HOP_MAC_HIGH,
  F_HOP_MAC_LOW,
  F_STATE,
  F_VIP_ADDR,
  FLAG_AWAITS,
  FLAG_BY_BACKEND,
  FLAG_FIN_ORIGINAL,
  FLAG_FIN_REPLY,
  hasExtension,
  isOneWay,
  KEY_SLOW,
  ORIGINAL,
  PROTOCOL_ICMP,
  PROTOCOL_TCP,
  PROTOCOL_UDP,
  REPLY,
  STATE_SYN_SENT,
  STATE_UDP_ONE_WAY,
  STATE_UDP_REPLIED,
} from "../flow/flow-record.ts";
import { nextOneWayState } from "../flow/tcp-one-way.ts";
import {
  nextState,
  SEGMENT_ACK,
  SEGMENT_FIN,
  SEGMENT_NONE,
  SEGMENT_RST,
  segmentKind,
  TCP_NEW_FLOW,
} from "../flow/tcp-state.ts";
import {
  B_SERVICE,
  BF_BYTES_IN,
  BF_BYTES_OUT,
  BF_PACKETS_IN,
  BF_PACKETS_OUT,
  VF_BYTES_IN,
  VF_BYTES_OUT,
  VF_PACKETS_IN,
  VF_PACKETS_OUT,
} from "../service/backend-slots.ts";
import {
  A_FLAGS,
  A_IS_BACKEND,
  A_IS_HOST,
  A_IS_SNAT,
  A_IS_VIP,
  ADMIT_PACKETS,
  S_ADMISSION,
  S_SYN_PROXY,
  SERVICE_WORDS,
  SYN_PROXY_OFF,
} from "../service/bank.ts";
import { HT_INTERFACES } from "../state/hop-table.ts";
import { BACKEND_RUN_BYTES, SERVICE_RUN_BYTES } from "../state/layout.ts";
import {
  destinationMacHigh,
  destinationMacLow,
  ETHERNET_HEADER_BYTES,
  ETHERTYPE_ARP,
  ETHERTYPE_IPV4,
  ETHERTYPE_IPV6,
  etherType,
  MAC_IPV6_GROUP,
  sourceMacHigh,
  sourceMacLow,
} from "../wire/ethernet.ts";
import {
  checkIpv4,
  IPV4_CHECKSUM_WRONG,
  IPV4_HEADER_BYTES,
  IPV4_LENGTH_WRONG,
  IPV4_OK,
  IPV4_SOURCE_INVALID,
  IPV4_SOURCE_ROUTE,
  IPV4_TOO_SHORT,
  ipv4Destination,
  ipv4HeaderBytes,
  ipv4Protocol,
  ipv4Source,
  ipv4TotalBytes,
  isFragment,
  isLaterFragment,
} from "../wire/ipv4.ts";
import { ipv6TotalBytes } from "../wire/ipv6.ts";
import {
  checkTcp,
  TCP_ACK,
  TCP_FIN,
  TCP_MALFORMED,
  TCP_OK,
  TCP_RST,
  TCP_SYN,
  tcpAcknowledgement,
  tcpFlags,
  tcpHeaderBytes,
  tcpPorts,
  tcpSequence,
} from "../wire/tcp.ts";
import { innerBytes } from "../wire/tunnel.ts";
import { checkUdp, UDP_OK } from "../wire/udp.ts";
import type { Addresses } from "./addresses.ts";
import type { Admission } from "./admit.ts";
import type { Arp } from "./arp.ts";
import { type Balancer, OPENED, STATELESS } from "./balance.ts";
import { type Context, R_FLOW, R_HOPS, R_IS_IPV6, R_L4_AT, R_SERVICES, R_TICK } from "./context.ts";
import { C_FLOWS_RESET } from "./counters.ts";
import type { Encapsulator } from "./encapsulate.ts";
import type { Flows } from "./flows.ts";
import { createFragmentPath } from "./fragments.ts";
import type { Handover } from "./handover.ts";
import { HOP_FOUND, type Hops } from "./hops.ts";
import type { Icmp } from "./icmp.ts";
import type { Icmp6 } from "./icmp6.ts";
import type { Keys6 } from "./keys6.ts";
import type { MssClamp } from "./mss.ts";
import type { Output } from "./output.ts";
import type { Owners } from "./owners.ts";
import type { PartialChecksums } from "./partial.ts";
import type { Passive } from "./passive.ts";
import { createProcessor6, FLOW_OVER } from "./process6.ts";
import type { Reply } from "./reply.ts";
import type { Stateless } from "./stateless.ts";
import type { SynProxy } from "./syn-proxy.ts";
import type { Translator } from "./translate.ts";
import type { Translator6 } from "./translate6.ts";
import type { UdpFlows } from "./udp.ts";
import {
  DROP_BACKEND_GONE,
  DROP_FRAME_TOO_SHORT,
  DROP_IPV4_CHECKSUM_WRONG,
  DROP_IPV4_HEADER_MALFORMED,
  DROP_IPV4_LENGTH_WRONG,
  DROP_IPV4_OPTIONS_SOURCE_ROUTE,
  DROP_IPV4_SOURCE_INVALID,
  DROP_NO_SERVICE,
  DROP_NOT_OURS,
  DROP_OUT_OF_STATE,
  DROP_PACKETS_LIMITED,
  DROP_TCP_FLAGS_INVALID,
  DROP_TCP_HEADER_MALFORMED,
  DROP_UDP_HEADER_MALFORMED,
  DROP_VNET_HEADER_INVALID,
  DROPPED,
  FORWARDED,
  PASSED,
} from "./verdict.ts";

/**
 * One frame, one verdict.
 *
 *   frame -> link -> IPv4 -> TCP or UDP -> flow? -- yes -> state -> translate -> send
 *                     |                     |
 *                     +-> ICMP              no -> VIP? -- yes -> balance -> (as above)
 *                                                  |
 *                                                  no -> passed, or a drop if it is ours
 */
export interface Processor {
  /** @returns verdict | drop reason << 8 */
  process(rxWord: number): number;
  /** Once a batch, after its frames: what waits and can go on, or has waited long enough. */
  endBatch(): void;
}

/** A partial checksum, or segments to be made: half of a virtio_net_hdr that no ICMP message has. */
const ICMP_VNET_REFUSED = VNET_F_NEEDS_CSUM | (0xff << 8);
const BACKEND_RUN_DOUBLES = BACKEND_RUN_BYTES >> 3;
const SERVICE_RUN_DOUBLES = SERVICE_RUN_BYTES >> 3;

export function createProcessor(
  context: Context,
  addresses: Addresses,
  owners: Owners,
  handover: Handover,
  arp: Arp,
  icmp: Icmp,
  hops: Hops,
  flows: Flows,
  balancer: Balancer,
  stateless: Stateless,
  admission: Admission,
  synProxy: SynProxy,
  translator: Translator,
  encapsulator: Encapsulator,
  mss: MssClamp,
  udp: UdpFlows,
  output: Output,
  partial: PartialChecksums,
  icmp6: Icmp6,
  keys6: Keys6,
  translator6: Translator6,
  reply: Reply,
  passive: Passive,
  countersAt: number,
): Processor {
  const { device, f64, i32, layout, link, registers, rx, table, view } = context;
  // AF_XDP took the frame from the kernel, and says nothing of its checksum.
  const isXdp = device.type === "xdp";
  const unclaimed = isXdp ? drop(DROP_NOT_OURS) : PASSED;
  const { worker, workers } = layout;
  const backendRuns = layout.backendRuns.at >> 3;
  const serviceRuns = layout.serviceRuns.at >> 3;

  const fragments = createFragmentPath(
    context,
    addresses,
    owners,
    handover,
    flows,
    keys6,
    output,
    reply,
    { transport: processTransport, transport6, follow: send, pass },
    countersAt,
  );

  function drop(reason: number): number {
    return DROPPED | (reason << 8);
  }

  function transport6(rxWord: number, ipAt: number, l4At: number, protocol: number): number {
    return six.processTransport(rxWord, ipAt, l4At, protocol);
  }

  /** Leave it to the kernel: AF_PACKET is a tap, a TUN device takes the packet back. */
  function pass(rxWord: number): number {
    if (link === 0) output.sendReceived(rxWord, 0);
    return PASSED;
  }

  function process(rxWord: number): number {
    if (link === 0) return processTun(rxWord);
    const verdict = processEthernet(rxWord);
    return verdict === PASSED ? unclaimed : verdict;
  }

  function processEthernet(rxWord: number): number {
    const at = rx[rxWord + D_AT]!;
    const bytes = rx[rxWord + D_BYTES]!;
    if (bytes < ETHERNET_HEADER_BYTES) return drop(DROP_FRAME_TOO_SHORT);
    if (registers[R_HOPS] === 0) return PASSED;
    const type = etherType(view, at);
    if (type === ETHERTYPE_ARP) return arp.process(rxWord);
    const ipAt = at + ETHERNET_HEADER_BYTES;
    const ipBytes = bytes - ETHERNET_HEADER_BYTES;
    // Solicitations for addresses of ours come to a group of theirs (RFC 2464 section 7).
    if (type === ETHERTYPE_IPV6 && destinationMacHigh(view, at) >>> 16 === MAC_IPV6_GROUP) {
      return six.processGroup(rxWord, ipAt, ipBytes);
    }
    // A bridge or a promiscuous interface shows frames for others: they are not ours to take.
    const own = registers[R_HOPS]! + HT_INTERFACES + 4 * rx[rxWord + D_INTERFACE]!;
    if (
      destinationMacHigh(view, at) !== i32[own + 1] ||
      destinationMacLow(view, at) !== i32[own + 2]
    ) {
      return PASSED;
    }
    if (type === ETHERTYPE_IPV6) return six.process(rxWord, ipAt, ipBytes);
    if (type !== ETHERTYPE_IPV4) return PASSED;
    return processIpv4(rxWord, ipAt, ipBytes);
  }

  function processTun(rxWord: number): number {
    const at = rx[rxWord + D_AT]!;
    const bytes = rx[rxWord + D_BYTES]!;
    if (bytes < 1) return drop(DROP_FRAME_TOO_SHORT);
    const version = view.getUint8(at) >>> 4;
    if (version === 6) return six.process(rxWord, at, bytes);
    if (version !== 4) return drop(DROP_IPV4_HEADER_MALFORMED);
    return processIpv4(rxWord, at, bytes);
  }

  function processIpv4(rxWord: number, ipAt: number, bytes: number): number {
    const checked = checkIpv4(view, ipAt, bytes);
    if (checked !== IPV4_OK) return malformedIpv4(rxWord, ipAt, bytes, checked);
    if (isFragment(view, ipAt)) return fragments.process(rxWord, ipAt);
    const protocol = ipv4Protocol(view, ipAt);
    const headerBytes = ipv4HeaderBytes(view, ipAt);
    const l4At = ipAt + headerBytes;
    const l4Bytes = ipv4TotalBytes(view, ipAt) - headerBytes;
    if (protocol === PROTOCOL_TCP) {
      const tcp = checkTcp(view, l4At, l4Bytes);
      if (tcp !== TCP_OK) {
        const reason = tcp === TCP_MALFORMED ? DROP_TCP_HEADER_MALFORMED : DROP_TCP_FLAGS_INVALID;
        return malformed(rxWord, ipAt, reason);
      }
    } else if (protocol === PROTOCOL_UDP) {
      if (checkUdp(view, l4At, l4Bytes) !== UDP_OK) {
        return malformed(rxWord, ipAt, DROP_UDP_HEADER_MALFORMED);
      }
    } else if (protocol === PROTOCOL_ICMP) {
      // Nobody leaves the checksum of ICMP to a device: whoever completed it would break the message.
      if ((rx[rxWord + D_VNET]! & ICMP_VNET_REFUSED) !== 0) {
        return malformed(rxWord, ipAt, DROP_VNET_HEADER_INVALID);
      }
      const verdict = icmp.process(rxWord, ipAt);
      return verdict === PASSED ? pass(rxWord) : verdict;
    } else {
      return processOther(rxWord, ipAt);
    }
    if (isXdp) partial.mark(rxWord, ipAt, l4At, l4Bytes, protocol);
    const vnet = rx[rxWord + D_VNET]!;
    if (vnet !== 0 && !isVnetSane(rxWord, ipAt, l4At, l4Bytes, protocol, vnet, VNET_GSO_TCPV4)) {
      return malformed(rxWord, ipAt, DROP_VNET_HEADER_INVALID);
    }
    return processTransport(rxWord, ipAt, l4At, protocol);
  }

  /**
   * The virtio header must speak of this packet's transport header: we pass it on, and the kernel
   * writes a checksum where it says.
   */
  function isVnetSane(
    rxWord: number,
    ipAt: number,
    l4At: number,
    l4Bytes: number,
    protocol: number,
    vnet: number,
    tcpGso: number,
  ): boolean {
    const gso = (vnet >>> 8) & 0xff & ~VNET_GSO_ECN;
    if (gso !== VNET_GSO_NONE) {
      const expected = protocol === PROTOCOL_TCP ? tcpGso : VNET_GSO_UDP_L4;
      if (gso !== expected || vnet >>> 16 === 0) return false;
    }
    if ((vnet & VNET_F_NEEDS_CSUM) === 0) return true;
    const csum = rx[rxWord + D_CSUM]!;
    const start = rx[rxWord + D_AT]! + (csum & 0xffff);
    const field = csum >>> 16;
    if (start !== l4At || ipAt >= start) return false;
    return field === (protocol === PROTOCOL_TCP ? 16 : 6) && field + 2 <= l4Bytes;
  }

  function processTransport(rxWord: number, ipAt: number, l4At: number, protocol: number): number {
    const source = ipv4Source(view, ipAt);
    const destination = ipv4Destination(view, ipAt);
    const ports = tcpPorts(view, l4At);
    const reference = table.find(protocol, source, destination, ports);
    if (reference >= 0) {
      const verdict = processFlow(rxWord, ipAt, l4At, protocol, reference);
      if (verdict !== FLOW_OVER) return verdict;
    }
    const entry = addresses.find(destination);
    const flags = entry < 0 ? 0 : i32[entry + A_FLAGS]!;
    if (workers !== 1) {
      const owner = owners.ofPacket(rxWord, flags, source, destination, ports);
      if (owner !== worker && isGatewayOwned(flags, source, protocol, ports)) {
        return handover.send(rxWord, owner);
      }
    }
    if ((flags & A_IS_VIP) !== 0) {
      const service = addresses.serviceAt(entry, protocol, ports & 0xffff);
      if (service >= 0) {
        const verdict = balancer.open(
          rxWord,
          ipAt,
          l4At,
          protocol,
          source,
          destination,
          ports,
          service,
          0,
        );
        if (verdict === STATELESS) return sendStateless(rxWord, ipAt, protocol);
        if (verdict !== OPENED) return verdict;
        const row = balancer.opened[0]!;
        registers[R_FLOW] = (row << 1) | ORIGINAL;
        return sendOriginal(rxWord, ipAt, protocol, row);
      }
      if ((flags & A_IS_HOST) === 0) return drop(DROP_NO_SERVICE);
      return pass(rxWord);
    }
    if ((flags & A_IS_SNAT) !== 0) return drop(DROP_OUT_OF_STATE);
    // A reply of a backend without a flow: the guard keeps it from the kernel, so nobody has it.
    if (link !== 0 && (flags & A_IS_HOST) === 0 && isBackend(source, protocol, ports >>> 16)) {
      return drop(DROP_OUT_OF_STATE);
    }
    return pass(rxWord);
  }

  /** Whether a flow may have the packet. On TUN the kernel sends us nothing but such. */
  function isGatewayOwned(flags: number, source: number, protocol: number, ports: number): boolean {
    if (link === 0 || (flags & (A_IS_VIP | A_IS_SNAT)) !== 0) return true;
    return isBackend(source, protocol, ports >>> 16);
  }

  function isBackend(source: number, protocol: number, port: number): boolean {
    const entry = addresses.find(source);
    return (
      entry >= 0 &&
      (i32[entry + A_FLAGS]! & A_IS_BACKEND) !== 0 &&
      addresses.serviceAt(entry, protocol, port) >= 0
    );
  }

  /** @returns a verdict, or FLOW_OVER: the flow is gone, and the packet may begin a new one */
  function processFlow(
    rxWord: number,
    ipAt: number,
    l4At: number,
    protocol: number,
    reference: number,
  ): number {
    const row = reference >> 1;
    const direction = reference & 1;
    const flowWord = table.word(row);
    const backend = flows.backendWord(flowWord);
    if (protocol === PROTOCOL_UDP && direction === ORIGINAL) {
      if (udp.mustMove(flowWord, backend)) {
        flows.close(row);
        return FLOW_OVER;
      }
      if (udp.isOthers(rxWord, l4At, flowWord, backend)) {
        return openBeside(rxWord, ipAt, l4At, flowWord, i32[backend + B_SERVICE]!);
      }
    }
    if (flows.mustEnd(flowWord, backend)) {
      return endFlow(protocol, row, direction);
    }
    if (direction === ORIGINAL && !isWithinRate(rxWord, flowWord, backend)) {
      return drop(DROP_PACKETS_LIMITED);
    }
    if (synProxy.isOpening(flowWord)) return synProxy.receive(rxWord, ipAt, l4At, row, direction);
    const state = i32[flowWord + F_STATE]! & 0xff;
    if (protocol === PROTOCOL_TCP) {
      const tcpFlagBits = tcpFlags(view, l4At);
      const oneWay = isOneWay(i32[flowWord + F_STATE]!);
      if (direction === REPLY && (tcpFlagBits & TCP_SYN) !== 0) learn(backend, l4At);
      const kind = kindOf(l4At, tcpFlagBits, flowWord, direction);
      const next = oneWay ? nextOneWayState(state, kind) : nextState(state, direction, kind);
      const mustMove = state === STATE_SYN_SENT && passive.segment(flowWord, direction, kind);
      if (next === TCP_NEW_FLOW || mustMove) {
        flows.close(row);
        return FLOW_OVER;
      }
      if ((tcpFlagBits & TCP_ACK) !== 0 && kind !== SEGMENT_NONE) {
        const word = flowWord + (direction === ORIGINAL ? F_ACK_ORIGINAL : F_ACK_REPLY);
        i32[word] = tcpAcknowledgement(view, l4At);
      }
      if (next >= 0) {
        if (next !== state) flows.enter(flowWord, backend, next);
        else
          i32[flowWord + F_EXPIRES] =
            (registers[R_TICK]! + flows.timeoutMs(backend, next, i32[flowWord + F_STATE]!)) | 0;
      }
    } else {
      const next =
        direction === ORIGINAL && state === STATE_UDP_ONE_WAY ? state : STATE_UDP_REPLIED;
      if (direction === REPLY && state === STATE_UDP_ONE_WAY) {
        passive.answered(flowWord, i32[flowWord + F_ACK_REPLY]!);
      }
      if (next !== state) flows.enter(flowWord, backend, next);
      else
        i32[flowWord + F_EXPIRES] =
          (registers[R_TICK]! + flows.timeoutMs(backend, next, i32[flowWord + F_STATE]!)) | 0;
    }
    registers[R_FLOW] = reference;
    return send(rxWord, ipAt, protocol, reference);
  }

  /** A client's datagram for another backend than its flow's; the flow stays as it is. */
  function openBeside(
    rxWord: number,
    ipAt: number,
    l4At: number,
    flowWord: number,
    service: number,
  ): number {
    // The addresses of an IPv6 packet were loaded when its flow was looked for.
    registers[R_IS_IPV6] = view.getUint8(ipAt) >>> 4 === 6 ? 1 : 0;
    const verdict = balancer.open(
      rxWord,
      ipAt,
      l4At,
      PROTOCOL_UDP,
      i32[flowWord + F_CLIENT_ADDR]!,
      i32[flowWord + F_VIP_ADDR]!,
      i32[flowWord + F_CLIENT_VIP_PORTS]!,
      service,
      FLAG_BY_BACKEND,
    );
    registers[R_IS_IPV6] = 0;
    if (verdict === STATELESS) return sendStateless(rxWord, ipAt, PROTOCOL_UDP);
    if (verdict !== OPENED) return verdict;
    const row = balancer.opened[0]!;
    registers[R_FLOW] = (row << 1) | ORIGINAL;
    return sendOriginal(rxWord, ipAt, PROTOCOL_UDP, row);
  }

  function send(rxWord: number, ipAt: number, protocol: number, reference: number): number {
    return (reference & 1) === ORIGINAL
      ? sendOriginal(rxWord, ipAt, protocol, reference >> 1)
      : sendReply(rxWord, ipAt, protocol, table.word(reference >> 1));
  }

  /** `limits.packetsPerSecond`; a packet that the kernel will cut into segments counts as those. */
  function isWithinRate(rxWord: number, flowWord: number, backend: number): boolean {
    if ((i32[flowWord + F_STATE]! & (KEY_SLOW << 8)) === 0) return true;
    const service = i32[backend + B_SERVICE]!;
    const serviceWord = registers[R_SERVICES]! + service * SERVICE_WORDS;
    if ((i32[serviceWord + S_ADMISSION]! & ADMIT_PACKETS) === 0) return true;
    const segment = rx[rxWord + D_VNET]! >>> 16;
    const packets = segment === 0 ? 1 : Math.ceil(rx[rxWord + D_BYTES]! / segment);
    return admission.takePackets(serviceWord, service, packets);
  }

  /** SYN-ACKs of backends say what those of ours must. */
  function learn(backend: number, l4At: number): void {
    const service = i32[backend + B_SERVICE]!;
    const serviceWord = registers[R_SERVICES]! + service * SERVICE_WORDS;
    if (i32[serviceWord + S_SYN_PROXY] !== SYN_PROXY_OFF) synProxy.learn(l4At, service, false, 0);
  }

  /**
   * A FIN that comes again (its ACK was lost) is no second FIN: it must not end the direction that
   * is still open (RFC 9293 section 3.6, a half-closed connection). A RST or FIN that cannot be in the
   * receiver's window goes on, and is for the flow as if it had not been: the receiver discards it
   * (RFC 5961 section 3.2), and a stranger who guesses ports ends nothing here.
   */
  function kindOf(l4At: number, tcpFlagBits: number, flowWord: number, direction: number): number {
    const kind = segmentKind(tcpFlagBits);
    if (kind !== SEGMENT_FIN && kind !== SEGMENT_RST) return kind;
    if (!isInWindow(l4At, flowWord, direction)) return SEGMENT_NONE;
    if (kind === SEGMENT_RST) return kind;
    const word = i32[flowWord + F_STATE]!;
    const seen = direction === ORIGINAL ? FLAG_FIN_ORIGINAL : FLAG_FIN_REPLY;
    if ((word & seen) !== 0) return SEGMENT_ACK;
    i32[flowWord + F_STATE] = word | seen;
    return kind;
  }

  /**
   * The backend of a one-way flow is not heard: what it will have acknowledged, once all has arrived,
   * is the client's next sequence number.
   */
  function noteSequence(flowWord: number, ipAt: number, l4At: number): void {
    const flags = tcpFlags(view, l4At);
    if ((flags & TCP_RST) !== 0) return;
    const payload = ipAt + innerBytes(view, ipAt) - l4At - tcpHeaderBytes(view, l4At);
    const control = ((flags & TCP_SYN) !== 0 ? 1 : 0) + ((flags & TCP_FIN) !== 0 ? 1 : 0);
    const next = (tcpSequence(view, l4At) + payload + control) | 0;
    const before = i32[flowWord + F_ACK_REPLY]!;
    if (before === 0 || ((next - before) | 0) > 0) i32[flowWord + F_ACK_REPLY] = next;
  }

  /**
   * Whether a sequence number is what the other side has acknowledged last, or lies within a window
   * behind it. Before it has acknowledged anything every number is.
   */
  function isInWindow(l4At: number, flowWord: number, direction: number): boolean {
    const known = i32[flowWord + (direction === ORIGINAL ? F_ACK_REPLY : F_ACK_ORIGINAL)]!;
    if (known === 0) return true;
    if (direction === ORIGINAL && (i32[flowWord + F_STATE]! & FLAG_AWAITS) !== 0) return true;
    // Numbers of a backend's segment are its own here; the client acknowledges what it was told.
    const acknowledged = direction === ORIGINAL ? known : known + flows.sequenceDelta(flowWord);
    return (tcpSequence(view, l4At) - acknowledged) >>> 0 <= SEQUENCE_WINDOW_BYTES;
  }

  function sendOriginal(rxWord: number, ipAt: number, protocol: number, row: number): number {
    const flowWord = table.word(row);
    if (link !== 0) {
      const at = rx[rxWord + D_AT]!;
      const macHigh = sourceMacHigh(view, at);
      const macLow = (sourceMacLow(view, at) << 16) | rx[rxWord + D_INTERFACE]!;
      if (i32[flowWord + F_HOP_MAC_HIGH] !== macHigh || i32[flowWord + F_HOP_MAC_LOW] !== macLow) {
        table.setHop(row, macHigh, macLow);
      }
    }
    const slot = backendSlotOf(i32[flowWord + F_BACKEND]!);
    const hop = hops.toBackend(slot);
    if (hop !== HOP_FOUND) return drop(hop);
    if (protocol === PROTOCOL_TCP) clamp(rxWord, ipAt, flowWord);
    if (isOneWay(i32[flowWord + F_STATE]!)) return sendOneWay(rxWord, ipAt, protocol, flowWord);
    const extended = hasExtension(i32[flowWord + F_STATE]!);
    const bytes = extended ? packetBytes(ipAt) : ipv4TotalBytes(view, ipAt);
    const verdict = extended
      ? translator6.forward(rxWord, ipAt, flowWord, ORIGINAL, protocol)
      : translator.forward(rxWord, ipAt, flowWord, ORIGINAL, protocol);
    if (verdict === FORWARDED) {
      count(flowWord, slot, bytes, BF_PACKETS_IN, BF_BYTES_IN, VF_PACKETS_IN, VF_BYTES_IN);
    }
    return verdict;
  }

  /** To the backend of a one-way flow, whose hop is in the registers. */
  function sendOneWay(rxWord: number, ipAt: number, protocol: number, flowWord: number): number {
    const bytes = packetBytes(ipAt);
    const l4At = l4Of(ipAt);
    if (protocol === PROTOCOL_TCP && hasHeader(ipAt)) noteSequence(flowWord, ipAt, l4At);
    const verdict = encapsulator.forward(rxWord, ipAt, l4At, flowWord);
    if (verdict === FORWARDED) {
      const slot = backendSlotOf(i32[flowWord + F_BACKEND]!);
      count(flowWord, slot, bytes, BF_PACKETS_IN, BF_BYTES_IN, VF_PACKETS_IN, VF_BYTES_IN);
    }
    return verdict;
  }

  /** As sendOriginal(), by the row of a packet that has no flow. */
  function sendStateless(rxWord: number, ipAt: number, protocol: number): number {
    const { flowWord } = stateless;
    const hop = hops.toBackend(backendSlotOf(i32[flowWord + F_BACKEND]!));
    if (hop !== HOP_FOUND) return drop(hop);
    if (protocol === PROTOCOL_TCP) clamp(rxWord, ipAt, flowWord);
    const verdict = sendOneWay(rxWord, ipAt, protocol, flowWord);
    if (verdict === FORWARDED) stateless.count();
    return verdict;
  }

  function sendReply(rxWord: number, ipAt: number, protocol: number, flowWord: number): number {
    const hop = hops.toClient(flowWord);
    if (hop !== HOP_FOUND) return drop(hop);
    const slot = backendSlotOf(i32[flowWord + F_BACKEND]!);
    const extended = hasExtension(i32[flowWord + F_STATE]!);
    const bytes = extended ? packetBytes(ipAt) : ipv4TotalBytes(view, ipAt);
    if (protocol === PROTOCOL_TCP) clamp(rxWord, ipAt, flowWord);
    const verdict = extended
      ? translator6.forward(rxWord, ipAt, flowWord, REPLY, protocol)
      : translator.forward(rxWord, ipAt, flowWord, REPLY, protocol);
    if (verdict === FORWARDED) {
      count(flowWord, slot, bytes, BF_PACKETS_OUT, BF_BYTES_OUT, VF_PACKETS_OUT, VF_BYTES_OUT);
    }
    return verdict;
  }

  /** Transport header of the packet at hand, of either family. */
  function l4Of(ipAt: number): number {
    const isSix = view.getUint8(ipAt) >>> 4 === 6;
    return isSix ? registers[R_L4_AT]! : ipAt + ipv4HeaderBytes(view, ipAt);
  }

  /** False for a fragment that has no transport header. */
  function hasHeader(ipAt: number): boolean {
    return view.getUint8(ipAt) >>> 4 === 6 || !isLaterFragment(view, ipAt);
  }

  /** `mss`, before the packet is translated. */
  function clamp(rxWord: number, ipAt: number, flowWord: number): void {
    if (!hasHeader(ipAt)) return;
    const l4At = l4Of(ipAt);
    mss.clamp(rxWord, l4At, flowWord, l4At - ipAt);
  }

  /** Bytes of the IP packet, of either family. */
  function packetBytes(ipAt: number): number {
    const isSix = view.getUint8(ipAt) >>> 4 === 6;
    return isSix ? ipv6TotalBytes(view, ipAt) : ipv4TotalBytes(view, ipAt);
  }

  function count(
    flowWord: number,
    slot: number,
    bytes: number,
    backendPackets: number,
    backendBytes: number,
    servicePackets: number,
    serviceBytes: number,
  ): void {
    const service = i32[flows.backendWord(flowWord) + B_SERVICE]!;
    const backendAt = backendRuns + slot * BACKEND_RUN_DOUBLES;
    const serviceAt = serviceRuns + service * SERVICE_RUN_DOUBLES;
    f64[backendAt + backendPackets] = f64[backendAt + backendPackets]! + 1;
    f64[backendAt + backendBytes] = f64[backendAt + backendBytes]! + bytes;
    f64[serviceAt + servicePackets] = f64[serviceAt + servicePackets]! + 1;
    f64[serviceAt + serviceBytes] = f64[serviceAt + serviceBytes]! + bytes;
  }

  /** The flow's backend gives it up (`existingFlows`): both ends hear it, and the flow goes. */
  function endFlow(protocol: number, row: number, direction: number): number {
    // Without a token nothing was said to the ends: the flow stays for the next packet to try again.
    if (!flows.reset(table.word(row))) return drop(DROP_BACKEND_GONE);
    flows.close(row);
    f64[countersAt + C_FLOWS_RESET] = f64[countersAt + C_FLOWS_RESET]! + 1;
    // A client's datagram is balanced anew at once; a client's segment was answered by the reset.
    if (direction === ORIGINAL && protocol === PROTOCOL_UDP) return FLOW_OVER;
    return drop(DROP_BACKEND_GONE);
  }

  /** Not TCP, UDP or ICMP: no service has it. */
  function processOther(rxWord: number, ipAt: number): number {
    const entry = addresses.find(ipv4Destination(view, ipAt));
    const flags = entry < 0 ? 0 : i32[entry + A_FLAGS]!;
    const ours = (flags & (A_IS_VIP | A_IS_SNAT)) !== 0 && (flags & A_IS_HOST) === 0;
    return ours ? drop(DROP_NO_SERVICE) : pass(rxWord);
  }

  function isOwned(ipAt: number): boolean {
    const entry = addresses.find(ipv4Destination(view, ipAt));
    return entry >= 0 && (i32[entry + A_FLAGS]! & (A_IS_VIP | A_IS_SNAT)) !== 0;
  }

  /** A broken packet that is not for an address of ours is left as it came. */
  function malformed(rxWord: number, ipAt: number, reason: number): number {
    return isOwned(ipAt) || isBackendSource(ipAt) ? drop(reason) : pass(rxWord);
  }

  function isBackendSource(ipAt: number): boolean {
    const entry = addresses.find(ipv4Source(view, ipAt));
    return entry >= 0 && (i32[entry + A_FLAGS]! & A_IS_BACKEND) !== 0;
  }

  function malformedIpv4(rxWord: number, ipAt: number, bytes: number, checked: number): number {
    // Too short to say whose it is, so it is nobody's: no stack takes it either.
    if (bytes < IPV4_HEADER_BYTES || checked === IPV4_TOO_SHORT) return drop(DROP_FRAME_TOO_SHORT);
    let reason = DROP_IPV4_HEADER_MALFORMED;
    if (checked === IPV4_CHECKSUM_WRONG) reason = DROP_IPV4_CHECKSUM_WRONG;
    else if (checked === IPV4_LENGTH_WRONG) reason = DROP_IPV4_LENGTH_WRONG;
    else if (checked === IPV4_SOURCE_ROUTE) reason = DROP_IPV4_OPTIONS_SOURCE_ROUTE;
    else if (checked === IPV4_SOURCE_INVALID) reason = DROP_IPV4_SOURCE_INVALID;
    return malformed(rxWord, ipAt, reason);
  }

  const six = createProcessor6(
    context,
    addresses,
    owners,
    handover,
    icmp6,
    keys6,
    balancer,
    partial,
    {
      pass,
      processFlow,
      sendOriginal,
      sendStateless,
      processFragment6: fragments.process6,
      isVnetSane,
    },
  );
  return { process, endBatch: fragments.run };
}
