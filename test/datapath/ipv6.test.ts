import assert from "node:assert/strict";
import { test } from "node:test";
import fc from "fast-check";
import { parsePrefix } from "../../src/base/address.ts";
import { C_ORIGINATED } from "../../src/datapath/counters.ts";
import { VNET_F_NEEDS_CSUM, VNET_GSO_TCPV4, VNET_GSO_TCPV6 } from "../../src/device/device.ts";
import { X_BACKEND, X_CLIENT, X_REPLY, X_VIP } from "../../src/flow/flow-record.ts";
import { addressIn, listFlows } from "../../src/flow/read-flows.ts";
import { ADMIN_DISABLED, B_ADMIN, BACKEND_WORDS } from "../../src/service/backend-slots.ts";
import { applyExistingRules } from "../../src/service/effective.ts";
import { H_ANNOUNCE_REQUESTED, H_SWEEP_REQUESTED } from "../../src/state/layout.ts";
import { takeOverFlows } from "../../src/state/take-over.ts";
import { ACK, addressOf, arpRequest, RST, SYN } from "../support/frames.ts";
import { CLIENT_MAC, GATEWAY_MACS } from "../support/memory-gateway.ts";
import {
  bytes6,
  frameOf,
  icmp6,
  ipv6Packet,
  see6,
  solicitation,
  tcp6,
  text6,
  udp6,
} from "../support/packets6.ts";
import { BACKEND, Bench6, CLIENT, SNAT, VIP, yaml6 } from "./ipv6-bench.ts";

// Goal: IPv6 through the data plane on frames in memory: what is forwarded has right addresses, ports
// and checksums by a verifier of its own, and all else has its verdict.

const TCP = { source: CLIENT, destination: VIP, sourcePort: 40_000, destinationPort: 80 } as const;
const UDP = { ...TCP, destinationPort: 53 } as const;

/** A connection that the backend has answered. */
function connect(bench: Bench6): { source: string; sourcePort: number } {
  const seen = bench.see(bench.client(tcp6({ ...TCP, flags: SYN, sequence: 1000 }))[0]);
  const back = {
    source: BACKEND,
    sourcePort: 8080,
    destination: seen.source,
    destinationPort: seen.sourcePort,
  };
  const answer = tcp6({ ...back, flags: SYN | ACK, sequence: 5000, acknowledgement: 1001 });
  const synAck = bench.see(bench.backend(answer)[0]);
  assert.deepEqual([synAck.source, synAck.sourcePort], [VIP, 80]);
  assert.deepEqual([synAck.destination, synAck.destinationPort], [CLIENT, 40_000]);
  assert.ok(synAck.sumIsRight);
  bench.client(tcp6({ ...TCP, flags: ACK, sequence: 1001, acknowledgement: 5001 }));
  return seen;
}

for (const mode of ["nat", "full-nat"]) {
  test(`${mode}: a connection both ways, hop limit less one, sums right`, () => {
    const bench = new Bench6({ yaml: yaml6({ mode }) });
    const seen = connect(bench);
    if (mode === "nat") assert.deepEqual([seen.source, seen.sourcePort], [CLIENT, 40_000]);
    else assert.equal(seen.source, SNAT);
    const [sent] = bench.client(tcp6({ ...TCP, data: [1, 2, 3], sequence: 1001 }));
    const data = bench.see(sent);
    assert.deepEqual([data.destination, data.destinationPort], [BACKEND, 8080]);
    assert.deepEqual([data.hopLimit, data.sumIsRight, sent!.interface], [63, true, 1]);
    assert.equal(bench.live, 1);
    const [udp] = bench.client(udp6({ ...UDP, data: [9] }));
    assert.ok(bench.see(udp).sumIsRight);
    assert.equal(bench.see(udp).destinationPort, 5353);
  });
}

