import type { GuardEntries } from "../../src/host/guard-entries.ts";
import { addressOf, ethernetFrame, SYN, tcpPacket } from "../support/frames.ts";
import {
  addressBytes6,
  DESTINATION_OPTIONS,
  type Extension,
  fragmentHeader,
  HOP_BY_HOP,
  ICMP6,
  icmpPacket6,
  ipv6Packet,
  ROUTING,
  tcpPacket6,
  udpPacket6,
} from "../support/frames6.ts";
import { BACKEND, CLIENT, MACS, NODES6 } from "./netns.ts";

/**
 * IPv6 packets of every kind that design 1.9 speaks of, packets to prefixes of both families, and
 * what the kernel does with each without a guard. All are sent at once, so each has a number of its
 * own: the flow label (IPv4: the identification), and the client's port.
 */

const TCP = 6;
const UDP = 17;
const GRE = 47;

const { client: CLIENT6, snat: SNAT6, vip: VIP6, router: ROUTER6 } = NODES6;
const { backend: BACKEND6, backendAny: BACKEND_ANY6, toBackend: TO_BACKEND6 } = NODES6;
/** The VIP that is also an address of the host. */
const HOST_VIP6 = NODES6.toClient;

/** VIPs that are prefixes; the host has an address in each, and a backend lies in one. */
export const PREFIX6 = "2001:db8:ff:1::";
export const PREFIX4 = "192.0.2.0";
export const HOST_IN_PREFIX6 = "2001:db8:ff:1::1";

const vip = (text: string, protocol: number, low: number, high = low) => ({
  address: addressOf(text),
  protocol,
  low,
  high,
});

export const ENTRIES6: GuardEntries = {
  vips: [
    vip(VIP6, TCP, 80),
    vip(HOST_VIP6, TCP, 443),
    vip(HOST_VIP6, TCP, 8001, 8998),
    vip(HOST_VIP6, UDP, 5000, 5999),
    { ...vip(PREFIX6, TCP, 443), prefixLength: 64 },
    { ...vip(PREFIX4, TCP, 80), prefixLength: 25 },
  ],
  backends: [
    { address: addressOf(BACKEND6), protocol: TCP, port: 8080 },
    { address: addressOf(BACKEND_ANY6), protocol: UDP, port: 0 },
  ],
  snat: [addressOf(SNAT6)],
  hosts: [HOST_VIP6, TO_BACKEND6, HOST_IN_PREFIX6, "::1"].map(addressOf),
};

export type Reaction6 = "forward" | "answer" | "take";

export interface Row6 {
  readonly name: string;
  readonly from: "client" | "backend";
  /** `port` is the other end's; `label` goes into the header. */
  readonly packet: (port: number, label: number) => Uint8Array;
  readonly reaction: Reaction6;
  readonly owned: boolean;
}

interface More {
  readonly extensions?: readonly Extension[];
}

function tcp(
  from: string,
  fromPort: number | null,
  to: string,
  toPort: number | null,
  more?: More,
) {
  return (port: number, flowLabel: number): Uint8Array =>
    tcpPacket6({
      source: from,
      destination: to,
      sourcePort: fromPort ?? port,
      destinationPort: toPort ?? port,
      flags: SYN,
      ip: { flowLabel, ...more },
    });
}

function udp(from: string, fromPort: number | null, to: string, toPort: number | null) {
  return (port: number, flowLabel: number): Uint8Array =>
    udpPacket6({
      source: from,
      destination: to,
      sourcePort: fromPort ?? port,
      destinationPort: toPort ?? port,
      data: [1, 2, 3],
      ip: { flowLabel },
    });
}

function other(from: string, to: string, protocol: number, extensions: readonly Extension[] = []) {
  return (_port: number, flowLabel: number): Uint8Array =>
    ipv6Packet({
      source: from,
      destination: to,
      protocol,
      payload: new Uint8Array(16).fill(0x1f),
      extensions,
      flowLabel,
    });
}

function echo(from: string, to: string) {
  return (port: number, flowLabel: number): Uint8Array =>
    icmpPacket6({ source: from, destination: to, type: 128, rest: port << 16, ip: { flowLabel } });
}

type Packet = Row6["packet"];

function error(from: string, to: string, quote: Packet, type = 1, code = 3): Packet {
  return (port, flowLabel) =>
    icmpPacket6({
      source: from,
      destination: to,
      type,
      code,
      rest: type === 2 ? 1400 : 0,
      data: quote(port, 7),
      ip: { flowLabel },
    });
}

function tcp4(to: string): Packet {
  return (port, id) =>
    tcpPacket({
      source: CLIENT,
      destination: to,
      sourcePort: port,
      destinationPort: 80,
      flags: SYN,
      ip: { id },
    });
}

