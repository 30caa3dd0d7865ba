import { parseIpv6 } from "../../src/base/address.ts";
import { CLIENT_MAC, ethernetFrame, macBytes, slowChecksum, slowSum } from "./frames.ts";

/**
 * Builders of IPv6 packets for tests, as plain and slow as those of frames.ts, and as independent of
 * src/wire. Addresses are text; checksums are right unless told otherwise.
 */

const TCP = 6;
const UDP = 17;
export const ICMP6 = 58;
export const FRAGMENT = 44;
export const HOP_BY_HOP = 0;
export const ROUTING = 43;
export const DESTINATION_OPTIONS = 60;

function two(value: number): number[] {
  return [(value >>> 8) & 0xff, value & 0xff];
}

function four(value: number): number[] {
  return [...two(value >>> 16), ...two(value & 0xffff)];
}

/** An address as sixteen bytes. */
export function addressBytes6(address: string): number[] {
  const words = parseIpv6(address);
  if (words === null) throw new TypeError(`${address} is no IPv6 address`);
  return words.flatMap(four);
}

/** The pseudo header of RFC 8200 section 8.1. */
export function pseudoHeader6(
  source: string,
  destination: string,
  protocol: number,
  l4Bytes: number,
): number[] {
  const ends = [...addressBytes6(source), ...addressBytes6(destination)];
  return [...ends, ...four(l4Bytes), 0, 0, 0, protocol];
}

/** An extension header: its number and its bytes behind next header and length. */
export interface Extension {
  readonly type: number;
  /** 6 bytes, or 8 more at a time; PadN when left out. For FRAGMENT: offset word and identification. */
  readonly body?: readonly number[];
}

export interface Ipv6Options {
  readonly hopLimit?: number;
  readonly trafficClass?: number;
  readonly flowLabel?: number;
  readonly extensions?: readonly Extension[];
}

export interface Ipv6Fields extends Ipv6Options {
  readonly source: string;
  readonly destination: string;
  readonly protocol: number;
  readonly payload: ArrayLike<number>;
}

/** A Fragment header: offset in bytes (a multiple of 8). */
export function fragmentHeader(offset: number, more: boolean, identification = 7): Extension {
  return { type: FRAGMENT, body: [...two(offset | (more ? 1 : 0)), ...four(identification)] };
}

/** An IPv6 packet. */
export function ipv6Packet(fields: Ipv6Fields): Uint8Array {
  const { hopLimit = 64, trafficClass = 0, flowLabel = 0, extensions = [] } = fields;
  const types = [...extensions.map(({ type }) => type), fields.protocol];
  const headers = extensions.flatMap(({ body = [1, 4, 0, 0, 0, 0], type }, index) => {
    // The Fragment header has no length: a reserved byte stands there.
    const length = type === FRAGMENT ? 0 : (body.length + 2) / 8 - 1;
    return [types[index + 1]!, length, ...body];
  });
  const payloadBytes = headers.length + fields.payload.length;
  const packet = new Uint8Array(40 + payloadBytes);
  packet.set([
    ...four(((6 << 28) | (trafficClass << 20) | flowLabel) >>> 0),
    ...two(payloadBytes),
    types[0]!,
    hopLimit,
    ...addressBytes6(fields.source),
    ...addressBytes6(fields.destination),
    ...headers,
  ]);
  packet.set(fields.payload, 40 + headers.length);
  return packet;
}

interface Ends {
  readonly source: string;
  readonly destination: string;
}

/** The bytes with the checksum over them and the pseudo header in the field at `fieldAt`. */
export function withChecksum6(
  l4: Uint8Array,
  protocol: number,
  fieldAt: number,
  { source, destination }: Ends,
  kind: "complete" | "partial" = "complete",
): Uint8Array {
  const fixed = l4.slice();
  fixed.set([0, 0], fieldAt);
  const pseudo = pseudoHeader6(source, destination, protocol, fixed.length);
  const complete = slowChecksum([...pseudo, ...fixed]);
  // RFC 8200 section 8.1: a computed 0 of UDP is sent as all ones.
  const sent = complete === 0 && protocol === UDP ? 0xffff : complete;
  fixed.set(two(kind === "partial" ? slowSum(pseudo) : sent), fieldAt);
  return fixed;
}