test("any packet of any flow keeps its bytes but for addresses, ports and sums", () => {
  const nat = new Bench6({ yaml: yaml6() });
  const full = new Bench6({ yaml: yaml6({ mode: "full-nat" }) });
  const byte = fc.integer({ min: 0, max: 255 });
  const client = fc.array(byte, { minLength: 8, maxLength: 8 });
  const port = fc.integer({ min: 1, max: 65_535 });
  const data = fc.array(byte, { maxLength: 64 });
  fc.assert(
    fc.property(
      client,
      port,
      data,
      fc.boolean(),
      byte,
      (low, sourcePort, payload, isTcp, label) => {
        const source = text6([...bytes6("2001:db8:1::").slice(0, 8), ...low]);
        const ends = { source, destination: VIP, sourcePort, destinationPort: isTcp ? 80 : 53 };
        const ip = { flowLabel: label * 4093, trafficClass: label, hopLimit: 9 };
        for (const bench of [nat, full]) {
          const packet = isTcp
            ? tcp6({ ...ends, flags: SYN, data: payload, ip })
            : udp6({ ...ends, data: payload, ip });
          const [sent] = bench.client(packet);
          const seen = bench.see(sent);
          assert.equal(seen.sumIsRight, true);
          assert.deepEqual([...sent!.bytes.subarray(14, 21)], [...packet.subarray(0, 7)]);
          assert.deepEqual([...seen.l4.subarray(isTcp ? 20 : 8)], payload);
          const back = {
            source: BACKEND,
            sourcePort: seen.destinationPort,
            destination: seen.source,
            destinationPort: seen.sourcePort,
          };
          const answer = isTcp
            ? tcp6({ ...back, flags: SYN | ACK, data: payload })
            : udp6({ ...back, data: payload });
          const home = bench.see(bench.backend(answer)[0]);
          assert.deepEqual(
            [home.source, home.sourcePort, home.destination, home.destinationPort, home.sumIsRight],
            [VIP, ends.destinationPort, addressOf(source).text, sourcePort, true],
          );
        }
      },
    ),
    { numRuns: 200 },
  );
});

test("partial checksums and GSO of IPv6 pass whole; those of IPv4 are no sane header", () => {
  const bench = new Bench6({ yaml: yaml6(), slotBytes: 8192 });
  connect(bench);
  const big = tcp6({ ...TCP, data: new Uint8Array(4000), partial: true, sequence: 1001 });
  const csum = 54 | (16 << 16);
  const vnet = VNET_F_NEEDS_CSUM | (VNET_GSO_TCPV6 << 8) | (1000 << 16);
  const [sent] = bench.client(big, { vnet, csum });
  assert.equal(sent!.vnet, vnet);
  assert.ok(bench.see(sent).partialIsRight);
  assert.deepEqual(bench.client(big, { vnet: (vnet & ~0xff00) | (VNET_GSO_TCPV4 << 8), csum }), []);
  assert.equal(bench.count("vnet_header_invalid"), 1);
});

test("AF_XDP: a partial checksum of IPv6 is recognised", () => {
  const bench = new Bench6({ yaml: yaml6(), asXdp: true });
  const [sent] = bench.client(udp6({ ...UDP, data: [1, 2, 3], partial: true }));
  assert.equal(sent!.vnet, VNET_F_NEEDS_CSUM);
  assert.ok(bench.see(sent).partialIsRight);
  assert.equal(bench.client(udp6({ ...UDP, data: [1, 2, 3] }))[0]!.vnet, 0);
});

test("a datagram without checksum is dropped (RFC 8200 8.1)", () => {
  const bench = new Bench6({ yaml: yaml6() });
  assert.deepEqual(bench.client(udp6({ ...UDP, noSum: true })), []);
  assert.equal(bench.count("udp_checksum_missing"), 1);
});

const PAD = [0, 0, 1, 4, 0, 0, 0, 0];

