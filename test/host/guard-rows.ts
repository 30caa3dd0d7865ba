import type { GuardEntries } from "../../src/host/guard-entries.ts";
import {
  addressOf,
  ethernetFrame,
  icmpEcho,
  icmpError,
  ipv4Packet,
  SYN,
  tcpPacket,
  udpPacket,
} from "../support/frames.ts";
import {
  BACKEND,
  BACKEND_ANY,
  CLIENT,
  GATEWAY_TO_BACKEND,
  GATEWAY_TO_CLIENT,
  MACS,
  ROUTER,
  SNAT,
  VIP,
} from "./netns.ts";

/**
 * Packets of every kind that design 1.9 speaks of, and what the kernel does with each without a
 * guard. With one, it does the same for what is not owned, and nothing at all for what is.
 */

const TCP = 6;
const UDP = 17;
const GRE = 47;

/** The VIP that is also an address of the host. */
const HOST_VIP = GATEWAY_TO_CLIENT;

export const ENTRIES: GuardEntries = {
  vips: [
    { address: addressOf(VIP), protocol: TCP, low: 80, high: 80 },
    { address: addressOf(HOST_VIP), protocol: TCP, low: 443, high: 443 },
    { address: addressOf(HOST_VIP), protocol: TCP, low: 8001, high: 8998 },
    { address: addressOf(HOST_VIP), protocol: UDP, low: 5000, high: 5999 },
  ],
  backends: [
    { address: addressOf(BACKEND), protocol: TCP, port: 8080 },
    { address: addressOf(BACKEND_ANY), protocol: UDP, port: 0 },
  ],
  snat: [addressOf(SNAT)],
  hosts: [GATEWAY_TO_CLIENT, GATEWAY_TO_BACKEND, "127.0.0.1"].map(addressOf),
};

/** What the kernel does, without a guard, with each packet. */
export type Reaction =
  /** Forwards it (only with ip_forward). */
  | "forward"
  /** Answers it: echo reply, RST, port unreachable. */
  | "answer"
  /** Takes it: this counter of /proc/net/snmp goes up. */
  | readonly [table: string, counter: string];

export interface Row {
  readonly name: string;
  readonly from: "client" | "backend";
  /** The packet; `id` goes into its IPv4 header. */
  readonly packet: (id: number) => Uint8Array;
  readonly reaction: Reaction;
  readonly owned: boolean;
  /** Destination MAC, when not the gateway's. */
  readonly to?: string;
}

function tcp(from: string, fromPort: number, to: string, toPort: number, options?: number[]) {
  return (id: number): Uint8Array =>
    tcpPacket({
      source: from,
      destination: to,
      sourcePort: fromPort,
      destinationPort: toPort,
      flags: SYN,
      ip: options === undefined ? { id } : { id, options },
    });
}

function udp(from: string, fromPort: number, to: string, toPort: number) {
  return (id: number): Uint8Array =>
    udpPacket({
      source: from,
      destination: to,
      sourcePort: fromPort,
      destinationPort: toPort,
      data: [1, 2, 3],
      ip: { id },
    });
}

function other(from: string, to: string, protocol: number, payload: ArrayLike<number>) {
  return (id: number): Uint8Array =>
    ipv4Packet({ source: from, destination: to, protocol, payload, id });
}

function echo(from: string, to: string) {
  return other(from, to, 1, icmpEcho());
}

/** An ICMP error from `from` to `to`, that quotes a packet. */
function error(from: string, to: string, quote: (id: number) => Uint8Array, type = 3, code = 1) {
  return (id: number): Uint8Array =>
    ipv4Packet({
      source: from,
      destination: to,
      protocol: 1,
      id,
      payload: icmpError({ type, code, quote: quote(7).subarray(0, 28) }),
    });
}

/** A later fragment: 1,480 bytes into its datagram. */
function laterFragment(from: string, to: string) {
  return (id: number): Uint8Array =>
    ipv4Packet({
      source: from,
      destination: to,
      protocol: UDP,
      payload: new Uint8Array(16).fill(0x1f),
      id,
      fragmentWord: 185,
    });
}

const NO_OPERATION = [1, 1, 1, 1];

