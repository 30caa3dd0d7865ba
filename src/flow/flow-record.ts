import { assert } from "../base/assert.ts";
import { EXTENSION_BYTES, FLOW_BYTES } from "../state/layout.ts";

/**
 * One flow: sixteen words, one cache line, both directions.
 *
 * Addresses are int32 in host order, ports 0..65535. Words marked (fixed) are written once, between
 * an odd and an even version, and never change while the flow lives; the others are each valid by
 * themselves after any single store, so that a process that dies between two stores leaves a record
 * that is either whole or marked as half-written.
 *
 * A flow with IPv6 addresses on either side (KEY_ORIGINAL_IPV6, KEY_REPLY_IPV6) has all four of its
 * addresses in its extension, the row of the same number in the section flowExtensions. Its address
 * words of that side hold a keyed fold of each address (foldAddress6), so that the index and the
 * search for a key are the same for both families; who finds a flow by folds compares the whole
 * addresses before following it.
 */

/** Version: odd while the fixed words are being written; 0: never used; even: whole. */
export const F_VERSION = 0;
/** state | key byte (KEY_…) << 8 | mode << 16 | flags << 24. State 0 is FREE. */
export const F_STATE = 1;
/** (fixed) client address. */
export const F_CLIENT_ADDR = 2;
/** (fixed) VIP address. */
export const F_VIP_ADDR = 3;
/** (fixed) client port << 16 | VIP port. */
export const F_CLIENT_VIP_PORTS = 4;
/** (fixed) backend address. */
export const F_BACKEND_ADDR = 5;
/** (fixed) SNAT address in full-nat; the client's address in nat. The REPLY's destination. */
export const F_REPLY_ADDR = 6;
/** (fixed) backend port << 16 | SNAT port (full-nat) or client port (nat). */
export const F_BACKEND_REPLY_PORTS = 7;
/** (fixed) backend slot | generation << BACKEND_SLOT_BITS: see backendSlotOf(). */
export const F_BACKEND = 8;
/** Tick (ms, int32) at which the flow expires; compare with (a - b) | 0. */
export const F_EXPIRES = 9;
/**
 * (fixed) Ones' complement differences that ORIGINAL adds: addresses only << 16 | addresses and
 * ports, as sums of big-endian words. REPLY adds the complement. See wire/checksum.ts.
 */
export const F_DELTA = 10;
/** Last hop: first four bytes of the client side's MAC, big-endian. */
export const F_HOP_MAC_HIGH = 11;
/** Last hop: last two bytes of the MAC << 16 | interface index. */
export const F_HOP_MAC_LOW = 12;
/** (fixed) Tick at which the flow was made. */
export const F_CREATED = 13;
/** Latest acknowledgement number of the client: the sequence number of a RST to the client. */
export const F_ACK_ORIGINAL = 14;
/**
 * Latest acknowledgement number of the backend: the sequence number of a RST to the backend. With
 * FLAG_AWAITS, which a flow loses before the backend acknowledges anything: the microseconds at which
 * it began.
 */
export const F_ACK_REPLY = 15;

export const FLOW_WORDS = 16;
assert(FLOW_WORDS * 4 === FLOW_BYTES, "a flow record is one section record");

/**
 * Words of an extension: the addresses of the flow in full, four words each in host order; IPv4 ones
 * as mapped addresses, ::ffff:a.b.c.d. All of them are (fixed).
 */
export const X_CLIENT = 0;
export const X_VIP = 4;
export const X_BACKEND = 8;
/** SNAT address, or the client's in nat. */
export const X_REPLY = 12;
export const EXTENSION_WORDS = 16;
assert(EXTENSION_WORDS * 4 === EXTENSION_BYTES, "an extension is one section record");

/** A slot's number has 20 bits: 1,000 services of 100 backends and a protocol or two fit. */
export const BACKEND_SLOT_BITS = 20;
const BACKEND_SLOT_MASK = (1 << BACKEND_SLOT_BITS) - 1;
/** Of a slot's generation a flow carries the low 12 bits. */
export const GENERATION_MASK = (1 << (32 - BACKEND_SLOT_BITS)) - 1;

/** Backend slot of an F_BACKEND word. */
export function backendSlotOf(word: number): number {
  return word & BACKEND_SLOT_MASK;
}

/** Low bits of the generation of an F_BACKEND word. */
export function generationOf(word: number): number {
  return word >>> BACKEND_SLOT_BITS;
}

/** @returns an F_BACKEND word, int32 */
export function backendWordOf(slot: number, generation: number): number {
  return slot | (generation << BACKEND_SLOT_BITS);
}

/** Row of the flow table, or NO_FLOW. */
export type FlowIndex = number & { readonly brand?: "FlowIndex" };
export const NO_FLOW = -1;

/** A flow reference, as the index keeps it: row << 1 | direction. */
export const ORIGINAL = 0;
export const REPLY = 1;

