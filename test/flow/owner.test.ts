import assert from "node:assert/strict";
import { test } from "node:test";
import fc from "fast-check";
import { createRandom } from "../../src/base/random.ts";
import { MODE_FULL_NAT, MODE_NAT } from "../../src/flow/flow-record.ts";
import {
  isScattered,
  OWNER_ADDRESS_ONLY,
  OWNER_PORT_COUNTS,
  ownerOfClient,
  ownerOfSnatPort,
} from "../../src/flow/owner.ts";

const word = fc.integer();

test("an owner is one of the workers, the same for the same client and key", () => {
  fc.assert(
    fc.property(
      word,
      word,
      word,
      fc.nat(65535),
      fc.integer({ min: 1, max: 16 }),
      (k0, k1, client, port, workers) => {
        const owner = ownerOfClient(k0, k1, client, port, OWNER_PORT_COUNTS, workers);
        assert.ok(Number.isInteger(owner) && owner >= 0 && owner < workers);
        assert.equal(ownerOfClient(k0, k1, client, port, OWNER_PORT_COUNTS, workers), owner);
        const alone = ownerOfClient(k0, k1, client, port, OWNER_ADDRESS_ONLY, workers);
        assert.equal(ownerOfClient(k0, k1, client, port ^ 1, OWNER_ADDRESS_ONLY, workers), alone);
      },
    ),
  );
});

// Chi-squared with workers - 1 degrees of freedom: 15 at most, where 60 is exceeded once in 10^6.
for (const [name, clientOf, portOf] of [
  ["the ports of one client", () => 0xc6336402 | 0, (id: number) => 1024 + id],
  ["clients in a row, one port", (id: number) => (0xc6336400 + id) | 0, () => 40_000],
  ["every 256th client", (id: number) => (0x0a000000 + id * 256) | 0, () => 53],
] as const) {
  test(`${name} spread evenly over the workers`, () => {
    const random = createRandom(7);
    for (let round = 0; round < 20; round++) {
      const [k0, k1] = [random.below(2 ** 31), random.below(2 ** 31)];
      for (const workers of [2, 3, 4, 16]) {
        const counts = new Array<number>(workers).fill(0);
        const total = 8192;
        for (let id = 0; id < total; id++) {
          counts[ownerOfClient(k0, k1, clientOf(id), portOf(id), OWNER_PORT_COUNTS, workers)]!++;
        }
        const expected = total / workers;
        const chi = counts.reduce((sum, count) => sum + (count - expected) ** 2 / expected, 0);
        assert.ok(chi < 60, `${workers} workers: ${counts.join(" ")}`);
      }
    }
  });
}

test("another key gives other owners", () => {
  let same = 0;
  for (let id = 0; id < 4096; id++) {
    const one = ownerOfClient(1, 2, id, id, OWNER_PORT_COUNTS, 2);
    if (one === ownerOfClient(3, 2, id, id, OWNER_PORT_COUNTS, 2)) same++;
  }
  assert.ok(same > 1800 && same < 2300, `${same} of 4096 owners are the same`);
});

test("a full-NAT port belongs to one worker; elsewhere no flow is scattered", () => {
  for (const workers of [1, 2, 3, 16]) {
    for (let port = 1024; port < 1100; port++) {
      const owner = ownerOfSnatPort(port, workers);
      for (let worker = 0; worker < workers; worker++) {
        assert.equal(isScattered(MODE_FULL_NAT, port, worker, workers), worker !== owner);
        assert.equal(isScattered(MODE_NAT, port, worker, workers), false);
      }
    }
  }
});
