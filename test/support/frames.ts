/**
 * Builders and a verifier of frames for tests: slow, plain, and independent of src/wire, so that one
 * can check the other. Builders give whole packets with right checksums unless told otherwise.
 *
 * Bytes are built as lists of numbers; addresses are text or int32, MACs are text.
 */

import { type Address as BaseAddress, parseAddress } from "../../src/base/address.ts";

export type Address = string | number;

/** MAC of the gateway's first interface in tests that are not told otherwise. */
export const GATEWAY_MAC = "02:00:00:00:00:01";
/** MAC of whoever sends to the gateway. */
export const CLIENT_MAC = "02:00:00:00:01:02";

export const FIN = 1;
export const SYN = 2;
export const RST = 4;
export const PSH = 8;
export const ACK = 16;
export const URG = 32;
export const ECE = 64;
export const CWR = 128;

/** IPv4 address as four bytes. */
export function addressBytes(address: Address): number[] {
  if (typeof address === "string") return address.split(".").map(Number);
  return [24, 16, 8, 0].map((shift) => (address >>> shift) & 0xff);
}

/** IPv4 address as int32 in host order. */
export function addressNumber(address: Address): number {
  return addressBytes(address).reduce((sum, byte) => sum * 256 + byte, 0) | 0;
}

/** An address of either family from its text. */
export function addressOf(text: string): BaseAddress {
  const address = parseAddress(text);
  if (address === null) throw new TypeError(`${text} is no address`);
  return address;
}

/** IPv4 address as text. */
export function addressText(address: Address): string {
  return addressBytes(address).join(".");
}

/** MAC as six bytes. */
export function macBytes(mac: string): number[] {
  return mac.split(":").map((part) => Number.parseInt(part, 16));
}

/** The first four bytes of a MAC as int32, and the last two: the pair that the data plane keeps. */
export function macWords(mac: string): { high: number; low: number } {
  const [a, b, c, d, e, f] = macBytes(mac) as [number, number, number, number, number, number];
  return { high: ((a * 256 + b) * 65_536 + c * 256 + d) | 0, low: e * 256 + f };
}

function two(value: number): number[] {
  return [(value >>> 8) & 0xff, value & 0xff];
}

function four(value: number): number[] {
  return [...two(value >>> 16), ...two(value & 0xffff)];
}

/** Sum of 16-bit words modulo 2^16 - 1, which is what one's complement addition is (RFC 1071 2). */
export function slowSum(bytes: ArrayLike<number>): number {
  let sum = 0;
  for (let at = 0; at < bytes.length; at += 2) sum += bytes[at]! * 256 + (bytes[at + 1] ?? 0);
  // Zero has two forms; the sum is 0 only when every word was.
  return sum === 0 ? 0 : sum % 0xffff || 0xffff;
}

/** The checksum of bytes whose own checksum field is 0. */
export function slowChecksum(bytes: ArrayLike<number>): number {
  return 0xffff - slowSum(bytes);
}

/** The pseudo header (RFC 9293 3.1, RFC 768) as bytes. */
export function pseudoHeader(
  source: Address,
  destination: Address,
  protocol: number,
  l4Bytes: number,
): number[] {
  return [...addressBytes(source), ...addressBytes(destination), 0, protocol, ...two(l4Bytes)];
}

export interface EthernetFields {
  readonly destination?: string;
  readonly source?: string;
  readonly type?: number;
  /** Bytes of the whole frame at least; zeros follow the payload. */
  readonly padTo?: number;
}

/** An Ethernet frame; from CLIENT_MAC to GATEWAY_MAC, IPv4, not padded, unless told otherwise. */
export function ethernetFrame(payload: ArrayLike<number>, fields: EthernetFields = {}): Uint8Array {
  const { destination = GATEWAY_MAC, source = CLIENT_MAC, type = 0x0800, padTo = 0 } = fields;
  const header = [...macBytes(destination), ...macBytes(source), ...two(type)];
  const frame = new Uint8Array(Math.max(padTo, header.length + payload.length));
  frame.set(header);
  frame.set(payload, header.length);
  return frame;
}

export interface Ipv4Fields {
  readonly source: Address;
  readonly destination: Address;
  readonly protocol: number;
  readonly payload: ArrayLike<number>;
  readonly ttl?: number;
  readonly id?: number;
  /** Flags and offset; Don't Fragment when left out. */
  readonly fragmentWord?: number;
  readonly tos?: number;
  /** A multiple of four bytes, at most 40. */
  readonly options?: readonly number[];
}