test("extension headers are walked, within a bound", () => {
  const bench = new Bench6({ yaml: yaml6() });
  const send = (extensions: [number, number[]][]) =>
    bench.client(tcp6({ ...TCP, flags: SYN, ip: { extensions } }));
  const atomic = [0, 0, 0, 0, 1, 2, 3, 4];
  const doneRouting = [0, 0, 4, 0, 0, 0, 0, 0];
  const whole: [number, number[]][] = [
    [0, PAD],
    [60, PAD],
    [43, doneRouting],
    [44, atomic],
    [60, PAD],
  ];
  const seen = bench.see(send(whole)[0]);
  assert.deepEqual([seen.destinationPort, seen.sumIsRight], [8080, true]);
  assert.equal(send(Array.from({ length: 8 }, () => [60, PAD])).length, 1);
  assert.equal(send(Array.from({ length: 9 }, () => [60, PAD])).length, 0);
  assert.equal(send([[43, [0, 0, 0, 0, 0, 0, 0, 0]]]).length, 0, "type 0, even without segments");
  assert.equal(
    send([[43, [0, 2, 4, 1, ...new Array<number>(20).fill(0)]]]).length,
    0,
    "segments left",
  );
  assert.equal(
    send([
      [60, PAD],
      [0, PAD],
    ]).length,
    0,
    "hop-by-hop behind another",
  );
  assert.equal(send([[60, [0, 99, 0, 0, 0, 0, 0, 0]]]).length, 0, "longer than the packet");
  assert.equal(bench.count("ipv6_extensions_too_many"), 1);
  assert.equal(bench.count("ipv6_routing_header"), 2);
  assert.equal(bench.count("ipv6_extension_malformed"), 2);
  assert.equal(send([[51, PAD]]).length, 0, "what is authenticated cannot be translated");
  assert.equal(bench.count("no_service"), 1);
});

test("what is broken and for us is dropped by name; for others it is left", () => {
  const bench = new Bench6({ yaml: yaml6() });
  const good = tcp6({ ...TCP, flags: SYN });
  const change = (at: number, value: number): Uint8Array => {
    const packet = good.slice();
    packet[at] = value;
    return packet;
  };
  const cases: [string, Uint8Array][] = [
    ["ipv6_header_malformed", change(0, 0x50)],
    ["ipv6_length_wrong", change(5, 200)],
    ["ipv6_source_invalid", change(8, 0xff)],
    ["tcp_header_malformed", change(52, 0x40)],
    ["tcp_flags_invalid", change(53, 0)],
    ["frame_too_short", good.slice(0, 39)],
  ];
  for (const [reason, packet] of cases) {
    assert.deepEqual(
      bench.raw(frameOf(packet, { destination: GATEWAY_MACS[0], type: 0x86dd }), 0),
      [],
    );
    assert.equal(bench.count(reason), 1, reason);
  }
  bench.client(tcp6({ ...TCP, destination: "2001:db8:9::1", flags: SYN }));
  assert.equal(bench.count("passed"), 1);
  bench.client(tcp6({ ...TCP, destinationPort: 81, flags: SYN }));
  assert.equal(bench.count("no_service"), 1);
});

test("too big, and out of hops: errors from the VIP that quote within 1,280 bytes", () => {
  const bench = new Bench6({ yaml: yaml6(), mtu: [9000, 1400], slotBytes: 4096 });
  connect(bench);
  const large = tcp6({ ...TCP, data: new Uint8Array(2000), sequence: 1001 });
  const tooBig = bench.see(bench.client(large)[0]);
  assert.deepEqual([tooBig.source, tooBig.destination, tooBig.sumIsRight], [VIP, CLIENT, true]);
  assert.deepEqual([...tooBig.l4.subarray(0, 2)], [2, 0]);
  assert.deepEqual([...tooBig.l4.subarray(4, 8)], [0, 0, 1400 >> 8, 1400 & 0xff]);
  assert.equal(tooBig.bytes, 1280);
  assert.deepEqual([...tooBig.l4.subarray(8)], [...large.subarray(0, 1280 - 48)]);
  const late = bench.see(bench.client(tcp6({ ...TCP, ip: { hopLimit: 1 } }))[0]);
  assert.deepEqual([...late.l4.subarray(0, 2)], [3, 0]);
  assert.deepEqual([late.source, late.sumIsRight], [VIP, true]);
  // A segment of a GSO packet fits: it goes on whole.
  const csum = 54 | (16 << 16);
  const vnet = VNET_F_NEEDS_CSUM | (VNET_GSO_TCPV6 << 8) | (1340 << 16);
  const gso = tcp6({ ...TCP, data: new Uint8Array(2680), partial: true, sequence: 1001 });
  assert.equal(bench.see(bench.client(gso, { vnet, csum })[0]).destination, BACKEND);
  const wide = { vnet: vnet + (1 << 16), csum };
  assert.equal(bench.see(bench.client(gso, wide)[0]).l4[0], 2);
});

