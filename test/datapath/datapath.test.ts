import assert from "node:assert/strict";
import { test } from "node:test";
import { setFlagsFromString } from "node:v8";
import { runInNewContext } from "node:vm";
import fc from "fast-check";
import { createRandom } from "../../src/base/random.ts";
import { readDropSamples } from "../../src/control/drop-samples.ts";
import { C_ORIGINATED, C_RST_SENT } from "../../src/datapath/counters.ts";
import {
  TX_FAILED,
  TX_FULL,
  TX_TOO_BIG,
  VNET_F_NEEDS_CSUM,
  VNET_GSO_TCPV4,
} from "../../src/device/device.ts";
import { F_STATE, STATE_ESTABLISHED } from "../../src/flow/flow-record.ts";
import { createFlowTable } from "../../src/flow/flow-table.ts";
import {
  ADMIN_DISABLED,
  B_ADMIN,
  B_HEALTH,
  BACKEND_WORDS,
  BF_BYTES_IN,
  BF_PACKETS_IN,
  HEALTH_DOWN,
} from "../../src/service/backend-slots.ts";
import { applyExistingRules } from "../../src/service/effective.ts";
import { backendFlows } from "../../src/service/runs.ts";
import {
  H_ANNOUNCE_REQUESTED,
  H_NODE_DRAINED,
  H_SWEEP_REQUESTED,
  W_ANNOUNCE_DONE,
} from "../../src/state/layout.ts";
import { flowsUsed } from "../../src/state/shards.ts";
import {
  ACK,
  addressNumber,
  addressOf,
  arpRequest,
  checksumFault,
  describe,
  ethernetFrame,
  icmpEcho,
  icmpError,
  ipv4Packet,
  RST,
  SYN,
  tcpPacket,
  udpPacket,
} from "../support/frames.ts";
import { malformedFrames, onTun } from "../support/malformed.ts";
import {
  backendMac,
  CLIENT_MAC,
  createMemoryGateway,
  GATEWAY_MACS,
  type MemoryGateway,
  type MemoryGatewayOptions,
} from "../support/memory-gateway.ts";

const CLIENT = "198.51.100.2";
const VIP = "203.0.113.10";
const BACKEND = "10.20.0.11";
const SNAT = "10.20.0.100";

function yaml(
  options: { mode?: string; more?: string; top?: string; health?: boolean } = {},
): string {
  const { mode = "nat", more = "", top = "", health = false } = options;
  const check = health ? "health: { type: tcp, interval: 2s, timeout: 1s }," : "";
  return `
version: 1
device: { type: packet, interfaces: [eth0, eth1] }
snat: { addresses: [${SNAT}], ports: 2000-2999 }
${top}
services:
  - { name: web, vip: ${VIP}, port: 80, protocol: tcp, mode: ${mode}, scheduler: rr, ${more} ${check}
      backends: [{ address: ${BACKEND}, port: 8080 }] }
  - { name: dns, vip: ${VIP}, port: 53, protocol: udp, mode: ${mode}, scheduler: rr, ${more} ${check}
      backends: [{ address: ${BACKEND}, port: 5353 }] }
`;
}

const TCP = { source: CLIENT, destination: VIP, sourcePort: 40_000, destinationPort: 80 } as const;
const UDP = { ...TCP, destinationPort: 53 } as const;

class Bench {
  readonly gateway: MemoryGateway;
  now = 1_000_000;

  constructor(options: Partial<MemoryGatewayOptions> & { yaml: string }) {
    this.gateway = createMemoryGateway(options);
    this.gateway.device.setTick(this.now);
  }

  /** Send packets from the client, or from the backend; returns the frames that left, one batch each. */
  client(packet: Uint8Array, words = { vnet: 0, csum: 0 }): Sent[] {
    const frame = ethernetFrame(packet, { destination: GATEWAY_MACS[0], source: CLIENT_MAC });
    return this.raw(frame, 0, words);
  }

  backend(packet: Uint8Array, words = { vnet: 0, csum: 0 }): Sent[] {
    const source = backendMac(addressNumber(BACKEND));
    return this.raw(ethernetFrame(packet, { destination: GATEWAY_MACS[1], source }), 1, words);
  }

