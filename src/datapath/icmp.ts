import { D_BYTES, D_INTERFACE } from "../device/device.ts";
import {
  backendSlotOf,
  F_BACKEND,
  F_BACKEND_ADDR,
  F_BACKEND_REPLY_PORTS,
  F_CLIENT_ADDR,
  F_CLIENT_VIP_PORTS,
  F_REPLY_ADDR,
  F_STATE,
  F_VIP_ADDR,
  isOneWay,
  KEY_ORIGINAL_IPV6,
  KEY_REPLY_IPV6,
  PROTOCOL_TCP,
  PROTOCOL_UDP,
  REPLY,
} from "../flow/flow-record.ts";
import {
  A_ANSWER_PING,
  A_FLAGS,
  A_IS_HOST,
  A_IS_SNAT,
  A_IS_TUNNEL,
  A_IS_VIP,
} from "../service/bank.ts";
import { add16, difference32, fold, sumBytes, updateChecksum } from "../wire/checksum.ts";
import { sourceMacHigh, sourceMacLow } from "../wire/ethernet.ts";
import {
  checkIcmp,
  checkQuote,
  ICMP_CHECKSUM_WRONG,
  ICMP_ECHO_REPLY,
  ICMP_ECHO_REQUEST,
  ICMP_HEADER_BYTES,
  ICMP_OK,
  icmpType,
  isIcmpError,
  isUnreachable,
} from "../wire/icmp.ts";
import {
  decrementTtl,
  ipv4Destination,
  ipv4HeaderBytes,
  ipv4Protocol,
  ipv4Source,
  ipv4TotalBytes,
  ipv4Ttl,
  setIpv4Destination,
  setIpv4Source,
  updateIpv4HeaderChecksum,
} from "../wire/ipv4.ts";
import { tcpPorts } from "../wire/tcp.ts";
import type { Addresses } from "./addresses.ts";
import { type Context, R_OUT_INTERFACE, R_OUT_MAC_HIGH, R_OUT_MAC_LOW } from "./context.ts";
import { C_ECHO_REPLIES, C_ICMP_ERRORS_TRANSLATED } from "./counters.ts";
import type { Encapsulator } from "./encapsulate.ts";
import type { Handover } from "./handover.ts";
import { HOP_FOUND, type Hops } from "./hops.ts";
import type { Icmp46 } from "./icmp46.ts";
import type { Output } from "./output.ts";
import type { Owners } from "./owners.ts";
import type { Passive } from "./passive.ts";
import { createSplices } from "./splices.ts";
import type { TunnelErrors } from "./tunnel-errors.ts";
import {
  DROP_ICMP_CHECKSUM_WRONG,
  DROP_ICMP_HEADER_MALFORMED,
  DROP_ICMP_NO_FLOW,
  DROP_ICMP_QUOTE_MALFORMED,
  DROP_ICMP_TYPE_NOT_HANDLED,
  DROP_PING_NOT_ANSWERED,
  DROP_TTL_EXPIRED,
  DROPPED,
  FORWARDED,
  PASSED,
  REPLIED,
} from "./verdict.ts";

const OWN_TTL = 64;
/** Bytes of a quoted TCP header that hold its checksum. */
const TCP_BYTES_WITH_CHECKSUM = 18;

/** ICMP (RFC 792) to our addresses, and about our flows (RFC 5508 section 4). */
export interface Icmp {
  /** The packet at `ipAt` has a checked IPv4 header and is whole. */
  process(rxWord: number, ipAt: number): number;
}

