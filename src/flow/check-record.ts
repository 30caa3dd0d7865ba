import type { Words6 } from "../base/address.ts";
import { H_SECRET, type RegionViews } from "../state/layout.ts";
import { foldAddress6 } from "./flow-hash.ts";
import {
  F_BACKEND_ADDR,
  F_BACKEND_REPLY_PORTS,
  F_CLIENT_ADDR,
  F_CLIENT_VIP_PORTS,
  F_DELTA,
  F_REPLY_ADDR,
  F_STATE,
  F_VERSION,
  F_VIP_ADDR,
  FLAG_ACTIVE,
  FLAG_ADOPTED,
  FLAG_AWAITS,
  FLAG_BY_BACKEND,
  FLAG_FIN_ORIGINAL,
  FLAG_FIN_REPLY,
  FLAG_PROBE,
  FLAG_REPLIED,
  hasExtension,
  isOneWay,
  KEY_ORIGINAL_IPV6,
  KEY_REPLY_IPV6,
  KEY_SLOW,
  MODE_DSR,
  MODE_FULL_NAT,
  MODE_GUE,
  MODE_NAT,
  PROTOCOL_TCP,
  PROTOCOL_UDP,
  protocolOf,
  STATE_CLOSE,
  STATE_SYN_SENT,
  STATE_UDP_ONE_WAY,
  STATE_UDP_REPLIED,
  X_BACKEND,
  X_CLIENT,
  X_REPLY,
  X_VIP,
} from "./flow-record.ts";

/**
 * Whether a flow record that another process left behind may be followed (take-over; cold).
 *
 * An odd version finds every record that its writer did not finish. Against damage of other kinds
 * there is F_DELTA: it is the difference of the addresses and ports, made when the flow was, so it
 * is a checksum of the key. A single changed bit in any key word changes the difference by a power
 * of two, which is never 0 modulo 65535.
 */

/** Every flag that a record of this layout can have. */
const FLAGS_KNOWN =
  FLAG_REPLIED |
  FLAG_FIN_ORIGINAL |
  FLAG_FIN_REPLY |
  FLAG_ACTIVE |
  FLAG_ADOPTED |
  FLAG_AWAITS |
  FLAG_PROBE |
  FLAG_BY_BACKEND;

/**
 * A record without IPv6 addresses.
 *
 * @param words - any array of words
 * @param at - index of the record's first word
 * @returns false for a record that is FREE, half-written, or cannot be the work of insert()
 */
export function recordIsSound(words: Int32Array, at: number): boolean {
  return beginsSound(words, at) && !hasExtension(words[at + F_STATE]!) && deltaIsSound(words, at);
}

/**
 * A record of any kind, with its extension where it has one: folds and differences of the addresses
 * there are those of the record. A damaged word of either changes at least one of them.
 *
 * @param views - the region of the record: its secret, and whether it has extensions
 * @param at - index in views.i32 of the record's first word
 * @param extensionAt - of its extension's
 */
export function flowIsSound(views: RegionViews, at: number, extensionAt: number): boolean {
  const { i32, layout } = views;
  if (!hasExtension(i32[at + F_STATE]!)) return recordIsSound(i32, at);
  return beginsSound(i32, at) && layout.ipv6 && extensionIsSound(i32, at, extensionAt);
}

function beginsSound(words: Int32Array, at: number): boolean {
  const version = words[at + F_VERSION]!;
  if (version === 0 || (version & 1) !== 0) return false;
  return stateIsSound(words[at + F_STATE]!) && keyIsSound(words, at);
}

function extensionIsSound(i32: Int32Array, at: number, extensionAt: number): boolean {
  const state = i32[at + F_STATE]!;
  const key = (state >>> 8) & 0xff;
  const original6 = (key & KEY_ORIGINAL_IPV6) !== 0;
  const reply6 = (key & KEY_REPLY_IPV6) !== 0;
  const matches = (address: number, word: number, six: boolean): boolean => {
    const from = extensionAt + word;
    const [w0, w1, w2, w3] = i32.subarray(from, from + 4) as unknown as Words6;
    if (!six) return w0 === 0 && w1 === 0 && w2 === 0xffff && w3 === i32[at + address];
    return foldAddress6(i32[H_SECRET]!, i32[H_SECRET + 1]!, w0, w1, w2, w3) === i32[at + address];
  };
  if (
    !matches(F_CLIENT_ADDR, X_CLIENT, original6) ||
    !matches(F_VIP_ADDR, X_VIP, original6) ||
    !matches(F_BACKEND_ADDR, X_BACKEND, reply6) ||
    !matches(F_REPLY_ADDR, X_REPLY, reply6)
  ) {
    return false;
  }
  // A mapped address counts for what its IPv4 pseudo header has.
  const sum = (word: number, six: boolean): number => {
    let total = 0;
    for (let index = six ? 0 : 3; index < 4; index++) {
      total += halves(i32[extensionAt + word + index]!);
    }
    return total;
  };
  const addresses =
    sum(X_BACKEND, reply6) +
    sum(X_REPLY, reply6) -
    sum(X_CLIENT, original6) -
    sum(X_VIP, original6);
  return deltaIs(i32, at, addresses);
}