  raw(frame: Uint8Array, ingress: number, words = { vnet: 0, csum: 0 }): Sent[] {
    this.gateway.device.sent.length = 0;
    this.gateway.device.inject(frame, ingress, words);
    this.gateway.datapath.runBatch(0);
    this.gateway.checkLaw();
    return [...this.gateway.device.sent];
  }

  pause(ms: number): Sent[] {
    this.now += ms;
    this.gateway.device.setTick(this.now);
    this.gateway.device.sent.length = 0;
    this.gateway.datapath.runBatch(0);
    return [...this.gateway.device.sent];
  }

  count(name: string): number {
    return this.gateway.counters()[name] ?? 0;
  }

  get live(): number {
    return flowsUsed(this.gateway.views);
  }

  /** A connection that both ends have taken for established; returns what the backend sees. */
  connect(): { source: string; sourcePort: number } {
    const [syn] = this.client(tcpPacket({ ...TCP, flags: SYN, sequence: 1000 }));
    const seen = { source: address(syn!.bytes, 26), sourcePort: port(syn!.bytes, 34) };
    const back = {
      source: BACKEND,
      sourcePort: 8080,
      destination: seen.source,
      destinationPort: seen.sourcePort,
    };
    this.backend(tcpPacket({ ...back, flags: SYN | ACK, sequence: 5000, acknowledgement: 1001 }));
    this.client(tcpPacket({ ...TCP, flags: ACK, sequence: 1001, acknowledgement: 5001 }));
    return seen;
  }
}

interface Sent {
  readonly bytes: Uint8Array;
  readonly interface: number;
  readonly vnet: number;
  readonly csum: number;
}

function address(frame: Uint8Array, at: number): string {
  return frame.subarray(at, at + 4).join(".");
}

function port(frame: Uint8Array, at: number): number {
  return frame[at]! * 256 + frame[at + 1]!;
}

/** "source:port > destination:port tcp S …" without the MACs. */
function line(sent: Sent): string {
  return describe(sent.bytes.subarray(14), 0);
}

function good(sent: readonly Sent[]): void {
  for (const one of sent) {
    assert.equal(port(one.bytes, 12), 0x0800, "the EtherType is IPv4");
    assert.equal(checksumFault(one.bytes, { linkHeaderBytes: 14 }), null, line(one));
  }
}

for (const frame of malformedFrames(GATEWAY_MACS[0])) {
  test(`malformed on Ethernet: ${frame.name} is one drop ${frame.reason}`, () => {
    const bench = new Bench({ yaml: yaml() });
    assert.deepEqual(bench.raw(frame.frame, 0, frame.words), []);
    assert.equal(bench.count("dropped"), 1);
    assert.equal(bench.count(frame.reason), 1);
  });
  if (frame.onTun) {
    test(`malformed on TUN: ${frame.name} is one drop ${frame.reason}`, () => {
      const bench = new Bench({ yaml: yaml(), linkHeaderBytes: 0 });
      const { frame: packet, words } = onTun(frame);
      assert.deepEqual(bench.raw(packet, 0, words), []);
      assert.equal(bench.count(frame.reason), 1);
    });
  }
}

test("a drop leaves a sample of its first bytes that control reads back", () => {
  const bench = new Bench({ yaml: yaml() });
  const packet = tcpPacket({ ...TCP, destinationPort: 81, flags: SYN });
  bench.client(packet);
  const [sample] = readDropSamples(bench.gateway.views, bench.now, 0, ["eth0", "eth1"]);
  assert.equal(sample!.reason, "no_service");
  assert.equal(sample!.interface, "eth0");
  assert.equal(sample!.bytes, 14 + packet.length);
  assert.match(sample!.summary, /198\.51\.100\.2:40000 > 203\.0\.113\.10:81/);
  assert.ok(sample!.header.includes(Buffer.from(packet.slice(0, 36)).toString("hex")));
});

test("random bytes are one verdict each, and never an exception", () => {
  const ethernet = new Bench({ yaml: yaml() });
  const tun = new Bench({ yaml: yaml(), linkHeaderBytes: 0 });
  const header = ethernetFrame([], { destination: GATEWAY_MACS[0] });
  fc.assert(
    fc.property(fc.uint8Array({ maxLength: 120 }), (bytes) => {
      ethernet.raw(Uint8Array.from([...header, ...bytes]), 0);
      tun.raw(bytes.length === 0 ? Uint8Array.of(0x45) : bytes, 0);
    }),
    { numRuns: 3000 },
  );
});

