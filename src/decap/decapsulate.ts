import type { Address } from "../base/address.ts";
import { maskWord, type Prefix } from "../base/prefix.ts";
import { ECN_DROP, ecnAfterTunnel } from "../wire/ecn.ts";
import * as R from "./reasons.ts";

/**
 * Take one packet out of its tunnel: IPIP of all four kinds, GUE (draft-ietf-intarea-gue) variant 0
 * with a packet of IP in it and variant 1. Input is never trusted: all lengths are checked, and each
 * way out has a name.
 *
 * Sums      The inner packet stays byte-identical but for its ECN field. Its transport checksum may be a
 *           partial one: where the sender's segmentation offload or this host's GRO made one big packet
 *           of many, the field holds the pseudo header's sum alone, and the kernel has to be told.
 */

/** Words of a descriptor: TunnelDescriptor of addon/tunnel.cc. */
export const TUNNEL_WORDS = 16;
export const T_AT = 0;
export const T_BYTES = 1;
export const T_KIND = 2;
export const T_TOS = 3;
export const T_SOURCE = 4;
export const T_CHECKSUM_START = 8;
export const T_CHECKSUM_OFFSET = 9;
export const T_RESULT = 10;

/** Where a packet came in: kKinds of addon/tunnel.cc. On IPv4 raw sockets the outer header is there. */
export const KIND_IP4_IN_4 = 0;
export const KIND_IP6_IN_4 = 1;
export const KIND_IP4_IN_6 = 2;
export const KIND_IP6_IN_6 = 3;
export const KIND_GUE_4 = 4;
export const KIND_GUE_6 = 5;

const IPV4_HEADER_BYTES = 20;
const IPV6_HEADER_BYTES = 40;
const PROTOCOL_TCP = 6;
const PROTOCOL_UDP = 17;
const PROTOCOL_IPIP = 4;
const PROTOCOL_IPV6 = 41;

export interface DecapsulatorOptions {
  readonly vips: readonly Address[];
  /** Empty: every source. */
  readonly accept: readonly Prefix[];
}

/**
 * Make a decapsulator over received packets.
 *
 * @param memory - what the descriptors' offsets count in
 * @param words - descriptors, TUNNEL_WORDS each
 * @returns a function of a packet's number: one of reasons.ts. For DELIVERED the descriptor is then
 *   that of the inner packet; else its T_BYTES is 0
 */
