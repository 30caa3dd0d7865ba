import { D_BYTES, D_INTERFACE } from "../device/device.ts";
import {
  backendSlotOf,
  F_BACKEND,
  F_BACKEND_REPLY_PORTS,
  F_CLIENT_VIP_PORTS,
  F_STATE,
  isOneWay,
  KEY_ORIGINAL_IPV6,
  KEY_REPLY_IPV6,
  MODE_FULL_NAT,
  modeOf,
  PROTOCOL_TCP,
  PROTOCOL_UDP,
  REPLY,
  X_BACKEND,
  X_CLIENT,
  X_REPLY,
  X_VIP,
} from "../flow/flow-record.ts";
import {
  A_ANSWER_PING,
  A_FLAGS,
  A_IS_HOST,
  A_IS_SNAT,
  A_IS_TUNNEL,
  A_IS_VIP,
} from "../service/bank.ts";
import { add16, difference16, difference32, sumBytes, updateChecksum } from "../wire/checksum.ts";
import { sourceMacHigh, sourceMacLow } from "../wire/ethernet.ts";
import {
  checkIcmp6,
  checkQuote6,
  fillIcmp6Checksum,
  ICMP6_CHECKSUM_WRONG,
  ICMP6_ECHO_REPLY,
  ICMP6_ECHO_REQUEST,
  ICMP6_HEADER_BYTES,
  ICMP6_OK,
  icmp6Type,
  isIcmp6Error,
  isIcmp6Unreachable,
} from "../wire/icmpv6.ts";
import {
  copyIpv6Address,
  IPV6_DESTINATION_AT,
  IPV6_HEADER_BYTES,
  IPV6_SOURCE_AT,
  ipv6HopLimit,
  ipv6NextHeader,
  ipv6TotalBytes,
  setIpv6Address,
  setIpv6HopLimit,
  WALK_L4_AT,
  WALK_PROTOCOL,
  WALK_WORDS,
} from "../wire/ipv6.ts";
import { NEIGHBOUR_SOLICITATION } from "../wire/neighbour.ts";
import { tcpPorts } from "../wire/tcp.ts";
import type { Addresses } from "./addresses.ts";
import {
  type Context,
  R_DESTINATION6,
  R_OUT_INTERFACE,
  R_OUT_MAC_HIGH,
  R_OUT_MAC_LOW,
  R_SOURCE6,
} from "./context.ts";
import { C_ECHO_REPLIES, C_ICMP_ERRORS_TRANSLATED } from "./counters.ts";
import type { Encapsulator } from "./encapsulate.ts";
import type { Handover } from "./handover.ts";
import { HOP_FOUND, type Hops } from "./hops.ts";
import type { Icmp46 } from "./icmp46.ts";
import type { Keys6 } from "./keys6.ts";
import type { Ndp } from "./ndp.ts";
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

const OWN_HOP_LIMIT = 64;
/** Bytes of a quoted TCP header that hold its checksum. */
const TCP_BYTES_WITH_CHECKSUM = 18;

/** ICMPv6 (RFC 4443) to our addresses, about our flows, and neighbour discovery. */
export interface Icmp6 {
  /**
   * The packet at `ipAt` has a checked header, is whole, and its addresses are loaded (Keys6).
   *
   * @param icmpAt - behind all extension headers
   */
  process(rxWord: number, ipAt: number, icmpAt: number): number;
  /** A frame to a group: a solicitation for an address of ours is answered, the rest is passed. */
  processGroup(rxWord: number, ipAt: number): number;
}

