import assert from "node:assert/strict";
import { test } from "node:test";
import fc from "fast-check";
import { VNET_F_NEEDS_CSUM, VNET_GSO_TCPV4, VNET_GSO_TCPV6 } from "../../src/device/device.ts";
import {
  ACK,
  checksumFault,
  icmpError,
  ipv4Packet,
  pseudoHeader,
  RST,
  SYN,
  slowSum,
  tcpPacket,
  udpDatagram,
  udpPacket,
} from "../support/frames.ts";
import { icmp6, ipv6Packet, pseudo6, see6, tcp6, text6, udp6 } from "../support/packets6.ts";
import {
  BACKEND,
  BACKEND4,
  Bench6,
  CLIENT,
  CLIENT4,
  type Sent,
  SNAT,
  SNAT4,
  VIP,
  VIP4,
  yaml6,
} from "./ipv6-bench.ts";

// Goal: full-nat between the families (RFC 7915): headers, checksums, sizes, GSO and ICMP errors in both
// directions, checked by verifiers that share nothing with src.

/** IPv6 clients, IPv4 backends; and the other way. */
const SIX_TO_FOUR = yaml6({ mode: "full-nat", backend: BACKEND4 });
const FOUR_TO_SIX = yaml6({ mode: "full-nat", vip: VIP4 });
const SIX = { source: CLIENT, destination: VIP, sourcePort: 40_000, destinationPort: 80 } as const;
const FOUR = {
  source: CLIENT4,
  destination: VIP4,
  sourcePort: 40_000,
  destinationPort: 80,
} as const;

/** An IPv4 packet that left, taken apart; its checksums are right. */
function see4(sent: Sent | undefined, partial = false) {
  assert.ok(sent !== undefined, "a frame left");
  assert.deepEqual([...sent.bytes.subarray(12, 14)], [8, 0]);
  assert.equal(checksumFault(sent.bytes, { linkHeaderBytes: 14, partial }), null);
  const packet = sent.bytes.subarray(14);
  const total = packet[2]! * 256 + packet[3]!;
  const l4 = packet.subarray(20, total);
  return {
    source: packet.subarray(12, 16).join("."),
    destination: packet.subarray(16, 20).join("."),
    sourcePort: l4[0]! * 256 + l4[1]!,
    destinationPort: l4[2]! * 256 + l4[3]!,
    tos: packet[1]!,
    fragmentWord: packet[6]! * 256 + packet[7]!,
    ttl: packet[8]!,
    total,
    l4,
    packet,
  };
}

/** The IPv6 packet that left, whose sums are right. */
function six(sent: Sent | undefined) {
  assert.ok(sent !== undefined, "a frame left");
  assert.deepEqual([...sent.bytes.subarray(12, 14)], [0x86, 0xdd]);
  const seen = see6(sent.bytes.subarray(14));
  assert.ok(seen.sumIsRight);
  return seen;
}

test("IPv6 clients of IPv4 backends: any packet, both ways", () => {
  const bench = new Bench6({ yaml: SIX_TO_FOUR });
  const byte = fc.integer({ min: 0, max: 255 });
  const port = fc.integer({ min: 1, max: 65_535 });
  fc.assert(
    fc.property(
      port,
      fc.array(byte, { maxLength: 60 }),
      fc.boolean(),
      byte,
      (sourcePort, data, isTcp, tc) => {
        const ends = { ...SIX, sourcePort, destinationPort: isTcp ? 80 : 53 };
        const ip = { trafficClass: tc, flowLabel: 77, hopLimit: 30 };
        const packet = isTcp
          ? tcp6({ ...ends, flags: SYN, data, ip })
          : udp6({ ...ends, data, ip });
        const out = see4(bench.client(packet)[0]);
        assert.deepEqual(
          [out.source, out.destination, out.destinationPort, out.tos, out.ttl, out.fragmentWord],
          [SNAT4, BACKEND4, isTcp ? 8080 : 5353, tc, 29, 0],
        );
        assert.equal(out.total, packet.length - 20);
        assert.deepEqual([...out.l4.subarray(isTcp ? 20 : 8)], data);
        const back = {
          source: BACKEND4,
          sourcePort: out.destinationPort,
          destination: SNAT4,
          destinationPort: out.sourcePort,
          data,
          ip: { tos: tc, ttl: 20, fragmentWord: 0x4000 },
        };
        const checksum = sourcePort % 2 === 0 ? ("none" as const) : ("complete" as const);
        const answer = isTcp
          ? tcpPacket({ ...back, flags: SYN | ACK })
          : udpPacket({ ...back, checksum });
        const [sent] = bench.backend(answer, undefined, BACKEND4);
        const home = six(sent);
        assert.deepEqual(
          [home.source, home.sourcePort, home.destination, home.destinationPort, home.hopLimit],
          [VIP, ends.destinationPort, CLIENT, sourcePort, 19],
        );
        assert.deepEqual([...sent!.bytes.subarray(14, 16)], [0x60 | (tc >>> 4), (tc & 15) << 4]);
        assert.deepEqual([...home.l4.subarray(isTcp ? 20 : 8)], data);
      },
    ),
    { numRuns: 200 },
  );
});

