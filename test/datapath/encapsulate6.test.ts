import assert from "node:assert/strict";
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import path from "node:path";
import { test } from "node:test";
import { createRandom, type Random } from "../../src/base/random.ts";
import { VNET_F_NEEDS_CSUM, VNET_GSO_TCPV6 } from "../../src/device/device.ts";
import { LINK_ETHERNET, writePcap } from "../../src/device/pcap.ts";
import {
  ACK,
  checksumFault,
  ethernetFrame,
  icmpError,
  ipv4Packet,
  RST,
  SYN,
  slowSum,
  tcpPacket,
  udpPacket,
} from "../support/frames.ts";
import {
  addressBytes6,
  icmpPacket6,
  pseudoHeader6,
  tcpPacket6,
  udpPacket6,
} from "../support/frames6.ts";
import {
  CLIENT_MAC,
  createMemoryGateway,
  GATEWAY_MACS,
  type MemoryGateway,
} from "../support/memory-gateway.ts";
import { run } from "../support/processes.ts";

/**
 * Goal: tunnels of IPv6, outside, inside or both, are what encapsulate.test.ts and tunnel-mtu.test.ts
 * show of IPv4.
 * Method: likewise; scapy reads the outer headers.
 */

const SEED = Number(process.env["SEED"] ?? 20_261_125);
const VIP = { 4: "203.0.113.10", 6: "2001:db8:ff::10" } as const;
const CLIENT = { 4: "198.51.100.2", 6: "2001:db8:1::2" } as const;
const BACKEND = { 4: "10.20.0.11", 6: "2001:db8:2::11" } as const;
const SOURCE = { 4: "10.20.0.1", 6: "2001:db8:2::1" } as const;
const IP_BYTES = { 4: 20, 6: 40 } as const;

type Family = 4 | 6;
interface Kind {
  readonly inner: Family;
  readonly outer: Family;
  readonly mode: "ipip" | "gue";
}
const KINDS: readonly Kind[] = (["ipip", "gue"] as const).flatMap((mode) => [
  { mode, inner: 4, outer: 6 },
  { mode, inner: 6, outer: 6 },
  { mode, inner: 6, outer: 4 },
]);

function before({ outer, mode }: Kind): number {
  return IP_BYTES[outer] + (mode === "gue" ? 8 : 0);
}

function gatewayOf(kind: Kind, more = "", tooBig = "icmp", headroomBytes = 48): MemoryGateway {
  return createMemoryGateway({
    yaml: `
version: 1
device: { type: packet, interfaces: [eth0, eth1] }
flows: { ipv6: true }
tunnel: { source: { ipv4: ${SOURCE[4]}, ipv6: "${SOURCE[6]}" } }
services:
  - name: all
    vip: "${VIP[kind.inner]}"
    port: any
    protocol: [tcp, udp]
    mode: ${kind.mode}
    scheduler: sh
    ${tooBig === "icmp" ? "" : "mtu: { tooBig: fragment }"}
    ${more}
    backends: [{ address: "${BACKEND[kind.outer]}" }]
`,
    size: { flowCapacity: 8192, ipv6: true },
    headroomBytes,
    slotBytes: 70_000,
    slots: 64,
  });
}

interface PacketFields {
  readonly data?: Uint8Array;
  readonly flags?: number;
  readonly sequence?: number;
  readonly acknowledgement?: number;
  readonly sourcePort?: number;
  readonly tos?: number;
}

function tcp(family: Family, fields: PacketFields): Uint8Array {
  const { tos = 0, ...rest } = fields;
  const ends = { source: CLIENT[family], destination: VIP[family] };
  const ports = { sourcePort: 40_000, destinationPort: 80 };
  return family === 4
    ? tcpPacket({ ...ends, ...ports, ...rest, ip: { tos } })
    : tcpPacket6({ ...ends, ...ports, ...rest, ip: { trafficClass: tos, hopLimit: 3 } });
}

