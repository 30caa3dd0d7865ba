import assert from "node:assert/strict";
import { test } from "node:test";
import { createRandom } from "../../src/base/random.ts";
import { C_DROPS, C_FORWARDED } from "../../src/datapath/counters.ts";
import { DROP_REASONS } from "../../src/datapath/verdict.ts";
import { ORIGINAL, PROTOCOL_TCP, PROTOCOL_UDP } from "../../src/flow/flow-record.ts";
import {
  B_ADDRESS,
  B_PORT,
  B_PROTOCOL,
  B_SERVICE,
  B_USED,
  BACKEND_WORDS,
} from "../../src/service/backend-slots.ts";
import { backendFlows } from "../../src/service/runs.ts";
import { counterTotal, flowsUsed } from "../../src/state/shards.ts";
import {
  ACK,
  addressNumber,
  addressText,
  checksumsOk,
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
import {
  type Expectation,
  Model,
  type ModelFlow,
  type ModelPacket,
  type ModelService,
  SNAT,
  translated,
} from "./model.ts";

const BACKENDS = ["10.20.0.11", "10.20.0.12", "10.20.0.13"];
const on = (port: number): { address: string; port: number }[] =>
  BACKENDS.map((address) => ({ address, port }));

const SERVICES: readonly ModelService[] = [
  {
    name: "a",
    protocol: PROTOCOL_TCP,
    vip: "203.0.113.10",
    port: 80,
    mode: "nat",
    outOfState: "reset",
    backends: on(8080),
  },
  {
    name: "b",
    protocol: PROTOCOL_TCP,
    vip: "203.0.113.11",
    port: 80,
    mode: "nat",
    outOfState: "adopt",
    backends: on(8080),
  },
  {
    name: "dns",
    protocol: PROTOCOL_UDP,
    vip: "203.0.113.10",
    port: 53,
    mode: "nat",
    outOfState: "drop",
    backends: on(5353),
  },
  {
    name: "f",
    protocol: PROTOCOL_TCP,
    vip: "203.0.113.12",
    port: 443,
    mode: "full-nat",
    outOfState: "drop",
    backends: on(8443),
  },
];

const YAML = `
version: 1
device: { type: packet, interfaces: [eth0, eth1] }
snat: { addresses: [${SNAT.address}], ports: ${SNAT.low}-${SNAT.high} }
services:
${SERVICES.map(
  (service) => `
  - name: ${service.name}
    vip: ${service.vip}
    port: ${service.port}
    protocol: ${service.protocol === PROTOCOL_TCP ? "tcp" : "udp"}
    mode: ${service.mode}
    scheduler: ${service.outOfState === "adopt" ? "maglev" : "rr"}
    ${service.outOfState === "adopt" ? "tableSize: 251" : ""}
    outOfState: ${service.outOfState}
    backends: [${service.backends.map((one) => `{ address: ${one.address}, port: ${one.port} }`).join(", ")}]`,
).join("")}
`;

const FLAGS = [
  SYN,
  SYN,
  SYN,
  ACK,
  ACK | PSH,
  SYN | ACK,
  FIN | ACK,
  FIN | ACK,
  RST,
  RST | ACK,
  SYN | FIN,
  0,
];
const PAUSES_MS = [1000, 9_000, 31_000, 130_000, 310_000];

function build(packet: ModelPacket, ttl: number, serial: number): Uint8Array {
  const ip = { ttl, id: serial & 0xffff };
  const data = Uint8Array.from({ length: serial % 7 }, (_, index) => (serial + index) & 0xff);
  return packet.protocol === PROTOCOL_TCP
    ? tcpPacket({ ...packet, data, ip })
    : udpPacket({ ...packet, data, ip });
}

/** One gateway and one model, fed with the same packets. */
class Pair {
  readonly gateway: MemoryGateway;
  model: Model;
  #now = 1_000_000;
  #serial = 0;
  /** Draws the worker that a frame comes to; steering has no part in this. */
  readonly #random = createRandom(1);

  constructor(workers: number) {
    this.gateway = createMemoryGateway({ yaml: YAML, size: { flowCapacity: 512, workers } });
    this.model = new Model(SERVICES, workers);
  }

  #counter(index: number): number {
    return counterTotal(this.gateway.views, index);
  }

  /** What the gateway did with one frame: its verdict, a drop's reason, and the frames it sent. */
  #run(
    frame: Uint8Array,
    ingress: number,
  ): { verdict: string; sent: readonly { bytes: Uint8Array; interface: number }[] } {
    const { workers } = this.gateway;
    const { device, datapath } = workers[this.#random.below(workers.length)]!;
    const before = [0, 1, 2, 3, 4].map((index) => this.#counter(C_FORWARDED + index));
    const drops = DROP_REASONS.map((_, index) => this.#counter(C_DROPS + index));
    for (const worker of workers) worker.device.sent.length = 0;
    device.inject(frame, ingress);
    assert.equal(datapath.runBatch(0), 1);
    if (workers.length > 1) this.gateway.settle();
    const changed = before.findIndex(
      (count, index) => this.#counter(C_FORWARDED + index) !== count,
    );
    const names = ["forwarded", "replied", "passed", "consumed"];
    const reason = DROP_REASONS.find((_, index) => this.#counter(C_DROPS + index) !== drops[index]);
    const sent = workers.flatMap((worker) => [...worker.device.sent]);
    return { verdict: names[changed] ?? `dropped ${reason}`, sent };
  }

  pause(ms: number): void {
    this.#now += ms;
    for (const { device } of this.gateway.workers) device.setTick(this.#now);
    this.gateway.settle();
    this.model.advance(this.#now);
  }

  send(sent: ModelPacket, fromBackend: boolean): void {
    const serial = ++this.#serial;
    // Numbers wrap; most segments lie a little behind what the other side has acknowledged.
    const offset = [0, 1, 1000, 4 << 20, -1, 5 << 20, 1 << 31, 7][serial % 8]!;
    const packet: ModelPacket = {
      ...sent,
      sequence: (0xffff_ff00 + 7 * serial + offset) >>> 0,
      acknowledgement: (0xffff_ff00 + 7 * serial) >>> 0,
    };
    const bytes = build(packet, 64, serial);
    const frame = ethernetFrame(bytes, {
      destination: GATEWAY_MACS[fromBackend ? 1 : 0],
      source: fromBackend ? backendMac(addressNumber(packet.source)) : CLIENT_MAC,
      padTo: 60,
    });
    const expected = this.model.expect(packet);
    const got = this.#run(frame, fromBackend ? 1 : 0);
    const flow = this.#settle(packet, expected, got.verdict, got.sent);
    if (flow === null) return;
    const direction = expected.verdict === "forwarded" ? expected.direction : ORIGINAL;
    const toBackend = direction === ORIGINAL;
    const wanted = ethernetFrame(build({ ...packet, ...translated(flow, direction) }, 63, serial), {
      destination: toBackend ? backendMac(addressNumber(flow.backend)) : CLIENT_MAC,
      source: GATEWAY_MACS[toBackend ? 1 : 0],
    });
    assert.equal(got.sent.length, 1, "one frame in, one frame out");
    assert.equal(got.sent[0]!.interface, toBackend ? 1 : 0);
    assert.deepEqual(got.sent[0]!.bytes, wanted);
  }

  /** @returns the flow whose translation the sent frame must be, or null */
  #settle(
    packet: ModelPacket,
    expected: Expectation,
    verdict: string,
    sent: readonly { bytes: Uint8Array }[],
  ): ModelFlow | null {
    switch (expected.verdict) {
      case "forwarded":
        assert.equal(verdict, "forwarded");
        return expected.flow;
      case "balance": {
        if (verdict.startsWith("dropped ")) {
          this.model.refuse(packet, expected.service, verdict.slice("dropped ".length));
          return null;
        }
        assert.equal(verdict, "forwarded");
        const view = new DataView(sent[0]!.bytes.buffer, sent[0]!.bytes.byteOffset + 14);
        return this.model.admit(packet, expected.service, {
          replyAddress: addressText(view.getUint32(12)),
          backend: addressText(view.getUint32(16)),
          replyPort: view.getUint16(20),
          backendPort: view.getUint16(22),
        });
      }
      case "replied":
        assert.equal(verdict, "replied");
        assert.equal(sent.length, 1);
        assert.ok(checksumsOk(sent[0]!.bytes, { linkHeaderBytes: 14 }));
        return null;
      case "passed":
        assert.equal(verdict, "passed");
        assert.equal(sent.length, 0);
        return null;
      case "dropped":
        assert.equal(verdict, `dropped ${expected.reason}`);
        assert.equal(sent.length, 0);
        return null;
    }
  }

  /** Live flows of each backend in the slots equal a count over the model. */
  checkCounts(): void {
    const { i32, layout } = this.gateway.views;
    assert.equal(flowsUsed(this.gateway.views), this.model.flows.length);
    let counted = 0;
    for (let slot = 0; slot < layout.backends; slot++) {
      const at = (layout.backendSlots.at >> 2) + slot * BACKEND_WORDS;
      if (i32[at + B_USED] === 0) continue;
      const flows = this.model.flows.filter(
        (flow) =>
          addressNumber(flow.backend) === i32[at + B_ADDRESS] &&
          flow.backendPort === i32[at + B_PORT] &&
          flow.service.protocol === i32[at + B_PROTOCOL] &&
          SERVICES.indexOf(flow.service) === this.#serviceIndex(i32[at + B_SERVICE]!),
      ).length;
      assert.equal(backendFlows(this.gateway.views, slot), flows, `flows of slot ${slot}`);
      counted += flows;
    }
    assert.equal(counted, this.model.flows.length);
  }

  /** Slots are given in the order of the configuration when the region is new. */
  #serviceIndex(slot: number): number {
    return slot;
  }

  /** Every flow gone, every token back. */
  clear(): void {
    this.pause(3 * 3_600_000);
    assert.equal(flowsUsed(this.gateway.views), 0);
    assert.equal(this.model.flows.length, 0);
  }
}

function runSequence(pair: Pair, seed: number): void {
  const random = createRandom(seed);
  const pick = <T>(list: readonly T[]): T => list[random.below(list.length)]!;
  const steps = 6 + random.below(18);
  for (let step = 0; step < steps; step++) {
    const kind = random.below(10);
    const flows = pair.model.flows;
    if (kind === 0) {
      pair.pause(pick(PAUSES_MS));
    } else if (kind <= 5 && flows.length > 0) {
      const flow = pick(flows);
      const reply = random.below(2) === 1;
      const ends = reply
        ? {
            source: flow.backend,
            sourcePort: flow.backendPort,
            destination: flow.replyAddress,
            destinationPort: flow.replyPort,
          }
        : {
            source: flow.client,
            sourcePort: flow.clientPort,
            destination: flow.service.vip,
            destinationPort: flow.service.port,
          };
      pair.send({ protocol: flow.service.protocol, ...ends, flags: pick(FLAGS) }, reply);
    } else if (kind === 6) {
      const protocol = pick([PROTOCOL_TCP, PROTOCOL_UDP]);
      pair.send(
        {
          protocol,
          source: pick(BACKENDS),
          sourcePort: pick([8080, 5353, 8443, 22]),
          destination: pick(["198.51.100.2", SNAT.address]),
          destinationPort: pick([40_000, 2001]),
          flags: pick(FLAGS),
        },
        true,
      );
    } else {
      const service = pick(SERVICES);
      pair.send(
        {
          protocol: random.below(8) === 0 ? PROTOCOL_UDP : service.protocol,
          source: `198.51.100.${2 + random.below(3)}`,
          sourcePort: 40_000 + random.below(4),
          destination: random.below(16) === 0 ? "192.0.2.1" : service.vip,
          destinationPort: random.below(16) === 0 ? 81 : service.port,
          flags: pick(FLAGS),
        },
        false,
      );
    }
  }
  pair.checkCounts();
  pair.clear();
}

for (const workers of [1, 3]) {
  const who = workers === 1 ? "one worker decides" : `${workers} workers together decide`;
  test(`${who} as the slow model does, packet by packet`, () => checkSequences(workers));
}

function checkSequences(workers: number): void {
  const asked = process.env["HEADGATE_SEQUENCES"];
  const count = Number(asked ?? (workers === 1 ? 10_000 : 3000));
  const first = Number(process.env["HEADGATE_SEED"] ?? Date.now() & 0x3fffffff);
  const pair = new Pair(workers);
  for (let index = 0; index < count; index++) {
    const seed = first + index;
    try {
      runSequence(pair, seed);
    } catch (error) {
      console.error(
        `seed ${seed}: HEADGATE_SEED=${seed} HEADGATE_SEQUENCES=1 node dist/test/run.js model`,
      );
      throw error;
    }
  }
  pair.gateway.checkLaw();
  const { handed_over: handedOver = 0, received = 0 } = pair.gateway.counters();
  if (workers > 1) assert.ok(handedOver > received / 4 && handedOver < received);
  console.log(`${count} sequences from seed ${first}, ${workers} workers`);
}
