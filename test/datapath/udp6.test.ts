import assert from "node:assert/strict";
import { test } from "node:test";
import { createRandom } from "../../src/base/random.ts";
import { type Seen6, udp6 } from "../support/packets6.ts";
import { Bench6, SNAT, VIP } from "./ipv6-bench.ts";

/** udp.test.ts over IPv6: flows by backend are found by folds and confirmed by full addresses. */

const BACKENDS = ["2001:db8:2::11", "2001:db8:2::12", "2001:db8:2::13"];

function bench(mode: string, more: string, serverIds = false): Bench6 {
  const list = BACKENDS.map(
    (address, index) =>
      `{ address: '${address}', port: 5353${serverIds ? `, serverId: "0a0${index + 1}"` : ""} }`,
  );
  return new Bench6({
    yaml: `
version: 1
device: { type: packet, interfaces: [eth0, eth1] }
snat: { addresses: ['${SNAT}'], ports: 2000-2999 }
services:
  - { name: dns, vip: '${VIP}', port: 53, protocol: udp, mode: ${mode}, scheduler: rr, ${more}
      backends: [${list.join(", ")}] }
`,
  });
}

function ask(world: Bench6, source: string, sourcePort: number, data: readonly number[]): Seen6 {
  const packet = udp6({ source, sourcePort, destination: VIP, destinationPort: 53, data });
  const seen = world.see(world.client(packet)[0]);
  assert.ok(seen.sumIsRight);
  return seen;
}

function answer(world: Bench6, to: Seen6, data: readonly number[]): Seen6 {
  const ends = {
    source: to.destination,
    sourcePort: to.destinationPort,
    destination: to.source,
    destinationPort: to.sourcePort,
  };
  const seen = world.see(world.backend(udp6({ ...ends, data }))[0]);
  assert.ok(seen.sumIsRight);
  return seen;
}

for (const mode of ["nat", "full-nat"]) {
  test(`udp.perPacket, IPv6 ${mode}: each query goes on, each answer comes back`, (t) => {
    const seed = 0x5eed_0b00;
    t.diagnostic(`seed ${seed}`);
    const random = createRandom(seed);
    const world = bench(mode, "udp: { perPacket: true },");
    const turns = new Set<string>();
    for (let round = 0; round < 30; round++) {
      const open: { source: string; seen: Seen6; number: number }[] = [];
      for (let number = 0; number < 6; number++) {
        const source = `2001:db8:1::${2 + random.below(2)}`;
        const seen = ask(world, source, 4000, [number]);
        turns.add(seen.destination);
        open.splice(random.below(open.length + 1), 0, { source, seen, number });
      }
      for (const { source, seen, number } of open) {
        const heard = answer(world, seen, [number]);
        assert.deepEqual(
          [heard.source, heard.sourcePort, heard.destination, heard.destinationPort],
          [VIP, 53, source, 4000],
        );
        assert.equal(heard.l4[8], number);
      }
    }
    assert.equal(turns.size, 3);
    assert.equal(world.count("dropped"), 0);
    assert.ok(world.live <= 6);
  });

  test(`quic, IPv6 ${mode}: a connection keeps its backend`, (t) => {
    const seed = 0x5eed_0b01;
    t.diagnostic(`seed ${seed}`);
    const random = createRandom(seed);
    const world = bench(mode, "quic: { serverIdBytes: 2, configRotation: 1 },", true);
    for (let round = 0; round < 100; round++) {
      const index = random.below(3);
      const source = `2001:db8:1::${2 + random.below(4)}`;
      const port = 5000 + random.below(2);
      const data = [0x41, 0x28, 0x0a, index + 1, 1, 2, 3, 4, 5, 6];
      const seen = ask(world, source, port, data);
      assert.equal(seen.destination, BACKENDS[index]);
      const heard = answer(world, seen, [9]);
      assert.deepEqual([heard.destination, heard.destinationPort], [source, port]);
    }
    assert.equal(world.count("dropped"), 0);
  });
}
