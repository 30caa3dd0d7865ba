/**
 * Builders and a verifier of IPv6 frames for tests: as frames.ts, slow, plain, and independent of
 * src/wire.
 */
import {
  addressOf,
  CLIENT_MAC,
  type EthernetFields,
  ethernetFrame,
  GATEWAY_MAC,
  slowChecksum,
  slowSum,
} from "./frames.ts";

function two(value: number): number[] {
  return [(value >>> 8) & 0xff, value & 0xff];
}

function four(value: number): number[] {
  return [...two(value >>> 16), ...two(value & 0xffff)];
}

/** An IPv6 address as sixteen bytes. */
export function bytes6(text: string): number[] {
  return addressOf(text).words.flatMap(four);
}

/** Sixteen bytes as eight groups without any `::`. */
export function text6(bytes: ArrayLike<number>): string {
  const groups: string[] = [];
  for (let at = 0; at < 16; at += 2) groups.push((bytes[at]! * 256 + bytes[at + 1]!).toString(16));
  return groups.join(":");
}

export interface Ipv6Fields {
  readonly source: string;
  readonly destination: string;
  /** Of the transport. */
  readonly protocol: number;
  readonly payload: ArrayLike<number>;
  readonly hopLimit?: number;
  readonly trafficClass?: number;
  readonly flowLabel?: number;
  /** Extension headers: type, and bytes with the place of the next header left 0. */
  readonly extensions?: readonly (readonly [type: number, bytes: readonly number[]])[];
}

/** An IPv6 packet. */
export function ipv6Packet(fields: Ipv6Fields): Uint8Array {
  const { hopLimit = 64, trafficClass = 0, flowLabel = 0, extensions = [] } = fields;
  const types = [...extensions.map(([type]) => type), fields.protocol];
  const chain = extensions.flatMap(([, bytes], index) => [types[index + 1]!, ...bytes.slice(1)]);
  const payload = [...chain, ...Array.from(fields.payload)];
  return Uint8Array.from([
    ...four(((6 << 28) | (trafficClass << 20) | flowLabel) >>> 0),
    ...two(payload.length),
    types[0]!,
    hopLimit,
    ...bytes6(fields.source),
    ...bytes6(fields.destination),
    ...payload,
  ]);
}

/** The pseudo header (RFC 8200 section 8.1) as bytes. */
export function pseudo6(source: string, destination: string, protocol: number, bytes: number) {
  return [...bytes6(source), ...bytes6(destination), ...four(bytes), 0, 0, 0, protocol];
}

export interface Ends6 {
  readonly source: string;
  readonly destination: string;
  readonly sourcePort: number;
  readonly destinationPort: number;
  readonly ip?: Partial<Ipv6Fields>;
  /** The pseudo header's sum stands in the checksum field (NEEDS_CSUM). */
  readonly partial?: boolean;
}

export interface Tcp6 extends Ends6 {
  readonly flags?: number;
  readonly sequence?: number;
  readonly acknowledgement?: number;
  readonly window?: number;
  /** A multiple of four bytes, at most 40. */
  readonly options?: readonly number[];
  readonly data?: ArrayLike<number>;
}

function withSum(l4: number[], at: number, protocol: number, ends: Ends6): number[] {
  const pseudo = pseudo6(ends.source, ends.destination, protocol, l4.length);
  const complete = slowChecksum([...pseudo, ...l4]);
  const sent = complete === 0 && protocol === 17 ? 0xffff : complete;
  l4.splice(at, 2, ...two(ends.partial === true ? slowSum(pseudo) : sent));
  return l4;
}

/** A TCP segment in an IPv6 packet. */
export function tcp6(fields: Tcp6): Uint8Array {
  const { flags = 16, sequence = 1, acknowledgement = 0, data = [] } = fields;
  const { window = 64_240, options = [] } = fields;
  const segment = [
    ...two(fields.sourcePort),
    ...two(fields.destinationPort),
    ...four(sequence),
    ...four(acknowledgement),
    ((20 + options.length) / 4) << 4,
    flags,
    ...two(window),
    0,
    0,
    0,
    0,
    ...options,
    ...Array.from(data),
  ];
  const payload = withSum(segment, 16, 6, fields);
  return ipv6Packet({ ...fields, protocol: 6, payload, ...fields.ip });
}

