import assert from "node:assert/strict";
import { test } from "node:test";
import { createRandom, type Random } from "../../src/base/random.ts";
import { C_FLOWS_CREATED, C_STATELESS_PACKETS } from "../../src/datapath/counters.ts";
import { flowsUsed } from "../../src/state/shards.ts";
import { cutPacket } from "../support/fragments.ts";
import { ACK, ethernetFrame, FIN, PSH, RST, SYN, tcpPacket, udpPacket } from "../support/frames.ts";
import { tcpPacket6, udpPacket6 } from "../support/frames6.ts";
import { CLIENT_MAC, createMemoryGateway, GATEWAY_MACS } from "../support/memory-gateway.ts";
import { AdmissionBench, type Sent, TCP, UDP } from "./admission-bench.ts";

/**
 * Goal: above `flows.statelessAbove` packets of hash services in one-way modes go where their flows
 * would have led, to the byte, and no flow is made; what needs a flow has one.
 * Method: frames in memory, a clock of the test's own; a gateway that makes every flow is the oracle.
 */

const SEED = Number(process.env["SEED"] ?? 20_261_125);
const VIP6 = "2001:db8:ff::10";
const BACKENDS = ["10.20.0.11", "10.20.0.12", "10.20.0.13"];
const BACKENDS6 = ["2001:db8:2::11", "2001:db8:2::12"];

interface Options {
  readonly above?: number | "off";
  readonly mode?: string;
  readonly scheduler?: string;
  readonly more?: string;
  readonly backends?: readonly string[];
}

function yaml(options: Options): string {
  const { above = "off", mode = "ipip", scheduler = "maglev", more = "ping: always" } = options;
  const vips =
    mode === "ipip" || mode === "gue" ? `${TCP.destination}, "${VIP6}"` : TCP.destination;
  const backends = (options.backends ?? BACKENDS).map((it) => `{ address: "${it}" }`).join(", ");
  return `
version: 1
device: { type: packet, interfaces: [eth0, eth1] }
flows: { statelessAbove: ${above} }
tunnel: { source: { ipv4: 10.20.0.1, ipv6: "2001:db8:2::1" } }
services:
  - { name: all, vip: [${vips}], port: any, protocol: [tcp, udp],
      mode: ${mode}, scheduler: ${scheduler}, ${more},
      backends: [${backends}] }
`;
}

const bench = (options: Options): AdmissionBench => new AdmissionBench({ yaml: yaml(options) });
const syn = (sourcePort: number): Uint8Array => tcpPacket({ ...TCP, sourcePort, flags: SYN });
const bytesOf = (sent: readonly Sent[]): string[] =>
  sent.map(({ bytes }) => Buffer.from(bytes).toString("hex"));

/** Packets of clients that come back, as senders send them: a RST is of a connection that began. */
function packetsOf(random: Random, six: boolean): () => Uint8Array {
  const begun = new Set<string>();
  return () => {
    const length = random.below(6) === 0 ? 1400 + random.below(80) : random.below(200);
    const data = Uint8Array.from({ length }, () => random.below(256));
    const host = 1 + random.below(40);
    const from = {
      source: six ? `2001:db8:1::${host.toString(16)}` : `198.51.100.${host}`,
      destination: six ? VIP6 : TCP.destination,
      sourcePort: 1024 + random.below(4),
      destinationPort: 80 + random.below(3),
      data,
    };
    if (random.below(3) === 0) return six ? udpPacket6(from) : udpPacket(from);
    const key = `${host} ${from.sourcePort} ${from.destinationPort}`;
    const kinds = begun.has(key) ? [SYN, ACK, ACK | PSH, ACK | FIN, RST | ACK] : [SYN, ACK];
    begun.add(key);
    const tcp = { ...from, flags: kinds[random.below(kinds.length)]!, sequence: 7 };
    if (six) return tcpPacket6(tcp);
    return tcpPacket({ ...tcp, ip: { fragmentWord: random.below(2) === 0 ? 0x4000 : 0 } });
  };
}