test("IPv4 clients of IPv6 backends, with options, without a UDP checksum", () => {
  const bench = new Bench6({ yaml: FOUR_TO_SIX });
  const options = [1, 1, 1, 1, 1, 1, 1, 0];
  const out = six(bench.client(tcpPacket({ ...FOUR, flags: SYN, ip: { options, ttl: 9 } }))[0]);
  assert.deepEqual(
    [out.source, out.destination, out.destinationPort, out.hopLimit, out.bytes],
    [SNAT, BACKEND, 8080, 8, 60],
  );
  const back = {
    source: BACKEND,
    sourcePort: 8080,
    destination: SNAT,
    destinationPort: out.sourcePort,
  };
  const home = see4(bench.backend(tcp6({ ...back, flags: SYN | ACK, data: [5, 6] }))[0]);
  assert.deepEqual([home.source, home.destination, home.destinationPort], [VIP4, CLIENT4, 40_000]);
  const bare = udpPacket({ ...FOUR, destinationPort: 53, data: [1, 2, 3], checksum: "none" });
  assert.equal(six(bench.client(bare)[0]).destinationPort, 5353);
  // What is sent back before anything else is a RST of the right family.
  const stray = bench.client(tcpPacket({ ...FOUR, sourcePort: 9, flags: ACK, acknowledgement: 3 }));
  assert.equal(see4(stray[0]).l4[13], RST);
});

test("GSO changes its type and the place of the checksum; segments shrink for the larger header", () => {
  const gso4 = (VNET_GSO_TCPV4 << 8) | (1460 << 16) | VNET_F_NEEDS_CSUM;
  const gso6 = (VNET_GSO_TCPV6 << 8) | (1440 << 16) | VNET_F_NEEDS_CSUM;
  const data = new Uint8Array(4000);
  const wide = new Bench6({ yaml: FOUR_TO_SIX, slotBytes: 8192 });
  wide.client(tcpPacket({ ...FOUR, flags: SYN }));
  const [grown] = wide.client(tcpPacket({ ...FOUR, data, checksum: "partial" }), {
    vnet: gso4,
    csum: 34 | (16 << 16),
  });
  assert.ok(see6(grown!.bytes.subarray(14)).partialIsRight);
  assert.equal(grown!.vnet, (VNET_GSO_TCPV6 << 8) | (1440 << 16) | VNET_F_NEEDS_CSUM);
  assert.equal((grown as unknown as { csum: number }).csum, 54 | (16 << 16));
  const narrow = new Bench6({ yaml: SIX_TO_FOUR, slotBytes: 8192 });
  narrow.client(tcp6({ ...SIX, flags: SYN }));
  const [shrunk] = narrow.client(tcp6({ ...SIX, data, partial: true }), {
    vnet: gso6,
    csum: 54 | (16 << 16),
  });
  see4(shrunk, true);
  assert.equal(shrunk!.vnet, (VNET_GSO_TCPV4 << 8) | (1440 << 16) | VNET_F_NEEDS_CSUM);
  assert.equal((shrunk as unknown as { csum: number }).csum, 34 | (16 << 16));
});

