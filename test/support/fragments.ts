import { ipv4Packet, slowSum, withHeaderChecksum } from "./frames.ts";

/**
 * Splitting packets and putting them together again, for tests: slow, plain, and independent of
 * src/, by RFC 791 section 3.2.
 */

export interface Cut {
  /** Bytes of payload of each fragment but the last: a multiple of eight. */
  readonly payload: number;
  /** Header fields of the packet; its payload is what is cut. */
  readonly source: string;
  readonly destination: string;
  readonly protocol: number;
  readonly id: number;
  readonly ttl?: number;
}

/** The fragments of an IPv4 packet with this payload, in order. */
export function cutPacket(bytes: Uint8Array, cut: Cut): Uint8Array[] {
  const { source, destination, protocol, id, ttl = 64, payload } = cut;
  const fragments: Uint8Array[] = [];
  for (let offset = 0; offset < bytes.length; offset += payload) {
    const isLast = offset + payload >= bytes.length;
    fragments.push(
      ipv4Packet({
        source,
        destination,
        protocol,
        id,
        ttl,
        payload: bytes.subarray(offset, offset + payload),
        fragmentWord: (isLast ? 0 : 0x2000) | (offset / 8),
      }),
    );
  }
  return fragments;
}

export interface Whole {
  readonly source: string;
  readonly destination: string;
  readonly protocol: number;
  readonly id: number;
  readonly payload: Uint8Array;
  readonly fragments: number;
}

/** Put IPv4 packets together; throws on a wrong header checksum or an overlap. What lacks a piece is
 * left out. */
export function joinPackets(packets: readonly Uint8Array[]): Whole[] {
  const groups = new Map<string, Uint8Array[]>();
  for (const packet of packets) {
    const headerBytes = (packet[0]! & 15) * 4;
    if (slowSum(packet.subarray(0, headerBytes)) !== 0xffff) throw new Error("header checksum");
    const key = `${packet.subarray(12, 20).join(".")} ${packet[9]} ${packet.subarray(4, 6).join(".")}`;
    groups.set(key, [...(groups.get(key) ?? []), packet]);
  }
  return [...groups.values()].flatMap((group) => joinGroup(group) ?? []);
}

function joinGroup(group: readonly Uint8Array[]): Whole | null {
  const payload = new Uint8Array(65_536);
  const filled = new Uint8Array(65_536);
  let end = -1;
  for (const packet of group) {
    const headerBytes = (packet[0]! & 15) * 4;
    const total = packet[2]! * 256 + packet[3]!;
    const word = packet[6]! * 256 + packet[7]!;
    const offset = (word & 0x1fff) * 8;
    const piece = packet.subarray(headerBytes, total);
    if (filled.subarray(offset, offset + piece.length).includes(1)) throw new Error("overlap");
    payload.set(piece, offset);
    filled.fill(1, offset, offset + piece.length);
    if ((word & 0x2000) === 0) end = offset + piece.length;
  }
  if (end < 0 || filled.subarray(0, end).includes(0)) return null;
  const first = group[0]!;
  return {
    source: first.subarray(12, 16).join("."),
    destination: first.subarray(16, 20).join("."),
    protocol: first[9]!,
    id: first[4]! * 256 + first[5]!,
    payload: payload.slice(0, end),
    fragments: group.length,
  };
}

/** The packet with another fragment word. */
export function withFragmentWord(packet: Uint8Array, word: number): Uint8Array {
  const changed = packet.slice();
  changed.set([word >> 8, word & 0xff], 6);
  return withHeaderChecksum(changed);
}
