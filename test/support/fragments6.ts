import { bytes6, ipv6Packet, text6 } from "./packets6.ts";

/** fragments.ts for IPv6, by RFC 8200 section 4.5. */

export interface Cut6 {
  readonly payload: number;
  readonly source: string;
  readonly destination: string;
  readonly protocol: number;
  readonly id: number;
  readonly hopLimit?: number;
}

/** One fragment. @param word - offset in units of eight << 3 | More Fragments */
export function fragment6(bytes: ArrayLike<number>, word: number, cut: Cut6): Uint8Array {
  const { source, destination, protocol, id, hopLimit = 64 } = cut;
  const idBytes = [24, 16, 8, 0].map((shift) => (id >>> shift) & 0xff);
  const header = [0, 0, word >> 8, word & 0xff, ...idBytes];
  return ipv6Packet({
    source,
    destination,
    protocol,
    hopLimit,
    payload: bytes,
    extensions: [[44, header]],
  });
}

/** The fragments of a packet with this payload, in order. */
export function cutPacket6(bytes: Uint8Array, cut: Cut6): Uint8Array[] {
  const fragments: Uint8Array[] = [];
  for (let offset = 0; offset < bytes.length; offset += cut.payload) {
    const isLast = offset + cut.payload >= bytes.length;
    const piece = bytes.subarray(offset, offset + cut.payload);
    fragments.push(fragment6(piece, offset | (isLast ? 0 : 1), cut));
  }
  return fragments;
}

export interface Whole6 {
  readonly source: string;
  readonly destination: string;
  readonly payload: Uint8Array;
}

/** Put packets together; throws on an overlap. What lacks a piece is left out. */
export function joinPackets6(packets: readonly Uint8Array[]): Whole6[] {
  const groups = new Map<string, Uint8Array[]>();
  for (const packet of packets) {
    const key = `${packet.subarray(8, 40).join(".")} ${packet.subarray(44, 48).join(".")}`;
    groups.set(key, [...(groups.get(key) ?? []), packet]);
  }
  return [...groups.values()].flatMap((group) => {
    const payload = new Uint8Array(65_536);
    const filled = new Uint8Array(65_536);
    let end = -1;
    for (const packet of group) {
      if (packet[6] !== 44) throw new Error("no fragment header");
      const word = packet[42]! * 256 + packet[43]!;
      const offset = word & 0xfff8;
      const piece = packet.subarray(48, 40 + packet[4]! * 256 + packet[5]!);
      if (filled.subarray(offset, offset + piece.length).includes(1)) throw new Error("overlap");
      payload.set(piece, offset);
      filled.fill(1, offset, offset + piece.length);
      if ((word & 1) === 0) end = offset + piece.length;
    }
    if (end < 0 || filled.subarray(0, end).includes(0)) return [];
    const first = group[0]!;
    return [
      {
        source: text6(first.subarray(8, 24)),
        destination: text6(first.subarray(24, 40)),
        payload: payload.slice(0, end),
      },
    ];
  });
}

/** An address as text6() writes it. */
export function plain6(text: string): string {
  return text6(bytes6(text));
}