export function createDecapsulator(
  memory: Uint8Array,
  words: Int32Array,
  options: DecapsulatorOptions,
): (packet: number) => number {
  const view = new DataView(memory.buffer, memory.byteOffset, memory.byteLength);
  const isVip = createAddressSet(options.vips);
  const { accept } = options;

  /** Offset of the inner packet, or minus a reason; sets the outer ECN and the family inside. */
  let outerTos = 0;
  let innerVersion = 0;

  function openIpip(at: number, bytes: number, kind: number): number {
    innerVersion = kind === KIND_IP4_IN_4 || kind === KIND_IP4_IN_6 ? 4 : 6;
    if (kind >= KIND_IP4_IN_6) return at;
    if (bytes < IPV4_HEADER_BYTES) return -R.OUTER_MALFORMED;
    const header = (memory[at]! & 15) << 2;
    const isRight =
      memory[at]! >> 4 === 4 &&
      header >= IPV4_HEADER_BYTES &&
      header <= bytes &&
      view.getUint16(at + 2) === bytes;
    if (!isRight) return -R.OUTER_MALFORMED;
    outerTos = memory[at + 1]!;
    return at + header;
  }

  function openGue(at: number, bytes: number): number {
    if (bytes < 1) return -R.GUE_SHORT;
    const first = memory[at]!;
    if (first >> 6 === 1) {
      // Variant 1: the two bits are the first ones of an IP version (4 is 0100, 6 is 0110).
      innerVersion = 0;
      return at;
    }
    if (first >> 6 !== 0) return -R.GUE_VARIANT;
    const header = 4 + ((first & 31) << 2);
    if (bytes < header) return -R.GUE_SHORT;
    if ((first & 32) !== 0) return -R.GUE_CONTROL;
    if (view.getUint16(at + 2) !== 0) return -R.GUE_FLAGS;
    const protocol = memory[at + 1]!;
    if (protocol !== PROTOCOL_IPIP && protocol !== PROTOCOL_IPV6) return -R.GUE_PROTOCOL;
    innerVersion = protocol === PROTOCOL_IPIP ? 4 : 6;
    // What is left of the header is private data without a flag: skipped.
    return at + header;
  }

  function isAccepted(at: number, family: 4 | 6): boolean {
    if (accept.length === 0) return true;
    return accept.some((prefix) => {
      if (prefix.family !== family) return false;
      const count = family === 4 ? 1 : 4;
      for (let word = 0; word < count; word++) {
        const mask = maskWord(prefix.bits, word);
        if (((words[at + T_SOURCE + word]! ^ prefix.words[word]!) & mask) !== 0) return false;
      }
      return true;
    });
  }

  function checkIpv4(at: number, bytes: number, row: number): number {
    if (bytes < IPV4_HEADER_BYTES) return R.INNER_SHORT;
    const header = (memory[at]! & 15) << 2;
    if (header < IPV4_HEADER_BYTES) return R.INNER_HEADER;
    const length = view.getUint16(at + 2);
    if (length < header || length > bytes) return R.INNER_LENGTH;
    if (sumWords(view, at, header, 0) !== 0xffff) return R.INNER_CHECKSUM;
    if (!isVip(4, 0, 0, 0, view.getInt32(at + 16))) return R.INNER_DESTINATION;
    const source = view.getInt32(at + 12);
    const first = source >>> 24;
    if (first === 0 || first === 127 || first >= 224 || isVip(4, 0, 0, 0, source)) {
      return R.INNER_SOURCE;
    }
    const tos = memory[at + 1]!;
    const ecn = ecnAfterTunnel(tos, outerTos);
    if (ecn === ECN_DROP) return R.ECN;
    if (ecn !== (tos & 3)) {
      const old = view.getUint16(at);
      memory[at + 1] = (tos & 0xfc) | ecn;
      // RFC 1624 eqn 3.
      const sum = (~view.getUint16(at + 10) & 0xffff) + (~old & 0xffff) + view.getUint16(at);
      view.setUint16(at + 10, ~foldSum(sum) & 0xffff);
    }
    words[row + T_AT] = at;
    words[row + T_BYTES] = length;
    const isWhole = (view.getUint16(at + 6) & 0x3fff) === 0;
    if (isWhole) {
      const sum = sumWords(view, at + 12, 8, 0);
      notePartial(row, header, length, memory[at + 9]!, sum);
    }
    return R.DELIVERED;
  }

  function checkIpv6(at: number, bytes: number, row: number): number {
    if (bytes < IPV6_HEADER_BYTES) return R.INNER_SHORT;
    const length = IPV6_HEADER_BYTES + view.getUint16(at + 4);
    if (length > bytes) return R.INNER_LENGTH;
    const word = (offset: number): number => view.getInt32(at + offset);
    if (!isVip(6, word(24), word(28), word(32), word(36))) return R.INNER_DESTINATION;
    const isLow = word(8) === 0 && word(12) === 0 && word(16) === 0;
    const isBad = memory[at + 8] === 0xff || (isLow && word(20) >>> 1 === 0);
    if (isBad || isVip(6, word(8), word(12), word(16), word(20))) return R.INNER_SOURCE;
    const first = view.getUint16(at);
    const ecn = ecnAfterTunnel(first >> 4, outerTos);
    if (ecn === ECN_DROP) return R.ECN;
    view.setUint16(at, (first & 0xffcf) | (ecn << 4));
    words[row + T_AT] = at;
    words[row + T_BYTES] = length;
    notePartial(row, IPV6_HEADER_BYTES, length, memory[at + 6]!, sumWords(view, at + 8, 32, 0));
    return R.DELIVERED;
  }

  /** Say where a partial checksum is; `sum` is that of the two addresses. */
  function notePartial(
    row: number,
    header: number,
    length: number,
    protocol: number,
    sum: number,
  ): void {
    const offset = protocol === PROTOCOL_TCP ? 16 : protocol === PROTOCOL_UDP ? 6 : -1;
    if (offset < 0 || length < header + offset + 2) return;
    const at = words[row + T_AT]!;
    // A datagram with bytes behind its end came whole: no offload makes such a one.
    const isUdp = protocol === PROTOCOL_UDP;
    if (isUdp && view.getUint16(at + header + 4) !== length - header) return;
    const pseudo = foldSum(sum + protocol + (length - header));
    if (view.getUint16(at + header + offset) !== pseudo) return;
    // Once in 65,536 a complete checksum looks the same: the whole sum tells.
    if (sumWords(view, at + header, length - header, pseudo) === 0xffff) return;
    words[row + T_CHECKSUM_START] = header;
    words[row + T_CHECKSUM_OFFSET] = offset;
  }

  function open(row: number): number {
    const kind = words[row + T_KIND]!;
    const at = words[row + T_AT]!;
    const bytes = words[row + T_BYTES]!;
    const isOverIpv4 = kind === KIND_GUE_4 || kind < KIND_IP4_IN_6;
    if (!isAccepted(row, isOverIpv4 ? 4 : 6)) return R.SOURCE_NOT_ACCEPTED;
    outerTos = words[row + T_TOS]!;
    const inner = kind >= KIND_GUE_4 ? openGue(at, bytes) : openIpip(at, bytes, kind);
    if (inner < 0) return -inner;
    const left = at + bytes - inner;
    if (left < 1) return R.INNER_SHORT;
    const version = memory[inner]! >> 4;
    if ((version !== 4 && version !== 6) || (innerVersion !== 0 && version !== innerVersion)) {
      return R.INNER_VERSION;
    }
    return version === 4 ? checkIpv4(inner, left, row) : checkIpv6(inner, left, row);
  }

  return (packet) => {
    const row = packet * TUNNEL_WORDS;
    const outcome = open(row);
    if (outcome !== R.DELIVERED) words[row + T_BYTES] = 0;
    return outcome;
  };
}