/** An IPv4 packet. */
export function ipv4Packet(fields: Ipv4Fields): Uint8Array {
  const { source, destination, protocol, payload, ttl = 64, id = 0x1234, tos = 0 } = fields;
  const { fragmentWord = 0x4000, options = [] } = fields;
  const headerBytes = 20 + options.length;
  const packet = new Uint8Array(headerBytes + payload.length);
  packet.set([
    0x40 | (headerBytes / 4),
    tos,
    ...two(headerBytes + payload.length),
    ...two(id),
    ...two(fragmentWord),
    ttl,
    protocol,
    0,
    0,
    ...addressBytes(source),
    ...addressBytes(destination),
    ...options,
  ]);
  packet.set(payload, headerBytes);
  return withHeaderChecksum(packet);
}

/** The packet with its IPv4 header checksum made right for the header bytes that it has. */
export function withHeaderChecksum(packet: Uint8Array): Uint8Array {
  const fixed = packet.slice();
  fixed.set([0, 0], 10);
  const headerBytes = Math.min(Math.max(20, (fixed[0]! & 0x0f) * 4), fixed.length);
  fixed.set(two(slowChecksum(fixed.subarray(0, headerBytes))), 10);
  return fixed;
}

/** What stands in a checksum field: the checksum, the pseudo header's sum, or 0 (UDP: none). */
export type ChecksumKind = "complete" | "partial" | "none";

export interface TcpFields {
  readonly source: Address;
  readonly destination: Address;
  readonly sourcePort: number;
  readonly destinationPort: number;
  readonly flags?: number;
  readonly sequence?: number;
  readonly acknowledgement?: number;
  readonly window?: number;
  readonly urgent?: number;
  /** A multiple of four bytes, at most 40. */
  readonly options?: readonly number[];
  readonly data?: ArrayLike<number>;
  readonly checksum?: ChecksumKind;
}

/** A TCP segment; the addresses go into its checksum only. */
export function tcpSegment(fields: TcpFields): Uint8Array {
  const { sourcePort, destinationPort, flags = ACK, sequence = 1, acknowledgement = 0 } = fields;
  const { window = 64_240, urgent = 0, options = [], data = [] } = fields;
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
    ...two(urgent),
    ...options,
  ]);
  segment.set(data, headerBytes);
  return withL4Checksum(segment, 6, 16, fields, fields.checksum ?? "complete");
}

export interface UdpFields {
  readonly source: Address;
  readonly destination: Address;
  readonly sourcePort: number;
  readonly destinationPort: number;
  readonly data?: ArrayLike<number>;
  readonly checksum?: ChecksumKind;
}

/** A UDP datagram; the addresses go into its checksum only. */
export function udpDatagram(fields: UdpFields): Uint8Array {
  const { sourcePort, destinationPort, data = [] } = fields;
  const datagram = new Uint8Array(8 + data.length);
  datagram.set([...two(sourcePort), ...two(destinationPort), ...two(datagram.length), 0, 0]);
  datagram.set(data, 8);
  return withL4Checksum(datagram, 17, 6, fields, fields.checksum ?? "complete");
}

function withL4Checksum(
  l4: Uint8Array,
  protocol: number,
  fieldAt: number,
  ends: { readonly source: Address; readonly destination: Address },
  kind: ChecksumKind,
): Uint8Array {
  if (kind === "none") return l4;
  const pseudo = pseudoHeader(ends.source, ends.destination, protocol, l4.length);
  const complete = slowChecksum([...pseudo, ...l4]);
  // RFC 768: a computed 0 is sent as all ones.
  const sent = complete === 0 && protocol === 17 ? 0xffff : complete;
  l4.set(two(kind === "partial" ? slowSum(pseudo) : sent), fieldAt);
  return l4;
}

/** What tcpPacket and udpPacket pass on to ipv4Packet. */
export type Ipv4Options = Omit<Ipv4Fields, "source" | "destination" | "protocol" | "payload">;

/** A TCP segment in an IPv4 packet. */
export function tcpPacket(fields: TcpFields & { readonly ip?: Ipv4Options }): Uint8Array {
  const { source, destination } = fields;
  return ipv4Packet({
    source,
    destination,
    protocol: 6,
    payload: tcpSegment(fields),
    ...fields.ip,
  });
}

/** A UDP datagram in an IPv4 packet. */
export function udpPacket(fields: UdpFields & { readonly ip?: Ipv4Options }): Uint8Array {
  const { source, destination } = fields;
  const payload = udpDatagram(fields);
  return ipv4Packet({ source, destination, protocol: 17, payload, ...fields.ip });
}

export interface IcmpErrorFields {
  readonly type: number;
  readonly code: number;
  /** Second word of the header, such as the next hop's MTU. */
  readonly rest?: number;
  /** The packet that it is about, as much of it as is quoted. */
  readonly quote: ArrayLike<number>;
}