test("packets that do not fit: the MTU that is told has the header's difference", () => {
  const bench = new Bench6({ yaml: FOUR_TO_SIX, mtu: [1500, 1500] });
  bench.client(tcpPacket({ ...FOUR, flags: SYN }));
  const refused = see4(bench.client(tcpPacket({ ...FOUR, data: new Uint8Array(1460) }))[0]);
  assert.deepEqual(
    [...refused.l4.subarray(0, 8)].filter((_, i) => i !== 2 && i !== 3),
    [3, 4, 0, 0, 5, 200],
  );
  assert.equal(refused.source, VIP4);
  const other = new Bench6({ yaml: SIX_TO_FOUR, mtu: [1500, 1300] });
  other.client(tcp6({ ...SIX, flags: SYN }));
  const big = six(other.client(tcp6({ ...SIX, data: new Uint8Array(1440) }))[0]);
  assert.deepEqual([big.l4[0], big.l4[6]! * 256 + big.l4[7]!], [2, 1320]);
  const tight = new Bench6({ yaml: SIX_TO_FOUR, mtu: [1500, 1000] });
  tight.client(udp6({ ...SIX, destinationPort: 53 }));
  // 1,280 bytes are IPv6's right: an IPv4 link below that has them in fragments.
  const pieces = tight.client(udp6({ ...SIX, destinationPort: 53, data: new Uint8Array(1232) }));
  assert.equal(pieces.length, 2);
  assert.ok(pieces.every(({ bytes }) => bytes.length <= 1014 && (bytes[20]! & 0x40) === 0));
});

test("out of hops, in either family", () => {
  const four = new Bench6({ yaml: FOUR_TO_SIX });
  four.client(tcpPacket({ ...FOUR, flags: SYN }));
  assert.equal(see4(four.client(tcpPacket({ ...FOUR, ip: { ttl: 1 } }))[0]).l4[0], 11);
  const sixBench = new Bench6({ yaml: SIX_TO_FOUR });
  sixBench.client(tcp6({ ...SIX, flags: SYN }));
  assert.equal(six(sixBench.client(tcp6({ ...SIX, ip: { hopLimit: 1 } }))[0]).l4[0], 3);
});

test("ICMP about a packet to an IPv4 backend comes to the IPv6 client as ICMPv6, and back", () => {
  const bench = new Bench6({ yaml: SIX_TO_FOUR });
  const out = see4(bench.client(tcp6({ ...SIX, flags: SYN, data: [1, 2, 3, 4] }))[0]);
  const told = (type: number, code: number, rest: number) => {
    const payload = icmpError({ type, code, rest, quote: out.packet.slice(0, out.total) });
    const about = ipv4Packet({ source: "10.20.0.1", destination: SNAT4, protocol: 1, payload });
    const [sent] = bench.backend(about, undefined, BACKEND4);
    return sent === undefined ? null : six(sent);
  };
  const tooBig = told(3, 4, 1400)!;
  assert.deepEqual([tooBig.source, tooBig.destination], [VIP, CLIENT]);
  assert.deepEqual([tooBig.l4[0], tooBig.l4[1], tooBig.l4[6]! * 256 + tooBig.l4[7]!], [2, 0, 1420]);
  const quote = see6(tooBig.l4.subarray(8));
  assert.deepEqual(
    [quote.source, quote.sourcePort, quote.destination, quote.destinationPort, quote.sumIsRight],
    [CLIENT, 40_000, VIP, 80, true],
  );
  // RFC 7915 section 4.2.
  const table: [number, number, number, number][] = [
    [3, 0, 1, 0],
    [3, 1, 1, 0],
    [3, 3, 1, 4],
    [3, 10, 1, 1],
    [3, 13, 1, 1],
    [3, 2, 4, 1],
    [11, 0, 3, 0],
    [12, 0, 4, 0],
  ];
  for (const [type, code, type6, code6] of table) {
    const { l4 } = told(type, code, 0)!;
    assert.deepEqual([l4[0], l4[1]], [type6, code6], `${type}/${code}`);
  }
  assert.equal(told(3, 14, 0), null);
  assert.equal(told(4, 0, 0), null);
  // The client's own error about what the backend sent.
  const answer = tcp6({
    source: VIP,
    sourcePort: 80,
    destination: CLIENT,
    destinationPort: 40_000,
  });
  const closed = icmp6({ source: CLIENT, destination: VIP, type: 1, code: 4, data: answer });
  const back = see4(bench.client(closed)[0]);
  assert.deepEqual([back.source, back.destination], [SNAT4, BACKEND4]);
  assert.deepEqual([...back.l4.subarray(0, 2)], [3, 3]);
  const quoted = back.l4.subarray(8);
  assert.equal(quoted.subarray(12, 20).join("."), `${BACKEND4}.${SNAT4}`);
  assert.equal(quoted[20]! * 256 + quoted[21]!, 8080);
  assert.equal(quoted[22]! * 256 + quoted[23]!, out.sourcePort);
});