const CASES = [
  { mode: "dsr", scheduler: "maglev" },
  { mode: "dsr", scheduler: "source-hash", more: "udp: { perPacket: true }" },
  { mode: "ipip", scheduler: "maglev", more: "mss: 1300" },
  { mode: "ipip", scheduler: "source-hash", backends: BACKENDS6 },
  { mode: "gue", scheduler: "maglev" },
  { mode: "gue", scheduler: "source-hash", backends: BACKENDS6 },
  { mode: "ipip", scheduler: "rendezvous" },
  { mode: "gue", scheduler: "failover", backends: BACKENDS6 },
] as const;

for (const [index, options] of CASES.entries()) {
  const { mode, scheduler } = options;
  const backends = "backends" in options ? options.backends : BACKENDS;
  for (const six of mode === "dsr" ? [false] : [false, true]) {
    const title = `${mode}, ${scheduler}, ${backends[0]}, IPv${six ? 6 : 4} clients`;
    test(`${title}: without flows as with flows, byte by byte`, () => {
      const kept = bench({ ...options });
      const bare = bench({ ...options, above: 1 });
      // Its only token.
      assert.equal(bare.client(syn(9)).length + kept.client(syn(9)).length, 2);
      const next = packetsOf(createRandom(SEED + index), six);
      const reached = new Set<string>();
      for (let count = 0; count < 600; count++) {
        const packet = next();
        const [want, got] = [kept.client(packet), bare.client(packet)];
        assert.deepEqual(bytesOf(got), bytesOf(want), `seed ${SEED + index}, packet ${count}`);
        for (const { bytes } of got) reached.add(bytes.subarray(0, 6).join());
      }
      assert.ok(reached.size >= (scheduler === "failover" ? 1 : backends.length));
      assert.deepEqual(bare.gateway.counters(), kept.gateway.counters());
      assert.ok(kept.live > 100);
      assert.equal(bare.live, 1);
      const without = bare.counter(C_STATELESS_PACKETS);
      assert.equal(without, bare.count("forwarded") - 1);
      assert.equal(kept.counter(C_STATELESS_PACKETS), 0);
    });
  }
}

test("the rate: a tenth of a second's worth at once, then exactly the rate, and again below it", () => {
  const one = bench({ above: 200 });
  let port = 1;
  const flood = (count: number): void => {
    for (let index = 0; index < count; index++) {
      assert.equal(one.client(syn(port++)).length, 1, "every SYN goes on");
    }
  };
  flood(50);
  assert.equal(one.live, 20);
  for (let ms = 0; ms < 500; ms += 5) {
    one.pause(5);
    flood(3);
  }
  assert.equal(one.counter(C_FLOWS_CREATED), 20 + 100);
  assert.equal(one.counter(C_STATELESS_PACKETS), 30 + 200);
  one.pause(100);
  flood(20);
  assert.equal(one.counter(C_FLOWS_CREATED), 140, "the bucket was full again");
  assert.equal(one.counter(C_STATELESS_PACKETS), 230);
});

test("less than ten a second: one at once, a token when a whole one has gathered", () => {
  const one = bench({ above: 3 });
  const made = (port: number, ms: number): number => {
    one.pause(ms);
    one.client(syn(port));
    return one.counter(C_FLOWS_CREATED);
  };
  assert.deepEqual(
    [made(1, 0), made(2, 0), made(3, 333), made(4, 1), made(5, 5000)],
    [1, 1, 1, 2, 3],
  );
  assert.equal(made(6, 0), 3);
});

test("off, or below the rate: every packet has its flow", () => {
  for (const above of ["off", 10_000] as const) {
    const one = bench({ above });
    for (let port = 1; port <= 300; port++) one.client(syn(port));
    assert.equal(one.live, 300);
    assert.equal(one.counter(C_STATELESS_PACKETS), 0);
  }
});

test("a connection begun without a flow goes on, gets one later, and keeps its backend", () => {
  const one = bench({ above: 1 });
  one.client(syn(1));
  const tcp = { ...TCP, sourcePort: 2 };
  const macOf = ([sent]: Sent[]): string => Buffer.from(sent!.bytes.subarray(0, 6)).toString("hex");
  const mac = macOf(one.client(tcpPacket({ ...tcp, flags: SYN })));
  assert.equal(macOf(one.client(tcpPacket({ ...tcp, flags: ACK, data: [1] }))), mac);
  assert.equal(one.live, 1);
  one.pause(1000);
  assert.equal(macOf(one.client(tcpPacket({ ...tcp, flags: ACK, data: [2] }))), mac);
  assert.equal(one.live, 2, "adopted");
});

