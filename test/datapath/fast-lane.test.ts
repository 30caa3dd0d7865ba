import assert from "node:assert/strict";
import { test } from "node:test";
import { createRandom, type Random } from "../../src/base/random.ts";
import { C_FORWARDED, C_RECEIVED } from "../../src/datapath/counters.ts";
import type { VnetWords } from "../../src/device/memory.ts";
import { listFlows } from "../../src/flow/read-flows.ts";
import { B_EXISTING, BACKEND_WORDS, EXISTING_RESET } from "../../src/service/backend-slots.ts";
import {
  ACK,
  addressNumber,
  addressText,
  ethernetFrame,
  FIN,
  PSH,
  RST,
  SYN,
  tcpPacket,
  udpPacket,
} from "../support/frames.ts";
import {
  backendMac,
  CLIENT_MAC,
  createMemoryGateway,
  GATEWAY_MACS,
  type MemoryGateway,
} from "../support/memory-gateway.ts";

// Goal: the fast lane changes nothing but the time it takes.
// Method: two gateways, one of them without it, get the same batches: mostly segments and datagrams
// of flows that live, with everything mixed in that is not the lane's. After every batch all frames
// sent, and every byte of the two regions (flows, index, counters, slots, samples), are the same.

const YAML = `
version: 1
device: { type: packet, interfaces: [eth0, eth1] }
snat: { addresses: [10.20.0.100], ports: 2000-2100 }
services:
  - name: web
    vip: 203.0.113.10
    port: [80, 53]
    protocol: [tcp, udp]
    scheduler: rr
    outOfState: drop
    backends: [{ address: 10.20.0.11 }, { address: 10.20.0.12 }, { address: 10.20.0.13 }]
  - name: full
    vip: 203.0.113.11
    port: 80
    protocol: [tcp, udp]
    mode: full-nat
    scheduler: rr
    backends: [{ address: 10.20.0.11, port: 8080 }, { address: 10.20.0.12, port: 8080 }]
`;

interface Frame {
  readonly bytes: Uint8Array;
  readonly side: 0 | 1;
  readonly words: VnetWords;
}

class Twins {
  readonly both: readonly MemoryGateway[] = [true, false].map((fastLane) =>
    createMemoryGateway({
      yaml: YAML,
      fastLane,
      size: { flowCapacity: 256, backends: 64, services: 8, hashSlots: 65_537 },
      mtu: [1400, 1500],
    }),
  );
  #now = 5_000;

