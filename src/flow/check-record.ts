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
  FLAG_BY_BACKEND,
  FLAG_FIN_ORIGINAL,
  FLAG_FIN_REPLY,
  FLAG_REPLIED,
  KEY_SLOW,
  MODE_FULL_NAT,
  MODE_NAT,
  PROTOCOL_TCP,
  PROTOCOL_UDP,
  STATE_CLOSE,
  STATE_SYN_SENT,
  STATE_UDP_ONE_WAY,
  STATE_UDP_REPLIED,
} from "./flow-record.ts";

/**
 * Whether a flow record that another process left behind may be followed (take-over; cold).
 *
 * An odd version finds every record that its writer did not finish. Against damage of other kinds
 * there is F_DELTA: it is the difference of the addresses and ports, made when the flow was, so it
 * is a checksum of the key. A single changed bit in any key word changes the difference by a power
 * of two, which is never 0 modulo 65535.
 */

/** Every flag that a record of this layout can have; FLAG_IPV6 is not one yet. */
const FLAGS_KNOWN =
  FLAG_REPLIED | FLAG_FIN_ORIGINAL | FLAG_FIN_REPLY | FLAG_ACTIVE | FLAG_ADOPTED | FLAG_BY_BACKEND;

/**
 * @param words - any array of words
 * @param at - index of the record's first word
 * @returns false for a record that is FREE, half-written, or cannot be the work of insert()
 */
export function recordIsSound(words: Int32Array, at: number): boolean {
  const version = words[at + F_VERSION]!;
  if (version === 0 || (version & 1) !== 0) return false;
  return stateIsSound(words[at + F_STATE]!) && keyIsSound(words, at) && deltaIsSound(words, at);
}

function stateIsSound(word: number): boolean {
  const state = word & 0xff;
  // Of the key byte all but KEY_SLOW: no record of this layout has IPv6 addresses.
  const protocol = (word >>> 8) & 0xff & ~KEY_SLOW;
  if (((word >>> 24) & ~(FLAGS_KNOWN >>> 24)) !== 0) return false;
  if (protocol === PROTOCOL_TCP) return state >= STATE_SYN_SENT && state <= STATE_CLOSE;
  if (protocol === PROTOCOL_UDP) return state >= STATE_UDP_ONE_WAY && state <= STATE_UDP_REPLIED;
  return false;
}

function keyIsSound(words: Int32Array, at: number): boolean {
  const client = words[at + F_CLIENT_ADDR]!;
  const clientVipPorts = words[at + F_CLIENT_VIP_PORTS]!;
  const replyAddress = words[at + F_REPLY_ADDR]!;
  const backendReplyPorts = words[at + F_BACKEND_REPLY_PORTS]!;
  if (client === 0 || words[at + F_VIP_ADDR] === 0) return false;
  if (words[at + F_BACKEND_ADDR] === 0 || replyAddress === 0) return false;
  // A client may send from port 0 (RFC 768 lets UDP do so); nobody listens on it.
  if ((clientVipPorts & 0xffff) === 0 || backendReplyPorts >>> 16 === 0) return false;
  const mode = (words[at + F_STATE]! >>> 16) & 0xff;
  const replyPort = backendReplyPorts & 0xffff;
  if (mode === MODE_NAT) return replyAddress === client && replyPort === clientVipPorts >>> 16;
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
  const delta = words[at + F_DELTA]!;
  const addresses =
    halves(words[at + F_BACKEND_ADDR]!) +
    halves(words[at + F_REPLY_ADDR]!) -
    halves(words[at + F_CLIENT_ADDR]!) -
    halves(words[at + F_VIP_ADDR]!);
  const ports =
    halves(words[at + F_BACKEND_REPLY_PORTS]!) - halves(words[at + F_CLIENT_VIP_PORTS]!);
  return (
    congruent(delta >>> 16) === congruent(addresses) &&
    congruent(delta & 0xffff) === congruent(addresses + ports)
  );
}