export const ROWS: readonly Row[] = [
  // (a) to a VIP
  {
    name: "TCP to a VIP",
    from: "client",
    packet: tcp(CLIENT, 5000, VIP, 80),
    reaction: "forward",
    owned: true,
  },
  {
    name: "TCP to a port of a VIP that has no service",
    from: "client",
    packet: tcp(CLIENT, 5000, VIP, 81),
    reaction: "forward",
    owned: true,
  },
  {
    name: "echo to a VIP",
    from: "client",
    packet: echo(CLIENT, VIP),
    reaction: "forward",
    owned: true,
  },
  {
    name: "another protocol to a VIP",
    from: "client",
    packet: other(CLIENT, VIP, GRE, [0, 0, 8, 0]),
    reaction: "forward",
    owned: true,
  },
  {
    name: "later fragment to a VIP",
    from: "client",
    packet: laterFragment(CLIENT, VIP),
    reaction: "forward",
    owned: true,
  },
  {
    name: "TCP to a host's VIP",
    from: "client",
    packet: tcp(CLIENT, 5000, HOST_VIP, 443),
    reaction: "answer",
    owned: true,
  },
  {
    name: "TCP with IP options to a host's VIP",
    from: "client",
    packet: tcp(CLIENT, 5000, HOST_VIP, 443, NO_OPERATION),
    reaction: "answer",
    owned: true,
  },
  {
    name: "first port of a range",
    from: "client",
    packet: udp(CLIENT, 5000, HOST_VIP, 5000),
    reaction: "answer",
    owned: true,
  },
  {
    name: "middle of a range",
    from: "client",
    packet: tcp(CLIENT, 5000, HOST_VIP, 8500),
    reaction: "answer",
    owned: true,
  },
  {
    name: "last port of a range",
    from: "client",
    packet: udp(CLIENT, 5000, HOST_VIP, 5999),
    reaction: "answer",
    owned: true,
  },
  {
    name: "below a range",
    from: "client",
    packet: tcp(CLIENT, 5000, HOST_VIP, 8000),
    reaction: "answer",
    owned: false,
  },
  {
    name: "behind a range",
    from: "client",
    packet: tcp(CLIENT, 5000, HOST_VIP, 8999),
    reaction: "answer",
    owned: false,
  },
  {
    name: "range of the other protocol",
    from: "client",
    packet: udp(CLIENT, 5000, HOST_VIP, 8500),
    reaction: "answer",
    owned: false,
  },
  {
    name: "echo to a host's VIP",
    from: "client",
    packet: echo(CLIENT, HOST_VIP),
    reaction: "answer",
    owned: true,
  },
  {
    name: "ssh to the host",
    from: "client",
    packet: tcp(CLIENT, 5000, HOST_VIP, 22),
    reaction: "answer",
    owned: false,
  },
  {
    name: "echo to another address of the host",
    from: "client",
    packet: echo(CLIENT, GATEWAY_TO_BACKEND),
    reaction: "answer",
    owned: false,
  },
  {
    name: "UDP to a host's VIP in a frame to everybody",
    from: "client",
    packet: udp(CLIENT, 5000, HOST_VIP, 5000),
    reaction: ["Udp", "NoPorts"],
    owned: false,
    to: "ff:ff:ff:ff:ff:ff",
  },
  {
    name: "client to a backend, past the gateway",
    from: "client",
    packet: tcp(CLIENT, 5000, BACKEND, 8080),
    reaction: "forward",
    owned: false,
  },
  {
    name: "client to a stranger",
    from: "client",
    packet: udp(CLIENT, 5000, ROUTER, 53),
    reaction: "forward",
    owned: false,
  },
  // (b) from a nat backend
  {
    name: "reply of a backend",
    from: "backend",
    packet: tcp(BACKEND, 8080, CLIENT, 5000),
    reaction: "forward",
    owned: true,
  },
  {
    name: "reply of a backend on any port",
    from: "backend",
    packet: udp(BACKEND_ANY, 777, CLIENT, 5000),
    reaction: "forward",
    owned: true,
  },
  {
    name: "another port of a backend",
    from: "backend",
    packet: tcp(BACKEND, 8081, CLIENT, 5000),
    reaction: "forward",
    owned: false,
  },
  {
    name: "another protocol of a backend",
    from: "backend",
    packet: tcp(BACKEND_ANY, 777, CLIENT, 5000),
    reaction: "forward",
    owned: false,
  },
  {
    name: "echo from a backend",
    from: "backend",
    packet: echo(BACKEND, CLIENT),
    reaction: "forward",
    owned: false,
  },
  {
    name: "later fragment from a backend",
    from: "backend",
    packet: laterFragment(BACKEND_ANY, CLIENT),
    reaction: "forward",
    owned: true,
  },
  {
    name: "later fragment from a client to another client",
    from: "client",
    packet: laterFragment(CLIENT, BACKEND_ANY),
    reaction: "forward",
    owned: false,
  },
  {
    name: "later fragment from a backend to the host",
    from: "backend",
    packet: laterFragment(BACKEND_ANY, HOST_VIP),
    reaction: ["Ip", "ReasmReqds"],
    owned: false,
  },
  {
    name: "reply of a backend to a health check",
    from: "backend",
    packet: tcp(BACKEND, 8080, GATEWAY_TO_BACKEND, 5000),
    reaction: "answer",
    owned: false,
  },
  {
    name: "backend to a VIP",
    from: "backend",
    packet: tcp(BACKEND, 5000, HOST_VIP, 443),
    reaction: "answer",
    owned: true,
  },
  // (c) to a SNAT address
  {
    name: "reply to a SNAT address",
    from: "backend",
    packet: tcp(BACKEND, 8080, SNAT, 2000),
    reaction: "forward",
    owned: true,
  },
  {
    name: "later fragment to a SNAT address",
    from: "backend",
    packet: laterFragment(BACKEND, SNAT),
    reaction: "forward",
    owned: true,
  },
  {
    name: "echo to a SNAT address",
    from: "backend",
    packet: echo(BACKEND, SNAT),
    reaction: "forward",
    owned: true,
  },
  // (d) ICMP errors, by what they quote
  {
    name: "error about VIP to client",
    from: "client",
    packet: error(CLIENT, VIP, tcp(VIP, 80, CLIENT, 5000)),
    reaction: "forward",
    owned: true,
  },
  {
    name: "error about a host's VIP to client",
    from: "client",
    packet: error(CLIENT, HOST_VIP, tcp(HOST_VIP, 443, CLIENT, 5000)),
    reaction: ["Icmp", "InDestUnreachs"],
    owned: true,
  },
  {
    name: "time exceeded about a host's VIP to client",
    from: "client",
    packet: error(CLIENT, HOST_VIP, udp(HOST_VIP, 5999, CLIENT, 5000), 11, 0),
    reaction: ["Icmp", "InTimeExcds"],
    owned: true,
  },
  {
    name: "error about the host's ssh",
    from: "client",
    packet: error(CLIENT, HOST_VIP, tcp(HOST_VIP, 22, CLIENT, 5000)),
    reaction: ["Icmp", "InDestUnreachs"],
    owned: false,
  },
  {
    name: "error of a backend about client to backend",
    from: "backend",
    packet: error(BACKEND, CLIENT, tcp(CLIENT, 5000, BACKEND, 8080), 3, 3),
    reaction: "forward",
    owned: true,
  },
  {
    name: "error of a router about client to backend",
    from: "backend",
    packet: error(ROUTER, CLIENT, tcp(CLIENT, 5000, BACKEND, 8080), 3, 4),
    reaction: "forward",
    owned: true,
  },
  {
    name: "error about client to any port of a backend",
    from: "backend",
    packet: error(ROUTER, CLIENT, udp(CLIENT, 5000, BACKEND_ANY, 999), 3, 3),
    reaction: "forward",
    owned: true,
  },
  {
    name: "error about another port of a backend",
    from: "backend",
    packet: error(ROUTER, CLIENT, tcp(CLIENT, 5000, BACKEND, 8081), 3, 3),
    reaction: "forward",
    owned: false,
  },
  {
    name: "error about SNAT to backend",
    from: "backend",
    packet: error(ROUTER, SNAT, tcp(SNAT, 2000, BACKEND, 8080), 3, 4),
    reaction: "forward",
    owned: true,
  },
  {
    name: "error about a health check",
    from: "backend",
    packet: error(BACKEND, GATEWAY_TO_BACKEND, tcp(GATEWAY_TO_BACKEND, 5000, BACKEND, 8080), 3, 3),
    reaction: ["Icmp", "InDestUnreachs"],
    owned: false,
  },
  {
    name: "error about strangers",
    from: "backend",
    packet: error(ROUTER, CLIENT, udp(CLIENT, 5000, ROUTER, 53), 3, 3),
    reaction: "forward",
    owned: false,
  },
];

/** Frames of a row, each with an identification of its own, counted from `firstId`. */
export function framesOf(row: Row, firstId: number, count: number): Uint8Array[] {
  return Array.from({ length: count }, (_, index) =>
    ethernetFrame(row.packet(firstId + index), {
      destination: row.to ?? (row.from === "client" ? MACS.gc : MACS.gb),
      source: row.from === "client" ? MACS.c0 : MACS.b0,
    }),
  );
}

/** A row whose reaction can be seen with and without ip_forward. */
export const OWNED_ROW = ROWS.find((row) => row.name === "TCP to a host's VIP") as Row;