export function createIcmp6(
  context: Context,
  addresses: Addresses,
  owners: Owners,
  handover: Handover,
  hops: Hops,
  keys: Keys6,
  ndp: Ndp,
  output: Output,
  between: Icmp46,
  encapsulator: Encapsulator,
  tunnelErrors: TunnelErrors,
  passive: Passive,
  countersAt: number,
): Icmp6 {
  const { f64, i32, layout, link, registers, rx, table, view } = context;
  const { worker, workers } = layout;
  const splices = createSplices(context);
  const walked = new Int32Array(WALK_WORDS);

  function entryOf(register: number): number {
    return addresses.find6(
      registers[register]!,
      registers[register + 1]!,
      registers[register + 2]!,
      registers[register + 3]!,
    );
  }

  function process(rxWord: number, ipAt: number, icmpAt: number): number {
    const icmpBytes = ipAt + ipv6TotalBytes(view, ipAt) - icmpAt;
    const entry = entryOf(R_DESTINATION6);
    const flags = entry < 0 ? 0 : i32[entry + A_FLAGS]!;
    const isTunnel = (flags & (A_IS_TUNNEL | A_IS_HOST)) === A_IS_TUNNEL;
    const ours = isTunnel || (flags & (A_IS_VIP | A_IS_SNAT)) !== 0;
    const checked = checkIcmp6(view, ipAt, icmpAt, icmpBytes);
    if (checked !== ICMP6_OK) {
      if (!ours) return PASSED;
      return checked === ICMP6_CHECKSUM_WRONG
        ? DROPPED | (DROP_ICMP_CHECKSUM_WRONG << 8)
        : DROPPED | (DROP_ICMP_HEADER_MALFORMED << 8);
    }
    const type = icmp6Type(view, icmpAt);
    if ((flags & A_IS_TUNNEL) !== 0 && tunnelErrors.isAboutTunnel6(icmpAt, icmpBytes)) {
      return tunnelErrors.process6(icmpAt, icmpBytes);
    }
    if (isIcmp6Error(type)) return processError(rxWord, ipAt, icmpAt, icmpBytes, ours);
    if (!ours) return PASSED;
    // A neighbour that still has our MAC asks whether it is right, at the address itself.
    if (type === NEIGHBOUR_SOLICITATION && link !== 0) {
      return ndp.answer(rxWord, ipAt, icmpAt, icmpBytes);
    }
    if (type !== ICMP6_ECHO_REQUEST) {
      // A VIP that is the host's too: everything but echo and errors about flows is the host's.
      return (flags & A_IS_HOST) !== 0 ? PASSED : DROPPED | (DROP_ICMP_TYPE_NOT_HANDLED << 8);
    }
    if (i32[entry + A_ANSWER_PING] === 0) return DROPPED | (DROP_PING_NOT_ANSWERED << 8);
    return answerEcho(rxWord, ipAt, icmpAt);
  }

  function processGroup(rxWord: number, ipAt: number): number {
    const icmpAt = ipAt + IPV6_HEADER_BYTES;
    const icmpBytes = ipv6TotalBytes(view, ipAt) - IPV6_HEADER_BYTES;
    if (ipv6NextHeader(view, ipAt) !== 58 || icmpBytes < ICMP6_HEADER_BYTES) return PASSED;
    if (icmp6Type(view, icmpAt) !== NEIGHBOUR_SOLICITATION) return PASSED;
    if (checkIcmp6(view, ipAt, icmpAt, icmpBytes) !== ICMP6_OK) return PASSED;
    return ndp.answer(rxWord, ipAt, icmpAt, icmpBytes);
  }

  /** In place: addresses swap, which no sum sees, and the type changes. */
  function answerEcho(rxWord: number, ipAt: number, icmpAt: number): number {
    copyIpv6Address(view, ipAt + IPV6_DESTINATION_AT, ipAt + IPV6_SOURCE_AT);
    setIpv6Address(view, ipAt + IPV6_DESTINATION_AT, registers, R_SOURCE6);
    setIpv6HopLimit(view, ipAt, OWN_HOP_LIMIT);
    const head = view.getUint16(icmpAt);
    view.setUint8(icmpAt, ICMP6_ECHO_REPLY);
    const delta = difference16(head, view.getUint16(icmpAt));
    view.setUint16(icmpAt + 2, updateChecksum(view.getUint16(icmpAt + 2), delta));
    const ingress = rx[rxWord + D_INTERFACE]!;
    if (link !== 0) {
      const ethernet = ipAt - link;
      output.setLink(ipAt, ingress, sourceMacHigh(view, ethernet), sourceMacLow(view, ethernet));
    }
    rx[rxWord + D_BYTES] = link + ipv6TotalBytes(view, ipAt);
    output.sendReceived(rxWord, ingress);
    f64[countersAt + C_ECHO_REPLIES] = f64[countersAt + C_ECHO_REPLIES]! + 1;
    return REPLIED;
  }

  /** As processError() of icmp.ts. */
  function processError(
    rxWord: number,
    ipAt: number,
    icmpAt: number,
    icmpBytes: number,
    ours: boolean,
  ): number {
    const quoteAt = icmpAt + ICMP6_HEADER_BYTES;
    if (checkQuote6(view, quoteAt, icmpBytes - ICMP6_HEADER_BYTES, walked) !== ICMP6_OK) {
      return ours ? DROPPED | (DROP_ICMP_QUOTE_MALFORMED << 8) : PASSED;
    }
    const protocol = walked[WALK_PROTOCOL]!;
    const quotedL4At = walked[WALK_L4_AT]!;
    let reference = -1;
    if (protocol === PROTOCOL_TCP || protocol === PROTOCOL_UDP) {
      const ports = tcpPorts(view, quotedL4At);
      keys.load(quoteAt);
      reference = keys.findTurned(protocol, ports);
      if (reference < 0 && workers !== 1) {
        const entry = entryOf(R_SOURCE6);
        const owner = owners.ofQuoteFrom(
          rxWord,
          entry < 0 ? 0 : i32[entry + A_FLAGS]!,
          keys.sourceOwner(),
          keys.destinationOwner(),
          ports,
        );
        if (owner !== worker) return handover.send(rxWord, owner);
      }
    }
    if (reference < 0) return ours ? DROPPED | (DROP_ICMP_NO_FLOW << 8) : PASSED;
    const flowWord = table.word(reference >> 1);
    const toClient = (reference & 1) === REPLY;
    if (isOneWay(i32[flowWord + F_STATE]!)) {
      // What the backend sent straight to the client came from the VIP, and so the error is its own.
      const found = hops.toBackend(backendSlotOf(i32[flowWord + F_BACKEND]!));
      if (found !== HOP_FOUND) return DROPPED | (found << 8);
      return encapsulator.forward(rxWord, ipAt, icmpAt, flowWord);
    }
    if (toClient && isIcmp6Unreachable(view, icmpAt)) passive.unreachable(flowWord);
    const hop = toClient
      ? hops.toClient(flowWord)
      : hops.toBackend(backendSlotOf(i32[flowWord + F_BACKEND]!));
    if (hop !== HOP_FOUND) return DROPPED | (hop << 8);
    if (link !== 0 && ipv6HopLimit(view, ipAt) <= 1) return DROPPED | (DROP_TTL_EXPIRED << 8);
    const endAt = icmpAt + icmpBytes;
    const receiver = toClient ? KEY_ORIGINAL_IPV6 : KEY_REPLY_IPV6;
    if (((i32[flowWord + F_STATE]! >>> 8) & receiver) === 0) {
      return between.toIpv4(rxWord, ipAt, quoteAt, quotedL4At, endAt, flowWord, toClient, protocol);
    }
    translateQuote(quoteAt, quotedL4At, protocol, flowWord, toClient, endAt);
    translateOuter(ipAt, flowWord, toClient);
    fillIcmp6Checksum(view, ipAt, icmpAt, icmpBytes);
    if (link !== 0) setIpv6HopLimit(view, ipAt, ipv6HopLimit(view, ipAt) - 1);
    const egress = registers[R_OUT_INTERFACE]!;
    output.setLink(ipAt, egress, registers[R_OUT_MAC_HIGH]!, registers[R_OUT_MAC_LOW]!);
    rx[rxWord + D_BYTES] = link + ipv6TotalBytes(view, ipAt);
    output.sendReceived(rxWord, egress);
    f64[countersAt + C_ICMP_ERRORS_TRANSLATED] = f64[countersAt + C_ICMP_ERRORS_TRANSLATED]! + 1;
    return FORWARDED;
  }

  /** The quote becomes what the receiver once sent, its checksum included as far as it is there. */
  function translateQuote(
    quoteAt: number,
    l4At: number,
    protocol: number,
    flowWord: number,
    toClient: boolean,
    endAt: number,
  ): void {
    const extension = table.extensionOf(flowWord);
    const addressesAt = quoteAt + IPV6_SOURCE_AT;
    const before = sumBytes(view, addressesAt, 32);
    setIpv6Address(view, addressesAt, i32, extension + (toClient ? X_CLIENT : X_BACKEND));
    setIpv6Address(
      view,
      quoteAt + IPV6_DESTINATION_AT,
      i32,
      extension + (toClient ? X_VIP : X_REPLY),
    );
    const ports = i32[flowWord + (toClient ? F_CLIENT_VIP_PORTS : F_BACKEND_REPLY_PORTS)]!;
    let delta = add16(
      difference16(before, sumBytes(view, addressesAt, 32)),
      difference32(tcpPorts(view, l4At), ports),
    );
    view.setInt32(l4At, ports);
    // Of what the backend once sent, the client was shown other sequence numbers.
    if (!toClient && protocol === PROTOCOL_TCP) {
      delta = add16(delta, splices.restoreQuote(l4At, flowWord));
    }
    if (protocol === PROTOCOL_UDP) {
      const updated = updateChecksum(view.getUint16(l4At + 6), delta);
      view.setUint16(l4At + 6, updated === 0 ? 0xffff : updated);
    } else if (l4At + TCP_BYTES_WITH_CHECKSUM <= endAt) {
      view.setUint16(l4At + 16, updateChecksum(view.getUint16(l4At + 16), delta));
    }
  }

  /** As translateOuter() of icmp.ts: a router stays the source, an end is shown as it is known. */
  function translateOuter(ipAt: number, flowWord: number, toClient: boolean): void {
    const extension = table.extensionOf(flowWord);
    if (toClient) {
      if (isFrom(ipAt, extension + X_BACKEND)) {
        setIpv6Address(view, ipAt + IPV6_SOURCE_AT, i32, extension + X_VIP);
      }
      setIpv6Address(view, ipAt + IPV6_DESTINATION_AT, i32, extension + X_CLIENT);
      return;
    }
    if (modeOf(i32[flowWord + F_STATE]!) === MODE_FULL_NAT) {
      setIpv6Address(view, ipAt + IPV6_SOURCE_AT, i32, extension + X_REPLY);
    }
    setIpv6Address(view, ipAt + IPV6_DESTINATION_AT, i32, extension + X_BACKEND);
  }

  function isFrom(ipAt: number, word: number): boolean {
    const at = ipAt + IPV6_SOURCE_AT;
    return (
      view.getInt32(at) === i32[word] &&
      view.getInt32(at + 4) === i32[word + 1] &&
      view.getInt32(at + 8) === i32[word + 2] &&
      view.getInt32(at + 12) === i32[word + 3]
    );
  }

  return { process, processGroup };
}
