import { PATH_MTU_LIFETIME_MS } from "../base/limits.ts";
import { backendSlotOf, F_BACKEND, PROTOCOL_UDP } from "../flow/flow-record.ts";
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
  ipv4Destination,
  ipv4HeaderBytes,
  ipv4Protocol,
  ipv4Source,
  ipv4TotalBytes,
} from "../wire/ipv4.ts";
import { IPV6_MTU_MIN } from "../wire/ipv6.ts";
import {
  IPV6_FRAGMENT_HEADER_BYTES,
  ipVersion,
  NEXT_HEADER_FRAGMENT,
  OUTER_IPV6_BYTES,
  OUTER_UDP_BYTES,
  PROTOCOL_IPV4,
  PROTOCOL_IPV6,
} from "../wire/tunnel.ts";
import { type Context, R_BANK, R_PATH_MTU_TICK, R_TICK } from "./context.ts";
import type { TunnelRelay } from "./tunnel-relay.ts";
import {
  CONSUMED,
  DROP_ICMP_NO_FLOW,
  DROP_ICMP_TYPE_NOT_HANDLED,
  DROP_REPLY_RATE_LIMITED,
  DROPPED,
} from "./verdict.ts";

/** Where a quoted outer IPv6 header has the backend. */
const OUTER_DESTINATION6_AT = 24;

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
 * section 6.3, RFC 8201 section 4), in its slots: the next packet that is too large is answered with the
 * right MTU, or fragmented. Where the error quotes enough of the inner packet, its sender hears of it at
 * once (tunnel-relay.ts). Other errors say that a backend is not reached or takes no tunnels: they are
 * drops with a sample.
 */
export interface TunnelErrors {
  /** Whether the ICMP message is an error that quotes an outer packet of ours. */
  isAboutTunnel(ipAt: number, icmpAt: number, icmpBytes: number): boolean;
  /** The same of ICMPv6. */
  isAboutTunnel6(icmpAt: number, icmpBytes: number): boolean;
  /** Packet too big of ICMPv6. @returns its verdict */
  process6(icmpAt: number, icmpBytes: number): number;
  /** @returns its verdict */
  process(ipAt: number, icmpAt: number, icmpBytes: number): number;
}

export function createTunnelErrors(context: Context, relay: TunnelRelay): TunnelErrors {
  const { i32, layout, registers, view } = context;
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

  function process6(icmpAt: number, icmpBytes: number): number {
    if (icmp6Type(view, icmpAt) !== ICMP6_PACKET_TOO_BIG) return drop(DROP_ICMP_TYPE_NOT_HANDLED);
    const quoteAt = icmpAt + ICMP_HEADER_BYTES;
    const told = view.getInt32(icmpAt + 4);
    const refused = OUTER_IPV6_BYTES + view.getUint16(quoteAt + 4);
    if (told < 0 || told >= refused) return drop(DROP_ICMP_NO_FLOW);
    if (registers[R_PATH_MTU_TICK] === registers[R_TICK]) return drop(DROP_REPLY_RATE_LIMITED);
    registers[R_PATH_MTU_TICK] = registers[R_TICK]!;
    // No link of IPv6 is narrower (RFC 8200 section 5; RFC 8201 section 4).
    const mtu = Math.max(told, IPV6_MTU_MIN);
    const backendAt = quoteAt + OUTER_DESTINATION6_AT;
    if (learn(0, backendAt, mtu) === 0) return drop(DROP_ICMP_NO_FLOW);
    // What already left in fragments goes on so.
    const next = view.getUint8(quoteAt + 6);
    if (next === NEXT_HEADER_FRAGMENT) return CONSUMED;
    const innerAt = quoteAt + OUTER_IPV6_BYTES + (next === PROTOCOL_UDP ? OUTER_UDP_BYTES : 0);
    tell(innerAt, icmpAt + icmpBytes, 0, backendAt, mtu);
    return CONSUMED;
  }

  /** Tell the client whose packet is quoted, if it is of a flow that goes to this backend. */
  function tell(
    innerAt: number,
    endAt: number,
    backend: number,
    backendAt: number,
    mtu: number,
  ): void {
    const flowWord = relay.flowOf(innerAt, endAt);
    if (flowWord < 0) return;
    const slot = slots + backendSlotOf(i32[flowWord + F_BACKEND]!) * BACKEND_SLOT_WORDS;
    if (isSlotOf(slot, backend, backendAt)) relay.tell(innerAt, endAt, flowWord, mtu);
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
    const gueBytes = ipv4Protocol(view, quoteAt) === PROTOCOL_UDP ? OUTER_UDP_BYTES : 0;
    const innerAt = quoteAt + ipv4HeaderBytes(view, quoteAt) + gueBytes;
    tell(innerAt, icmpAt + icmpBytes, backend, 0, mtu);
    return CONSUMED;
  }

  return { isAboutTunnel, isAboutTunnel6, process, process6 };
}