test("every byte of a good packet changed to anything is one verdict", () => {
  const bench = new Bench({ yaml: yaml() });
  const random = createRandom(7);
  for (let round = 0; round < 20_000; round++) {
    const packet =
      round % 2 === 0 ? tcpPacket({ ...TCP, flags: SYN }) : udpPacket({ ...UDP, data: [1, 2, 3] });
    for (let change = 0; change < 1 + random.below(3); change++) {
      packet[random.below(packet.length)] = random.below(256);
    }
    const sent = bench.client(packet);
    for (const one of sent) {
      const wasGood = checksumFault(ethernetFrame(packet), { linkHeaderBytes: 14 }) === null;
      if (wasGood) good([one]);
    }
  }
});

test("an echo to the VIP is answered as `ping` says", () => {
  const echo = ipv4Packet({
    source: CLIENT,
    destination: VIP,
    protocol: 1,
    payload: icmpEcho({ data: [1, 2, 3] }),
  });
  const always = new Bench({ yaml: yaml({ more: "ping: always," }) });
  const [reply] = always.client(echo);
  assert.match(line(reply!), /^203\.0\.113\.10 > 198\.51\.100\.2 icmp/);
  good([reply!]);
  assert.equal(always.count("replied"), 1);

  const never = new Bench({ yaml: yaml({ more: "ping: never," }) });
  assert.deepEqual(never.client(echo), []);
  assert.equal(never.count("ping_not_answered"), 1);

  const healthy = new Bench({ yaml: yaml({ health: true }) });
  assert.equal(healthy.client(echo).length, 1, "starting counts as up where none is up");
  for (const slot of [0, 1]) {
    const at = (healthy.gateway.views.layout.backendSlots.at >> 2) + slot * BACKEND_WORDS;
    healthy.gateway.views.i32[at + B_HEALTH] = HEALTH_DOWN;
  }
  healthy.gateway.publish();
  assert.deepEqual(healthy.client(echo), []);
});

test("ARP for VIP and SNAT addresses is answered with the interface's MAC, others are left", () => {
  const bench = new Bench({ yaml: yaml() });
  for (const target of [VIP, SNAT]) {
    const [reply] = bench.raw(arpRequest({ senderAddress: CLIENT, targetAddress: target }), 0);
    assert.equal(reply!.interface, 0);
    assert.equal(
      describe(reply!.bytes, 14),
      `${GATEWAY_MACS[0]} > ${CLIENT_MAC} arp 2 from ${target} at ${GATEWAY_MACS[0]} for ${CLIENT}`,
    );
  }
  assert.deepEqual(
    bench.raw(arpRequest({ senderAddress: CLIENT, targetAddress: "198.51.100.1" }), 0),
    [],
  );
  assert.deepEqual(bench.raw(arpRequest({ senderAddress: VIP, targetAddress: VIP }), 0), []);
  assert.equal(bench.count("passed"), 2);
  const standby = new Bench({
    yaml: yaml().replace("[eth0, eth1]", "[eth0, eth1], announce: false"),
  });
  assert.deepEqual(standby.raw(arpRequest({ senderAddress: CLIENT, targetAddress: VIP }), 0), []);
});

test("an announcement is one gratuitous request per address and interface", () => {
  const bench = new Bench({ yaml: yaml() });
  bench.gateway.views.i32[H_ANNOUNCE_REQUESTED] = 1;
  // The hash of addresses is walked a part at a time.
  const sent = Array.from({ length: 4 }, () => bench.pause(1)).flat();
  assert.deepEqual(
    sent.map((one) => `${one.interface} ${describe(one.bytes, 14)}`).sort(),
    [0, 1]
      .flatMap((index) =>
        [SNAT, VIP].map(
          (own) =>
            `${index} ${GATEWAY_MACS[index]} > ff:ff:ff:ff:ff:ff arp 1 from ${own} at ${GATEWAY_MACS[index]} for ${own}`,
        ),
      )
      .sort(),
  );
  assert.equal(bench.gateway.views.i32[bench.gateway.views.layout.workerWord + W_ANNOUNCE_DONE], 1);
  assert.deepEqual(bench.pause(1), []);
  // The spares that held ARP hold IPv4 next.
  good(bench.client(tcpPacket({ ...TCP, flags: ACK })));
  assert.equal(bench.count("replied"), 1);
});

