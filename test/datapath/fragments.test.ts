import assert from "node:assert/strict";
import { type TestContext, test } from "node:test";
import {
  FRAGMENT_ENTRIES,
  FRAGMENT_HELD_MS,
  FRAGMENT_TOKENS_BURST,
  FRAGMENTS_HELD_MAX,
  FRAGMENTS_HELD_OF_DATAGRAM_MAX,
} from "../../src/base/limits.ts";
import { createRandom, type Random } from "../../src/base/random.ts";
import { TX_FULL } from "../../src/device/device.ts";
import { cutPacket, joinPackets, type Whole } from "../support/fragments.ts";
import {
  ACK,
  addressNumber,
  ethernetFrame,
  icmpEcho,
  icmpError,
  ipv4Packet,
  pseudoHeader,
  SYN,
  slowSum,
  tcpSegment,
  udpDatagram,
  udpPacket,
} from "../support/frames.ts";
import {
  backendMac,
  CLIENT_MAC,
  createMemoryGateway,
  GATEWAY_MACS,
  type MemoryGateway,
} from "../support/memory-gateway.ts";

/**
 * Goal: a datagram in fragments reaches one backend whole, and its answer the client, in whatever
 * order the fragments come and to whichever worker; everything else is a drop with its reason.
 * Method: datagrams are cut and put together by code of the test (test/support/fragments.ts), frames
 * are in memory, and the verdict law is checked all the time.
 */

const CLIENT = "198.51.100.2";
const VIP = "203.0.113.10";
const BACKENDS = ["10.20.0.11", "10.20.0.12", "10.20.0.13"];
const SNAT = "10.20.0.100";

function yaml(mode: string, scheduler: string): string {
  return `
version: 1
device: { type: packet, interfaces: [eth0, eth1] }
snat: { addresses: [${SNAT}], ports: 2000-9999 }
services:
  - { name: dns, vip: ${VIP}, port: 53, protocol: [tcp, udp], mode: ${mode}, scheduler: ${scheduler},
      outOfState: reset, backends: [${BACKENDS.map((address) => `{ address: ${address}, port: 5353 }`).join(", ")}] }
`;
}

function gatewayOf(
  t: TestContext,
  options: { mode?: string; scheduler?: string; workers?: number; link?: 0 | 14 } = {},
): MemoryGateway {
  const { mode = "nat", scheduler = "maglev", workers = 1, link = 14 } = options;
  const gateway = createMemoryGateway({
    yaml: yaml(mode, scheduler),
    linkHeaderBytes: link,
    size: { workers, flowCapacity: 8192 },
  });
  t.after(() => gateway.close());
  return gateway;
}

/** Give packets to the workers that `worker` says. @returns what came out, link headers taken off */
function pump(
  gateway: MemoryGateway,
  packets: readonly Uint8Array[],
  ingress: 0 | 1,
  worker: () => number = () => 0,
): Uint8Array[] {
  const link = gateway.device.linkHeaderBytes;
  for (const packet of packets) {
    const source = ingress === 0 ? CLIENT_MAC : backendMac(addressNumber(BACKENDS[0]!));
    const frame =
      link === 0 ? packet : ethernetFrame(packet, { destination: GATEWAY_MACS[ingress], source });
    const { device } = gateway.workers[worker()]!;
    if (device.room() === 0) gateway.settle();
    device.inject(frame, link === 0 ? 0 : ingress);
  }
  gateway.settle();
  gateway.checkLaw();
  return takeSent(gateway);
}

function takeSent(gateway: MemoryGateway): Uint8Array[] {
  const link = gateway.device.linkHeaderBytes;
  return gateway.workers.flatMap(({ device }) =>
    device.sent.splice(0).map(({ bytes }) => bytes.subarray(link)),
  );
}

function tick(gateway: MemoryGateway, ms: number): void {
  for (const { device } of gateway.workers) device.setTick(ms);
  gateway.settle();
}

function payloadOf(random: Random, bytes: number): Uint8Array {
  return Uint8Array.from({ length: bytes }, () => random.below(256));
}

function shuffle<T>(random: Random, list: readonly T[]): T[] {
  const shuffled = [...list];
  for (let index = shuffled.length - 1; index > 0; index--) {
    const other = random.below(index + 1);
    [shuffled[index], shuffled[other]] = [shuffled[other]!, shuffled[index]!];
  }
  return shuffled;
}