const LATER = fragmentHeader(1448, false);
const FIRST = fragmentHeader(0, true);
const OPTIONS: Extension = { type: DESTINATION_OPTIONS };
const CHAIN: readonly Extension[] = [
  { type: HOP_BY_HOP },
  { type: DESTINATION_OPTIONS, body: [1, 12, ...new Array<number>(12).fill(0)] },
  // Type 4 (segment routing) with nothing left to visit.
  { type: ROUTING, body: [253, 0, 0, 0, 0, 0] },
  FIRST,
];
/** Name of the row whose extension headers are more than the eBPF programs walk. */
export const MORE_THAN_WALKED = "reply behind more than are walked";
const LONG = new Array<Extension>(9).fill(OPTIONS);

const row = (
  from: "client" | "backend",
  name: string,
  packet: Packet,
  reaction: Reaction6,
  owned: boolean,
): Row6 => ({ name, from, packet, reaction, owned });

const OWNED = true;
const NOT = false;

export const ROWS6: readonly Row6[] = [
  // (a) to a VIP
  row("client", "TCP to a VIP", tcp(CLIENT6, null, VIP6, 80), "forward", OWNED),
  row("client", "TCP to a VIP's other port", tcp(CLIENT6, null, VIP6, 81), "forward", OWNED),
  row("client", "echo to a VIP", echo(CLIENT6, VIP6), "forward", OWNED),
  row("client", "another protocol to a VIP", other(CLIENT6, VIP6, GRE), "forward", OWNED),
  row("client", "later fragment to a VIP", other(CLIENT6, VIP6, UDP, [LATER]), "forward", OWNED),
  row(
    "client",
    "many extension headers to a VIP",
    other(CLIENT6, VIP6, TCP, LONG),
    "forward",
    OWNED,
  ),
  row("client", "TCP to a host's VIP", tcp(CLIENT6, null, HOST_VIP6, 443), "answer", OWNED),
  row("client", "UDP to a range", udp(CLIENT6, null, HOST_VIP6, 5000), "answer", OWNED),
  row("client", "the range's last port", tcp(CLIENT6, null, HOST_VIP6, 8998), "answer", OWNED),
  row("client", "below a range", tcp(CLIENT6, null, HOST_VIP6, 8000), "answer", NOT),
  row("client", "range of the other protocol", udp(CLIENT6, null, HOST_VIP6, 8500), "answer", NOT),
  row("client", "echo to a host's VIP", echo(CLIENT6, HOST_VIP6), "answer", OWNED),
  row("client", "echo to the host", echo(CLIENT6, TO_BACKEND6), "answer", NOT),
  row("client", "ssh to the host", tcp(CLIENT6, null, HOST_VIP6, 22), "answer", NOT),
  row(
    "client",
    "TCP behind destination options",
    tcp(CLIENT6, null, HOST_VIP6, 443, { extensions: [OPTIONS] }),
    "answer",
    OWNED,
  ),
  row("client", "past the gateway", tcp(CLIENT6, null, BACKEND6, 8080), "forward", NOT),
  // Prefixes
  row("client", "TCP to a prefix", tcp(CLIENT6, null, `${PREFIX6}77:1`, 443), "forward", OWNED),
  row("client", "a prefix's other port", tcp(CLIENT6, null, `${PREFIX6}2`, 9), "forward", OWNED),
  row("client", "beside a prefix", tcp(CLIENT6, null, "2001:db8:ff:2::1", 443), "forward", NOT),
  row("client", "host in a prefix", tcp(CLIENT6, null, HOST_IN_PREFIX6, 443), "answer", OWNED),
  row("client", "its ssh", tcp(CLIENT6, null, HOST_IN_PREFIX6, 22), "answer", NOT),
  row("client", "TCP to a prefix of IPv4", tcp4("192.0.2.77"), "forward", OWNED),
  row("client", "beside a prefix of IPv4", tcp4("192.0.2.128"), "forward", NOT),
  row("client", "IPv4 that is no VIP", tcp4(BACKEND), "forward", NOT),
  // (b) from a nat backend
  row("backend", "reply of a backend", tcp(BACKEND6, 8080, CLIENT6, null), "forward", OWNED),
  row(
    "backend",
    "reply behind extension headers",
    tcp(BACKEND6, 8080, CLIENT6, null, { extensions: CHAIN }),
    "forward",
    OWNED,
  ),
  row(
    "backend",
    MORE_THAN_WALKED,
    tcp(BACKEND6, 8080, CLIENT6, null, { extensions: LONG }),
    "forward",
    NOT,
  ),
  row("backend", "any port of a backend", udp(BACKEND_ANY6, 777, CLIENT6, null), "forward", OWNED),
  row("backend", "another port", tcp(BACKEND6, 8081, CLIENT6, null), "forward", NOT),
  row("backend", "another protocol", tcp(BACKEND_ANY6, 777, CLIENT6, null), "forward", NOT),
  row("backend", "echo from a backend", echo(BACKEND6, CLIENT6), "forward", NOT),
  row("backend", "later fragment", other(BACKEND_ANY6, CLIENT6, UDP, [LATER]), "forward", OWNED),
  row("backend", "fragment of a stranger", other(ROUTER6, CLIENT6, UDP, [LATER]), "forward", NOT),
  row("backend", "reply to a health check", tcp(BACKEND6, 8080, TO_BACKEND6, null), "answer", NOT),
  // (c) to a SNAT address
  row("backend", "reply to SNAT", tcp(BACKEND6, 8080, SNAT6, null), "forward", OWNED),
  row("backend", "fragment to SNAT", other(BACKEND6, SNAT6, UDP, [LATER]), "forward", OWNED),
  // (d) ICMPv6 errors, by what they quote
  row(
    "client",
    "error about VIP to client",
    error(CLIENT6, VIP6, tcp(VIP6, 80, CLIENT6, null), 2, 0),
    "forward",
    OWNED,
  ),
  row(
    "client",
    "error about a host's VIP to client",
    error(CLIENT6, HOST_VIP6, tcp(HOST_VIP6, 443, CLIENT6, null)),
    "take",
    OWNED,
  ),
  row(
    "client",
    "error about the host's ssh",
    error(CLIENT6, HOST_VIP6, tcp(HOST_VIP6, 22, CLIENT6, null)),
    "take",
    NOT,
  ),
  row(
    "backend",
    "error of a router about client to backend",
    error(ROUTER6, CLIENT6, tcp(CLIENT6, null, BACKEND6, 8080), 2, 0),
    "forward",
    OWNED,
  ),
  row(
    "backend",
    "error about another port of a backend",
    error(ROUTER6, CLIENT6, tcp(CLIENT6, null, BACKEND6, 8081), 1, 4),
    "forward",
    NOT,
  ),
  row(
    "backend",
    "error about SNAT to backend",
    error(ROUTER6, SNAT6, udp(SNAT6, null, BACKEND6, 53), 3, 0),
    "forward",
    OWNED,
  ),
  row(
    "backend",
    "error about a health check",
    error(BACKEND6, TO_BACKEND6, tcp(TO_BACKEND6, null, BACKEND6, 8080), 1, 4),
    "take",
    NOT,
  ),
  row(
    "backend",
    "error about strangers",
    error(ROUTER6, CLIENT6, udp(CLIENT6, null, ROUTER6, 53), 1, 4),
    "forward",
    NOT,
  ),
];

