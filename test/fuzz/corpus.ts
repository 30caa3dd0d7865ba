import { VNET_F_NEEDS_CSUM, VNET_GSO_TCPV4, VNET_GSO_UDP_L4 } from "../../src/device/device.ts";
import type { VnetWords } from "../../src/device/memory.ts";
import {
  ACK,
  arpPacket,
  ethernetFrame,
  FIN,
  icmpEcho,
  icmpError,
  ipv4Packet,
  PSH,
  RST,
  SYN,
  tcpPacket,
  udpPacket,
} from "../support/frames.ts";
import { malformedFrames } from "../support/malformed.ts";
import { CLIENT_MAC, GATEWAY_MACS } from "../support/memory-gateway.ts";
import { ipv6Packet as buildIpv6, bytes6, type Ipv6Fields } from "../support/packets6.ts";
import { repairChecksums } from "../support/wire-check.ts";

/**
 * The frames that the datapath's fuzzer begins with, by family. A protocol that is new joins with a
 * row of FAMILIES, and with a service of SERVICES (test/fuzz/worlds.ts) that takes it.
 */
export interface Seed extends VnetWords {
  /** With its Ethernet header; worlds on TUN take it off. */
  readonly frame: Uint8Array;
  /** 0: from the clients' side, 1: from the backends'. */
  readonly interface: 0 | 1;
}

export const CLIENTS = ["198.51.100.2", "198.51.100.3", "198.51.100.77"] as const;
export const VIP_ADDRESSES = [
  "203.0.113.10",
  "203.0.113.11",
  "203.0.113.12",
  "203.0.113.66",
] as const;
export const BACKENDS = ["10.20.0.11", "10.20.0.12"] as const;
const SNAT = "10.20.0.100";
const ROUTER = "192.0.2.1";
const PORTS = [80, 443, 53, 8000, 8001, 8002, 8003, 9, 4433, 6080] as const;
const CLIENT_PORTS = [1024, 40_000, 40_001] as const;
const BACKEND_PORTS = [80, 443, 53, 8080, 8443] as const;
const BACKEND_MAC = "02:00:0a:14:00:0b";

export const CLIENTS_6 = ["2001:db8:1::2", "2001:db8:1::3"] as const;
export const VIP_6 = "2001:db8:ff::10";
export const BACKENDS_6 = ["2001:db8:2::11", "2001:db8:2::12"] as const;

function fromClient(packet: Uint8Array, type = 0x0800, words?: VnetWords): Seed {
  const frame = ethernetFrame(packet, { destination: GATEWAY_MACS[0], source: CLIENT_MAC, type });
  return { frame, interface: 0, vnet: words?.vnet ?? 0, csum: words?.csum ?? 0 };
}

function fromBackend(packet: Uint8Array, type = 0x0800): Seed {
  const frame = ethernetFrame(packet, { destination: GATEWAY_MACS[1], source: BACKEND_MAC, type });
  return { frame, interface: 1, vnet: 0, csum: 0 };
}

function bytes(length: number): Uint8Array {
  return Uint8Array.from({ length }, (_, index) => (index * 37 + length) & 0xff);
}

/** Maximum segment size, window scale, SACK permitted and timestamps, as a SYN has them. */
const SYN_OPTIONS = [2, 4, 5, 180, 4, 2, 8, 10, 0, 0, 1, 0, 0, 0, 0, 0, 1, 3, 3, 7];
/** Timestamps and two SACK blocks. */
const SACK_OPTIONS = [
  ...[1, 1, 8, 10, 0, 0, 1, 0, 0, 0, 2, 0],
  ...[1, 1, 5, 18, 0, 0, 0, 9, 0, 0, 0, 19, 0, 0, 0, 29, 0, 0, 0, 39],
];

/** Every port of every VIP, from the clients in turns; mostly the first and third, with the services. */
function ends(): {
  source: string;
  destination: string;
  sourcePort: number;
  destinationPort: number;
}[] {
  return VIP_ADDRESSES.flatMap((destination, vip) =>
    PORTS.slice(0, (vip & 1) === 0 ? PORTS.length : 2).map((destinationPort, index) => ({
      source: CLIENTS[(index + vip) % CLIENTS.length]!,
      destination,
      sourcePort: CLIENT_PORTS[index % CLIENT_PORTS.length]!,
      destinationPort,
    })),
  );
}