/** Ports and data of a datagram whose checksum is right. */
function readUdp(whole: Whole): { ports: [number, number]; data: Uint8Array } {
  const { payload, source, destination } = whole;
  const sum = slowSum([...pseudoHeader(source, destination, 17, payload.length), ...payload]);
  assert.equal(sum, 0xffff, "the datagram's checksum");
  const port = (at: number): number => payload[at]! * 256 + payload[at + 1]!;
  return { ports: [port(0), port(2)], data: payload.subarray(8) };
}

interface Query {
  readonly client: string;
  readonly port: number;
  readonly id: number;
  readonly data: Uint8Array;
}

function makeQueries(random: Random, count: number): Query[] {
  return Array.from({ length: count }, (_, index) => ({
    client: `198.51.100.${2 + random.below(200)}`,
    port: 1024 + random.below(60_000),
    id: (random.below(60_000) + index) & 0xffff,
    data: payloadOf(random, 1400 + random.below(8000)),
  }));
}

function cutDatagram(
  random: Random,
  ends: { source: string; sourcePort: number; destination: string; destinationPort: number },
  id: number,
  data: Uint8Array,
): Uint8Array[] {
  const { source, destination } = ends;
  const payload = 8 * (30 + random.below(155));
  return cutPacket(udpDatagram({ ...ends, data }), {
    payload,
    source,
    destination,
    protocol: 17,
    id,
  });
}

/** Interleave lists, each in an order of its own. */
function mix(random: Random, lists: readonly Uint8Array[][]): Uint8Array[] {
  const order = random.below(3);
  const each = lists.map((list) => {
    if (order === 0) return [...list];
    return order === 1 ? [...list].reverse() : shuffle(random, list);
  });
  const mixed: Uint8Array[] = [];
  while (each.some((list) => list.length > 0)) {
    const next = each[random.below(each.length)]!;
    if (next.length > 0) mixed.push(next.shift()!);
  }
  return mixed;
}

for (const mode of ["nat", "full-nat"] as const) {
  for (const [workers, link] of [
    [1, 14],
    [1, 0],
    [3, 14],
  ] as const) {
    const title = `${mode}, ${workers} workers, link header ${link}: datagrams and answers, any order`;
    test(title, (t) => {
      const seed = 0x5eed_0001 + workers + link;
      t.diagnostic(`seed ${seed}`);
      const random = createRandom(seed);
      const gateway = gatewayOf(t, { mode, workers, link, scheduler: "rr" });
      const anyWorker = (): number => random.below(workers);
      for (let round = 0; round < 30; round++) {
        const queries = makeQueries(random, 1 + random.below(4));
        const lists = queries.map(({ client, port, id, data }) =>
          cutDatagram(
            random,
            { source: client, sourcePort: port, destination: VIP, destinationPort: 53 },
            id,
            data,
          ),
        );
        const asked = joinPackets(pump(gateway, mix(random, lists), 0, anyWorker));
        assert.equal(asked.length, queries.length, "every datagram has come out whole");
        const answers: Uint8Array[][] = [];
        for (const whole of asked) {
          const { ports, data } = readUdp(whole);
          const query = queries.find((each) => Buffer.compare(each.data, data) === 0)!;
          assert.ok(query !== undefined, "its bytes are those of a query");
          assert.ok(BACKENDS.includes(whole.destination));
          assert.equal(ports[1], 5353);
          if (mode === "nat")
            assert.deepEqual([whole.source, ports[0]], [query.client, query.port]);
          else assert.equal(whole.source, SNAT);
          const ends = {
            source: whole.destination,
            sourcePort: 5353,
            destination: whole.source,
            destinationPort: ports[0],
          };
          answers.push(cutDatagram(random, ends, random.below(0x10000), data.toReversed()));
        }
        const heard = joinPackets(pump(gateway, mix(random, answers), 1, anyWorker));
        assert.equal(heard.length, queries.length, "every answer has come out whole");
        for (const whole of heard) {
          const { ports, data } = readUdp(whole);
          const query = queries.find(({ port }) => port === ports[1])!;
          assert.deepEqual(
            [whole.source, ports[0], whole.destination],
            [VIP, 53, query.client],
            "it comes from the VIP to who asked",
          );
          assert.deepEqual(data.toReversed(), query.data);
        }
      }
      const { held = 0, dropped } = gateway.counters();
      assert.deepEqual({ held, dropped }, { held: 0, dropped: 0 });
    });
  }
}