const FIRST_NUMBER = 0x4000;

/** The other end's port of row `index`. */
export function portOf(index: number): number {
  return FIRST_NUMBER + index;
}

/** The frame of row `index`. */
export function frameOf6(index: number): Uint8Array {
  const { from, packet } = ROWS6[index]!;
  const bytes = packet(portOf(index), FIRST_NUMBER + index);
  return ethernetFrame(bytes, {
    destination: from === "client" ? MACS.gc : MACS.gb,
    source: from === "client" ? MACS.c0 : MACS.b0,
    type: bytes[0]! >>> 4 === 6 ? 0x86dd : 0x0800,
  });
}

/** Numbers of the rows whose packet a frame (hex) is, after forwarding: by label and addresses. */
export function rowOfForwarded(frame: string): number | null {
  const wanted = labelAndEnds(frame.slice(28));
  const found = ROWS6.findIndex(
    (_, index) =>
      labelAndEnds(Buffer.from(frameOf6(index).subarray(14)).toString("hex")) === wanted,
  );
  return found < 0 ? null : found;
}

function labelAndEnds(packet: string): string {
  if (packet.startsWith("6")) return packet.slice(3, 8) + packet.slice(16, 80);
  return packet.slice(8, 12) + packet.slice(24, 40);
}

/**
 * Number of the row that a frame (hex) answers, from an address of the host: one of its ports is the
 * row's, or one of its quote's.
 */
export function rowOfAnswer(frame: string): number | null {
  const packet = Buffer.from(frame.slice(28), "hex");
  const source = packet.subarray(8, 24).toString("hex");
  if (packet[0]! >>> 4 !== 6 || !HOST_BYTES.includes(source)) return null;
  const protocol = packet[6]!;
  const ports: number[] = [];
  if (protocol === TCP) ports.push(packet.readUInt16BE(40), packet.readUInt16BE(42));
  if (protocol === ICMP6 && packet[40] === 129) ports.push(packet.readUInt16BE(44));
  if (protocol === ICMP6 && packet[40] === 1) ports.push(packet.readUInt16BE(48 + 40));
  const found = ports.map((port) => port - FIRST_NUMBER);
  return found.find((index) => index >= 0 && index < ROWS6.length) ?? null;
}

const HOST_BYTES = ENTRIES6.hosts.map(({ text }) =>
  Buffer.from(addressBytes6(text)).toString("hex"),
);