test("an echo to the VIP, with any data", () => {
  const bench = new Bench6({ yaml: yaml6({ more: "ping: always," }) });
  const echo = { source: CLIENT, destination: VIP, type: 128, rest: 0x00070001, data: [1, 2, 3] };
  const reply = bench.see(bench.client(icmp6(echo))[0]);
  assert.deepEqual([reply.source, reply.destination, reply.sumIsRight], [VIP, CLIENT, true]);
  assert.deepEqual([...reply.l4.subarray(0, 2)], [129, 0]);
  assert.deepEqual([...reply.l4.subarray(4)], [0, 7, 0, 1, 1, 2, 3]);
  const broken = icmp6(echo);
  broken[44]! ^= 1;
  assert.deepEqual(bench.client(broken), []);
  assert.equal(bench.count("icmp_checksum_wrong"), 1);
});

test("no service, no backend, out of state: RST and port unreachable", () => {
  const bench = new Bench6({ yaml: yaml6({ more: "outOfState: reset," }) });
  const stray = bench.see(bench.client(tcp6({ ...TCP, flags: ACK, acknowledgement: 77 }))[0]);
  assert.deepEqual([stray.source, stray.destination, stray.sumIsRight], [VIP, CLIENT, true]);
  assert.equal(stray.l4[13], RST);
  assert.deepEqual([...stray.l4.subarray(4, 8)], [0, 0, 0, 77]);
  for (const slot of [0, 1]) {
    const at = (bench.gateway.views.layout.backendSlots.at >> 2) + slot * BACKEND_WORDS;
    bench.gateway.views.i32[at + B_ADMIN] = ADMIN_DISABLED;
  }
  bench.gateway.publish();
  const refused = bench.see(bench.client(tcp6({ ...TCP, flags: SYN, sequence: 9 }))[0]);
  assert.equal(refused.l4[13], RST | ACK);
  assert.deepEqual([...refused.l4.subarray(8, 12)], [0, 0, 0, 10]);
  const packet = udp6({ ...UDP, data: [1, 2] });
  const unreachable = bench.see(bench.client(packet)[0]);
  assert.deepEqual([...unreachable.l4.subarray(0, 2)], [1, 4]);
  assert.deepEqual([...unreachable.l4.subarray(8)], [...packet]);
  assert.ok(unreachable.sumIsRight);
});

test("a disabled backend's connection is reset at both ends", () => {
  const bench = new Bench6({ yaml: yaml6({ mode: "full-nat" }) });
  connect(bench);
  const { views } = bench.gateway;
  views.i32[(views.layout.backendSlots.at >> 2) + B_ADMIN] = ADMIN_DISABLED;
  bench.gateway.publish();
  const { definition } = bench.gateway;
  assert.ok(applyExistingRules(views, definition, { services: [] }, bench.now).sweep);
  views.i32[H_SWEEP_REQUESTED] = 1;
  const sent = bench.pause(1).map((one) => bench.see(one));
  assert.deepEqual(
    sent.map(({ source, destination, l4, sumIsRight }) => [
      source,
      destination,
      l4[13],
      sumIsRight,
    ]),
    [
      [VIP, CLIENT, RST | ACK, true],
      [SNAT, BACKEND, RST | ACK, true],
    ],
  );
  assert.equal(bench.live, 0);
});