for (const [mode, overhead] of [
  ["dsr", 0],
  ["ipip", 20],
  ["gue", 28],
] as const) {
  test(`${mode}: fragments in reverse reach the backend as they are`, (t) => {
    const gateway = createMemoryGateway({
      yaml: `
version: 1
device: { type: packet, interfaces: [eth0, eth1] }
tunnel: { source: { ipv4: 10.20.0.1 } }
services:
  - { name: dns, vip: ${VIP}, port: 53, protocol: udp, mode: ${mode}, scheduler: rr,
      backends: [${BACKENDS.map((address) => `{ address: ${address} }`).join(", ")}] }
`,
    });
    t.after(() => gateway.close());
    const ends = { source: CLIENT, sourcePort: 4000, destination: VIP, destinationPort: 53 };
    const packets = cutPacket(udpDatagram({ ...ends, data: new Uint8Array(3000).fill(7) }), {
      payload: 1200,
      source: CLIENT,
      destination: VIP,
      protocol: 17,
      id: 5,
    }).toReversed();
    const sent = pump(gateway, packets, 0);
    assert.equal(sent.length, packets.length);
    const text = (packet: Uint8Array): string => Buffer.from(packet).toString("hex");
    const inner = sent.map((packet) => text(packet.subarray(overhead)));
    assert.deepEqual(inner.toSorted(), packets.map(text).toSorted());
    if (overhead > 0) {
      assert.equal(new Set(sent.map((packet) => packet.subarray(16, 20).join("."))).size, 1);
    }
  });
}

test("an error about a first fragment is translated, one about a later one names no flow", (t) => {
  const gateway = gatewayOf(t);
  const [first, second] = pump(gateway, three(), 0) as [Uint8Array, Uint8Array];
  const backend = first.subarray(16, 20).join(".");
  const about = (quote: Uint8Array): Uint8Array =>
    ipv4Packet({
      source: "10.20.0.254",
      destination: CLIENT,
      protocol: 1,
      payload: icmpError({ type: 11, code: 1, quote: quote.subarray(0, 28) }),
    });
  const [heard] = pump(gateway, [about(first)], 1) as [Uint8Array];
  assert.equal(heard.subarray(16, 20).join("."), CLIENT);
  const quoted = heard.subarray(28);
  assert.equal(quoted.subarray(12, 16).join("."), CLIENT, "what the client once sent");
  assert.equal(quoted.subarray(16, 20).join("."), VIP);
  assert.equal(slowSum(quoted.subarray(0, 20)), 0xffff);
  assert.notEqual(backend, VIP);
  const before = gateway.counters()["forwarded"];
  assert.deepEqual(pump(gateway, [about(second)], 1), []);
  assert.equal(gateway.counters()["forwarded"], before);
});

test("senders that use one identification stay apart where translation makes them one", (t) => {
  const random = createRandom(3);
  const gateway = gatewayOf(t, { mode: "full-nat", scheduler: "rr" });
  const queries = Array.from({ length: 12 }, (_, index) => ({
    client: `198.51.100.${2 + index}`,
    port: 4000,
    id: 77,
    data: payloadOf(random, 3000),
  }));
  const lists = queries.map(({ client, port, id, data }) =>
    cutDatagram(
      random,
      { source: client, sourcePort: port, destination: VIP, destinationPort: 53 },
      id,
      data,
    ),
  );
  const asked = joinPackets(pump(gateway, mix(random, lists), 0));
  assert.equal(asked.length, queries.length);
  assert.equal(new Set(asked.map(({ id }) => id)).size, queries.length);
  const datas = new Set(asked.map((whole) => Buffer.from(readUdp(whole).data).toString("hex")));
  assert.equal(datas.size, queries.length, "none of them mixed up");
});

/** One datagram to the VIP in three fragments: 400, 400 and 208 bytes. */
function three(id = 7, source = CLIENT, sourcePort = 4000): [Uint8Array, Uint8Array, Uint8Array] {
  const ends = { source, sourcePort, destination: VIP, destinationPort: 53 };
  const data = Uint8Array.from({ length: 1000 }, (_, index) => index & 0xff);
  return cutPacket(udpDatagram({ ...ends, data }), {
    payload: 400,
    source,
    destination: VIP,
    protocol: 17,
    id,
  }) as [Uint8Array, Uint8Array, Uint8Array];
}

/** A fragment of a datagram to the VIP, as the fields say. */
function fragment(word: number, payload: Uint8Array, id = 7, protocol = 17): Uint8Array {
  return ipv4Packet({
    source: CLIENT,
    destination: VIP,
    protocol,
    id,
    payload,
    fragmentWord: word,
  });
}