/** What a `nat` backend answers to the clients of `ends()`, and a full-NAT one to the pool. */
function backEnds(): ReturnType<typeof ends> {
  return BACKEND_PORTS.flatMap((sourcePort, index) =>
    [CLIENTS[index % CLIENTS.length]!, SNAT].map((destination) => ({
      source: BACKENDS[index % BACKENDS.length]!,
      destination,
      sourcePort,
      destinationPort: CLIENT_PORTS[index % CLIENT_PORTS.length]!,
    })),
  );
}

function tcp(): Seed[] {
  const segments = [
    { flags: SYN, options: SYN_OPTIONS },
    { flags: SYN },
    { flags: ACK, sequence: 2, acknowledgement: 1 },
    { flags: ACK | PSH, data: bytes(100), options: SACK_OPTIONS },
    { flags: ACK, data: bytes(1400) },
    { flags: ACK | PSH, data: bytes(1460), ip: { fragmentWord: 0 } },
    { flags: FIN | ACK },
    { flags: RST, sequence: 2 },
    { flags: RST | ACK },
    { flags: ACK, ip: { ttl: 1 } },
    { flags: ACK, ip: { options: [1, 1, 7, 5, 4, 0, 0, 0] } },
  ];
  return segments.flatMap((segment) => [
    ...ends().map((pair) => fromClient(tcpPacket({ ...pair, ...segment }))),
    ...backEnds().map((pair) => fromBackend(tcpPacket({ ...pair, ...segment }))),
    ...backEnds().map((pair) => fromBackend(tcpPacket({ ...pair, flags: SYN | ACK }))),
  ]);
}

function udp(): Seed[] {
  const datagrams = [
    { data: bytes(0) },
    { data: bytes(33), checksum: "none" as const },
    { data: bytes(1472) },
    { data: bytes(1472), ip: { fragmentWord: 0 } },
    // A QUIC long and short header with a connection ID of eight bytes.
    { data: Uint8Array.from([0xc3, 0, 0, 0, 1, 8, ...bytes(8), 0, ...bytes(60)]) },
    { data: Uint8Array.from([0x43, ...bytes(8), ...bytes(40)]) },
  ];
  return datagrams.flatMap((datagram) => [
    ...ends().map((pair) => fromClient(udpPacket({ ...pair, ...datagram }))),
    ...backEnds().map((pair) => fromBackend(udpPacket({ ...pair, ...datagram }))),
  ]);
}

function icmp(): Seed[] {
  const messages: Seed[] = VIP_ADDRESSES.map((destination) =>
    fromClient(ipv4Packet({ source: CLIENTS[0], destination, protocol: 1, payload: icmpEcho() })),
  );
  for (const [type, code, rest] of [
    [3, 4, 1280],
    [3, 3, 0],
    [11, 0, 0],
    [12, 0, 0],
    [4, 0, 0],
    [5, 1, 0],
  ] as const) {
    for (const pair of ends().slice(0, 6)) {
      const back = {
        source: pair.destination,
        destination: pair.source,
        sourcePort: pair.destinationPort,
        destinationPort: pair.sourcePort,
      };
      for (const quote of [tcpPacket(back), udpPacket(back), tcpPacket(back).subarray(0, 28)]) {
        const payload = icmpError({ type, code, rest, quote });
        const packet = { destination: pair.destination, protocol: 1, payload };
        messages.push(fromClient(ipv4Packet({ source: pair.source, ...packet })));
        messages.push(fromClient(ipv4Packet({ source: ROUTER, ...packet })));
      }
    }
    for (const pair of backEnds()) {
      const quote = tcpPacket({
        source: pair.destination,
        destination: pair.source,
        sourcePort: pair.destinationPort,
        destinationPort: pair.sourcePort,
      });
      const payload = icmpError({ type, code, rest, quote });
      const { source, destination } = pair;
      messages.push(fromBackend(ipv4Packet({ source, destination, protocol: 1, payload })));
    }
  }
  return messages;
}

function arp(): Seed[] {
  return [...VIP_ADDRESSES, SNAT, ROUTER].flatMap((targetAddress) =>
    [1, 2].map((operation) =>
      fromClient(arpPacket({ operation, senderAddress: CLIENTS[0], targetAddress }), 0x0806),
    ),
  );
}