for (const mode of ["nat", "full-nat"]) {
  test(`${mode}: ICMPv6 errors about a flow go to the end that they concern, translated`, () => {
    const bench = new Bench6({ yaml: yaml6({ mode }) });
    const seen = connect(bench);
    // A router before the backend says that what the gateway sent is too big.
    const router = "2001:db8:7::1";
    const sentOn = tcp6({
      source: seen.source,
      sourcePort: seen.sourcePort,
      destination: BACKEND,
      destinationPort: 8080,
      data: [1, 2, 3, 4],
      sequence: 1001,
    });
    const about = { source: router, destination: seen.source, type: 2, rest: 1280, data: sentOn };
    const [sent] = bench.backend(icmp6(about));
    const error = bench.see(sent);
    assert.deepEqual([error.source, error.destination, error.sumIsRight], [router, CLIENT, true]);
    assert.deepEqual([...error.l4.subarray(0, 2), error.l4[7]], [2, 0, 0]);
    const quote = see6(error.l4.subarray(8));
    assert.deepEqual(
      [quote.source, quote.sourcePort, quote.destination, quote.destinationPort, quote.sumIsRight],
      [CLIENT, 40_000, VIP, 80, true],
    );
    // The client says that its port is closed, about what the backend sent.
    const answered = tcp6({
      source: VIP,
      sourcePort: 80,
      destination: CLIENT,
      destinationPort: 40_000,
    });
    const closed = { source: CLIENT, destination: VIP, type: 1, code: 4, data: answered };
    const back = bench.see(bench.client(icmp6(closed))[0]);
    const from = mode === "nat" ? CLIENT : SNAT;
    assert.deepEqual([back.source, back.destination, back.sumIsRight], [from, BACKEND, true]);
    const quoted = see6(back.l4.subarray(8));
    assert.deepEqual(
      [
        quoted.source,
        quoted.sourcePort,
        quoted.destination,
        quoted.destinationPort,
        quoted.sumIsRight,
      ],
      [BACKEND, 8080, from, seen.sourcePort, true],
    );
    // About no flow, with half a quote, and to a service port alone.
    bench.client(icmp6({ ...closed, data: tcp6({ ...TCP, source: VIP, destination: CLIENT }) }));
    bench.client(icmp6({ ...closed, data: answered.slice(0, 44) }));
    assert.equal(bench.count("icmp_no_flow"), 1);
    assert.equal(bench.count("icmp_quote_malformed"), 1);
  });
}

test("no error is answered about an error, and none to a group", () => {
  const bench = new Bench6({ yaml: yaml6() });
  bench.client(icmp6({ source: CLIENT, destination: VIP, type: 139, data: [1] }));
  assert.equal(bench.count("icmp_type_not_handled"), 1);
  assert.equal(bench.count("replied"), 0);
  const group = tcp6({ ...TCP, destination: "ff02::1", flags: SYN });
  bench.raw(frameOf(group, { destination: "33:33:00:00:00:01" }), 0);
  assert.equal(bench.count("passed"), 1);
});

/** The advertisement in a frame, and where the frame goes. */
function advertisement(bench: Bench6, frame: Uint8Array) {
  const sent = bench.raw(frame, 0);
  assert.equal(sent.length, 1);
  const { l4, ...rest } = bench.see(sent[0]);
  return {
    ...rest,
    mac: [...sent[0]!.bytes.subarray(0, 6)].map((b) => b.toString(16).padStart(2, "0")).join(":"),
    type: l4[0],
    flags: l4[4],
    target: addressOf(text6(l4.subarray(8, 24))).text,
    option: [...l4.subarray(24)],
  };
}

const GROUP_MAC = "33:33:ff:00:00:10";
const OWN = [2, 1, 2, 0, 0, 0, 1, 1];

test("neighbour solicitations for VIP and SNAT addresses are answered (RFC 4861 7.2)", () => {
  const bench = new Bench6({ yaml: yaml6() });
  const to = { destination: GROUP_MAC };
  const asked = advertisement(bench, frameOf(solicitation(CLIENT, VIP), to));
  assert.deepEqual(
    [asked.source, asked.destination, asked.hopLimit, asked.sumIsRight, asked.mac],
    [VIP, CLIENT, 255, true, CLIENT_MAC],
  );
  assert.deepEqual([asked.type, asked.flags, asked.target, asked.option], [136, 0x60, VIP, OWN]);
  assert.equal(advertisement(bench, frameOf(solicitation(CLIENT, SNAT), to)).target, SNAT);
  // Is the address free? No: everybody hears it.
  const probed = advertisement(bench, frameOf(solicitation("::", VIP), to));
  assert.deepEqual(
    [probed.source, probed.destination, probed.flags, probed.mac],
    [VIP, "ff02::1", 0x20, "33:33:00:00:00:01"],
  );
  // Is the neighbour still there? (unicast)
  const unicast = solicitation(CLIENT, VIP, { destination: VIP });
  const checked = advertisement(bench, frameOf(unicast, { destination: GATEWAY_MACS[0] }));
  assert.deepEqual([checked.flags, checked.target], [0x60, VIP]);
  // Nobody's address, and one of the kernel's.
  bench.raw(frameOf(solicitation(CLIENT, "2001:db8:ff::99"), to), 0);
  assert.equal(bench.count("passed"), 1);
});

