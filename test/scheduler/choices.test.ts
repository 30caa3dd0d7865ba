import assert from "node:assert/strict";
import { test } from "node:test";
import { createRandom } from "../../src/base/random.ts";
import { SCHEDULER_NAMES, type SchedulerName } from "../../src/service/bank.ts";
import { backendList, chiSquared, chiSquaredMost, createWorld, type World } from "./world.ts";

/**
 * Goal: a flow that its backend cannot take (full, or the reply tuple is taken) has further choices:
 * the same ones on every node where the first is, spread over all others, and none is left out.
 */

const SEED = Number(process.env["SEED"] ?? 20_261_125);
const WEIGHTS = [3, 1, 4, 1, 5, 9, 2, 6];
const COUNT = WEIGHTS.length;

function worldOf(scheduler: SchedulerName, reversed = false): World {
  const backends = backendList(WEIGHTS);
  const maxLoad = scheduler === "bounded-maglev" ? 1.25 : null;
  return createWorld(
    { scheduler, maxLoad, tableSize: 4093, backends: reversed ? backends.toReversed() : backends },
    "fleet",
    { workers: 2, flowCapacity: 2 },
  );
}

for (const scheduler of SCHEDULER_NAMES) {
  test(`${scheduler}: as many choices as backends reach every one`, () => {
    const world = worldOf(scheduler);
    const random = createRandom(SEED);
    for (let flow = 0; flow < 500; flow++) {
      const asked = { client: random.next32(), clientPort: random.below(65_536) };
      const reached = new Set(world.choices(asked, COUNT));
      assert.equal(reached.size, COUNT, `seed ${SEED}, flow ${flow}`);
    }
  });
}

test("one backend has no other", () => {
  for (const scheduler of SCHEDULER_NAMES) {
    const maxLoad = scheduler === "bounded-maglev" ? 1.25 : null;
    const world = createWorld({ scheduler, maxLoad, backends: backendList([1]) });
    assert.deepEqual(world.choices({}, 2), [0, 0], scheduler);
  }
});

for (const scheduler of ["maglev", "source-hash", "rendezvous", "failover"] as const) {
  test(`${scheduler}: every node and worker has the same further choices`, () => {
    const [one, other] = [worldOf(scheduler), worldOf(scheduler, true)];
    const random = createRandom(SEED);
    for (let flow = 0; flow < 500; flow++) {
      const asked = { client: random.next32(), clientPort: random.below(65_536) };
      assert.deepEqual(
        one.choices({ ...asked, worker: 0 }, 4),
        other.choices({ ...asked, worker: 1 }, 4),
      );
    }
  });
}

for (const scheduler of ["maglev", "source-hash", "rendezvous"] as const) {
  test(`${scheduler}: what a full backend cannot take goes to the others by weight`, () => {
    const world = worldOf(scheduler);
    const random = createRandom(SEED);
    const full = 5;
    const counts = WEIGHTS.map(() => 0);
    let flows = 0;
    while (flows < 20_000) {
      const asked = { client: random.next32(), clientPort: random.below(65_536) };
      if (world.position(asked) !== full) continue;
      const [second] = world.choices(asked, 1);
      assert.notEqual(second, full);
      counts[second!]!++;
      flows++;
    }
    const others = WEIGHTS.flatMap((weight, at) => (at === full ? [] : [{ weight, at }]));
    const sum = others.reduce((total, { weight }) => total + weight, 0);
    if (scheduler === "rendezvous") {
      const found = chiSquared(
        others.map(({ at }) => counts[at]!),
        others.map(({ weight }) => (flows * weight) / sum),
      );
      assert.ok(found < chiSquaredMost(others.length), `seed ${SEED}: ${found}`);
      return;
    }
    // Those of a table that has few slots are by weight but for what slots allow.
    for (const { weight, at } of others) {
      const due = (flows * weight) / sum;
      assert.ok(Math.abs(counts[at]! - due) < 0.35 * due, `${counts[at]} of ${due}`);
    }
  });
}

test("rendezvous: the second choice is where the flow goes when the first is away", () => {
  const world = worldOf("rendezvous");
  const random = createRandom(SEED);
  const without = WEIGHTS.map((_, gone) => {
    const backends = backendList(WEIGHTS).filter((_, at) => at !== gone);
    return createWorld({ scheduler: "rendezvous", backends }, "fleet");
  });
  for (let flow = 0; flow < 2000; flow++) {
    const asked = { client: random.next32(), clientPort: random.below(65_536) };
    const first = world.position(asked);
    const [second] = world.choices(asked, 1);
    const rest = without[first]!.position(asked);
    assert.equal(second, rest < first ? rest : rest + 1);
  }
});

test("failover and overflow: further choices go down by weight", () => {
  const order = [5, 7, 4, 2, 0, 6, 1, 3];
  for (const scheduler of ["failover", "overflow"] as const) {
    const world = worldOf(scheduler);
    assert.equal(world.position(), order[0]);
    assert.deepEqual(world.choices({}, 7), order.slice(1));
    assert.deepEqual(world.choices({}, 8), [...order.slice(1), order[0]]);
  }
});