function udp(family: Family, fields: PacketFields): Uint8Array {
  const { data = new Uint8Array(0), sourcePort = 40_000, tos = 0 } = fields;
  const ends = { source: CLIENT[family], destination: VIP[family] };
  const all = { ...ends, sourcePort, destinationPort: 53, data };
  return family === 4
    ? udpPacket({ ...all, ip: { tos } })
    : udpPacket6({ ...all, ip: { trafficClass: tos, flowLabel: 0x12345 } });
}

function send(
  gateway: MemoryGateway,
  packet: Uint8Array,
  words?: { vnet: number; csum: number },
): { bytes: Uint8Array; interface: number }[] {
  const type = packet[0]! >>> 4 === 6 ? 0x86dd : 0x0800;
  const frame = ethernetFrame(packet, { destination: GATEWAY_MACS[0], source: CLIENT_MAC, type });
  gateway.device.inject(frame, 0, words);
  gateway.datapath.runBatch(0);
  gateway.checkLaw();
  return gateway.device.sent.splice(0);
}

function two(bytes: Uint8Array, at: number): number {
  return bytes[at]! * 256 + bytes[at + 1]!;
}

function tosOf(packet: Uint8Array): number {
  return packet[0]! >>> 4 === 6 ? (two(packet, 0) >>> 4) & 0xff : packet[1]!;
}

function checkOuter(kind: Kind, frame: Uint8Array, inner: Uint8Array): void {
  const { outer, mode } = kind;
  const ip = frame.subarray(14);
  assert.equal(two(frame, 12), outer === 6 ? 0x86dd : 0x0800);
  assert.equal(tosOf(ip), tosOf(inner), "DSCP and ECN");
  assert.equal(ip.length, before(kind) + inner.length);
  const next = mode === "gue" ? 17 : kind.inner === 6 ? 41 : 4;
  if (outer === 6) {
    assert.equal(two(ip, 4), ip.length - 40);
    assert.deepEqual([ip[6], ip[7]], [next, 64]);
    assert.deepEqual([...ip.subarray(8, 24)], addressBytes6(SOURCE[6]));
    assert.deepEqual([...ip.subarray(24, 40)], addressBytes6(BACKEND[6]));
  } else {
    assert.deepEqual([two(ip, 2), ip[8], ip[9]], [ip.length, 64, next]);
    assert.equal(two(ip, 6), 0x4000, "DF over IPv6");
    assert.equal(slowSum(ip.subarray(0, 20)), 0xffff);
    assert.equal([...ip.subarray(16, 20)].join("."), BACKEND[4]);
  }
  assert.deepEqual(ip.subarray(before(kind)), inner, "the inner packet, byte by byte");
  if (mode !== "gue") return;
  const head = ip.subarray(IP_BYTES[outer]);
  assert.ok(two(head, 0) >= 49_152 && two(head, 2) === 6080);
  assert.equal(two(head, 6) !== 0, outer === 6, "computed over IPv6, none over IPv4");
}

function randomPacket(random: Random, family: Family): Uint8Array {
  const data = Uint8Array.from({ length: random.below(1100) }, () => random.below(256));
  const fields = { data, sourcePort: 1 + random.below(65_535), tos: random.below(256) };
  if (random.below(2) === 0) return udp(family, fields);
  return tcp(family, { ...fields, flags: random.below(2) === 0 ? SYN : ACK });
}

/** What a router says that could not send an outer packet on. */
function tooBig(kind: Kind, mtu: number, quote: Uint8Array): Uint8Array {
  if (kind.outer === 6) {
    const ends = { source: "2001:db8:2::fe", destination: SOURCE[6] };
    return icmpPacket6({ ...ends, type: 2, code: 0, rest: mtu, data: quote });
  }
  const payload = icmpError({ type: 3, code: 4, rest: mtu, quote });
  return ipv4Packet({ source: "10.20.0.254", destination: SOURCE[4], protocol: 1, payload });
}

