import { PATH_MTU_LIFETIME_MS } from "../base/limits.ts";
import {
  F_BACKEND_ADDR,
  F_CLIENT_ADDR,
  F_STATE,
  F_VIP_ADDR,
  isOneWay,
  ORIGINAL,
  PROTOCOL_TCP,
  PROTOCOL_UDP,
} from "../flow/flow-record.ts";
import {
  B_ADDRESS,
  B_ADDRESS6,
  B_PATH_MTU,
  B_PATH_MTU_UNTIL,
  B_USED,
} from "../service/backend-slots.ts";
import { BANK_GUE_PORT, BANK_TUNNEL_SOURCE, BANK_TUNNEL_SOURCE_IPV6 } from "../service/bank.ts";
import { BACKEND_SLOT_BYTES } from "../state/layout.ts";
import {
  checkQuote,
  ICMP_CODE_FRAGMENTATION_NEEDED,
  ICMP_HEADER_BYTES,
  ICMP_OK,
  ICMP_UNREACHABLE,
  icmpCode,
  icmpType,
  isIcmpError,
} from "../wire/icmp.ts";
import { ICMP6_PACKET_TOO_BIG, icmp6Type, isIcmp6Error } from "../wire/icmpv6.ts";
import {
  hasDontFragment,
  IPV4_HEADER_BYTES,
  ipv4Destination,
  ipv4HeaderBytes,
  ipv4Protocol,
  ipv4Source,
  ipv4TotalBytes,
} from "../wire/ipv4.ts";
import { IPV6_MTU_MIN } from "../wire/ipv6.ts";
import { tcpPorts } from "../wire/tcp.ts";
import {
  IPV6_FRAGMENT_HEADER_BYTES,
  ipVersion,
  NEXT_HEADER_FRAGMENT,
  OUTER_IPV6_BYTES,
  OUTER_UDP_BYTES,
  PROTOCOL_IPV4,
  PROTOCOL_IPV6,
} from "../wire/tunnel.ts";
import {
  type Context,
  R_BANK,
  R_OUT_INTERFACE,
  R_OUT_MAC_HIGH,
  R_OUT_MAC_LOW,
  R_PATH_MTU_TICK,
  R_TICK,
} from "./context.ts";
import type { Encapsulator } from "./encapsulate.ts";
import { HOP_FOUND, type Hops } from "./hops.ts";
import { ORIGINATED, type Output } from "./output.ts";
import type { Reply } from "./reply.ts";
import type { TokenBucket } from "./token-bucket.ts";
import {
  CONSUMED,
  DROP_ICMP_NO_FLOW,
  DROP_ICMP_TYPE_NOT_HANDLED,
  DROP_REPLY_RATE_LIMITED,
  DROPPED,
} from "./verdict.ts";

const BACKEND_SLOT_WORDS = BACKEND_SLOT_BYTES >> 2;

/** No router takes less in practice, and a forged error shall not make packets tiny: Linux's
 * net.ipv4.route.min_pmtu. */
const PATH_MTU_MIN = 552;

/** RFC 1191 section 7.1: what links take; for a router that does not say. */
const PLATEAUS = Uint16Array.of(32_000, 17_914, 8166, 4352, 2002, 1492, 1006, PATH_MTU_MIN);

/**
 * ICMP errors that come to the tunnel source, about outer packets (RFC 2003 sections 4 and 5).
 *
 * Fragmentation needed lowers what is known of the path to the backend, for ten minutes (RFC 1191
 * section 6.3), in its slots: the next packet that is too large is answered with the right MTU, or
 * fragmented. Where the error quotes enough of the inner packet, its sender hears of it at once. Other
 * errors say that a backend is not reached or takes no tunnels: they are drops with a sample.
 */
export interface TunnelErrors {
  /** Whether the ICMP message is an error that quotes an outer packet of ours. */
  isAboutTunnel(ipAt: number, icmpAt: number, icmpBytes: number): boolean;
  /** The same of ICMPv6. */
  isAboutTunnel6(icmpAt: number, icmpBytes: number): boolean;
  /** Packet too big of ICMPv6. @returns its verdict */
  process6(icmpAt: number): number;
  /** @returns its verdict */
  process(ipAt: number, icmpAt: number, icmpBytes: number): number;
}