for (const mode of ["nat", "full-nat"]) {
  test(`${mode}: an ICMP error about a flow reaches the other end, translated outside and inside`, () => {
    const bench = new Bench({ yaml: yaml({ mode }) });
    const seen = bench.connect();
    const router = "192.0.2.99";

    // About a packet that we sent to the backend: it goes to the client.
    const toBackend = tcpPacket({
      source: seen.source,
      destination: BACKEND,
      sourcePort: seen.sourcePort,
      destinationPort: 8080,
    });
    const needed = icmpError({ type: 3, code: 4, rest: 1400, quote: toBackend.subarray(0, 28) });
    const [forClient] = bench.backend(
      ipv4Packet({ source: router, destination: seen.source, protocol: 1, payload: needed }),
    );
    good([forClient!]);
    assert.equal(forClient!.interface, 0);
    assert.equal(address(forClient!.bytes, 26), router);
    assert.equal(address(forClient!.bytes, 30), CLIENT);
    const inner = 14 + 20 + 8;
    assert.equal(address(forClient!.bytes, inner + 12), CLIENT);
    assert.equal(address(forClient!.bytes, inner + 16), VIP);
    assert.equal(port(forClient!.bytes, inner + 20), 40_000);
    assert.equal(port(forClient!.bytes, inner + 22), 80);
    assert.equal(port(forClient!.bytes, 14 + 20 + 6), 1400, "the MTU stays");

    // About one that we sent to the client: it goes to the backend; the whole header is quoted.
    const toClient = tcpPacket({
      source: VIP,
      destination: CLIENT,
      sourcePort: 80,
      destinationPort: 40_000,
    });
    const unreachable = icmpError({ type: 3, code: 1, quote: toClient });
    const [forBackend] = bench.client(
      ipv4Packet({ source: router, destination: VIP, protocol: 1, payload: unreachable }),
    );
    good([forBackend!]);
    assert.equal(forBackend!.interface, 1);
    assert.equal(address(forBackend!.bytes, 26), mode === "nat" ? router : SNAT);
    assert.equal(address(forBackend!.bytes, 30), BACKEND);
    assert.equal(address(forBackend!.bytes, inner + 12), BACKEND);
    assert.equal(address(forBackend!.bytes, inner + 16), seen.source);
    // The quoted TCP checksum was right, and it is right for what it quotes now.
    const quote = forBackend!.bytes.slice(inner);
    assert.equal(checksumFault(quote, { linkHeaderBytes: 0 }), null);

    // A port unreachable by the backend itself comes from the VIP.
    const refused = icmpError({ type: 3, code: 3, quote: toBackend.subarray(0, 28) });
    const [own] = bench.backend(
      ipv4Packet({ source: BACKEND, destination: seen.source, protocol: 1, payload: refused }),
    );
    assert.equal(address(own!.bytes, 26), VIP);
    assert.equal(bench.live, 1, "no ICMP message ends a flow (RFC 5508 REQ-4)");

    const strange = icmpError({
      type: 3,
      code: 1,
      quote: tcpPacket({ ...TCP, source: VIP, destination: "198.51.100.77" }),
    });
    assert.deepEqual(
      bench.client(ipv4Packet({ source: router, destination: VIP, protocol: 1, payload: strange })),
      [],
    );
    assert.equal(bench.count("icmp_no_flow"), 1);
  });

  test(`${mode}: a hop limit that ends here is answered, in both directions`, () => {
    const bench = new Bench({ yaml: yaml({ mode }) });
    const seen = bench.connect();
    const [toClient] = bench.client(tcpPacket({ ...TCP, flags: ACK, ip: { ttl: 1 } }));
    assert.match(line(toClient!), /^203\.0\.113\.10 > 198\.51\.100\.2 icmp 11\/0/);
    const back = {
      source: BACKEND,
      sourcePort: 8080,
      destination: seen.source,
      destinationPort: seen.sourcePort,
    };
    const [toBackend] = bench.backend(tcpPacket({ ...back, flags: ACK, ip: { ttl: 1 } }));
    assert.equal(address(toBackend!.bytes, 26), mode === "nat" ? VIP : SNAT);
    assert.equal(address(toBackend!.bytes, 30), BACKEND);
    good([toClient!, toBackend!]);
    assert.equal(bench.count("replied"), 2);
  });

  test(`${mode}: a partial checksum takes the addresses alone and stays partial`, () => {
    const bench = new Bench({ yaml: yaml({ mode }) });
    bench.connect();
    const words = { vnet: VNET_F_NEEDS_CSUM, csum: (16 << 16) | (14 + 20) };
    const packet = tcpPacket({ ...TCP, flags: ACK, data: [1, 2, 3, 4, 5], checksum: "partial" });
    const [sent] = bench.client(packet, words);
    assert.equal(checksumFault(sent!.bytes, { linkHeaderBytes: 14, partial: true }), null);
    assert.equal(sent!.vnet, words.vnet);
    assert.equal(sent!.csum, words.csum);
    const udpWords = { vnet: VNET_F_NEEDS_CSUM, csum: (6 << 16) | (14 + 20) };
    const [datagram] = bench.client(
      udpPacket({ ...UDP, data: [9], checksum: "partial" }),
      udpWords,
    );
    assert.equal(checksumFault(datagram!.bytes, { linkHeaderBytes: 14, partial: true }), null);
  });
}