/** The client is told, by the VIP, what of its packet fits. */
function assertHeard(
  family: Family,
  frame: { readonly bytes: Uint8Array; readonly interface: number },
  fits: number,
  packet: Uint8Array,
): void {
  assert.equal(frame.interface, 0);
  assert.equal(checksumFault(frame.bytes, { linkHeaderBytes: 14 }), null);
  const ip = frame.bytes.subarray(14);
  if (family === 4) {
    assert.deepEqual(
      [...ip.subarray(12, 20)].join(),
      `${VIP[4]}.${CLIENT[4]}`.replaceAll(".", ","),
    );
    assert.deepEqual([ip[20], ip[21], two(ip, 26)], [3, 4, fits]);
  } else {
    assert.equal(two(frame.bytes, 12), 0x86dd);
    assert.deepEqual(
      [...ip.subarray(8, 40)],
      [...addressBytes6(VIP[6]), ...addressBytes6(CLIENT[6])],
    );
    assert.deepEqual([ip[40], ip[41], two(ip, 44), two(ip, 46)], [2, 0, 0, fits]);
    const pseudo = pseudoHeader6(VIP[6], CLIENT[6], 58, ip.length - 40);
    assert.equal(slowSum([...pseudo, ...ip.subarray(40)]), 0xffff, "ICMPv6 checksum");
  }
  const quoteAt = family === 4 ? 28 : 48;
  const quoted = ip.subarray(quoteAt);
  assert.ok(quoted.length >= 60, `${quoted.length} bytes are quoted`);
  assert.deepEqual(quoted, packet.subarray(0, quoted.length));
}

const SCAPY = `
import sys
from scapy.layers.inet import UDP
from scapy.layers.inet6 import IPv6, in6_chksum
from scapy.utils import RawPcapReader
bad = seen = 0
for frame, _ in RawPcapReader(sys.argv[1]):
    raw = frame[14:]
    outer = IPv6(raw[:40])
    ok = outer.version == 6 and outer.plen == len(raw) - 40 and outer.nh in (4, 41, 17)
    if outer.nh == 17:
        udp = UDP(raw[40:48])
        made = in6_chksum(17, outer, raw[40:46] + bytes(2) + raw[48:])
        ok = ok and udp.len == len(raw) - 40 and (made or 0xffff) == udp.chksum
    seen += 1
    bad += not ok
print(seen, bad)
`;

test("4in6, 6in6, 6in4, plain and in GUE: inner byte-identical, outer right, by scapy too", async (t) => {
  const folder = mkdtempSync(path.join(tmpdir(), "headgate-encapsulate6-"));
  t.after(() => rmSync(folder, { recursive: true, force: true }));
  const random = createRandom(SEED);
  const over6: Uint8Array[] = [];
  for (const kind of KINDS) {
    for (const headroom of [48, 0]) {
      const gateway = gatewayOf(kind, "", "icmp", headroom);
      for (let index = 0; index < 250; index++) {
        const inner = randomPacket(random, kind.inner);
        const sent = send(gateway, inner);
        assert.equal(sent.length, 1, `seed ${SEED}: ${JSON.stringify(kind)}, packet ${index}`);
        checkOuter(kind, sent[0]!.bytes, inner);
        if (kind.outer === 6) over6.push(sent[0]!.bytes);
      }
      gateway.close();
    }
  }
  writePcap(path.join(folder, "sent.pcap"), over6, LINK_ETHERNET);
  writeFileSync(path.join(folder, "read.py"), SCAPY);
  const argv = ["/usr/bin/python3", path.join(folder, "read.py"), path.join(folder, "sent.pcap")];
  const { stdout } = await run(argv, { timeoutMs: 300_000 });
  assert.equal(stdout.trim(), `${over6.length} 0`);
});