  pause(ms: number): void {
    this.#now += ms;
    for (const { device } of this.both) device.setTick(this.#now);
  }

  batch(frames: readonly Frame[]): void {
    for (const { device, datapath } of this.both) {
      device.sent.length = 0;
      for (const { bytes, side, words } of frames) device.inject(bytes, side, words);
      datapath.runBatch(0);
    }
    const [fast, slow] = this.both as [MemoryGateway, MemoryGateway];
    assert.deepEqual(fast.device.sent, slow.device.sent);
    // Compared as a whole: node's deepEqual of large arrays takes its time.
    const same = Buffer.compare(fast.views.u8, slow.views.u8) === 0;
    if (!same) assert.deepEqual(fast.views.i32, slow.views.i32);
  }
}

const FLAGS = [ACK, ACK, ACK, ACK, ACK | PSH, ACK | PSH, SYN, SYN | ACK, FIN | ACK, RST, RST | ACK];

/** A packet of a client, or the answer to one by whichever backend has its flow. */
function randomFrame(random: Random, gateway: MemoryGateway): Frame {
  const pick = <T>(list: readonly T[]): T => list[random.below(list.length)]!;
  const flows = listFlows(gateway.views, {}, 256).flows;
  const flow = flows.length > 0 && random.below(4) !== 0 ? pick(flows) : null;
  const side = flow !== null && random.below(2) === 1 ? 1 : 0;
  const tcp = flow === null ? random.below(2) === 0 : flow.protocol === 6;
  const ends =
    flow === null
      ? {
          source: `198.51.100.${2 + random.below(4)}`,
          sourcePort: 40_000 + random.below(8),
          destination: pick(["203.0.113.10", "203.0.113.11", "203.0.113.10", "192.0.2.1"]),
          destinationPort: pick([80, 53, 81]),
        }
      : side === 0
        ? {
            source: addressText(flow.client),
            sourcePort: flow.clientPort,
            destination: addressText(flow.vip),
            destinationPort: flow.vipPort,
          }
        : {
            source: addressText(flow.backend),
            sourcePort: flow.backendPort,
            destination: addressText(flow.replyAddress),
            destinationPort: flow.replyPort,
          };
  const large = random.below(12) === 0 ? 1340 + random.below(120) : random.below(40);
  const data = new Uint8Array(large).fill(random.below(256));
  const ip = {
    ttl: random.below(16) === 0 ? 1 : 64,
    id: random.below(65_536),
    fragmentWord: pick([0x4000, 0x4000, 0x4000, 0, 0, 0x2000, 0x0010]),
    ...(random.below(16) === 0 ? { options: [1, 1, 1, 0] } : {}),
  };
  const packet = tcp
    ? tcpPacket({ ...ends, flags: pick(FLAGS), acknowledgement: random.next32() >>> 0, data, ip })
    : udpPacket({ ...ends, data, ip });
  const destination = random.below(20) === 0 ? "02:00:00:00:09:09" : GATEWAY_MACS[side];
  const source =
    side === 0
      ? random.below(10) === 0
        ? "02:00:00:00:01:03"
        : CLIENT_MAC
      : backendMac(addressNumber(ends.source));
  const bytes = ethernetFrame(packet, { destination, source, padTo: pick([0, 60]) });
  if (random.below(12) === 0) bytes[random.below(bytes.length)]! ^= 1 << random.below(8);
  const cut = random.below(25) === 0 ? bytes.slice(0, random.below(bytes.length) + 1) : bytes;
  return { bytes: cut, side, words: randomWords(random, tcp) };
}

function randomWords(random: Random, tcp: boolean): VnetWords {
  const csum = (tcp ? 16 << 16 : 6 << 16) | 34;
  switch (random.below(10)) {
    case 0:
      return { vnet: 1, csum };
    case 1:
      return { vnet: 2, csum: 0 };
    case 2:
      return { vnet: 1, csum: csum + random.below(3) };
    case 3:
      return { vnet: 1 | ((tcp ? 1 : 5) << 8) | (500 << 16), csum };
    default:
      return { vnet: 0, csum: 0 };
  }
}

test("with the fast lane and without: the same frames, the same bytes of state", () => {
  const rounds = Number(process.env["HEADGATE_LANE_BATCHES"] ?? 3000);
  const seed = Number(process.env["HEADGATE_SEED"] ?? Date.now() & 0x3fffffff);
  const random = createRandom(seed);
  const twins = new Twins();
  const [fast, slow] = twins.both as [MemoryGateway, MemoryGateway];
  const count = (gateway: MemoryGateway, index: number): number =>
    gateway.views.f64[(gateway.views.layout.counters.at >> 3) + index]!;
  try {
    for (let round = 0; round < rounds; round++) {
      const frames = Array.from({ length: 1 + random.below(64) }, () => randomFrame(random, fast));
      if (random.below(3) === 0) twins.pause(random.below(8) === 0 ? 40_000 : random.below(500));
      if (random.below(50) === 0) {
        const slot = random.below(6);
        for (const { views } of twins.both) {
          const word = (views.layout.backendSlots.at >> 2) + slot * BACKEND_WORDS + B_EXISTING;
          views.i32[word] = views.i32[word] === 0 ? EXISTING_RESET : 0;
        }
      }
      twins.batch(frames);
    }
  } catch (error) {
    console.error(`seed ${seed}: HEADGATE_SEED=${seed} node dist/test/run.js fast-lane`);
    throw error;
  }
  fast.checkLaw();
  slow.checkLaw();
  assert.ok(count(fast, C_FORWARDED) > rounds, "most of what was sent is forwarded");
  console.log(
    `${rounds} batches from seed ${seed}: ${count(fast, C_RECEIVED)} frames, ` +
      `${count(fast, C_FORWARDED)} forwarded, the same with the fast lane and without`,
  );
});