test("later fragments wait for the first, and are given up after a while", (t) => {
  const gateway = gatewayOf(t);
  const [first, second, third] = three();
  tick(gateway, 1000);
  assert.deepEqual(pump(gateway, [third, second], 0), []);
  assert.equal(gateway.counters()["held"], 2);
  tick(gateway, 1000 + FRAGMENT_HELD_MS - 1);
  assert.equal(gateway.counters()["held"], 2);
  tick(gateway, 1000 + FRAGMENT_HELD_MS);
  gateway.checkLaw();
  assert.equal(gateway.counters()["held"], undefined);
  assert.equal(gateway.counters()["fragment_timeout"], 2);
  // The first one alone goes on: the receiver gives it up.
  assert.equal(pump(gateway, [first], 0).length, 1);
  assert.equal(joinPackets(pump(gateway, [second, third], 0)).length, 0);
  gateway.checkLaw();
});

test("a copy that the device refuses is a drop with the device's reason", (t) => {
  const gateway = gatewayOf(t);
  const [first, second, third] = three();
  pump(gateway, [third, second], 0);
  gateway.device.refuse(TX_FULL, 2);
  assert.equal(pump(gateway, [first], 0).length, 1);
  const counters = gateway.counters();
  assert.deepEqual(
    [counters["tx_full"], counters["forwarded"], counters["held"]],
    [2, 1, undefined],
  );
});

test("fragments that no honest sender makes are drops with their reasons", (t) => {
  const cases: readonly [string, Uint8Array][] = [
    ["fragment_malformed", fragment(0x2000, new Uint8Array(0))],
    ["fragment_malformed", fragment(0x2000, new Uint8Array(401))],
    ["fragment_malformed", fragment(0x1fff, new Uint8Array(100))],
    ["fragment_tiny", fragment(0x2000, new Uint8Array(16), 8, 6)],
    // RFC 1858: the flags in the second fragment; RFC 3128: a second one over the flags.
    ["fragment_tiny", fragment(0x0001, new Uint8Array(80), 8, 6)],
    ["fragment_tiny", fragment(0x2001, new Uint8Array(80), 8, 6)],
    ["udp_header_malformed", fragment(0x2000, Uint8Array.of(16, 0, 0, 53, 0, 7, 0, 0))],
    ["fragment_not_supported", fragment(0x2000, icmpEcho({ data: new Uint8Array(64) }), 9, 1)],
    ["fragment_not_supported", fragment(0x2000, new Uint8Array(64), 9, 50)],
  ];
  for (const [reason, packet] of cases) {
    const gateway = gatewayOf(t);
    assert.deepEqual(pump(gateway, [packet], 0), [], reason);
    assert.equal(gateway.counters()[reason], 1, reason);
  }
  // A whole TCP header, cut behind its options, is no tiny fragment.
  const gateway = gatewayOf(t);
  const syn = tcpSegment({
    source: CLIENT,
    destination: VIP,
    sourcePort: 4000,
    destinationPort: 53,
    flags: SYN,
    options: [2, 4, 5, 180],
    data: new Uint8Array(100),
  });
  const cut = { payload: 24, source: CLIENT, destination: VIP, protocol: 6, id: 3 };
  const whole = joinPackets(pump(gateway, cutPacket(syn, cut).reverse(), 0));
  assert.equal(whole.length, 1);
  const { source, destination, payload } = whole[0]!;
  assert.equal(
    slowSum([...pseudoHeader(source, destination, 6, payload.length), ...payload]),
    0xffff,
  );
});

test("an overlap is the end of the datagram, whichever fragment makes it", (t) => {
  const seed = 0x5eed_0100;
  t.diagnostic(`seed ${seed}`);
  const random = createRandom(seed);
  for (let round = 0; round < 60; round++) {
    const gateway = gatewayOf(t);
    // Of 126 units one that crosses the border of two fragments, or ends the datagram elsewhere.
    const wrong = [
      fragment(0x2000 | 49, new Uint8Array(16)),
      fragment(0x2000 | 99, new Uint8Array(32)),
      fragment(127, new Uint8Array(8)),
      fragment(0x2000 | 126, new Uint8Array(8)),
    ][random.below(4)]!;
    // After the last fragment of a datagram it is too late for one: the receiver has all.
    const order = shuffle(random, three());
    order.splice(random.below(3), 0, wrong);
    const sent = pump(gateway, order, 0);
    const counters = gateway.counters();
    if (counters["fragment_duplicate"] === 1) {
      // Whatever it covers had come: it goes no further, as in Linux, and the datagram is unharmed.
      assert.equal(joinPackets(sent).length, 1);
      gateway.close();
      continue;
    }
    assert.equal(joinPackets(sent).length, 0, "nothing that could be put together");
    assert.ok(counters["fragment_overlap"]! >= 1);
    assert.equal(counters["held"], undefined);
    assert.equal(sent.length, 4 - counters["fragment_overlap"]!);
    gateway.close();
  }
});