/** Flags of F_STATE (bits 24-31). */
export const FLAG_REPLIED = 1 << 24;
export const FLAG_FIN_ORIGINAL = 1 << 25;
export const FLAG_FIN_REPLY = 1 << 26;
/**
 * The backend has not answered the first packet, nobody has sent it again, and it has not failed:
 * datapath/passive.ts. Never in a one-way flow.
 */
export const FLAG_AWAITS = 1 << 27;
/** Counted as active (not inactive) in its backend's slot. */
export const FLAG_ACTIVE = 1 << 28;
/** Out-of-state segment made this flow (`outOfState: adopt`). */
export const FLAG_ADOPTED = 1 << 29;
/** A health check made it: it goes on whatever becomes of its backend's flows. */
export const FLAG_PROBE = 1 << 30;

/**
 * One of several flows of a client's tuple, each to another backend (`udp.perPacket`, and QUIC
 * connections that another backend has): its ORIGINAL key is its backend's too.
 */
export const FLAG_BY_BACKEND = 1 << 31;

/** Modes (design section 2), as F_STATE and banks keep them. From MODE_DSR on they are one-way. */
export const MODE_NAT = 0;
export const MODE_FULL_NAT = 1;
export const MODE_DSR = 2;
export const MODE_IPIP = 3;
export const MODE_GUE = 4;

/**
 * The key byte of F_STATE: protocol number, the families of both directions' addresses, and whether
 * the fast lane must leave the flow to process.ts. A plain IPv4 flow's byte is its protocol number,
 * so one comparison with a packet's tells the fast lane all of it.
 */
export const KEY_PROTOCOL = 0x1f;
export const KEY_SLOW = 0x20;
export const KEY_REPLY_IPV6 = 0x40;
export const KEY_ORIGINAL_IPV6 = 0x80;

/** Either side has IPv6 addresses: the flow has an extension. */
export const KEY_ANY_IPV6 = KEY_REPLY_IPV6 | KEY_ORIGINAL_IPV6;

/** What an IPv6 packet's protocol is combined with when its flow is looked for. */
export const KEY_IPV6 = 0x80;

/** In an ORIGINAL key: FLAG_BY_BACKEND, so that a search by addresses and ports never finds it. */
export const KEY_BY_BACKEND = 1 << 23;

/** Protocol number of the record whose F_STATE is `word`. */
export function protocolOf(word: number): number {
  return (word >>> 8) & KEY_PROTOCOL;
}

/** Whether the record whose F_STATE is `word` has an extension. */
export function hasExtension(word: number): boolean {
  return ((word >>> 8) & KEY_ANY_IPV6) !== 0;
}

/** MODE_… of the record whose F_STATE is `word`. */
export function modeOf(word: number): number {
  return (word >>> 16) & 0xff;
}

/** Whether only the client's half is seen (dsr and tunnels): the flow then has no REPLY key. */
export function isOneWay(word: number): boolean {
  return ((word >>> 16) & 0xff) >= MODE_DSR;
}

/** Protocol of the ORIGINAL key, with KEY_IPV6 where its addresses are IPv6, and KEY_BY_BACKEND. */
export function originalKeyOf(word: number): number {
  return (word >>> 8) & (KEY_PROTOCOL | KEY_ORIGINAL_IPV6 | KEY_BY_BACKEND);
}

/** Protocol of the REPLY key, likewise. */
export function replyKeyOf(word: number): number {
  return ((word >>> 8) & KEY_PROTOCOL) | ((word >>> 7) & KEY_IPV6);
}

export const PROTOCOL_ICMP = 1;
export const PROTOCOL_TCP = 6;
export const PROTOCOL_UDP = 17;
export const PROTOCOL_ICMPV6 = 58;

/** States of a flow. Names as netfilter has them (nf_conntrack_tcp.h), plus two for UDP. */
export const STATE_FREE = 0;
export const STATE_SYN_SENT = 1;
export const STATE_SYN_RECV = 2;
export const STATE_ESTABLISHED = 3;
export const STATE_FIN_WAIT = 4;
export const STATE_CLOSE_WAIT = 5;
export const STATE_LAST_ACK = 6;
export const STATE_TIME_WAIT = 7;
export const STATE_CLOSE = 8;
/** UDP: only the client has sent. */
export const STATE_UDP_ONE_WAY = 9;
/** UDP: both sides have sent. */
export const STATE_UDP_REPLIED = 10;
export const STATE_COUNT = 11;

export const STATE_NAMES = [
  "NONE",
  "SYN_SENT",
  "SYN_RECV",
  "ESTABLISHED",
  "FIN_WAIT",
  "CLOSE_WAIT",
  "LAST_ACK",
  "TIME_WAIT",
  "CLOSE",
  "UDP_ONE_WAY",
  "UDP_REPLIED",
] as const;
assert(STATE_NAMES.length === STATE_COUNT, "every state has a name");
