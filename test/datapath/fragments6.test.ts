import assert from "node:assert/strict";
import { type TestContext, test } from "node:test";
import { FRAGMENT_HELD_MS } from "../../src/base/limits.ts";
import { createRandom } from "../../src/base/random.ts";
import { cutPacket6, fragment6, joinPackets6, plain6, type Whole6 } from "../support/fragments6.ts";
import { addressOf, slowChecksum, slowSum } from "../support/frames.ts";
import {
  backendMac,
  CLIENT_MAC,
  createMemoryGateway,
  GATEWAY_MACS,
  type MemoryGateway,
} from "../support/memory-gateway.ts";
import { frameOf, pseudo6 } from "../support/packets6.ts";

/** fragments.test.ts for IPv6: RFC 8200 section 4.5, RFC 5722, RFC 7112, RFC 8200 section 8.1. */

const CLIENT = "2001:db8:1::2";
const VIP = "2001:db8:ff::10";
const BACKENDS = ["2001:db8:2::11", "2001:db8:2::12"];
const SNAT = "2001:db8:2::100";

function gatewayOf(t: TestContext, mode = "nat", workers = 1, link: 0 | 14 = 14): MemoryGateway {
  const gateway = createMemoryGateway({
    yaml: `
version: 1
device: { type: packet, interfaces: [eth0, eth1] }
snat: { addresses: ['${SNAT}'], ports: 2000-9999 }
services:
  - { name: dns, vip: '${VIP}', port: 53, protocol: [tcp, udp], mode: ${mode}, scheduler: rr,
      backends: [${BACKENDS.map((address) => `{ address: '${address}', port: 5353 }`).join(", ")}] }
`,
    linkHeaderBytes: link,
    size: { workers },
  });
  t.after(() => gateway.close());
  return gateway;
}

function pump(
  gateway: MemoryGateway,
  packets: readonly Uint8Array[],
  ingress: 0 | 1,
  worker: () => number = () => 0,
): Uint8Array[] {
  const link = gateway.device.linkHeaderBytes;
  for (const packet of packets) {
    const source = ingress === 0 ? CLIENT_MAC : backendMac(addressOf(BACKENDS[0]!).words[3]);
    const frame = frameOf(packet, { destination: GATEWAY_MACS[ingress], source });
    const { device } = gateway.workers[worker()]!;
    if (device.room() === 0) gateway.settle();
    device.inject(link === 0 ? packet : frame, link === 0 ? 0 : ingress);
  }
  gateway.settle();
  gateway.checkLaw();
  return gateway.workers.flatMap(({ device }) =>
    device.sent.splice(0).map(({ bytes }) => bytes.subarray(link)),
  );
}

interface Ends {
  readonly source: string;
  readonly destination: string;
  readonly sourcePort: number;
  readonly destinationPort: number;
}

function datagram(ends: Ends, data: Uint8Array): Uint8Array {
  const bytes = new Uint8Array(8 + data.length);
  const view = new DataView(bytes.buffer);
  view.setUint16(0, ends.sourcePort);
  view.setUint16(2, ends.destinationPort);
  view.setUint16(4, bytes.length);
  bytes.set(data, 8);
  const pseudo = pseudo6(ends.source, ends.destination, 17, bytes.length);
  view.setUint16(6, slowChecksum([...pseudo, ...bytes]) || 0xffff);
  return bytes;
}

function read(whole: Whole6): Ends & { readonly data: Uint8Array } {
  const { source, destination, payload } = whole;
  const sum = slowSum([...pseudo6(source, destination, 17, payload.length), ...payload]);
  assert.equal(sum, 0xffff, "the datagram's checksum");
  const view = new DataView(payload.buffer);
  return {
    source,
    destination,
    sourcePort: view.getUint16(0),
    destinationPort: view.getUint16(2),
    data: payload.subarray(8),
  };
}