function stateIsSound(word: number): boolean {
  const state = word & 0xff;
  const protocol = protocolOf(word);
  // One-way flows are never the fast lane's.
  if (isOneWay(word) && ((word >>> 8) & KEY_SLOW) === 0) return false;
  if (((word >>> 24) & ~(FLAGS_KNOWN >>> 24)) !== 0) return false;
  // One of several flows of a client's tuple is a datagram's, and never the fast lane's.
  const byBackend = (word & FLAG_BY_BACKEND) !== 0;
  if (byBackend && (protocol !== PROTOCOL_UDP || ((word >>> 8) & KEY_SLOW) === 0)) return false;
  if (protocol === PROTOCOL_TCP) return state >= STATE_SYN_SENT && state <= STATE_CLOSE;
  if (protocol === PROTOCOL_UDP) return state >= STATE_UDP_ONE_WAY && state <= STATE_UDP_REPLIED;
  return false;
}

function keyIsSound(words: Int32Array, at: number): boolean {
  const state = words[at + F_STATE]!;
  const key = (state >>> 8) & 0xff;
  const client = words[at + F_CLIENT_ADDR]!;
  const clientVipPorts = words[at + F_CLIENT_VIP_PORTS]!;
  const replyAddress = words[at + F_REPLY_ADDR]!;
  const backendReplyPorts = words[at + F_BACKEND_REPLY_PORTS]!;
  // A fold can be anything.
  const original4 = (key & KEY_ORIGINAL_IPV6) === 0;
  const reply4 = (key & KEY_REPLY_IPV6) === 0;
  if (original4 && (client === 0 || words[at + F_VIP_ADDR] === 0)) return false;
  if (reply4 && (words[at + F_BACKEND_ADDR] === 0 || replyAddress === 0)) return false;
  // A client may send from port 0 (RFC 768 lets UDP do so); nobody listens on it.
  if ((clientVipPorts & 0xffff) === 0 || backendReplyPorts >>> 16 === 0) return false;
  const mode = (state >>> 16) & 0xff;
  const replyPort = backendReplyPorts & 0xffff;
  if (mode === MODE_NAT) {
    return original4 === reply4 && replyAddress === client && replyPort === clientVipPorts >>> 16;
  }
  if (mode >= MODE_DSR && mode <= MODE_GUE) {
    // Nobody answers through us: where the families differ the backend stands for the client.
    const expected = original4 === reply4 ? client : words[at + F_BACKEND_ADDR];
    return replyAddress === expected && replyPort === clientVipPorts >>> 16;
  }
  return mode === MODE_FULL_NAT && replyPort !== 0;
}

function halves(word: number): number {
  return (word >>> 16) + (word & 0xffff);
}

/** Ones' complement difference as 0..65534: 0 and 0xffff are the same number there (RFC 1071). */
function congruent(difference: number): number {
  return ((difference % 0xffff) + 0xffff) % 0xffff;
}

function deltaIsSound(words: Int32Array, at: number): boolean {
  return deltaIs(
    words,
    at,
    halves(words[at + F_BACKEND_ADDR]!) +
      halves(words[at + F_REPLY_ADDR]!) -
      halves(words[at + F_CLIENT_ADDR]!) -
      halves(words[at + F_VIP_ADDR]!),
  );
}

/** @param addresses - what the addresses change a sum of 16-bit words by */
function deltaIs(words: Int32Array, at: number, addresses: number): boolean {
  const delta = words[at + F_DELTA]!;
  const ports =
    halves(words[at + F_BACKEND_REPLY_PORTS]!) - halves(words[at + F_CLIENT_VIP_PORTS]!);
  return (
    congruent(delta >>> 16) === congruent(addresses) &&
    congruent(delta & 0xffff) === congruent(addresses + ports)
  );
}