/** An ICMP error message, to be the payload of an IPv4 packet. */
export function icmpError(fields: IcmpErrorFields): Uint8Array {
  return icmpMessage(fields.type, fields.code, four(fields.rest ?? 0), fields.quote);
}

export interface IcmpEchoFields {
  readonly reply?: boolean;
  readonly id?: number;
  readonly sequence?: number;
  readonly data?: ArrayLike<number>;
}

/** An ICMP echo request or reply, to be the payload of an IPv4 packet. */
export function icmpEcho(fields: IcmpEchoFields = {}): Uint8Array {
  const { reply = false, id = 7, sequence = 1, data = [1, 2, 3, 4, 5] } = fields;
  return icmpMessage(reply ? 0 : 8, 0, [...two(id), ...two(sequence)], data);
}

function icmpMessage(
  type: number,
  code: number,
  rest: readonly number[],
  data: ArrayLike<number>,
): Uint8Array {
  const message = new Uint8Array(8 + data.length);
  message.set([type, code, 0, 0, ...rest]);
  message.set(data, 8);
  message.set(two(slowChecksum(message)), 2);
  return message;
}

export interface ArpFields {
  /** 1 request, 2 reply. */
  readonly operation?: number;
  readonly senderMac?: string;
  readonly senderAddress: Address;
  readonly targetMac?: string;
  readonly targetAddress: Address;
}

/** An ARP packet, to be the payload of an Ethernet frame of type 0x0806. */
export function arpPacket(fields: ArpFields): Uint8Array {
  const { operation = 1, senderMac = CLIENT_MAC, targetMac = "00:00:00:00:00:00" } = fields;
  return Uint8Array.from([
    ...two(1),
    ...two(0x0800),
    6,
    4,
    ...two(operation),
    ...macBytes(senderMac),
    ...addressBytes(fields.senderAddress),
    ...macBytes(targetMac),
    ...addressBytes(fields.targetAddress),
  ]);
}

/** "Who has `targetAddress`?", broadcast, as a whole Ethernet frame of 60 bytes. */
export function arpRequest(fields: ArpFields): Uint8Array {
  const source = fields.senderMac ?? CLIENT_MAC;
  const destination = "ff:ff:ff:ff:ff:ff";
  return ethernetFrame(arpPacket(fields), { destination, source, type: 0x0806, padTo: 60 });
}

export interface FrameKind {
  /** 14 on Ethernet, 0 on TUN. */
  readonly linkHeaderBytes: number;
  /** The transport checksum must be the pseudo header's sum (NEEDS_CSUM), not complete. */
  readonly partial?: boolean;
}

/** True when every checksum in the frame is right; see checksumFault. */
export function checksumsOk(frame: Uint8Array, kind: FrameKind): boolean {
  return checksumFault(frame, kind) === null;
}

/**
 * Verify the checksums of a frame: IPv4 header, then TCP, UDP (0 is none) or ICMP, and the header
 * that an ICMP error quotes. Frames that are not IPv4 have none. Of a fragment only the header.
 *
 * @returns a sentence about the first wrong one, or null
 */
export function checksumFault(frame: Uint8Array, kind: FrameKind): string | null {
  const packet = frame.subarray(kind.linkHeaderBytes);
  if (kind.linkHeaderBytes === 14 && (frame[12] !== 8 || frame[13] !== 0)) return null;
  const headerBytes = (packet[0]! & 0x0f) * 4;
  if (packet.length < 20 || headerBytes < 20 || headerBytes > packet.length)
    return "no IPv4 header";
  if (slowSum(packet.subarray(0, headerBytes)) !== 0xffff) return "IPv4 header checksum";
  if (((packet[6]! & 0x3f) << 8) + packet[7]! !== 0) return null;
  const l4 = packet.subarray(headerBytes, packet[2]! * 256 + packet[3]!);
  const protocol = packet[9]!;
  if (protocol === 1) return icmpFault(l4);
  if (protocol !== 6 && protocol !== 17) return null;
  const fieldAt = protocol === 6 ? 16 : 6;
  if (l4.length < fieldAt + 2) return "no transport header";
  const l4Bytes = protocol === 17 ? l4[4]! * 256 + l4[5]! : l4.length;
  const pseudo = [...packet.subarray(12, 20), 0, protocol, ...two(l4Bytes)];
  const field = l4[fieldAt]! * 256 + l4[fieldAt + 1]!;
  const name = protocol === 6 ? "TCP" : "UDP";
  if (kind.partial === true) {
    return field === slowSum(pseudo) ? null : `partial ${name} checksum`;
  }
  if (protocol === 17 && field === 0) return null;
  const sum = slowSum([...pseudo, ...l4.subarray(0, l4Bytes)]);
  return sum === 0xffff ? null : `${name} checksum`;
}