for (const mode of ["nat", "full-nat"]) {
  for (const [workers, link] of [
    [1, 14],
    [3, 14],
    [1, 0],
  ] as const) {
    test(`IPv6 ${mode}, ${workers} workers, link header ${link}: any order, and back`, (t) => {
      const seed = 0x5eed_0800 + workers + link;
      t.diagnostic(`seed ${seed}`);
      const random = createRandom(seed);
      const gateway = gatewayOf(t, mode, workers, link);
      const anyWorker = (): number => random.below(workers);
      const cut = (ends: Ends, data: Uint8Array): Uint8Array[] => {
        const { source, destination } = ends;
        const payload = 8 * (30 + random.below(140));
        const id = random.next32();
        const whole = datagram(ends, data);
        const list = cutPacket6(whole, { source, destination, payload, protocol: 17, id });
        for (let index = list.length - 1; index > 0; index--) {
          const other = random.below(index + 1);
          [list[index], list[other]] = [list[other]!, list[index]!];
        }
        return list;
      };
      for (let round = 0; round < 40; round++) {
        const data = Uint8Array.from({ length: 1400 + random.below(6000) }, () =>
          random.below(256),
        );
        const source = `2001:db8:1::${(2 + random.below(500)).toString(16)}`;
        const port = 1024 + random.below(60_000);
        const ask = { source, sourcePort: port, destination: VIP, destinationPort: 53 };
        const [asked] = joinPackets6(pump(gateway, cut(ask, data), 0, anyWorker));
        const query = read(asked!);
        assert.deepEqual(query.data, data);
        assert.ok(BACKENDS.map(plain6).includes(query.destination));
        assert.equal(query.destinationPort, 5353);
        assert.equal(query.source, plain6(mode === "nat" ? source : SNAT));
        const back = {
          source: query.destination,
          sourcePort: 5353,
          destination: query.source,
          destinationPort: query.sourcePort,
        };
        const [heard] = joinPackets6(pump(gateway, cut(back, data.toReversed()), 1, anyWorker));
        const answer = read(heard!);
        assert.deepEqual(answer.data, data.toReversed());
        assert.deepEqual(
          [answer.source, answer.sourcePort, answer.destination, answer.destinationPort],
          [plain6(VIP), 53, plain6(source), port],
        );
      }
      const { held = 0, dropped } = gateway.counters();
      assert.deepEqual({ held, dropped }, { held: 0, dropped: 0 });
    });
  }
}

const CUT = { source: CLIENT, destination: VIP, payload: 400, protocol: 17, id: 0x12345678 };

function three(): Uint8Array[] {
  const ends = { source: CLIENT, sourcePort: 4000, destination: VIP, destinationPort: 53 };
  return cutPacket6(datagram(ends, new Uint8Array(1000)), CUT);
}

test("IPv6: faults, overlaps and time are the drops that they are for IPv4", (t) => {
  const bare = datagram(
    { source: CLIENT, sourcePort: 1, destination: VIP, destinationPort: 53 },
    new Uint8Array(8),
  );
  bare.set([0, 0], 6);
  const cases: readonly (readonly [string, Uint8Array])[] = [
    ["fragment_malformed", fragment6(new Uint8Array(401), 1, CUT)],
    ["fragment_malformed", fragment6([], 800, CUT)],
    ["fragment_malformed", fragment6(new Uint8Array(100), 0xfff8, CUT)],
    ["fragment_tiny", fragment6(new Uint8Array(16), 1, { ...CUT, protocol: 6 })],
    ["fragment_tiny", fragment6(new Uint8Array(16), 8, { ...CUT, protocol: 6 })],
    ["udp_checksum_missing", fragment6(bare, 1, CUT)],
    ["fragment_not_supported", fragment6(new Uint8Array(64), 1, { ...CUT, protocol: 58 })],
  ];
  for (const [reason, packet] of cases) {
    const gateway = gatewayOf(t);
    assert.deepEqual(pump(gateway, [packet], 0), [], reason);
    assert.equal(gateway.counters()[reason], 1, reason);
  }
  const gateway = gatewayOf(t);
  const [first, second, third] = three() as [Uint8Array, Uint8Array, Uint8Array];
  // RFC 5722: none of it arrives, before or behind the overlap.
  const wrong = fragment6(new Uint8Array(16), 393 & 0xfff8, CUT);
  assert.equal(joinPackets6(pump(gateway, [third, wrong, second, first], 0)).length, 0);
  assert.equal(gateway.counters()["fragment_overlap"], 4);

  const late = gatewayOf(t);
  late.device.setTick(1000);
  pump(late, [second, third], 0);
  assert.equal(late.counters()["held"], 2);
  late.device.setTick(1000 + FRAGMENT_HELD_MS);
  late.settle();
  late.checkLaw();
  assert.equal(late.counters()["fragment_timeout"], 2);
});
