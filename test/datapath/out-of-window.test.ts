import assert from "node:assert/strict";
import { type TestContext, test } from "node:test";
import { SEQUENCE_WINDOW_BYTES } from "../../src/base/limits.ts";
import { createRandom } from "../../src/base/random.ts";
import {
  F_EXPIRES,
  F_STATE,
  FLOW_WORDS,
  STATE_CLOSE,
  STATE_ESTABLISHED,
  STATE_FIN_WAIT,
  STATE_NAMES,
} from "../../src/flow/flow-record.ts";
import { ACK, addressNumber, ethernetFrame, FIN, RST, SYN, tcpPacket } from "../support/frames.ts";
import {
  backendMac,
  CLIENT_MAC,
  createMemoryGateway,
  GATEWAY_MACS,
  type MemoryGateway,
} from "../support/memory-gateway.ts";

/**
 * Goal: RFC 5961 section 3.2, for who stands in the middle: a RST or FIN outside of the window ends no
 * flow, one inside does, and either goes on; and what `outOfState` says happens to each kind of segment.
 */

const CLIENT = {
  source: "198.51.100.2",
  sourcePort: 4000,
  destination: "203.0.113.10",
  destinationPort: 80,
};
const BACKEND = {
  source: "10.20.0.11",
  sourcePort: 8080,
  destination: "198.51.100.2",
  destinationPort: 4000,
};

class World {
  readonly gateway: MemoryGateway;

  constructor(t: TestContext, more = "scheduler: rr") {
    this.gateway = createMemoryGateway({
      yaml: `
version: 1
device: { type: packet, interfaces: [eth0, eth1] }
services:
  - { name: web, vip: 203.0.113.10, port: 80, protocol: tcp, ${more},
      backends: [{ address: 10.20.0.11, port: 8080 }] }
`,
    });
    t.after(() => this.gateway.close());
  }

  /** @returns frames that came out, as [interface, TCP flags, sequence] */
  send(
    from: "client" | "backend",
    flags: number,
    sequence: number,
    acknowledgement: number,
  ): number[][] {
    const ends = from === "client" ? CLIENT : BACKEND;
    const packet = tcpPacket({
      ...ends,
      flags,
      sequence: sequence >>> 0,
      acknowledgement: acknowledgement >>> 0,
    });
    const { device, datapath } = this.gateway;
    const ingress = from === "client" ? 0 : 1;
    const source = from === "client" ? CLIENT_MAC : backendMac(addressNumber(BACKEND.source));
    device.inject(ethernetFrame(packet, { destination: GATEWAY_MACS[ingress], source }), ingress);
    datapath.runBatch(0);
    this.gateway.checkLaw();
    return device.sent.splice(0).map(({ bytes, interface: egress }) => {
      const view = new DataView(bytes.buffer, bytes.byteOffset);
      return [egress, bytes[47]!, view.getUint32(38)];
    });
  }

  /** A connection: the client's next number is `client`, the backend's `backend`. */
  connect(client: number, backend: number): void {
    this.send("client", SYN, client - 1, 0);
    this.send("backend", SYN | ACK, backend - 1, client);
    this.send("client", ACK, client, backend);
    assert.equal(this.state, STATE_ESTABLISHED);
  }

  get state(): number {
    return this.#word(F_STATE) & 0xff;
  }

  get expires(): number {
    return this.#word(F_EXPIRES);
  }

  #word(word: number): number {
    const { i32, layout } = this.gateway.views;
    for (let at = layout.flows.at >> 2; ; at += FLOW_WORDS) {
      if ((i32[at + F_STATE]! & 0xff) !== 0) return i32[at + word]!;
    }
  }
}

/** Distance from what the other side has acknowledged, and whether it can be in its window. */
const DISTANCES: readonly (readonly [number, boolean])[] = [
  [0, true],
  [1, true],
  [65_535, true],
  [SEQUENCE_WINDOW_BYTES, true],
  [SEQUENCE_WINDOW_BYTES + 1, false],
  [-1, false],
  [-65_535, false],
  [0x4000_0000, false],
  [-0x8000_0000, false],
];

for (const from of ["client", "backend"] as const) {
  for (const [flags, name, after] of [
    [RST, "RST", STATE_CLOSE],
    [RST | ACK, "RST+ACK", STATE_CLOSE],
    [FIN | ACK, "FIN+ACK", STATE_FIN_WAIT],
  ] as const) {
    test(`${name} from the ${from}: ends the flow only in window, and goes on`, (t) => {
      const seed = 0x5eed_0700;
      t.diagnostic(`seed ${seed}`);
      const random = createRandom(seed);
      for (const [distance, ends] of DISTANCES) {
        const world = new World(t);
        // Near the wrap too.
        const [client, backend] = [random.next32() | 1, 0xffff_fff0 + random.below(32)];
        world.connect(client, backend);
        world.gateway.device.setTick(5000);
        const before = world.expires;
        const sequence = (from === "client" ? client : backend) + distance;
        const out = world.send(from, flags, sequence, 0x1234_5678);
        assert.deepEqual(out, [[from === "client" ? 1 : 0, flags, sequence >>> 0]], "forwarded");
        const said = `at ${distance}: ${STATE_NAMES[world.state]}`;
        assert.equal(world.state, ends ? after : STATE_ESTABLISHED, said);
        if (!ends) assert.equal(world.expires, before, "its timer goes on too");
        world.gateway.close();
      }
    });
  }
}

test("a number that was never acknowledged ends what is half open", (t) => {
  const world = new World(t);
  world.send("client", SYN, 100, 0);
  world.send("backend", RST | ACK, 0, 101);
  assert.equal(world.state, STATE_CLOSE, "the backend refuses");
});

test("outOfState: what each kind of segment gets", (t) => {
  const kinds = { ACK, "FIN+ACK": FIN | ACK, "SYN+ACK": SYN | ACK, RST, "RST+ACK": RST | ACK };
  const wanted: Readonly<Record<string, Readonly<Record<keyof typeof kinds, string>>>> = {
    "scheduler: maglev, tableSize: 251": {
      ACK: "forwarded",
      "FIN+ACK": "forwarded",
      "SYN+ACK": "out_of_state",
      RST: "out_of_state",
      "RST+ACK": "out_of_state",
    },
    "scheduler: rr, outOfState: reset": {
      ACK: "replied",
      "FIN+ACK": "replied",
      "SYN+ACK": "replied",
      RST: "out_of_state",
      "RST+ACK": "out_of_state",
    },
    "scheduler: maglev, tableSize: 251, outOfState: drop": {
      ACK: "out_of_state",
      "FIN+ACK": "out_of_state",
      "SYN+ACK": "out_of_state",
      RST: "out_of_state",
      "RST+ACK": "out_of_state",
    },
  };
  for (const [policy, answers] of Object.entries(wanted)) {
    for (const [name, flags] of Object.entries(kinds)) {
      const world = new World(t, policy);
      const out = world.send("client", flags, 1000, 77);
      const want = answers[name as keyof typeof kinds];
      assert.equal(world.gateway.counters()[want], 1, `${policy}: ${name} is ${want}`);
      // A RST has the number that the segment acknowledges (RFC 9293 section 3.10.7.1).
      if (want === "replied") assert.deepEqual(out, [[0, RST, 77]]);
      if (want === "forwarded") assert.deepEqual(out, [[1, flags, 1000]]);
      world.gateway.close();
    }
  }
});