test("only what is sent on counts as a backend's traffic", () => {
  const bench = new Bench({ yaml: yaml() });
  bench.connect();
  const { views } = bench.gateway;
  const at = views.layout.backendRuns.at >> 3;
  const before = [views.f64[at + BF_PACKETS_IN], views.f64[at + BF_BYTES_IN]];
  assert.deepEqual(before, [2, 80]);
  bench.client(tcpPacket({ ...TCP, flags: ACK, ip: { ttl: 1 } }));
  assert.deepEqual([views.f64[at + BF_PACKETS_IN], views.f64[at + BF_BYTES_IN]], before);
});

test("UDP without a checksum stays without, and a computed zero is all ones", () => {
  const bench = new Bench({ yaml: yaml() });
  const [none] = bench.client(udpPacket({ ...UDP, data: [1, 2], checksum: "none" }));
  assert.equal(port(none!.bytes, 14 + 20 + 6), 0);
  // Two bytes of data run through all values, so one of them makes the sum all ones.
  let ones = 0;
  for (let value = 0; value < 65_536; value++) {
    const [sent] = bench.client(udpPacket({ ...UDP, data: [value >>> 8, value & 0xff] }));
    const checksum = port(sent!.bytes, 14 + 20 + 6);
    assert.notEqual(checksum, 0);
    if (checksum === 0xffff) {
      ones++;
      good([sent!]);
    }
  }
  assert.equal(ones, 1);
});

test("over the egress MTU: fragmentation needed with DF, fragments without", () => {
  const bench = new Bench({ yaml: yaml(), mtu: [1500, 1400] });
  const data = Uint8Array.from({ length: 1460 }, (_, index) => index & 0xff);
  bench.connect();
  const [needed] = bench.client(tcpPacket({ ...TCP, flags: ACK, data }));
  assert.match(line(needed!), /^203\.0\.113\.10 > 198\.51\.100\.2 icmp 3\/4 mtu 1400 /);
  assert.equal(port(needed!.bytes, 14 + 20 + 6), 1400);
  good([needed!]);

  const pieces = bench.client(udpPacket({ ...UDP, data, ip: { fragmentWord: 0, id: 77 } }));
  assert.equal(pieces.length, 2);
  const payload = new Uint8Array(1468);
  for (const piece of pieces) {
    assert.ok(piece.bytes.length - 14 <= 1400);
    // One identification, of the gateway's own (RFC 6864 section 5.3).
    assert.equal(port(piece.bytes, 14 + 4), port(pieces[0]!.bytes, 14 + 4));
    assert.equal(checksumFault(piece.bytes.slice(0, 34), { linkHeaderBytes: 14 }), null);
    payload.set(piece.bytes.subarray(34), (port(piece.bytes, 20) & 0x1fff) * 8);
  }
  const whole = ipv4Packet({ source: CLIENT, destination: BACKEND, protocol: 17, payload });
  assert.equal(checksumFault(whole, { linkHeaderBytes: 0 }), null, "the pieces make the datagram");
  assert.deepEqual(payload.slice(8), data);
});