/** Pieces of datagrams and segments: in order and not, too small, one over the other. */
function fragments(): Seed[] {
  const whole = [
    ...ends().map((pair) => udpPacket({ ...pair, data: bytes(200) })),
    ...ends().map((pair) => tcpPacket({ ...pair, flags: ACK, data: bytes(200) })),
  ];
  const cuts = [
    [0, 64, 1],
    [64, 144, 0],
    [144, 220, 0],
    [0, 8, 1],
    [8, 72, 1],
    [16, 80, 1],
    [0, 16, 1],
    [0, 24, 1],
  ] as const;
  return whole.flatMap((packet, number) =>
    cuts.flatMap(([from, to, more]) => {
      const piece = new Uint8Array([
        ...packet.subarray(0, 20),
        ...packet.subarray(20 + from, 20 + to),
      ]);
      const view = new DataView(piece.buffer);
      view.setUint16(2, piece.length);
      view.setUint16(4, number);
      view.setUint16(6, (more << 13) | (from >> 3));
      repairChecksums(piece, { link: 0 });
      return [fromClient(piece)];
    }),
  );
}

/** Offloads: partial checksums, and packets that are many. */
function offloads(): Seed[] {
  const start = 34;
  const gso = (type: number, size: number): number =>
    VNET_F_NEEDS_CSUM | (type << 8) | (size << 16);
  return ends().flatMap((pair) => {
    const big = { ...pair, data: bytes(4000), checksum: "partial" as const };
    const small = { ...pair, data: bytes(40), checksum: "partial" as const };
    return [
      fromClient(tcpPacket({ ...small, flags: ACK }), 0x0800, {
        vnet: VNET_F_NEEDS_CSUM,
        csum: start | (16 << 16),
      }),
      fromClient(udpPacket(small), 0x0800, { vnet: VNET_F_NEEDS_CSUM, csum: start | (6 << 16) }),
      fromClient(tcpPacket({ ...big, flags: ACK | PSH }), 0x0800, {
        vnet: gso(VNET_GSO_TCPV4, 1448),
        csum: start | (16 << 16),
      }),
      fromClient(tcpPacket({ ...big, flags: FIN | PSH | ACK, options: SACK_OPTIONS }), 0x0800, {
        vnet: gso(VNET_GSO_TCPV4, 1000),
        csum: start | (16 << 16),
      }),
      fromClient(udpPacket(big), 0x0800, {
        vnet: gso(VNET_GSO_UDP_L4, 1200),
        csum: start | (6 << 16),
      }),
    ];
  });
}

/** An IPv6 packet with right checksums; `extensions` are whole headers, their first byte is filled in. */
function ipv6Packet(fields: Ipv6Fields): Uint8Array {
  const packet = buildIpv6(fields);
  repairChecksums(packet, { link: 0 });
  return packet;
}

const HOP_BY_HOP = [0, [0, 0, 5, 2, 0, 0, 1, 0]] as const;
const DESTINATION_OPTIONS = [60, [0, 1, 1, 12, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]] as const;
const ROUTING_0 = [43, [0, 2, 0, 1, 0, 0, 0, 0, ...bytes6("2001:db8::9")]] as const;
const ROUTING_DONE = [43, [0, 2, 4, 0, 0, 0, 0, 0, ...bytes6("2001:db8::9")]] as const;
const AUTHENTICATION = [51, [0, 2, 0, 0, 0, 0, 0, 1, 0, 0, 0, 1, 0, 0, 0, 0]] as const;
const FRAGMENT_FIRST = [44, [0, 0, 0, 1, 0, 0, 0, 7]] as const;
const FRAGMENT_LATER = [44, [0, 0, 0, 65, 0, 0, 0, 7]] as const;
const FRAGMENT_LAST = [44, [0, 0, 0, 128, 0, 0, 0, 7]] as const;
const FRAGMENT_ATOMIC = [44, [0, 0, 0, 0, 0, 0, 0, 7]] as const;

/** A transport header and data without the IPv4 header around them; checksums come later. */
function transport(
  kind: "tcp" | "udp",
  flags: number,
  from: number,
  to: number,
  size: number,
): Uint8Array {
  const some = { source: ROUTER, destination: ROUTER, sourcePort: from, destinationPort: to };
  return kind === "tcp"
    ? tcpPacket({
        ...some,
        flags,
        options: flags === SYN ? SYN_OPTIONS : [],
        data: bytes(size),
      }).slice(20)
    : udpPacket({ ...some, data: bytes(size) }).slice(20);
}

