import assert from "node:assert/strict";
import { type TestContext, test } from "node:test";
import { createRandom } from "../../src/base/random.ts";
import {
  B_ADDRESS,
  B_ADMIN,
  B_HEALTH,
  BACKEND_WORDS,
  HEALTH_DOWN,
  HEALTH_UP,
} from "../../src/service/backend-slots.ts";
import { applyExistingRules } from "../../src/service/effective.ts";
import { assignSlots, usedBackendSlots } from "../../src/service/slots.ts";
import { flowsUsed } from "../../src/state/shards.ts";
import {
  addressNumber,
  addressText,
  checksumsOk,
  ethernetFrame,
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
 * Goal: docs/udp.md is what happens: flows that move, datagrams that are scheduled one by one, flows
 * that are too old, and QUIC connections that keep their backend.
 * Method: frames in memory; slots are changed as control does it, bank by bank.
 */

const CLIENT = "198.51.100.2";
const VIP = "203.0.113.10";
const BACKENDS = ["10.20.0.11", "10.20.0.12", "10.20.0.13"];
const SNAT = "10.20.0.100";
const DEADLINE_MS = 60_000;

interface Setup {
  readonly mode?: string;
  readonly more?: string;
  readonly backends?: readonly string[];
  readonly serverIds?: boolean;
  readonly workers?: number;
  readonly fastLane?: boolean;
}

function yaml({ mode = "nat", more = "", backends = BACKENDS, serverIds = false }: Setup): string {
  const list = backends.map((address) => {
    const id = `, serverId: "${idOf(address)}"`;
    return `{ address: ${address}, port: 5353${serverIds ? id : ""} }`;
  });
  return `
version: 1
device: { type: packet, interfaces: [eth0, eth1] }
snat: { addresses: [${SNAT}], ports: 2000-9999 }
services:
  - { name: dns, vip: ${VIP}, port: 53, protocol: udp, mode: ${mode}, scheduler: rr, health: { type: tcp, port: 1 },
      ${more} backends: [${list.join(", ")}] }
`;
}

/** "0a" and the last byte of the address. */
function idOf(address: string): string {
  return `0a${Number(address.split(".")[3]).toString(16).padStart(2, "0")}`;
}

interface Seen {
  readonly source: string;
  readonly destination: string;
  readonly sourcePort: number;
  readonly destinationPort: number;
  readonly data: number[];
}

class World {
  readonly gateway: MemoryGateway;
  #setup: Setup;
  #now = 1_000_000;

  constructor(t: TestContext, setup: Setup = {}) {
    this.#setup = setup;
    this.gateway = createMemoryGateway({
      yaml: yaml(setup),
      size: { workers: setup.workers ?? 1 },
      fastLane: setup.fastLane ?? true,
    });
    t.after(() => this.gateway.close());
    this.wait(0);
    for (const address of setup.backends ?? BACKENDS) this.set(address, B_HEALTH, HEALTH_UP);
  }

  wait(ms: number): void {
    this.#now += ms;
    for (const { device } of this.gateway.workers) device.setTick(this.#now);
    this.gateway.settle();
  }

  /** Change words of a backend's slot, and take over what follows from it, as control does. */
  set(address: string, word: number, value: number): void {
    const { views } = this.gateway;
    for (const slot of usedBackendSlots(views)) {
      const at = (views.layout.backendSlots.at >> 2) + slot * BACKEND_WORDS;
      if (views.i32[at + B_ADDRESS] === addressNumber(address)) views.i32[at + word] = value;
    }
    this.apply();
  }

  apply(): void {
    const { views, definition } = this.gateway;
    this.gateway.publish();
    applyExistingRules(views, definition, assignSlots(views, definition, 0), this.#now);
  }

  configure(setup: Setup): void {
    this.#setup = { ...this.#setup, ...setup };
    this.gateway.configure(yaml(this.#setup));
    this.apply();
  }

  /** A datagram to the VIP. @returns what a backend gets, or null */
  ask(port: number, data: readonly number[] = [1], client = CLIENT, worker = 0): Seen | null {
    const packet = udpPacket({
      source: client,
      destination: VIP,
      sourcePort: port,
      destinationPort: 53,
      data,
    });
    return this.#one(packet, 0, worker)[0] ?? null;
  }

  /** The backend that a client's datagram comes to; "" for none. */
  backendOf(port: number, data: readonly number[] = [1], client = CLIENT): string {
    return this.ask(port, data, client)?.destination ?? "";
  }

  /** Answer what a backend got. @returns what the client gets, or null */
  answer(to: Seen, data: readonly number[] = [2], worker = 0): Seen | null {
    const packet = udpPacket({
      source: to.destination,
      destination: to.source,
      sourcePort: to.destinationPort,
      destinationPort: to.sourcePort,
      data,
    });
    return this.#one(packet, 1, worker)[0] ?? null;
  }

  #one(packet: Uint8Array, ingress: 0 | 1, worker: number): Seen[] {
    const source = ingress === 0 ? CLIENT_MAC : backendMac(addressNumber(BACKENDS[0]!));
    const { device } = this.gateway.workers[worker]!;
    device.inject(ethernetFrame(packet, { destination: GATEWAY_MACS[ingress], source }), ingress);
    this.gateway.settle();
    this.gateway.checkLaw();
    return this.gateway.workers.flatMap((each) =>
      each.device.sent.splice(0).flatMap(({ bytes }) => {
        if (bytes[23] !== 17) return [];
        assert.ok(checksumsOk(bytes, { linkHeaderBytes: 14 }));
        const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.length);
        return [
          {
            source: addressText(view.getUint32(26)),
            destination: addressText(view.getUint32(30)),
            sourcePort: view.getUint16(34),
            destinationPort: view.getUint16(36),
            data: [...bytes.subarray(42)],
          },
        ];
      }),
    );
  }
}

function others(address: string): string[] {
  return BACKENDS.filter((one) => one !== address);
}

/** What takes a backend away, and when flows without and with an answer move. */
const LEAVING: readonly {
  readonly name: string;
  readonly more?: string;
  readonly leave: (world: World, address: string) => void;
  readonly oneWay: "at once" | "never";
  readonly replied: "at once" | "at the deadline" | "never";
}[] = [
  {
    name: "down, keep",
    leave: (world, address) => world.set(address, B_HEALTH, HEALTH_DOWN),
    oneWay: "at once",
    replied: "at once",
  },
  {
    name: "down, drain",
    more: "down: drain,",
    leave: (world, address) => world.set(address, B_HEALTH, HEALTH_DOWN),
    oneWay: "at once",
    replied: "at the deadline",
  },
  {
    name: "drained, keep",
    leave: (world, address) => world.set(address, B_ADMIN, 1),
    oneWay: "at once",
    replied: "at the deadline",
  },
  {
    name: "drained, reset",
    more: "drained: reset,",
    leave: (world, address) => world.set(address, B_ADMIN, 1),
    oneWay: "at once",
    replied: "at once",
  },
  {
    name: "disabled, keep",
    more: "disabled: keep,",
    leave: (world, address) => world.set(address, B_ADMIN, 2),
    oneWay: "at once",
    replied: "at the deadline",
  },
  {
    name: "removed, drain",
    leave: (world, address) => world.configure({ backends: others(address) }),
    oneWay: "at once",
    replied: "at the deadline",
  },
  {
    name: "removed, keep",
    more: "removed: keep,",
    leave: (world, address) => world.configure({ backends: others(address) }),
    oneWay: "at once",
    replied: "at the deadline",
  },
  { name: "nothing", leave: () => undefined, oneWay: "never", replied: "never" },
];

for (const { name, more = "", leave, oneWay, replied } of LEAVING) {
  test(`backend leaves (${name}): one-way ${oneWay}, replied ${replied}`, (t) => {
    const rules = `existingFlows: { ${more} deadline: 60s },`;
    const world = new World(t, { more: rules });
    const silent = world.ask(1000)!;
    world.backendOf(1001);
    world.backendOf(1002);
    // The same backend as the silent one's, by the turns of round robin.
    const spoken = world.ask(1003)!;
    assert.equal(spoken.destination, silent.destination);
    assert.deepEqual(world.answer(spoken)?.destination, CLIENT);
    assert.equal(world.backendOf(1000), silent.destination);
    leave(world, silent.destination);
    const moved = world.backendOf(1000) !== silent.destination;
    assert.equal(moved, oneWay === "at once", "the flow without an answer");
    const second = world.backendOf(1003);
    assert.equal(second !== spoken.destination, replied === "at once", "the flow with one");
    assert.notEqual(second, "", "no datagram of the client is lost");
    if (replied !== "at the deadline") return;
    world.wait(DEADLINE_MS - 1);
    assert.equal(world.backendOf(1003), spoken.destination, "kept until the deadline");
    world.wait(1);
    const third = world.backendOf(1003);
    assert.notEqual(third, spoken.destination);
    assert.notEqual(third, "");
    assert.equal(world.gateway.counters()["replied"], 0, "and nobody was told that it had failed");
  });
}

test("all backends are gone: flows stay where they are, and move when one is back", (t) => {
  const world = new World(t);
  const first = world.ask(1000)!;
  for (const address of BACKENDS) world.set(address, B_HEALTH, HEALTH_DOWN);
  assert.equal(world.backendOf(1000), first.destination);
  const back = others(first.destination)[0]!;
  world.set(back, B_HEALTH, HEALTH_UP);
  assert.equal(world.backendOf(1000), back, "from the first datagram on");
  // All taken out of the configuration, and others put in.
  world.configure({ backends: [] });
  world.ask(1000);
  world.configure({ backends: ["10.20.0.21"] });
  world.set("10.20.0.21", B_HEALTH, HEALTH_UP);
  assert.equal(world.backendOf(1000), "10.20.0.21");
});

for (const fastLane of [true, false]) {
  test(`udp.maxAge: a flow is balanced anew, fast lane ${fastLane ? "on" : "off"}`, (t) => {
    const world = new World(t, { more: "udp: { maxAge: 10s },", fastLane });
    const first = world.ask(1000)!;
    world.answer(first);
    let backend = first.destination;
    const turns: number[] = [];
    for (let ms = 0; ms < 35_000; ms += 250) {
      world.wait(250);
      const now = world.backendOf(1000);
      assert.notEqual(now, "");
      if (now !== backend) turns.push(ms + 250);
      backend = now;
    }
    // The sweep sees every flow once a second.
    assert.equal(turns.length, 3);
    for (const [index, at] of turns.entries()) {
      const before = index === 0 ? 0 : turns[index - 1]!;
      assert.ok(at - before >= 10_000 && at - before <= 11_250, `turns at ${turns}`);
    }
  });
}

for (const mode of ["nat", "full-nat"] as const) {
  for (const workers of [1, 2]) {
    test(`udp.perPacket, ${mode}, ${workers} workers: each datagram is scheduled, each answer returns`, (t) => {
      const seed = 0x5eed_0400 + workers;
      t.diagnostic(`seed ${seed}`);
      const random = createRandom(seed);
      const world = new World(t, { mode, workers, more: "udp: { perPacket: true }," });
      const turns = new Map<string, number>();
      // One port, many queries under way at once; answers in any order, some of them never.
      for (let round = 0; round < 40; round++) {
        const open: { seen: Seen; number: number }[] = [];
        for (let number = 0; number < 1 + random.below(9); number++) {
          const seen = world.ask(4000 + random.below(2), [number], CLIENT, random.below(workers))!;
          turns.set(seen.destination, (turns.get(seen.destination) ?? 0) + 1);
          open.splice(random.below(open.length + 1), 0, { seen, number });
        }
        for (const { seen, number } of open) {
          if (random.below(5) === 0) continue;
          const heard = world.answer(seen, [100 + number], random.below(workers))!;
          assert.deepEqual(
            [heard.source, heard.sourcePort, heard.destination, heard.data],
            [VIP, 53, CLIENT, [100 + number]],
          );
          assert.ok(heard.destinationPort === 4000 || heard.destinationPort === 4001);
        }
        world.wait(random.below(500));
      }
      const counts = [...turns.values()];
      assert.equal(counts.length, 3);
      // Round robin a worker: the turns differ by at most one each.
      assert.ok(Math.max(...counts) - Math.min(...counts) <= workers, `${counts}`);
      assert.equal(world.gateway.counters()["dropped"], 0);
      // Two ports to three backends: no more flows than that, and none of them for long.
      const flows = (): number => flowsUsed(world.gateway.views);
      assert.ok(flows() <= 6);
      world.wait(10_000);
      for (let ms = 0; ms < 1100; ms += 100) world.wait(100);
      assert.equal(flows(), 0);
    });
  }
}

test("udp.perPacket goes on and off by reload, with flows of either kind there", (t) => {
  const world = new World(t);
  const kept = world.backendOf(1000);
  assert.equal(world.backendOf(1000), kept);
  world.configure({ more: "udp: { perPacket: true }," });
  for (let ms = 0; ms < 1100; ms += 50) world.wait(50);
  const three = new Set([1, 2, 3].map(() => world.backendOf(1000)));
  assert.equal(three.size, 3);
  world.configure({ more: "" });
  const again = world.backendOf(1000);
  assert.notEqual(again, "");
  assert.deepEqual(
    [1, 2, 3, 4].map(() => world.backendOf(1000)),
    [again, again, again, again],
  );
});

/** A QUIC packet whose DCID says this backend; `rotation` and nonce as told. */
function quic(form: "long" | "short", id: string, rotation = 0, nonce = 5): number[] {
  const dcid = [(rotation << 5) | 8, ...Buffer.from(id, "hex"), nonce, 2, 3, 4, 5, 6];
  if (form === "short") return [0x43, ...dcid, 9, 9, 9];
  return [0xe3, 0, 0, 0, 1, dcid.length, ...dcid, 0, 0, 9];
}

const QUIC = { more: "quic: { serverIdBytes: 2, configRotation: 2 },", serverIds: true };

for (const mode of ["nat", "full-nat"] as const) {
  test(`quic, ${mode}: a connection keeps its backend when the client's address changes`, (t) => {
    const seed = 0x5eed_0500;
    t.diagnostic(`seed ${seed}`);
    const random = createRandom(seed);
    const world = new World(t, { ...QUIC, mode });
    for (let round = 0; round < 60; round++) {
      const backend = BACKENDS[random.below(3)]!;
      const form = random.below(2) === 0 ? "long" : "short";
      for (let moves = 0; moves < 3; moves++) {
        // Two of three clients come back with a port that has a flow to another backend.
        const [client, port] = [`198.51.100.${2 + random.below(9)}`, 5000 + random.below(2)];
        const seen = world.ask(port, quic(form, idOf(backend), 2, round), client)!;
        assert.equal(seen.destination, backend);
        const heard = world.answer(seen)!;
        assert.deepEqual(
          [heard.source, heard.sourcePort, heard.destination, heard.destinationPort],
          [VIP, 53, client, port],
        );
      }
    }
    assert.equal(world.gateway.counters()["dropped"], 0);
  });
}

test("quic: what is not routable goes by addresses and ports", (t) => {
  const world = new World(t, QUIC);
  const id = idOf(BACKENDS[2]!);
  const unroutable: readonly (readonly [string, number[]])[] = [
    ["another rotation", quic("short", id, 1)],
    ["rotation 7", quic("long", id, 7)],
    ["an ID that nobody has", quic("short", "ffff", 2)],
    ["too short a connection ID", [0xe3, 0, 0, 0, 1, 4, 0x40, ...Buffer.from(id, "hex"), 1, 9, 9]],
    ["a DCID that the datagram ends in", quic("long", id, 2).slice(0, 9)],
    ["a short header that ends", quic("short", id, 2).slice(0, 5)],
    ["one byte", [0xc3]],
    ["nothing", []],
  ];
  for (const [index, [name, data]] of unroutable.entries()) {
    const port = 6000 + index;
    const first = world.backendOf(port, data);
    assert.notEqual(first, "", name);
    // It is a flow like any other: the same backend again, whatever comes after.
    assert.equal(world.backendOf(port, [0x43, 1, 2]), first, name);
    assert.equal(world.backendOf(port, data), first, name);
  }
});

test("quic: a drained backend has its connections until the deadline, one that is down has none", (t) => {
  const world = new World(t, { ...QUIC, more: `${QUIC.more} existingFlows: { deadline: 60s },` });
  const [own, down] = [BACKENDS[0]!, BACKENDS[1]!];
  world.set(own, B_ADMIN, 1);
  assert.equal(world.backendOf(7000, quic("short", idOf(own), 2)), own, "a client that has moved");
  world.wait(DEADLINE_MS);
  assert.notEqual(world.backendOf(7001, quic("short", idOf(own), 2)), own);
  world.set(down, B_HEALTH, HEALTH_DOWN);
  assert.notEqual(world.backendOf(7002, quic("short", idOf(down), 2)), down);
});