test("a GSO packet goes whole when its segments fit, is refused with DF, and cut smaller without", () => {
  const data = Uint8Array.from({ length: 20_000 }, (_, index) => index & 0xff);
  const words = {
    vnet: VNET_F_NEEDS_CSUM | (VNET_GSO_TCPV4 << 8) | (1448 << 16),
    csum: (16 << 16) | 34,
  };
  const segment = (fragmentWord: number): Uint8Array =>
    tcpPacket({ ...TCP, flags: ACK, data, checksum: "partial", ip: { fragmentWord } });
  const wide = new Bench({ yaml: yaml(), slotBytes: 65_600, slots: 64 });
  wide.connect();
  const [whole] = wide.client(segment(0x4000), words);
  assert.equal(whole!.bytes.length, 14 + 40 + data.length);
  assert.equal(whole!.vnet, words.vnet);
  const narrow = new Bench({ yaml: yaml(), slotBytes: 65_600, slots: 64, mtu: [1500, 1400] });
  narrow.connect();
  const [needed] = narrow.client(segment(0x4000), words);
  assert.match(line(needed!), /icmp 3\/4 mtu 1400 /);
  const [smaller] = narrow.client(segment(0), words);
  assert.equal(smaller!.vnet >>> 16, 1400 - 40);
  assert.equal(smaller!.bytes.length, 14 + 40 + data.length);
});

test("what the device refuses is a drop of the frame that it came from", () => {
  for (const [result, reason] of [
    [TX_FULL, "tx_full"],
    [TX_TOO_BIG, "too_big"],
    [TX_FAILED, "tx_failed"],
  ] as const) {
    const bench = new Bench({ yaml: yaml() });
    bench.gateway.device.refuse(result, 1);
    assert.deepEqual(bench.client(tcpPacket({ ...TCP, flags: SYN })), []);
    assert.equal(bench.count(reason), 1);
    assert.equal(bench.count("forwarded"), 0);
  }
});

test("no backend: a RST or port unreachable, or a silent drop, or the sorry server", () => {
  const down = (bench: Bench): void => {
    for (const slot of [0, 1, 2]) {
      const at = (bench.gateway.views.layout.backendSlots.at >> 2) + slot * BACKEND_WORDS;
      bench.gateway.views.i32[at + B_HEALTH] = HEALTH_DOWN;
    }
    bench.gateway.publish();
  };
  const reset = new Bench({ yaml: yaml({ health: true }) });
  down(reset);
  const [rst] = reset.client(tcpPacket({ ...TCP, flags: SYN, sequence: 99 }));
  assert.match(line(rst!), /^203\.0\.113\.10:80 > 198\.51\.100\.2:40000 tcp RA seq 0 ack 100 /);
  const [unreachable] = reset.client(udpPacket({ ...UDP, data: [1] }));
  assert.match(line(unreachable!), /icmp 3\/3 /);
  good([rst!, unreachable!]);

  const drop = new Bench({ yaml: yaml({ health: true, more: "noBackend: { action: drop }," }) });
  down(drop);
  assert.deepEqual(drop.client(tcpPacket({ ...TCP, flags: SYN })), []);
  assert.equal(drop.count("no_backend"), 1);

  const sorry = "noBackend: { action: sorry, address: 10.20.0.99, port: 9000 },";
  const other = new Bench({ yaml: yaml({ health: true, more: sorry }) });
  for (const slot of [0, 2]) {
    const at = (other.gateway.views.layout.backendSlots.at >> 2) + slot * BACKEND_WORDS;
    other.gateway.views.i32[at + B_HEALTH] = HEALTH_DOWN;
  }
  other.gateway.publish();
  other.gateway.hops({
    backends: new Map(
      [1, 3].map((slot) => [
        slot,
        { address: addressOf("10.20.0.99"), interface: 1, mtu: 1500, mac: "02:00:0a:14:00:63" },
      ]),
    ),
    neighbours: [],
    routes: [],
    interfaces: GATEWAY_MACS.map((mac) => ({ mac, mtu: 1500, up: true })),
  });
  const [sent] = other.client(tcpPacket({ ...TCP, flags: SYN }));
  assert.match(line(sent!), /> 10\.20\.0\.99:9000 tcp S/);
});

test("a next hop that is not known is asked for, and the frame is `no_neighbour`", () => {
  const bench = new Bench({ yaml: yaml() });
  bench.gateway.hops({
    backends: new Map([[0, { address: addressOf(BACKEND), interface: 1, mtu: 1500, mac: null }]]),
    neighbours: [],
    routes: [],
    interfaces: GATEWAY_MACS.map((mac) => ({ mac, mtu: 1500, up: true })),
  });
  assert.deepEqual(bench.client(tcpPacket({ ...TCP, flags: SYN })), []);
  assert.equal(bench.count("no_neighbour"), 1);
  assert.deepEqual(bench.client(udpPacket({ ...UDP, data: [1] })), []);
  assert.equal(bench.count("no_route"), 1);
});