function ipv6(): Seed[] {
  const chains = [
    [],
    [HOP_BY_HOP],
    [DESTINATION_OPTIONS],
    [HOP_BY_HOP, DESTINATION_OPTIONS],
    [ROUTING_0],
    [ROUTING_DONE],
    [AUTHENTICATION],
    [FRAGMENT_FIRST],
    [FRAGMENT_LATER],
    [FRAGMENT_LAST],
    [FRAGMENT_ATOMIC],
    [HOP_BY_HOP, ROUTING_DONE, FRAGMENT_FIRST, DESTINATION_OPTIONS],
    Array.from({ length: 12 }, () => DESTINATION_OPTIONS),
  ];
  const seeds: Seed[] = [];
  for (const [index, port] of PORTS.entries()) {
    const source = CLIENTS_6[index % 2]!;
    const from = CLIENT_PORTS[index % 3]!;
    for (const extensions of chains) {
      for (const [kind, protocol] of [
        ["tcp", 6],
        ["udp", 17],
      ] as const) {
        for (const [flags, size] of [
          [SYN, 0],
          [ACK, 64],
          [ACK, 1440],
          [RST, 0],
        ] as const) {
          if (kind === "udp" && flags !== ACK) continue;
          if (extensions.length > 0 && size > 64) continue;
          const payload = transport(kind, flags, from, port, size);
          const packet = { source, destination: VIP_6, protocol, payload, extensions };
          seeds.push(fromClient(ipv6Packet(packet), 0x86dd));
        }
      }
    }
    seeds.push(
      fromBackend(
        ipv6Packet({
          source: BACKENDS_6[index % 2]!,
          destination: source,
          protocol: 6,
          payload: transport("tcp", SYN | ACK, BACKEND_PORTS[index % 5]!, from, 0),
        }),
        0x86dd,
      ),
    );
  }
  return seeds;
}

function icmpv6(): Seed[] {
  const seeds: Seed[] = [];
  const message = (
    source: string,
    destination: string,
    payload: readonly number[],
    hopLimit = 64,
  ) => ipv6Packet({ source, destination, protocol: 58, payload, hopLimit });
  const quoted = ipv6Packet({
    source: VIP_6,
    destination: CLIENTS_6[0],
    protocol: 6,
    payload: transport("tcp", ACK, 80, 1024, 100),
  });
  for (const [type, code, mtu] of [
    [1, 0, 0],
    [1, 4, 0],
    [2, 0, 1280],
    [3, 0, 0],
    [4, 0, 0],
    [100, 0, 0],
  ] as const) {
    const head = [type, code, 0, 0, 0, 0, mtu >> 8, mtu & 0xff];
    seeds.push(fromClient(message(CLIENTS_6[0], VIP_6, [...head, ...quoted]), 0x86dd));
    seeds.push(
      fromClient(message("2001:db8::9", VIP_6, [...head, ...quoted.slice(0, 48)]), 0x86dd),
    );
  }
  for (const type of [128, 129]) {
    seeds.push(
      fromClient(message(CLIENTS_6[0], VIP_6, [type, 0, 0, 0, 0, 7, 0, 1, 1, 2, 3]), 0x86dd),
    );
  }
  // Neighbour discovery (RFC 4861 4.3, 4.4): for the VIP, by multicast and unicast; router messages.
  const target = bytes6(VIP_6);
  const source = [1, 1, 2, 0, 0, 0, 1, 2];
  const solicited = "ff02::1:ff00:10";
  for (const to of [solicited, VIP_6]) {
    const solicitation = [135, 0, 0, 0, 0, 0, 0, 0, ...target, ...source];
    seeds.push(fromClient(message(CLIENTS_6[0], to, solicitation, 255), 0x86dd));
    seeds.push(fromClient(message("fe80::2", to, solicitation, 255), 0x86dd));
    seeds.push(fromClient(message("::", to, solicitation.slice(0, 24), 255), 0x86dd));
    seeds.push(fromClient(message(CLIENTS_6[0], to, solicitation, 64), 0x86dd));
  }
  const advertisement = [136, 0, 0, 0, 0x60, 0, 0, 0, ...target, 2, 1, 2, 0, 0, 0, 1, 9];
  seeds.push(fromClient(message(CLIENTS_6[0], "ff02::1", advertisement, 255), 0x86dd));
  seeds.push(fromClient(message("fe80::2", "ff02::2", [133, 0, 0, 0, 0, 0, 0, 0], 255), 0x86dd));
  return seeds;
}