/** Fold the carries of a sum below 2^32 into 16 bits. */
function foldSum(sum: number): number {
  let folded = sum;
  while (folded > 0xffff) folded = (folded & 0xffff) + Math.floor(folded / 0x10000);
  return folded;
}

/** One's complement sum of big-endian words, an odd last byte being the high one of its word. */
function sumWords(view: DataView, at: number, bytes: number, start: number): number {
  let sum = start;
  const end = at + (bytes & ~1);
  for (let each = at; each < end; each += 2) sum += view.getUint16(each);
  if ((bytes & 1) !== 0) sum += view.getUint8(end) << 8;
  return foldSum(sum);
}

/** Is this address one of them? The words of IPv6, or zeros and the int32 of IPv4. */
function createAddressSet(
  addresses: readonly Address[],
): (family: 4 | 6, w0: number, w1: number, w2: number, w3: number) => boolean {
  const four = new Set(addresses.filter(({ family }) => family === 4).map(({ value }) => value));
  const six = new Map<number, Address[]>();
  for (const address of addresses) {
    if (address.family === 4) continue;
    const low = address.words[3];
    six.set(low, [...(six.get(low) ?? []), address]);
  }
  return (family, w0, w1, w2, w3) => {
    if (family === 4) return four.has(w3);
    const found = six.get(w3);
    if (found === undefined) return false;
    return found.some(({ words: [a, b, c] }) => a === w0 && b === w1 && c === w2);
  };
}