test("replies go by route when the configuration says so", () => {
  const bench = new Bench({ yaml: yaml().replace("[eth0, eth1]", "[eth0, eth1], replies: route") });
  const hop = {
    address: addressOf(BACKEND),
    interface: 1,
    mtu: 1500,
    mac: backendMac(addressNumber(BACKEND)),
  };
  bench.gateway.hops({
    backends: new Map([[0, hop]]),
    neighbours: [
      {
        address: addressOf("198.51.100.254"),
        interface: 0,
        mtu: 1500,
        mac: "02:00:00:00:09:09",
      },
    ],
    routes: [
      {
        address: addressOf("0.0.0.0"),
        prefixLength: 0,
        via: addressOf("198.51.100.254"),
        interface: 0,
        mtu: 1500,
      },
      { address: addressOf("10.20.0.0"), prefixLength: 24, via: null, interface: 1, mtu: 1500 },
    ],
    interfaces: GATEWAY_MACS.map((mac) => ({ mac, mtu: 1500, up: true })),
  });
  bench.client(tcpPacket({ ...TCP, flags: SYN }));
  const back = { source: BACKEND, sourcePort: 8080, destination: CLIENT, destinationPort: 40_000 };
  const [reply] = bench.backend(tcpPacket({ ...back, flags: SYN | ACK }));
  assert.match(describe(reply!.bytes, 14), new RegExp(`^${GATEWAY_MACS[0]} > 02:00:00:00:09:09 `));
});

test("an idle established connection ends with RST to both ends, in window", () => {
  const bench = new Bench({ yaml: yaml() });
  bench.connect();
  assert.deepEqual(bench.pause(7_439_000), []);
  const sent = bench.pause(2_000);
  good(sent);
  assert.deepEqual(
    sent
      .map(line)
      .map((text) => text.split(" data")[0])
      .sort(),
    [
      "198.51.100.2:40000 > 10.20.0.11:8080 tcp RA seq 1001 ack 5001",
      "203.0.113.10:80 > 198.51.100.2:40000 tcp RA seq 5001 ack 1001",
    ],
  );
  assert.equal(bench.live, 0);
  const silent = new Bench({ yaml: yaml({ more: "onIdle: silent," }) });
  silent.connect();
  assert.deepEqual(silent.pause(7_500_000), []);
  assert.equal(silent.live, 0);
});

test("a disabled backend's flows end: RST both ways in the walk, a datagram is balanced anew", () => {
  const bench = new Bench({ yaml: yaml() });
  bench.connect();
  bench.client(udpPacket({ ...UDP, data: [1] }));
  const { views } = bench.gateway;
  const at = views.layout.backendSlots.at >> 2;
  views.i32[at + B_ADMIN] = ADMIN_DISABLED;
  const rules = applyExistingRules(views, bench.gateway.definition, { services: [] }, bench.now);
  assert.equal(rules.sweep, true);
  views.i32[H_SWEEP_REQUESTED] = 1;
  const sent = bench.pause(1);
  assert.equal(sent.length, 2);
  good(sent);
  assert.equal(bench.live, 1, "the datagram's flow stays");
  assert.equal(backendFlows(views, 0), 0);
});

test("a drained node makes no flow and keeps those it has", () => {
  const bench = new Bench({ yaml: yaml() });
  bench.connect();
  bench.gateway.views.i32[H_NODE_DRAINED] = 1;
  assert.equal(bench.client(tcpPacket({ ...TCP, flags: ACK })).length, 1);
  assert.deepEqual(bench.client(tcpPacket({ ...TCP, sourcePort: 5, flags: SYN })), []);
  assert.equal(bench.count("node_draining"), 1);
  const asked = bench.raw(arpRequest({ senderAddress: CLIENT, targetAddress: VIP }), 0);
  assert.equal(asked.length, 1, "its flows still need the address");
  bench.gateway.views.i32[H_ANNOUNCE_REQUESTED] = 7;
  for (let batch = 0; batch < 4; batch++) assert.deepEqual(bench.pause(1), []);
});