test("ICMPv6 about a packet to an IPv6 backend comes to the IPv4 client as ICMP", () => {
  const bench = new Bench6({ yaml: FOUR_TO_SIX });
  const sent = bench.client(tcpPacket({ ...FOUR, flags: SYN, data: [1, 2, 3, 4] }))[0]!;
  const packet = sent.bytes.slice(14);
  const told = (type: number, code: number, rest: number) => {
    const about = { source: "2001:db8:7::1", destination: SNAT, type, code, rest, data: packet };
    const [back] = bench.backend(icmp6(about));
    return back === undefined ? null : see4(back);
  };
  const needed = told(2, 0, 1400)!;
  assert.deepEqual([needed.source, needed.destination], [VIP4, CLIENT4]);
  assert.deepEqual([needed.l4[0], needed.l4[1], needed.l4[6]! * 256 + needed.l4[7]!], [3, 4, 1380]);
  const quote = needed.l4.subarray(8);
  assert.equal(quote.subarray(12, 20).join("."), `${CLIENT4}.${VIP4}`);
  assert.equal(quote[20]! * 256 + quote[21]!, 40_000);
  assert.equal(checksumFault(quote, { linkHeaderBytes: 0 }), null);
  // RFC 7915 section 5.2.
  const table: [number, number, number, number][] = [
    [1, 0, 3, 1],
    [1, 1, 3, 10],
    [1, 2, 3, 1],
    [1, 3, 3, 1],
    [1, 4, 3, 3],
    [3, 0, 11, 0],
    [3, 1, 11, 1],
    [4, 0, 12, 0],
    [4, 1, 3, 2],
  ];
  for (const [type, code, type4, code4] of table) {
    const { l4 } = told(type, code, 0)!;
    assert.deepEqual([l4[0], l4[1]], [type4, code4], `${type}/${code}`);
  }
  assert.equal(told(4, 2, 0), null);
});

test("one service for both families: each client's flow goes to any backend", () => {
  const bench = new Bench6({
    yaml: `
device: { type: packet, interfaces: [eth0, eth1] }
snat: { addresses: ['${SNAT}', ${SNAT4}], ports: 2000-2999 }
services:
  - { name: web, vip: [${VIP4}, '${VIP}'], port: 80, protocol: tcp, mode: full-nat, scheduler: rr,
      backends: [{ address: ${BACKEND4}, port: 8080 }, { address: '${BACKEND}', port: 8080 }] }
`,
  });
  const kinds = new Set<string>();
  for (let port = 1000; port < 1004; port++) {
    const [a] = bench.client(tcp6({ ...SIX, sourcePort: port, flags: SYN }));
    const [b] = bench.client(tcpPacket({ ...FOUR, sourcePort: port, flags: SYN }));
    kinds.add(`6 to ${a!.bytes[12] === 8 ? 4 : 6}`);
    kinds.add(`4 to ${b!.bytes[12] === 8 ? 4 : 6}`);
  }
  assert.ok(kinds.size >= 2, [...kinds].join());
  assert.equal(bench.live, 8);
});