export interface L4Fields6 extends Ends {
  readonly sourcePort: number;
  readonly destinationPort: number;
  readonly data?: ArrayLike<number>;
  readonly checksum?: "complete" | "partial";
  readonly ip?: Ipv6Options;
}

export interface TcpFields6 extends L4Fields6 {
  readonly flags?: number;
  readonly sequence?: number;
  readonly acknowledgement?: number;
  readonly window?: number;
  /** A multiple of four bytes, at most 40. */
  readonly options?: readonly number[];
}

/** A TCP segment in an IPv6 packet. */
export function tcpPacket6(fields: TcpFields6): Uint8Array {
  const { source, destination, sourcePort, destinationPort, flags = 0x10, data = [] } = fields;
  const { sequence = 1, acknowledgement = 0, window = 64_240, options = [] } = fields;
  const headerBytes = 20 + options.length;
  const segment = new Uint8Array(headerBytes + data.length);
  segment.set([
    ...two(sourcePort),
    ...two(destinationPort),
    ...four(sequence),
    ...four(acknowledgement),
    (headerBytes / 4) << 4,
    flags,
    ...two(window),
    0,
    0,
    0,
    0,
    ...options,
  ]);
  segment.set(data, headerBytes);
  const payload = withChecksum6(segment, TCP, 16, fields, fields.checksum);
  return ipv6Packet({ source, destination, protocol: TCP, payload, ...fields.ip });
}

/** A UDP datagram in an IPv6 packet. */
export function udpPacket6(fields: L4Fields6): Uint8Array {
  const { source, destination, sourcePort, destinationPort, data = [] } = fields;
  const datagram = new Uint8Array(8 + data.length);
  datagram.set([...two(sourcePort), ...two(destinationPort), ...two(datagram.length), 0, 0]);
  datagram.set(data, 8);
  const payload = withChecksum6(datagram, UDP, 6, fields, fields.checksum);
  return ipv6Packet({ source, destination, protocol: UDP, payload, ...fields.ip });
}

export interface Icmp6Fields extends Ends {
  readonly type: number;
  readonly code?: number;
  /** Second word of the header: an MTU, a pointer, or identifier and sequence number. */
  readonly rest?: number;
  /** What comes behind the second word. */
  readonly data?: ArrayLike<number>;
  readonly ip?: Ipv6Options;
}

/** An ICMPv6 message in an IPv6 packet. */
export function icmpPacket6(fields: Icmp6Fields): Uint8Array {
  const { source, destination, type, code = 0, rest = 0, data = [] } = fields;
  const message = new Uint8Array(8 + data.length);
  message.set([type, code, 0, 0, ...four(rest)]);
  message.set(data, 8);
  const payload = withChecksum6(message, ICMP6, 2, fields);
  return ipv6Packet({ source, destination, protocol: ICMP6, payload, ...fields.ip });
}

/** The solicited-node multicast address of an address (RFC 4291 section 2.7.1). */
export function solicitedNode(address: string): string {
  const [a, b, c] = addressBytes6(address).slice(13);
  return `ff02::1:ff${a!.toString(16).padStart(2, "0")}:${((b! << 8) | c!).toString(16)}`;
}

/** The MAC of a multicast group (RFC 2464 section 7). */
export function groupMac(address: string): string {
  const bytes = [0x33, 0x33, ...addressBytes6(address).slice(12)];
  return bytes.map((byte) => byte.toString(16).padStart(2, "0")).join(":");
}

export interface SolicitationFields {
  readonly source: string;
  readonly target: string;
  readonly sourceMac?: string;
  /** Destination; the target's solicited-node group when left out. */
  readonly to?: { readonly address: string; readonly mac: string };
  readonly hopLimit?: number;
}

/** A neighbour solicitation (RFC 4861 section 4.3), as a whole Ethernet frame. */
export function solicitationFrame(fields: SolicitationFields): Uint8Array {
  const { source, target, sourceMac = CLIENT_MAC, hopLimit = 255 } = fields;
  const group = solicitedNode(target);
  const to = fields.to ?? { address: group, mac: groupMac(group) };
  const option = source === "::" ? [] : [1, 1, ...macBytes(sourceMac)];
  const packet = icmpPacket6({
    source,
    destination: to.address,
    type: 135,
    data: [...addressBytes6(target), ...option],
    ip: { hopLimit },
  });
  return ethernetFrame(packet, { source: sourceMac, destination: to.mac, type: 0x86dd });
}