/** Packets in packets, as a tunnel would bring them to us, or to somebody else. */
function tunnels(): Seed[] {
  const pair = ends()[0]!;
  const inner = tcpPacket({ ...pair, flags: SYN });
  const inner6 = ipv6Packet({
    source: CLIENTS_6[0],
    destination: VIP_6,
    protocol: 17,
    payload: transport("udp", 0, 1024, 53, 30),
  });
  const outer = { source: CLIENTS[0], destination: VIP_ADDRESSES[0] };
  const gue = { ...outer, sourcePort: 50_000, destinationPort: 6080 };
  const outer6 = { source: CLIENTS_6[0], destination: VIP_6 };
  return [
    fromClient(ipv4Packet({ ...outer, protocol: 4, payload: inner })),
    fromClient(ipv4Packet({ ...outer, protocol: 41, payload: inner6 })),
    fromClient(udpPacket({ ...gue, data: inner, checksum: "none" })),
    fromClient(udpPacket({ ...gue, data: inner6 })),
    fromClient(udpPacket({ ...gue, data: [0, 4, 0, 0, ...inner] })),
    fromClient(ipv6Packet({ ...outer6, protocol: 4, payload: inner }), 0x86dd),
    fromClient(ipv6Packet({ ...outer6, protocol: 41, payload: inner6 }), 0x86dd),
  ];
}

/** What the gateway does not balance: it has to leave it alone, or drop it by name. */
function others(): Seed[] {
  const outer = { source: CLIENTS[0], destination: VIP_ADDRESSES[0] };
  const protocols = [2, 33, 46, 47, 50, 51, 88, 89, 103, 112, 115, 132, 136, 255];
  const valid = tcpPacket({ ...ends()[0]!, flags: SYN });
  const tagged = (...tags: readonly number[]): Seed =>
    fromClient(Uint8Array.from([...tags, ...valid]), 0x8100);
  return [
    ...protocols.map((protocol) =>
      fromClient(ipv4Packet({ ...outer, protocol, payload: bytes(40) })),
    ),
    // 51 is the authentication header, which is read on.
    ...protocols
      .filter((protocol) => protocol !== 51)
      .map((protocol) =>
        fromClient(
          ipv6Packet({ source: CLIENTS_6[0], destination: VIP_6, protocol, payload: bytes(40) }),
          0x86dd,
        ),
      ),
    tagged(0, 5, 8, 0),
    tagged(0, 5, 0x81, 0, 0, 6, 8, 0),
    fromClient(Uint8Array.from([0, 6, 0x81, 0, 0, 7, 8, 0, ...valid]), 0x88a8),
    fromClient(Uint8Array.from([0, 0x10, 0x01, 0x40, ...valid]), 0x8847),
    fromClient(bytes(60), 0x88cc),
    fromClient(bytes(60), 0x8864),
    fromClient(bytes(60), 60),
  ];
}

/** What a flow of every service begins with: without it the rest meets no flow. */
function openers(): Seed[] {
  const ports = ends().flatMap((pair) => [
    fromClient(tcpPacket({ ...pair, flags: SYN, options: SYN_OPTIONS })),
    fromClient(udpPacket({ ...pair, data: bytes(20) })),
  ]);
  const ports6 = PORTS.flatMap((port, index) =>
    (["tcp", "udp"] as const).map((kind) => {
      const payload = transport(kind, SYN, CLIENT_PORTS[index % 3]!, port, 0);
      const protocol = kind === "tcp" ? 6 : 17;
      const source = CLIENTS_6[index % 2]!;
      return fromClient(ipv6Packet({ source, destination: VIP_6, protocol, payload }), 0x86dd);
    }),
  );
  return [...ports, ...ports6];
}

/** Name, frames, and how often the family is drawn from: once when left out. */
export const FAMILIES: readonly (readonly [name: string, seeds: () => Seed[], weight?: number])[] =
  [
    ["openers", openers, 5],
    [
      "malformed",
      () =>
        malformedFrames(GATEWAY_MACS[0]).map(({ frame, words }) => ({
          frame,
          interface: 0,
          vnet: words?.vnet ?? 0,
          csum: words?.csum ?? 0,
        })),
    ],
    ["tcp", tcp],
    ["udp", udp],
    ["icmp", icmp],
    ["arp", arp],
    ["fragments", fragments],
    ["offloads", offloads],
    ["ipv6", ipv6],
    ["icmpv6", icmpv6],
    ["tunnels", tunnels],
    ["others", others],
  ];