export function createIcmp(
  context: Context,
  addresses: Addresses,
  owners: Owners,
  handover: Handover,
  hops: Hops,
  output: Output,
  between: Icmp46,
  encapsulator: Encapsulator,
  tunnelErrors: TunnelErrors,
  passive: Passive,
  countersAt: number,
): Icmp {
  const { f64, i32, layout, link, registers, rx, table, view } = context;
  const { worker, workers } = layout;
  const splices = createSplices(context);

  function process(rxWord: number, ipAt: number): number {
    const headerBytes = ipv4HeaderBytes(view, ipAt);
    const icmpAt = ipAt + headerBytes;
    const icmpBytes = ipv4TotalBytes(view, ipAt) - headerBytes;
    const entry = addresses.find(ipv4Destination(view, ipAt));
    const ours = entry >= 0 && (i32[entry + A_FLAGS]! & (A_IS_VIP | A_IS_SNAT)) !== 0;
    const checked = checkIcmp(view, icmpAt, icmpBytes, true);
    if (checked !== ICMP_OK) {
      // What is not for us, and cannot be about a flow of ours, is left as it came.
      if (!ours) return PASSED;
      return checked === ICMP_CHECKSUM_WRONG
        ? DROPPED | (DROP_ICMP_CHECKSUM_WRONG << 8)
        : DROPPED | (DROP_ICMP_HEADER_MALFORMED << 8);
    }
    const type = icmpType(view, icmpAt);
    if (
      entry >= 0 &&
      (i32[entry + A_FLAGS]! & A_IS_TUNNEL) !== 0 &&
      tunnelErrors.isAboutTunnel(ipAt, icmpAt, icmpBytes)
    ) {
      return tunnelErrors.process(ipAt, icmpAt, icmpBytes);
    }
    if (isIcmpError(type)) return processError(rxWord, ipAt, icmpAt, icmpBytes, ours);
    if (!ours) return PASSED;
    // A VIP that is the host's too: everything but echo and errors about flows is the host's.
    if (type !== ICMP_ECHO_REQUEST && (i32[entry + A_FLAGS]! & A_IS_HOST) !== 0) return PASSED;
    if (type !== ICMP_ECHO_REQUEST) return DROPPED | (DROP_ICMP_TYPE_NOT_HANDLED << 8);
    if (i32[entry + A_ANSWER_PING] === 0) return DROPPED | (DROP_PING_NOT_ANSWERED << 8);
    return answerEcho(rxWord, ipAt, icmpAt);
  }

  /** In place: addresses swap, the type changes, nothing else does. */
  function answerEcho(rxWord: number, ipAt: number, icmpAt: number): number {
    const source = ipv4Source(view, ipAt);
    const destination = ipv4Destination(view, ipAt);
    setIpv4Source(view, ipAt, destination);
    setIpv4Destination(view, ipAt, source);
    // TTL and protocol share a word of the header checksum.
    const before = view.getUint16(ipAt + 8);
    view.setUint8(ipAt + 8, OWN_TTL);
    updateIpv4HeaderChecksum(view, ipAt, difference32(before, view.getUint16(ipAt + 8)));
    const head = view.getUint16(icmpAt);
    view.setUint8(icmpAt, ICMP_ECHO_REPLY);
    const delta = difference32(head, view.getUint16(icmpAt));
    view.setUint16(icmpAt + 2, updateChecksum(view.getUint16(icmpAt + 2), delta));
    const ingress = rx[rxWord + D_INTERFACE]!;
    if (link !== 0) {
      const ethernet = ipAt - link;
      output.setLink(ipAt, ingress, sourceMacHigh(view, ethernet), sourceMacLow(view, ethernet));
    }
    rx[rxWord + D_BYTES] = link + ipv4TotalBytes(view, ipAt);
    output.sendReceived(rxWord, ingress);
    f64[countersAt + C_ECHO_REPLIES] = f64[countersAt + C_ECHO_REPLIES]! + 1;
    return REPLIED;
  }

  /**
   * An error about a packet that we sent. What it quotes went the way of the flow's other side, so
   * the tuple turned round finds the flow, and the side that it finds is the one that must hear.
   */
  function processError(
    rxWord: number,
    ipAt: number,
    icmpAt: number,
    icmpBytes: number,
    ours: boolean,
  ): number {
    const quoteAt = icmpAt + ICMP_HEADER_BYTES;
    if (checkQuote(view, quoteAt, icmpBytes - ICMP_HEADER_BYTES) !== ICMP_OK) {
      return ours ? DROPPED | (DROP_ICMP_QUOTE_MALFORMED << 8) : PASSED;
    }
    const protocol = ipv4Protocol(view, quoteAt);
    const quotedL4At = quoteAt + ipv4HeaderBytes(view, quoteAt);
    let reference = -1;
    if (protocol === PROTOCOL_TCP || protocol === PROTOCOL_UDP) {
      const ports = tcpPorts(view, quotedL4At);
      reference = table.find(
        protocol,
        ipv4Destination(view, quoteAt),
        ipv4Source(view, quoteAt),
        (ports << 16) | (ports >>> 16),
      );
      if (reference < 0 && workers !== 1) {
        const source = ipv4Source(view, quoteAt);
        const owner = owners.ofQuote(rxWord, source, ipv4Destination(view, quoteAt), ports);
        if (owner !== worker) return handover.send(rxWord, owner);
      }
    }
    if (reference < 0) return ours ? DROPPED | (DROP_ICMP_NO_FLOW << 8) : PASSED;
    const flowWord = table.word(reference >> 1);
    if (isOneWay(i32[flowWord + F_STATE]!)) return forwardError(rxWord, ipAt, icmpAt, flowWord);
    const toClient = (reference & 1) === REPLY;
    if (toClient && isUnreachable(view, icmpAt)) passive.unreachable(flowWord);
    const hop = toClient
      ? hops.toClient(flowWord)
      : hops.toBackend(backendSlotOf(i32[flowWord + F_BACKEND]!));
    if (hop !== HOP_FOUND) return DROPPED | (hop << 8);
    if (link !== 0 && ipv4Ttl(view, ipAt) <= 1) return DROPPED | (DROP_TTL_EXPIRED << 8);
    const receiver = toClient ? KEY_ORIGINAL_IPV6 : KEY_REPLY_IPV6;
    if (((i32[flowWord + F_STATE]! >>> 8) & receiver) !== 0) {
      const endAt = icmpAt + icmpBytes;
      return between.toIpv6(rxWord, ipAt, quoteAt, quotedL4At, endAt, flowWord, toClient);
    }
    translateQuote(quoteAt, quotedL4At, protocol, flowWord, toClient, icmpAt + icmpBytes);
    view.setUint16(icmpAt + 2, 0);
    view.setUint16(icmpAt + 2, ~fold(sumBytes(view, icmpAt, icmpBytes, 0)) & 0xffff);
    translateOuter(ipAt, flowWord, toClient);
    if (link !== 0) decrementTtl(view, ipAt);
    const egress = registers[R_OUT_INTERFACE]!;
    output.setLink(ipAt, egress, registers[R_OUT_MAC_HIGH]!, registers[R_OUT_MAC_LOW]!);
    rx[rxWord + D_BYTES] = link + ipv4TotalBytes(view, ipAt);
    output.sendReceived(rxWord, egress);
    countTranslated();
    return FORWARDED;
  }

  /** What a one-way backend sent straight to the client came from the VIP: the error is its own. */
  function forwardError(rxWord: number, ipAt: number, icmpAt: number, flowWord: number): number {
    const hop = hops.toBackend(backendSlotOf(i32[flowWord + F_BACKEND]!));
    if (hop !== HOP_FOUND) return DROPPED | (hop << 8);
    const verdict = encapsulator.forward(rxWord, ipAt, icmpAt, flowWord);
    if (verdict === FORWARDED) countTranslated();
    return verdict;
  }

  function countTranslated(): void {
    f64[countersAt + C_ICMP_ERRORS_TRANSLATED] = f64[countersAt + C_ICMP_ERRORS_TRANSLATED]! + 1;
  }

  /** The quote becomes what the receiver once sent, its checksums included as far as they are there. */
  function translateQuote(
    quoteAt: number,
    l4At: number,
    protocol: number,
    flowWord: number,
    toClient: boolean,
    endAt: number,
  ): void {
    const source = i32[flowWord + (toClient ? F_CLIENT_ADDR : F_BACKEND_ADDR)]!;
    const destination = i32[flowWord + (toClient ? F_VIP_ADDR : F_REPLY_ADDR)]!;
    const ports = i32[flowWord + (toClient ? F_CLIENT_VIP_PORTS : F_BACKEND_REPLY_PORTS)]!;
    const addressDelta = add16(
      difference32(ipv4Source(view, quoteAt), source),
      difference32(ipv4Destination(view, quoteAt), destination),
    );
    let delta = add16(addressDelta, difference32(tcpPorts(view, l4At), ports));
    setIpv4Source(view, quoteAt, source);
    setIpv4Destination(view, quoteAt, destination);
    updateIpv4HeaderChecksum(view, quoteAt, addressDelta);
    view.setInt32(l4At, ports);
    // Of what the backend once sent, the client was shown other sequence numbers.
    if (!toClient && protocol === PROTOCOL_TCP) {
      delta = add16(delta, splices.restoreQuote(l4At, flowWord));
    }
    if (protocol === PROTOCOL_UDP) {
      const checksum = view.getUint16(l4At + 6);
      if (checksum === 0) return;
      const updated = updateChecksum(checksum, delta);
      view.setUint16(l4At + 6, updated === 0 ? 0xffff : updated);
    } else if (l4At + TCP_BYTES_WITH_CHECKSUM <= endAt) {
      view.setUint16(l4At + 16, updateChecksum(view.getUint16(l4At + 16), delta));
    }
  }

  /**
   * The outer packet goes to the other end. Its source stays when a router sent it (RFC 5508
   * REQ-5: the error comes from where it comes from), but an end is shown as the address that the
   * receiver knows it by; towards a full-NAT backend everything comes from the SNAT address.
   */
  function translateOuter(ipAt: number, flowWord: number, toClient: boolean): void {
    const source = ipv4Source(view, ipAt);
    const destination = ipv4Destination(view, ipAt);
    const client = i32[flowWord + F_CLIENT_ADDR]!;
    const replyTo = i32[flowWord + F_REPLY_ADDR]!;
    let newSource = source;
    let newDestination = client;
    if (toClient) {
      if (source === i32[flowWord + F_BACKEND_ADDR]) newSource = i32[flowWord + F_VIP_ADDR]!;
    } else {
      newDestination = i32[flowWord + F_BACKEND_ADDR]!;
      if (replyTo !== client) newSource = replyTo;
    }
    setIpv4Source(view, ipAt, newSource);
    setIpv4Destination(view, ipAt, newDestination);
    updateIpv4HeaderChecksum(
      view,
      ipAt,
      add16(difference32(source, newSource), difference32(destination, newDestination)),
    );
  }

  return { process };
}