test("solicitations that break a rule of 7.1.1 are not answered; a standby says nothing", () => {
  const bench = new Bench6({ yaml: yaml6() });
  const rules = [
    solicitation(CLIENT, VIP, { ip: { hopLimit: 64 } }),
    solicitation(CLIENT, VIP, { code: 1, ip: { hopLimit: 255 } }),
    solicitation(CLIENT, VIP, { data: [...bytes6(VIP), 1, 0, 0, 0, 0, 0, 0, 0] }),
    solicitation("::", VIP, { destination: "ff02::1" }),
    solicitation("::", VIP, { data: [...bytes6(VIP), 1, 1, 2, 0, 0, 0, 1, 2] }),
  ];
  for (const packet of rules) {
    assert.deepEqual(bench.raw(frameOf(packet, { destination: GROUP_MAC }), 0), []);
  }
  assert.equal(bench.count("neighbour_malformed"), rules.length);
  const wrong = solicitation(CLIENT, VIP);
  wrong[43]! ^= 1;
  assert.deepEqual(bench.raw(frameOf(wrong, { destination: GROUP_MAC }), 0), []);
  const standby = new Bench6({
    yaml: yaml6().replace("eth1] }", "eth1], announce: false }"),
  });
  assert.deepEqual(
    standby.raw(frameOf(solicitation(CLIENT, VIP), { destination: GROUP_MAC }), 0),
    [],
  );
});

test("unsolicited advertisements for every address, out of every interface", () => {
  const bench = new Bench6({ yaml: yaml6({ vip: "2001:db8:ff::10/126" }) });
  bench.gateway.views.i32[H_ANNOUNCE_REQUESTED] = 1;
  const all = Array.from({ length: 8 }, () => bench.pause(1)).flat();
  const sent = all.filter(({ bytes }) => bytes[12] === 0x86);
  const targets = sent.map((one) => addressOf(text6(bench.see(one).l4.subarray(8, 24))).text);
  const want = ["::10", "::11", "::12", "::13"].map((end) => `2001:db8:ff${end}`);
  assert.deepEqual([...new Set(targets)].sort(), [SNAT, ...want].sort());
  assert.equal(targets.length, 2 * 5);
  for (const one of sent) {
    const { destination, hopLimit, l4, source, sumIsRight } = bench.see(one);
    assert.deepEqual(
      [destination, hopLimit, l4[0], l4[4], sumIsRight],
      ["ff02::1", 255, 136, 0x20, true],
    );
    assert.equal(source, addressOf(text6(l4.subarray(8, 24))).text);
  }
  const at = bench.gateway.views.layout.counters.at >> 3;
  assert.ok(bench.gateway.views.f64[at + C_ORIGINATED]! >= sent.length);
});