export function createTunnelErrors(
  context: Context,
  hops: Hops,
  output: Output,
  reply: Reply,
  bucket: TokenBucket,
  encapsulator: Encapsulator,
): TunnelErrors {
  const { i32, layout, registers, table, view } = context;
  const bytes = new Uint8Array(view.buffer);
  const slots = layout.backendSlots.at >> 2;
  const drop = (reason: number): number => DROPPED | (reason << 8);

  function isAboutTunnel(ipAt: number, icmpAt: number, icmpBytes: number): boolean {
    if (!isIcmpError(icmpType(view, icmpAt))) return false;
    const quoteAt = icmpAt + ICMP_HEADER_BYTES;
    if (checkQuote(view, quoteAt, icmpBytes - ICMP_HEADER_BYTES) !== ICMP_OK) return false;
    const source = ipv4Source(view, quoteAt);
    const own = i32[registers[R_BANK]! + BANK_TUNNEL_SOURCE]!;
    if (source !== own || ipv4Destination(view, ipAt) !== own) return false;
    const protocol = ipv4Protocol(view, quoteAt);
    if (protocol === PROTOCOL_IPV4 || protocol === PROTOCOL_IPV6) return true;
    const port = view.getUint16(quoteAt + ipv4HeaderBytes(view, quoteAt) + 2);
    return protocol === PROTOCOL_UDP && port === i32[registers[R_BANK]! + BANK_GUE_PORT];
  }

  /** @returns MTU of the path, or 0: the error says nothing that could be */
  function mtuOf(icmpAt: number, quoteAt: number): number {
    const refused = ipv4TotalBytes(view, quoteAt);
    let mtu = view.getUint16(icmpAt + 6);
    for (let index = 0; mtu === 0 && index < PLATEAUS.length; index++) {
      if (PLATEAUS[index]! < refused) mtu = PLATEAUS[index]!;
    }
    if (mtu === 0 || mtu >= refused) return 0;
    return Math.max(mtu, PATH_MTU_MIN);
  }

  /** Whether the four words of the packet at `at` are those at `word`. */
  function isAt(at: number, word: number): boolean {
    for (let index = 0; index < 4; index++) {
      if (view.getInt32(at + 4 * index) !== i32[word + index]) return false;
    }
    return true;
  }

  /** Where the payload of a quoted outer IPv6 packet begins: its fragment header is skipped. */
  function payloadAt(quoteAt: number): number {
    const isFragment = view.getUint8(quoteAt + 6) === NEXT_HEADER_FRAGMENT;
    return quoteAt + OUTER_IPV6_BYTES + (isFragment ? IPV6_FRAGMENT_HEADER_BYTES : 0);
  }

  function isAboutTunnel6(icmpAt: number, icmpBytes: number): boolean {
    const quoteAt = icmpAt + ICMP_HEADER_BYTES;
    const least = OUTER_IPV6_BYTES + IPV6_FRAGMENT_HEADER_BYTES + 4;
    if (!isIcmp6Error(icmp6Type(view, icmpAt)) || icmpBytes - ICMP_HEADER_BYTES < least)
      return false;
    if (ipVersion(view, quoteAt) !== 6) return false;
    if (!isAt(quoteAt + 8, registers[R_BANK]! + BANK_TUNNEL_SOURCE_IPV6)) return false;
    const next = view.getUint8(quoteAt + 6);
    const protocol = next === NEXT_HEADER_FRAGMENT ? view.getUint8(quoteAt + 40) : next;
    if (protocol === PROTOCOL_IPV4 || protocol === PROTOCOL_IPV6) return true;
    const port = view.getUint16(payloadAt(quoteAt) + 2);
    return protocol === PROTOCOL_UDP && port === i32[registers[R_BANK]! + BANK_GUE_PORT];
  }

  function process6(icmpAt: number): number {
    if (icmp6Type(view, icmpAt) !== ICMP6_PACKET_TOO_BIG) return drop(DROP_ICMP_TYPE_NOT_HANDLED);
    const quoteAt = icmpAt + ICMP_HEADER_BYTES;
    const told = view.getInt32(icmpAt + 4);
    const refused = OUTER_IPV6_BYTES + view.getUint16(quoteAt + 4);
    if (told < 0 || told >= refused) return drop(DROP_ICMP_NO_FLOW);
    if (registers[R_PATH_MTU_TICK] === registers[R_TICK]) return drop(DROP_REPLY_RATE_LIMITED);
    registers[R_PATH_MTU_TICK] = registers[R_TICK]!;
    // No link of IPv6 is narrower (RFC 8200 section 5; RFC 8201 section 4).
    const mtu = Math.max(told, IPV6_MTU_MIN);
    return learn(0, quoteAt + 24, mtu) === 0 ? drop(DROP_ICMP_NO_FLOW) : CONSUMED;
  }

  /** Whether the slot at `at` is of the backend with this IPv4 address, or, for 0, IPv6 address. */
  function isSlotOf(at: number, backend: number, addressAt: number): boolean {
    if (i32[at + B_USED] === 0 || i32[at + B_ADDRESS] !== backend) return false;
    return backend !== 0 || isAt(addressAt, at + B_ADDRESS6);
  }

  /** A word of each of the backend's slots, services share a path. @returns slots */
  function learn(backend: number, addressAt: number, mtu: number): number {
    const tick = registers[R_TICK]!;
    let found = 0;
    const end = slots + layout.backends * BACKEND_SLOT_WORDS;
    for (let at = slots; at < end; at += BACKEND_SLOT_WORDS) {
      if (!isSlotOf(at, backend, addressAt)) continue;
      found++;
      const before = i32[at + B_PATH_MTU]!;
      const isLive = before !== 0 && ((i32[at + B_PATH_MTU_UNTIL]! - tick) | 0) > 0;
      // An error that was late does not raise it.
      if (isLive && before < mtu) continue;
      i32[at + B_PATH_MTU_UNTIL] = (tick + PATH_MTU_LIFETIME_MS) | 0;
      i32[at + B_PATH_MTU] = mtu;
    }
    return found;
  }

  function process(_ipAt: number, icmpAt: number, icmpBytes: number): number {
    const isTooBig =
      icmpType(view, icmpAt) === ICMP_UNREACHABLE &&
      icmpCode(view, icmpAt) === ICMP_CODE_FRAGMENTATION_NEEDED;
    if (!isTooBig) return drop(DROP_ICMP_TYPE_NOT_HANDLED);
    const quoteAt = icmpAt + ICMP_HEADER_BYTES;
    const mtu = mtuOf(icmpAt, quoteAt);
    if (mtu === 0) return drop(DROP_ICMP_NO_FLOW);
    // A look through all slots for each millisecond at most, whoever sends how many.
    if (registers[R_PATH_MTU_TICK] === registers[R_TICK]) return drop(DROP_REPLY_RATE_LIMITED);
    registers[R_PATH_MTU_TICK] = registers[R_TICK]!;
    const backend = ipv4Destination(view, quoteAt);
    if (learn(backend, 0, mtu) === 0) return drop(DROP_ICMP_NO_FLOW);
    relay(icmpAt, icmpBytes, backend, mtu);
    return CONSUMED;
  }

  /** Tell the client, where the quote shows whose packet was refused. */
  function relay(icmpAt: number, icmpBytes: number, backend: number, mtu: number): void {
    const quoteAt = icmpAt + ICMP_HEADER_BYTES;
    const gueBytes = ipv4Protocol(view, quoteAt) === PROTOCOL_UDP ? OUTER_UDP_BYTES : 0;
    const innerAt = quoteAt + ipv4HeaderBytes(view, quoteAt) + gueBytes;
    const available = icmpAt + icmpBytes - innerAt;
    if (checkQuote(view, innerAt, available) !== ICMP_OK) return;
    if (!hasDontFragment(view, innerAt)) return;
    const protocol = ipv4Protocol(view, innerAt);
    if (protocol !== PROTOCOL_TCP && protocol !== PROTOCOL_UDP) return;
    const reference = table.find(
      protocol,
      ipv4Source(view, innerAt),
      ipv4Destination(view, innerAt),
      tcpPorts(view, innerAt + ipv4HeaderBytes(view, innerAt)),
    );
    if (reference < 0 || (reference & 1) !== ORIGINAL) return;
    const flowWord = table.word(reference >> 1);
    if (!isOneWay(i32[flowWord + F_STATE]!) || i32[flowWord + F_BACKEND_ADDR] !== backend) return;
    if (hops.toClient(flowWord) !== HOP_FOUND || !bucket.take()) return;
    const spare = output.takeSpare();
    if (spare < 0) return;
    const toAt = spare + IPV4_HEADER_BYTES + ICMP_HEADER_BYTES;
    const quoted = Math.min(available, ipv4TotalBytes(view, innerAt), reply.quoteBytes);
    bytes.copyWithin(toAt, innerAt, innerAt + quoted);
    const length = reply.writeIcmpError(
      spare,
      i32[flowWord + F_VIP_ADDR]!,
      i32[flowWord + F_CLIENT_ADDR]!,
      ICMP_UNREACHABLE,
      ICMP_CODE_FRAGMENTATION_NEEDED,
      mtu - encapsulator.overhead(flowWord),
      quoted,
    );
    const egress = registers[R_OUT_INTERFACE]!;
    output.setLink(spare, egress, registers[R_OUT_MAC_HIGH]!, registers[R_OUT_MAC_LOW]!);
    output.sendSpare(spare, length, egress, ORIGINATED);
  }

  return { isAboutTunnel, isAboutTunnel6, process, process6 };
}