for (const kind of KINDS) {
  const name = `${kind.inner}in${kind.outer} ${kind.mode}`;
  const inside = 1500 - before(kind);
  const header = IP_BYTES[kind.inner] + 20;

  test(`${name}: too large is announced, with ${inside}`, () => {
    const gateway = gatewayOf(kind);
    const [fits] = send(gateway, tcp(kind.inner, { data: new Uint8Array(inside - header) }));
    assert.equal(fits!.bytes.length, 1514);
    const [answer, more] = send(
      gateway,
      tcp(kind.inner, { data: new Uint8Array(inside - header + 1) }),
    );
    assert.equal(more, undefined);
    const ip = answer!.bytes.subarray(14);
    assert.equal(answer!.interface, 0);
    if (kind.inner === 4) assert.deepEqual([ip[20], ip[21], two(ip, 26)], [3, 4, inside]);
    else assert.deepEqual([ip[40], ip[41], two(ip, 44), two(ip, 46)], [2, 0, 0, inside]);
    gateway.close();
  });

  test(`${name}: fragments of the outer packet, put together, are the packet`, () => {
    const gateway = gatewayOf(kind, "", "fragment");
    const packet = udp(kind.inner, { data: Uint8Array.from({ length: 4000 }, (_, i) => i % 251) });
    const frames = send(gateway, packet);
    const whole: number[] = [];
    for (const [index, { bytes }] of frames.entries()) {
      const ip = bytes.subarray(14);
      assert.ok(ip.length <= 1500);
      const isLast = index === frames.length - 1;
      const word = kind.outer === 6 ? two(ip, 42) : two(ip, 6) << 3;
      if (kind.outer === 6) {
        assert.deepEqual([ip[6], two(ip, 4)], [44, ip.length - 40]);
        assert.equal(ip[40], kind.mode === "gue" ? 17 : kind.inner === 6 ? 41 : 4);
        assert.equal(word & 1, isLast ? 0 : 1);
      } else assert.equal(two(ip, 6) & 0xe000, isLast ? 0 : 0x2000);
      assert.equal(word & 0xfff8, whole.length);
      whole.push(...ip.subarray(kind.outer === 6 ? 48 : 20));
    }
    const gue = kind.mode === "gue" ? 8 : 0;
    assert.deepEqual(Uint8Array.from(whole.slice(gue)), packet);
    gateway.close();
  });

  test(`${name}: GSO is segmented; an idle flow is reset at both ends`, () => {
    const gateway = gatewayOf(kind, "timeouts: { tcp: { established: 10s } }");
    gateway.device.setTick(1000);
    send(gateway, tcp(kind.inner, { flags: SYN, sequence: 999 }));
    const data = Uint8Array.from({ length: 20_000 }, (_, index) => index % 249);
    const packet = tcp(kind.inner, { data, sequence: 1000, acknowledgement: 6000 });
    const l4 = 14 + IP_BYTES[kind.inner];
    const gso = kind.inner === 6 ? VNET_GSO_TCPV6 : 1;
    const vnet = VNET_F_NEEDS_CSUM | (gso << 8) | (1300 << 16);
    const frames = send(gateway, packet, { vnet, csum: l4 | (16 << 16) });
    assert.equal(frames.length, Math.ceil(20_000 / 1300));
    const got = frames.flatMap(({ bytes }) => [...bytes.subarray(14 + before(kind) + header)]);
    assert.deepEqual(Uint8Array.from(got), data);

    let resets: { bytes: Uint8Array; interface: number }[] = [];
    send(gateway, tcp(kind.inner, { sequence: 21_000, acknowledgement: 7000 }));
    for (let tick = 11_000; tick < 14_000 && resets.length === 0; tick += 500) {
      gateway.device.setTick(tick);
      gateway.datapath.runBatch(0);
      resets = gateway.device.sent.splice(0);
    }
    assert.equal(resets.length, 2);
    const ends = [resets[0]!.bytes.subarray(14), resets[1]!.bytes.subarray(14 + before(kind))];
    for (const [index, ip] of ends.entries()) {
      const segment = ip.subarray(IP_BYTES[kind.inner]);
      assert.equal(segment[13]! & RST, RST);
      const numbers = [4, 8].map((at) => two(segment, at) * 65_536 + two(segment, at + 2));
      assert.deepEqual(numbers, index === 0 ? [7000, 21_000] : [21_000, 7000]);
    }
    assert.equal(ends[1]!.length, IP_BYTES[kind.inner] + 20);
    gateway.close();
  });

  test(`${name}: errors: of routers about the tunnel, and about what the backend sends`, () => {
    const gateway = gatewayOf(kind);
    gateway.device.setTick(1000);
    const large = tcp(kind.inner, { data: new Uint8Array(1350) });
    const [went] = send(gateway, large);
    const quote = went!.bytes.slice(14, 14 + 128);
    gateway.device.setTick(2000);
    const told = 1400;
    const fits = Math.max(1280 * Number(kind.inner === 6), told - before(kind));
    const [heard, nothing] = send(gateway, tooBig(kind, told, quote));
    assert.equal(nothing, undefined);
    assertHeard(kind.inner, heard!, fits, large);
    assert.equal(gateway.counters()["consumed"], 1);
    const ip = send(gateway, large)[0]!.bytes.subarray(14);
    assert.equal(two(ip, kind.inner === 4 ? 26 : 46), fits);
    // Too little of a quote, and one about a flow that goes elsewhere: nobody is told.
    gateway.device.setTick(3000);
    assert.deepEqual(send(gateway, tooBig(kind, 1390, quote.subarray(0, before(kind) + 24))), []);
    gateway.device.setTick(4000);
    const strange = quote.slice();
    strange[before(kind) + IP_BYTES[kind.inner] + 1]! ^= 1;
    assert.deepEqual(send(gateway, tooBig(kind, 1380, strange)), []);
    assert.equal(gateway.counters()["consumed"], 3);
    // The tunnel carries in fragments what a client may not be asked to make smaller.
    if (kind.inner === 6) {
      gateway.device.setTick(5000);
      const [small] = send(gateway, udp(6, { data: new Uint8Array(1270 - 48) }));
      const about = small!.bytes.slice(14, 14 + 128);
      assert.deepEqual(send(gateway, tooBig(kind, before(kind) + 1269, about)), []);
    }

    const turned = { sourcePort: 80, destinationPort: 40_000, flags: ACK };
    const ends = { source: VIP[kind.inner], destination: CLIENT[kind.inner] };
    const router = kind.inner === 4 ? "192.0.2.1" : "2001:db8:9::1";
    const error =
      kind.inner === 4
        ? ipv4Packet({
            source: router,
            destination: VIP[4],
            protocol: 1,
            payload: icmpError({
              type: 3,
              code: 4,
              rest: 1300,
              quote: tcpPacket({ ...ends, ...turned }),
            }),
          })
        : icmpPacket6({
            source: router,
            destination: VIP[6],
            type: 2,
            code: 0,
            rest: 1300,
            data: tcpPacket6({ ...ends, ...turned }),
          });
    const [toBackend] = send(gateway, error);
    assert.equal(toBackend!.interface, 1);
    checkOuterOfError(kind, toBackend!.bytes, error);
    gateway.close();
  });
}

function checkOuterOfError(kind: Kind, frame: Uint8Array, error: Uint8Array): void {
  assert.deepEqual(frame.subarray(14 + before(kind)), error);
}

test("6in6: a packet of 1280 bytes is never refused, however narrow the tunnel", () => {
  const kind: Kind = { inner: 6, outer: 6, mode: "ipip" };
  const gateway = createNarrow(kind);
  const packet = udp(6, { data: new Uint8Array(1280 - 48) });
  const frames = send(gateway, packet);
  assert.equal(frames.length, 2);
  assert.ok(frames.every(({ interface: egress }) => egress === 1));
  gateway.close();
});

/** The way to the backend takes 1290 bytes: 1250 inside. */
function createNarrow(kind: Kind): MemoryGateway {
  const gateway = gatewayOf(kind);
  gateway.device.setTick(1000);
  const [went] = send(gateway, tcp(6, { data: new Uint8Array(1300) }));
  gateway.device.setTick(2000);
  const ends = { source: "2001:db8:2::fe", destination: SOURCE[6] };
  const quote = went!.bytes.slice(14, 14 + 128);
  send(gateway, icmpPacket6({ ...ends, type: 2, code: 0, rest: 1290, data: quote }));
  return gateway;
}