/** A UDP datagram in an IPv6 packet. */
export function udp6(
  fields: Ends6 & { readonly data?: ArrayLike<number>; readonly noSum?: boolean },
) {
  const data = Array.from(fields.data ?? []);
  const ports = [...two(fields.sourcePort), ...two(fields.destinationPort)];
  const datagram = [...ports, ...two(8 + data.length), 0, 0, ...data];
  const payload = fields.noSum === true ? datagram : withSum(datagram, 6, 17, fields);
  return ipv6Packet({ ...fields, protocol: 17, payload, ...fields.ip });
}

export interface Icmp6Fields {
  readonly source: string;
  readonly destination: string;
  readonly type: number;
  readonly code?: number;
  /** Second word of the header. */
  readonly rest?: number;
  readonly data?: ArrayLike<number>;
  readonly ip?: Partial<Ipv6Fields>;
}

/** An ICMPv6 message in an IPv6 packet. */
export function icmp6(fields: Icmp6Fields): Uint8Array {
  const { type, code = 0, rest = 0, data = [] } = fields;
  const message = [type, code, 0, 0, ...four(rest), ...Array.from(data)];
  const ends = { ...fields, sourcePort: 0, destinationPort: 0 };
  return ipv6Packet({
    ...fields,
    protocol: 58,
    payload: withSum(message, 2, 58, ends),
    ...fields.ip,
  });
}

/** A neighbour solicitation; with the source's link-layer address unless it is unspecified. */
export function solicitation(
  source: string,
  target: string,
  changes: Partial<Icmp6Fields> = {},
): Uint8Array {
  const last = bytes6(target).slice(13);
  const group = `ff02::1:ff${hex(last[0]!)}:${hex(last[1]!)}${hex(last[2]!)}`;
  const option = source === "::" ? [] : [1, 1, 2, 0, 0, 0, 1, 2];
  return icmp6({
    source,
    destination: group,
    type: 135,
    data: [...bytes6(target), ...option],
    ip: { hopLimit: 255 },
    ...changes,
  });
}

function hex(byte: number): string {
  return byte.toString(16).padStart(2, "0");
}

/** The Ethernet frame of a packet, of either family. */
export function frameOf(packet: Uint8Array, fields: EthernetFields = {}): Uint8Array {
  const type = packet[0]! >>> 4 === 6 ? 0x86dd : 0x0800;
  return ethernetFrame(packet, { destination: GATEWAY_MAC, source: CLIENT_MAC, type, ...fields });
}

/** What a test wants to know of an IPv6 packet. */
export interface Seen6 {
  readonly source: string;
  readonly destination: string;
  readonly hopLimit: number;
  readonly protocol: number;
  /** Behind all extension headers. */
  readonly l4: Uint8Array;
  readonly sourcePort: number;
  readonly destinationPort: number;
  /** Whether the transport's checksum is right, complete or (partial) that of the pseudo header. */
  readonly sumIsRight: boolean;
  readonly partialIsRight: boolean;
  readonly bytes: number;
}

const EXTENSIONS = new Set([0, 43, 44, 60]);

/** Take an IPv6 packet apart. @throws when its lengths contradict each other */
export function see6(packet: Uint8Array): Seen6 {
  if (packet[0]! >>> 4 !== 6) throw new TypeError("no IPv6 packet");
  const bytes = 40 + packet[4]! * 256 + packet[5]!;
  if (bytes > packet.length) throw new TypeError("an IPv6 packet that is cut off");
  let protocol = packet[6]!;
  let at = 40;
  while (EXTENSIONS.has(protocol)) {
    const length = protocol === 44 ? 8 : (packet[at + 1]! + 1) * 8;
    protocol = packet[at]!;
    at += length;
  }
  const l4 = packet.subarray(at, bytes);
  const source = text6(packet.subarray(8, 24));
  const destination = text6(packet.subarray(24, 40));
  const pseudo = pseudo6(source, destination, protocol, l4.length);
  const field = { 6: 16, 17: 6, 58: 2 }[protocol] ?? 0;
  return {
    source: addressOf(source).text,
    destination: addressOf(destination).text,
    hopLimit: packet[7]!,
    protocol,
    l4,
    sourcePort: l4[0]! * 256 + l4[1]!,
    destinationPort: l4[2]! * 256 + l4[3]!,
    sumIsRight: slowSum([...pseudo, ...l4]) === 0xffff,
    partialIsRight: l4[field]! * 256 + l4[field + 1]! === slowSum(pseudo),
    bytes,
  };
}