test("a fragment that comes twice goes once", (t) => {
  const gateway = gatewayOf(t);
  const [first, second, third] = three();
  const sent = pump(gateway, [second, second, first, first, second, third], 0);
  assert.equal(joinPackets(sent).length, 1);
  assert.equal(gateway.counters()["fragment_duplicate"], 3);
});

test("what is not the gateway's passes, also in fragments and out of order", (t) => {
  for (const link of [0, 14] as const) {
    const gateway = gatewayOf(t, { link });
    const other = { source: CLIENT, destination: "192.0.2.7" };
    const packets = cutPacket(
      udpDatagram({ ...other, sourcePort: 1, destinationPort: 2, data: new Uint8Array(900) }),
      { ...other, payload: 400, protocol: 17, id: 1 },
    );
    const sent = pump(gateway, packets.toReversed(), 0);
    assert.equal(gateway.counters()["passed"], 3);
    // TUN takes them back as they came; on Ethernet the kernel has its own.
    assert.deepEqual(sent, link === 0 ? packets.toReversed() : []);
  }
});

test("a backend's own datagrams in fragments: TUN gives them back, later ones too", (t) => {
  const gateway = gatewayOf(t, { link: 0 });
  const other = { source: BACKENDS[0]!, destination: "192.0.2.7" };
  const packets = cutPacket(
    udpDatagram({ ...other, sourcePort: 1, destinationPort: 2, data: new Uint8Array(900) }),
    { ...other, payload: 400, protocol: 17, id: 1 },
  ).toReversed();
  const sent = pump(gateway, packets, 1);
  assert.equal(joinPackets(sent).length, 1);
  assert.deepEqual(gateway.counters(), {
    ...gateway.counters(),
    passed: 3,
    forwarded: 0,
    dropped: 0,
  });
});

test("of a first fragment that is refused the others go no further", (t) => {
  const gateway = gatewayOf(t);
  const ends = { source: CLIENT, destination: VIP };
  const packets = cutPacket(
    udpDatagram({ ...ends, sourcePort: 1, destinationPort: 54, data: new Uint8Array(900) }),
    { ...ends, payload: 400, protocol: 17, id: 1 },
  );
  const [first, second, third] = packets as [Uint8Array, Uint8Array, Uint8Array];
  assert.deepEqual(pump(gateway, [second, first, third], 0), []);
  const { no_service, fragment_refused } = gateway.counters();
  assert.deepEqual({ no_service, fragment_refused }, { no_service: 1, fragment_refused: 2 });
});

test("a segment in fragments without a flow is answered once", (t) => {
  const gateway = gatewayOf(t);
  const ends = { source: CLIENT, destination: VIP };
  const segment = tcpSegment({
    ...ends,
    sourcePort: 4000,
    destinationPort: 53,
    flags: ACK,
    acknowledgement: 77,
    data: new Uint8Array(900),
  });
  const packets = cutPacket(segment, { ...ends, payload: 400, protocol: 6, id: 1 });
  const sent = pump(gateway, packets, 0);
  assert.equal(sent.length, 1);
  assert.deepEqual(gateway.counters(), { ...gateway.counters(), replied: 1, fragment_refused: 2 });
});

test("copies are bounded, in all and for one datagram", (t) => {
  const gateway = gatewayOf(t);
  const later = (id: number, unit: number): Uint8Array =>
    fragment(0x2000 | unit, new Uint8Array(8), id);
  const one = Array.from({ length: 100 }, (_, index) => later(1, 10 + index));
  pump(gateway, one, 0);
  assert.equal(gateway.counters()["held"], FRAGMENTS_HELD_OF_DATAGRAM_MAX);
  const many = Array.from({ length: 400 }, (_, index) => later(100 + index, 10));
  pump(gateway, many, 0);
  const counters = gateway.counters();
  assert.equal(counters["held"], FRAGMENTS_HELD_MAX);
  assert.equal(counters["fragment_table_full"], 500 - FRAGMENTS_HELD_MAX);
  tick(gateway, 10_000);
  gateway.checkLaw();
  assert.equal(gateway.counters()["held"], undefined);
});