test("VIPs that are prefixes: the longer one first, an address before any, ports as ever", () => {
  const service = (name: string, vip: string, port: string, last: number): string =>
    `  - { name: ${name}, vip: ${vip}, port: ${port}, protocol: tcp, scheduler: rr, backends: [{ address: '${vip.includes(":") ? "2001:db8:2::" : "10.20.0."}${last}' }] }\n`;
  const bench = new Bench6({
    yaml: `
device: { type: packet, interfaces: [eth0, eth1] }
services:
${service("wide", "'2001:db8:ff::/48'", "any", 11)}${service("long", "'2001:db8:ff:1::/64'", "8000-8099", 12)}${service("one", "'2001:db8:ff:1::5'", "8050", 13)}${service("wide4", "203.0.113.0/24", "any", 21)}${service("long4", "203.0.113.16/28", "80", 22)}`,
  });
  const chosen = (destination: string, destinationPort: number): [string, number] => {
    const seen = bench.see(
      bench.client(tcp6({ ...TCP, destination, destinationPort, flags: SYN }))[0],
    );
    assert.ok(seen.sumIsRight);
    return [seen.destination.slice(-2), seen.destinationPort];
  };
  assert.deepEqual(chosen("2001:db8:ff:9::1", 7), ["11", 7], "any port is the packet's own");
  assert.deepEqual(chosen("2001:db8:ff:1::9", 8050), ["12", 8050]);
  assert.deepEqual(chosen("2001:db8:ff:1::5", 8050), ["13", 8050]);
  assert.deepEqual(chosen("2001:db8:ff:1::5", 8051), ["12", 8051], "the prefix around it");
  assert.deepEqual(chosen("2001:db8:ff:1::5", 22), ["11", 22], "the one around that");
  // Neighbours of any address of a prefix are answered, of both families.
  const ask = solicitation(CLIENT, "2001:db8:ff:77::1234");
  const { target } = advertisement(bench, frameOf(ask, { destination: "33:33:ff:00:12:34" }));
  assert.equal(target, "2001:db8:ff:77::1234");
  const arp = bench.raw(
    arpRequest({ senderAddress: "203.0.113.1", targetAddress: "203.0.113.200" }),
    0,
  );
  assert.equal(arp.length, 1);
  assert.deepEqual([...arp[0]!.bytes.subarray(28, 32)], [203, 0, 113, 200]);
  assert.deepEqual(
    bench.raw(arpRequest({ senderAddress: "203.0.113.1", targetAddress: "203.0.114.2" }), 0),
    [],
  );
});

test("TUN: hop limit stays, groups of the kernel are dropped, others are given back", () => {
  const bench = new Bench6({
    yaml: yaml6().replace("type: packet, interfaces: [eth0, eth1]", "type: tun"),
    linkHeaderBytes: 0,
  });
  const [sent] = bench.client(tcp6({ ...TCP, flags: SYN }));
  assert.deepEqual([bench.see(sent).destination, bench.see(sent).hopLimit], [BACKEND, 64]);
  bench.client(icmp6({ source: "fe80::1", destination: "ff02::2", type: 133 }));
  assert.equal(bench.count("ipv6_not_supported"), 1);
  assert.equal(bench.client(tcp6({ ...TCP, destination: "2001:db8:9::9" })).length, 1);
  assert.equal(bench.count("passed"), 1);
});

test("several workers: whoever gets a frame, its owner forwards it", () => {
  const workers = 3;
  const bench = new Bench6({ yaml: yaml6({ mode: "full-nat" }), size: { workers } });
  const { gateway } = bench;
  for (let port = 1024; port < 1124; port++) {
    const worker = gateway.workers[port % workers]!;
    const frame = frameOf(tcp6({ ...TCP, sourcePort: port, flags: SYN }), {
      destination: GATEWAY_MACS[0],
    });
    worker.device.inject(frame, 0);
  }
  gateway.settle();
  gateway.checkLaw();
  const sent = gateway.workers.flatMap(({ device }) => device.sent.splice(0));
  assert.equal(sent.length, 100);
  assert.equal(bench.live, 100);
  for (const [index, one] of sent.entries()) {
    const seen = see6(one.bytes.subarray(14));
    const answer = tcp6({
      source: BACKEND,
      sourcePort: 8080,
      destination: seen.source,
      destinationPort: seen.sourcePort,
      flags: SYN | ACK,
    });
    const frame = frameOf(answer, { destination: GATEWAY_MACS[1] });
    gateway.workers[index % workers]!.device.inject(frame, 1);
  }
  gateway.settle();
  const home = gateway.workers.flatMap(({ device }) => device.sent.splice(0));
  const ports = home
    .map((one) => see6(one.bytes.subarray(14)))
    .map((seen) => {
      assert.ok(seen.sumIsRight);
      return seen.destinationPort;
    });
  assert.deepEqual(
    ports.sort((a, b) => a - b),
    Array.from({ length: 100 }, (_, index) => 1024 + index),
  );
});