/** The transport of fragments of either family, put together again. */
function reassemble(sent: readonly Sent[]): { l4: number[]; source: string; destination: string } {
  const whole: number[] = [];
  let ends = { source: "", destination: "" };
  let last = -1;
  for (const { bytes } of sent) {
    const packet = bytes.subarray(14);
    const isSix = packet[0]! >>> 4 === 6;
    const [at, offset, more] = isSix
      ? [48, (packet[42]! * 256 + packet[43]!) & 0xfff8, (packet[43]! & 1) !== 0]
      : [20, ((packet[6]! & 0x1f) * 256 + packet[7]!) * 8, (packet[6]! & 0x20) !== 0];
    if (isSix) assert.equal(packet[6], 44);
    const total = isSix ? 40 + packet[4]! * 256 + packet[5]! : packet[2]! * 256 + packet[3]!;
    packet.subarray(at, total).forEach((byte, index) => {
      whole[offset + index] = byte;
    });
    if (!more) last = offset + total - at;
    ends = isSix
      ? { source: text6(packet.subarray(8, 24)), destination: text6(packet.subarray(24, 40)) }
      : {
          source: packet.subarray(12, 16).join("."),
          destination: packet.subarray(16, 20).join("."),
        };
  }
  assert.equal(whole.length, last, "the last piece ends the whole");
  assert.ok(whole.every((byte) => byte !== undefined));
  return { l4: whole, ...ends };
}

const LONG = Array.from({ length: 3000 }, (_, index) => (index * 7) & 0xff);

test("fragments from IPv4 to IPv6: those that came, and those that the larger header makes", () => {
  const bench = new Bench6({ yaml: FOUR_TO_SIX });
  const datagram = udpDatagram({ ...FOUR, destinationPort: 53, data: LONG });
  const sent: Sent[] = [];
  for (let at = 0; at < datagram.length; at += 1480) {
    const payload = datagram.subarray(at, at + 1480);
    const word = (at / 8) | (at + 1480 < datagram.length ? 0x2000 : 0);
    const ends = { source: CLIENT4, destination: VIP4, protocol: 17, id: 99 };
    sent.push(...bench.client(ipv4Packet({ ...ends, payload, fragmentWord: word })));
  }
  assert.equal(sent.length, 5, "each of 1,500 bytes has become two of at most 1,500");
  assert.ok(sent.every(({ bytes }) => bytes.length <= 1514));
  const { l4, source, destination } = reassemble(sent);
  assert.equal(slowSum([...pseudo6(source, destination, 17, l4.length), ...l4]), 0xffff);
  assert.deepEqual(l4.slice(8), LONG);
  // A whole one that may be split, its checksum partial as from a sender with offload.
  const data = LONG.slice(0, 1470);
  const whole = udpPacket({
    ...FOUR,
    destinationPort: 53,
    data,
    checksum: "partial",
    ip: { fragmentWord: 0 },
  });
  const csum = 34 | (6 << 16);
  const pieces = bench.client(whole, { vnet: VNET_F_NEEDS_CSUM, csum });
  assert.equal(pieces.length, 2);
  assert.ok(pieces.every(({ vnet }) => vnet === 0));
  const again = reassemble(pieces);
  const pseudo = pseudo6(again.source, again.destination, 17, again.l4.length);
  assert.equal(slowSum([...pseudo, ...again.l4]), 0xffff);
});

test("fragments from IPv6 to IPv4", () => {
  const bench = new Bench6({ yaml: SIX_TO_FOUR });
  const whole = udp6({ ...SIX, destinationPort: 53, data: LONG }).subarray(40);
  const sent: Sent[] = [];
  for (let at = 0; at < whole.length; at += 1400) {
    const more = at + 1400 < whole.length ? 1 : 0;
    const word = at | more;
    const header = [0, 0, word >>> 8, word & 0xff, 0, 1, 2, 3];
    const payload = whole.subarray(at, at + 1400);
    const ends = { source: CLIENT, destination: VIP, protocol: 17 };
    sent.push(...bench.client(ipv6Packet({ ...ends, payload, extensions: [[44, header]] })));
  }
  const ids = new Set(sent.map(({ bytes }) => bytes[18]! * 256 + bytes[19]!));
  assert.deepEqual([...ids], [0x0203], "the low half of the identification");
  const { l4, source, destination } = reassemble(sent);
  assert.equal(slowSum([...pseudoHeader(source, destination, 17, l4.length), ...l4]), 0xffff);
  assert.deepEqual(l4.slice(8), LONG);
});