test("fragments of a MTU that is smaller on the way out are cut again", (t) => {
  const gateway = createMemoryGateway({ yaml: yaml("nat", "maglev"), mtu: [1500, 600] });
  t.after(() => gateway.close());
  const random = createRandom(5);
  const data = payloadOf(random, 5000);
  const ends = { source: CLIENT, sourcePort: 4000, destination: VIP, destinationPort: 53 };
  const packets = cutPacket(udpDatagram({ ...ends, data }), {
    payload: 1480,
    source: CLIENT,
    destination: VIP,
    protocol: 17,
    id: 9,
  });
  const sent = pump(gateway, packets.toReversed(), 0);
  assert.ok(sent.every((packet) => packet.length <= 600));
  const [whole] = joinPackets(sent);
  assert.deepEqual(readUdp(whole!).data, data);
});

/** Datagrams of a flood; the figure's million in `npm run verify`. */
const FLOOD = Number(process.env["HEADGATE_FRAGMENT_FLOOD"] ?? 20_000);

test("a flood of first fragments does not hurt whole packets", (t) => {
  const seed = 0x5eed_0200;
  t.diagnostic(`seed ${seed}`);
  const random = createRandom(seed);
  const gateway = gatewayOf(t);
  const client = (index: number): Uint8Array =>
    udpPacket({
      source: CLIENT,
      destination: VIP,
      sourcePort: 20_000 + index,
      destinationPort: 53,
      data: [1, 2, 3],
    });
  const answer = (index: number, backend: string): Uint8Array =>
    udpPacket({
      source: backend,
      destination: CLIENT,
      sourcePort: 5353,
      destinationPort: 20_000 + index,
      data: [4],
    });
  // A hundred clients whose exchange is under way.
  const opened = pump(
    gateway,
    Array.from({ length: 100 }, (_, index) => client(index)),
    0,
  );
  assert.equal(opened.length, 100);
  const backends = opened.map((packet) => packet.subarray(16, 20).join("."));
  assert.equal(
    pump(
      gateway,
      backends.map((backend, index) => answer(index, backend)),
      1,
    ).length,
    100,
  );

  const payload = udpDatagram({
    source: CLIENT,
    destination: VIP,
    sourcePort: 1,
    destinationPort: 53,
    data: new Uint8Array(16),
  });
  const before = process.memoryUsage().arrayBuffers;
  let whole = 0;
  let arrived = 0;
  for (let sent = 0; sent < FLOOD; sent += 50) {
    // The flood comes at 50,000 a second, five times what is followed.
    tick(gateway, 1 + sent / 50);
    const frames: Uint8Array[] = [];
    for (let index = 0; index < 50; index++) {
      payload.set([random.below(256), random.below(256)], 0);
      const source = 0x0100_0000 + random.below(0x6000_0000);
      const id = random.below(0x10000);
      frames.push(
        ipv4Packet({ source, destination: VIP, protocol: 17, id, payload, fragmentWord: 0x2000 }),
      );
    }
    for (let index = 0; index < 5; index++) frames.push(client((sent + index) % 100));
    whole += 5;
    const from = addressNumber(CLIENT);
    arrived += pump(gateway, frames, 0).filter(
      (packet) => new DataView(packet.buffer, packet.byteOffset).getInt32(12) === from,
    ).length;
  }
  const counters = gateway.counters();
  const followed = FLOOD - (counters["fragment_rate_limited"] ?? 0);
  t.diagnostic(
    `${FLOOD} first fragments, ${followed} followed at ${FRAGMENT_ENTRIES} entries; ` +
      `${arrived} of ${whole} whole packets forwarded`,
  );
  assert.ok(arrived >= 0.95 * whole);
  // 10 a millisecond and the burst.
  assert.ok(followed <= FRAGMENT_TOKENS_BURST + FLOOD / 5 + 10, `${followed} followed`);
  // The table is what it was: no array has been made for the flood.
  assert.ok(process.memoryUsage().arrayBuffers < before + (16 << 20));
  // Fragments of an honest client still find their way, as soon as the flood lets one begin.
  tick(gateway, 2 + FLOOD / 50);
  assert.equal(joinPackets(pump(gateway, three(), 0)).length, 1);
});