test("several workers: an error about a flow finds its owner, whoever gets it", () => {
  const workers = 3;
  for (const mode of ["nat", "full-nat"]) {
    const bench = new Bench6({ yaml: yaml6({ mode }), size: { workers } });
    const { gateway } = bench;
    for (let port = 2000; port < 2030; port++) {
      const frame = frameOf(tcp6({ ...TCP, sourcePort: port, flags: SYN }), {
        destination: GATEWAY_MACS[0],
      });
      gateway.workers[port % workers]!.device.inject(frame, 0);
    }
    gateway.settle();
    const sent = gateway.workers.flatMap(({ device }) => device.sent.splice(0));
    assert.equal(sent.length, 30);
    for (const [index, one] of sent.entries()) {
      const quote = one.bytes.slice(14);
      const { source } = see6(quote);
      const about = icmp6({
        source: "2001:db8:7::1",
        destination: source,
        type: 2,
        rest: 1280,
        data: quote,
      });
      const frame = frameOf(about, { destination: GATEWAY_MACS[1] });
      gateway.workers[index % workers]!.device.inject(frame, 1);
    }
    gateway.settle();
    gateway.checkLaw();
    const heard = gateway.workers.flatMap(({ device }) => device.sent.splice(0));
    const ports = heard.map((one) => {
      const { destination, l4, sumIsRight } = see6(one.bytes.subarray(14));
      assert.deepEqual([destination, sumIsRight], [CLIENT, true]);
      return see6(l4.subarray(8)).sourcePort;
    });
    assert.deepEqual(
      ports.sort((a, b) => a - b),
      Array.from({ length: 30 }, (_, index) => 2000 + index),
    );
  }
});

test("the next process goes on with IPv6 flows; a damaged word of theirs ends one", () => {
  const bench = new Bench6({ yaml: yaml6({ mode: "full-nat" }) });
  const { views } = bench.gateway;
  for (let port = 1; port <= 20; port++)
    bench.client(tcp6({ ...TCP, sourcePort: port, flags: SYN }));
  assert.equal(takeOverFlows(views).flowsKept, 20);
  const row3 = (views.layout.flowExtensions.at >> 2) + 3 * 16;
  views.i32[row3 + 5]! ^= 1 << 7;
  const counts = takeOverFlows(views);
  assert.deepEqual([counts.flowsKept, counts.flowsDropped], [19, 1]);
});

test("flows are listed with IPv6 addresses, and by an IPv6 prefix of clients", () => {
  const bench = new Bench6({ yaml: yaml6({ mode: "full-nat" }) });
  const { sourcePort } = connect(bench);
  const under = (text: string) => listFlows(bench.gateway.views, { client: parsePrefix(text)! }, 9);
  const [flow] = under("2001:db8:1::/64").flows;
  assert.deepEqual(
    [X_CLIENT, X_VIP, X_BACKEND, X_REPLY].map((which) => addressIn(flow!, which).text),
    [CLIENT, VIP, BACKEND, SNAT],
  );
  assert.equal(flow!.replyPort, sourcePort);
  assert.equal(under(CLIENT).total, 1);
  assert.equal(under("2001:db8:1:1::/64").total, 0);
  assert.equal(under("0.0.0.0/0").total, 0);
});

test("IPv6 to a gateway that has no IPv6 address is the kernel's", () => {
  const yaml = yaml6({ vip: "203.0.113.10", backend: "10.20.0.11" }).replace(`'${SNAT}', `, "");
  const bench = new Bench6({ yaml });
  assert.equal(bench.gateway.views.layout.ipv6, false);
  bench.client(tcp6({ ...TCP, flags: SYN }));
  bench.client(
    ipv6Packet({ source: CLIENT, destination: VIP, protocol: 132, payload: [1, 2, 3, 4] }),
  );
  bench.raw(frameOf(solicitation(CLIENT, VIP), { destination: GROUP_MAC }), 0);
  assert.equal(bench.count("passed"), 3);
});