test("a RST ends a connection begun without a flow, and after a second it is a stray", () => {
  const one = bench({ above: 1 });
  one.client(syn(1));
  const rst = tcpPacket({ ...TCP, sourcePort: 2, flags: RST });
  assert.equal(one.client(rst).length, 0, "nothing has gone without a flow yet");
  one.client(syn(2));
  one.pause(1000);
  assert.equal(one.client(rst).length, 1, "though there is a token");
  assert.equal(one.live, 1);
  one.pause(1001);
  assert.equal(one.client(rst).length, 0);
  assert.equal(one.count("out_of_state"), 2);
});

test("fragments have a flow, which the later ones follow", () => {
  const one = bench({ above: 1, mode: "dsr" });
  one.client(syn(1));
  const datagram = udpPacket({ ...UDP, data: new Uint8Array(900) });
  const { source, destination } = UDP;
  const cut = { source, destination, protocol: 17, id: 7, payload: 400 };
  const sent = cutPacket(datagram.subarray(20), cut).flatMap((packet) => one.client(packet));
  assert.equal(sent.length, 3);
  assert.equal(new Set(sent.map(({ bytes }) => bytes.subarray(0, 6).join())).size, 1);
  assert.equal(one.live, 2);
});

const WITH_FLOWS = [
  { why: "nat", options: { mode: "nat" } },
  { why: "a scheduler that chooses anew", options: { scheduler: "rr" } },
  { why: "maglev with a bound on loads", options: { more: "maxLoad: 1.25" } },
  {
    why: "a TCP service that refuses what is out of state",
    options: { more: "outOfState: drop" },
  },
  { why: "connections", options: { more: "limits: { connections: 1000 }" } },
  { why: "perBackend", options: { more: "limits: { perBackend: { connections: 900 } }" } },
  { why: "newPerSource", options: { more: "limits: { newPerSource: { rate: 1000 } }" } },
] as const;

for (const { why, options } of WITH_FLOWS) {
  test(`${why}: flows as ever, above the rate too`, () => {
    const backends = why === "nat" ? BACKENDS.slice(0, 1) : BACKENDS;
    const one = bench({ above: 1, backends, ...options });
    for (let port = 1; port <= 50; port++) assert.equal(one.client(syn(port)).length, 1);
    assert.equal(one.live, 50);
    assert.equal(one.counter(C_STATELESS_PACKETS), 0);
  });
}

test("packetsPerSecond counts packets without flows", () => {
  const one = bench({ above: 1, more: "limits: { packetsPerSecond: 100 }" });
  one.client(syn(1));
  for (let count = 0; count < 30; count++) one.client(syn(2));
  assert.equal(one.live, 1);
  assert.equal(one.count("forwarded"), 10);
  assert.equal(one.count("packets_limited"), 21);
});

test("three workers: their shares are the rate", () => {
  const gateway = createMemoryGateway({ yaml: yaml({ above: 301 }), size: { workers: 3 } });
  const link = { destination: GATEWAY_MACS[0], source: CLIENT_MAC };
  let port = 1;
  for (let ms = 0; ms <= 1000; ms += 50) {
    for (const { device } of gateway.workers) device.setTick(1_000_000 + ms);
    for (let count = 0; count < 60; count++) {
      gateway.device.inject(ethernetFrame(syn(port++), link), 0);
      gateway.settle();
    }
  }
  gateway.checkLaw();
  const { views } = gateway;
  // Tenths of a second of 101, 100 and 100, and a second's worth.
  assert.equal(flowsUsed(views), 111 + 110 + 110);
  const made = gateway.workers.map(({ views: own }) => {
    const at = own.layout.counters.at >> 3;
    return own.f64[at + C_STATELESS_PACKETS]!;
  });
  assert.equal(
    made.reduce((sum, count) => sum + count, 0),
    21 * 60 - 331,
  );
});