function icmpFault(message: Uint8Array): string | null {
  if (slowSum(message) !== 0xffff) return "ICMP checksum";
  if (![3, 4, 5, 11, 12].includes(message[0]!)) return null;
  const quote = message.subarray(8);
  const headerBytes = (quote[0]! & 0x0f) * 4;
  if (quote.length < headerBytes) return "no quoted IPv4 header";
  return slowSum(quote.subarray(0, headerBytes)) === 0xffff ? null : "quoted IPv4 header checksum";
}

/** One line that says what a frame is, for messages of failing tests. Takes any bytes. */
export function describe(frame: Uint8Array, linkHeaderBytes: number): string {
  if (linkHeaderBytes === 0) return describeIpv4(frame);
  if (frame.length < 14) return `${frame.length} bytes: ${hex(frame)}`;
  const macs = `${mac(frame.subarray(6, 12))} > ${mac(frame.subarray(0, 6))}`;
  const type = frame[12]! * 256 + frame[13]!;
  const payload = frame.subarray(14);
  if (type === 0x0800) return `${macs} ${describeIpv4(payload)}`;
  if (type === 0x0806) return `${macs} ${describeArp(payload)}`;
  return `${macs} type 0x${type.toString(16).padStart(4, "0")}, ${payload.length} bytes`;
}

function describeArp(packet: Uint8Array): string {
  if (packet.length < 28) return `arp, cut: ${hex(packet)}`;
  const sender = `${packet.subarray(14, 18).join(".")} at ${mac(packet.subarray(8, 14))}`;
  const operation = packet[6]! * 256 + packet[7]!;
  return `arp ${operation} from ${sender} for ${packet.subarray(24, 28).join(".")}`;
}

function describeIpv4(packet: Uint8Array): string {
  const headerBytes = ((packet[0] ?? 0) % 16) << 2;
  if (packet.length < 20 || packet[0]! >> 4 !== 4 || headerBytes < 20) {
    return `not IPv4, ${packet.length} bytes: ${hex(packet)}`;
  }
  const source = packet.subarray(12, 16).join(".");
  const destination = packet.subarray(16, 20).join(".");
  const fragment = (packet[6]! % 64) * 256 + packet[7]!;
  const total = packet[2]! * 256 + packet[3]!;
  const tail = `ttl ${packet[8]} id ${packet[4]! * 256 + packet[5]!} total ${total}${
    fragment === 0 ? "" : ` fragment 0x${fragment.toString(16)}`
  }`;
  const l4 = packet.subarray(headerBytes, Math.max(headerBytes, total));
  const protocol = packet[9]!;
  if (protocol === 1) return `${source} > ${destination} ${describeIcmp(l4)} ${tail}`;
  if ((protocol !== 6 && protocol !== 17) || l4.length < (protocol === 6 ? 20 : 8)) {
    return `${source} > ${destination} protocol ${protocol}, ${l4.length} bytes, ${tail}`;
  }
  const view = new DataView(l4.buffer, l4.byteOffset, l4.byteLength);
  const ends = `${source}:${view.getUint16(0)} > ${destination}:${view.getUint16(2)}`;
  if (protocol === 17) {
    const checksum = view.getUint16(6).toString(16).padStart(4, "0");
    return `${ends} udp length ${view.getUint16(4)} checksum ${checksum} ${tail}`;
  }
  const flags = [..."FSRPAUEC"].filter((_, index) => ((l4[13]! >> index) & 1) === 1).join("");
  const checksum = view.getUint16(16).toString(16).padStart(4, "0");
  const data = Math.max(0, l4.length - (l4[12]! >> 4) * 4);
  return `${ends} tcp ${flags || "-"} seq ${view.getUint32(4)} ack ${view.getUint32(8)} data ${data} checksum ${checksum} ${tail}`;
}

function describeIcmp(message: Uint8Array): string {
  if (message.length < 8) return `icmp, cut: ${hex(message)}`;
  const head = `icmp ${message[0]}/${message[1]}`;
  if (![3, 4, 5, 11, 12].includes(message[0]!)) return head;
  return `${head} mtu ${message[6]! * 256 + message[7]!} about [${describeIpv4(message.subarray(8))}]`;
}

function mac(bytes: Uint8Array): string {
  return [...bytes].map((byte) => byte.toString(16).padStart(2, "0")).join(":");
}

function hex(bytes: Uint8Array): string {
  return Buffer.from(bytes.subarray(0, 64)).toString("hex");
}