test("a full table evicts half-open flows for new ones, and never an established one", () => {
  const bench = new Bench({ yaml: yaml(), size: { flowCapacity: 64 } });
  bench.connect();
  for (let index = 0; index < 500; index++) {
    assert.equal(
      bench.client(tcpPacket({ ...TCP, sourcePort: 1000 + index, flags: SYN })).length,
      1,
    );
  }
  assert.equal(bench.live, 64);
  const table = createFlowTable(bench.gateway.views);
  const found = table.find(6, addressNumber(CLIENT), addressNumber(VIP), (40_000 << 16) | 80);
  assert.equal(
    bench.gateway.views.i32[table.word(found >> 1) + F_STATE]! & 0xff,
    STATE_ESTABLISHED,
  );

  const strict = new Bench({
    yaml: yaml({ top: "flows: { whenFull: drop }" }),
    size: { flowCapacity: 64 },
  });
  for (let index = 0; index < 70; index++)
    strict.client(tcpPacket({ ...TCP, sourcePort: 1000 + index, flags: SYN }));
  assert.equal(strict.count("flow_table_full"), 6);
});

test("RST and ICMP of our own making share one bucket", () => {
  const bench = new Bench({ yaml: yaml() });
  let answered = 0;
  for (let index = 0; index < 1500; index++) {
    answered += bench.client(tcpPacket({ ...TCP, sourcePort: 1 + index, flags: ACK })).length;
  }
  assert.equal(answered, 1000);
  assert.equal(bench.count("reply_rate_limited"), 500);
  bench.pause(100);
  assert.equal(bench.client(tcpPacket({ ...TCP, sourcePort: 9, flags: ACK })).length, 1);
  assert.deepEqual(
    bench.client(tcpPacket({ ...TCP, sourcePort: 9, flags: RST })),
    [],
    "never about a RST",
  );
  const at = bench.gateway.views.layout.counters.at >> 3;
  assert.equal(bench.gateway.views.f64[at + C_RST_SENT], 1001);
  assert.equal(bench.gateway.views.f64[at + C_ORIGINATED], 0);
});

test("on TUN a packet that is no flow goes back as it came, and a flow's keeps its TTL", () => {
  const bench = new Bench({ yaml: yaml(), linkHeaderBytes: 0 });
  const [syn] = bench.raw(tcpPacket({ ...TCP, flags: SYN, ip: { ttl: 9 } }), 0);
  assert.match(
    describe(syn!.bytes, 0),
    /^198\.51\.100\.2:40000 > 10\.20\.0\.11:8080 tcp S .* ttl 9 /,
  );
  assert.equal(checksumFault(syn!.bytes, { linkHeaderBytes: 0 }), null);
  const stray = tcpPacket({
    source: BACKEND,
    sourcePort: 22,
    destination: CLIENT,
    destinationPort: 7,
    flags: ACK,
  });
  const [back] = bench.raw(stray, 0);
  assert.deepEqual(back!.bytes, stray);
  assert.equal(bench.count("passed"), 1);
});

test("in steady state nothing is allocated per packet", () => {
  const gateway = createMemoryGateway({ yaml: yaml({ mode: "full-nat" }), keepSent: false });
  const packets = Array.from({ length: 64 }, (_, index) =>
    ethernetFrame(
      tcpPacket({ ...TCP, sourcePort: 1000 + index, flags: index < 32 ? SYN : ACK, data: [1] }),
      {
        destination: GATEWAY_MACS[0],
        source: CLIENT_MAC,
      },
    ),
  );
  let now = 0;
  const run = (batches: number): void => {
    for (let batch = 0; batch < batches; batch++) {
      for (let index = 0; index < 64; index++) gateway.device.inject(packets[index]!, 0);
      gateway.device.setTick(now++);
      gateway.datapath.runBatch(0);
    }
  };
  const BATCHES = 8000;
  setFlagsFromString("--expose-gc");
  const collect = runInNewContext("gc") as () => void;
  run(5000);
  const rounds = Array.from({ length: 5 }, () => {
    collect();
    const before = process.memoryUsage().heapUsed;
    run(BATCHES);
    return process.memoryUsage().heapUsed - before;
  });
  const grown = Math.min(...rounds);
  // What is measured includes the measuring itself, a few kilobytes in all.
  assert.ok(grown < BATCHES * 64 * 0.1, `${grown} bytes for ${BATCHES * 64} packets`);
});
