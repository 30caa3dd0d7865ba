import assert from "node:assert/strict";
import { test } from "node:test";
import fc from "fast-check";
import { createRandom } from "../../src/base/random.ts";
import { HEALTH_DOWN, HEALTH_UP } from "../../src/service/backend-slots.ts";
import { SCHEDULER_NAMES } from "../../src/service/bank.ts";
import type { BackendDefinition, HealthDefinition } from "../../src/service/definition.ts";
import { backend } from "../control/definitions.ts";
import { setSlot } from "../service/regions.ts";
import { chiSquared, createWorld, tally } from "./world.ts";

/** `count` backends 10.20.0.1:80 and on, in the order of the list. */
function backends(weights: readonly number[]): BackendDefinition[] {
  return weights.map((weight, index) => backend(`10.20.0.${index + 1}:80`, weight));
}
const endpoint = (index: number): string => `10.20.0.${index + 1}:80`;
const indexOf = (text: string): number => Number(text.split(/[.:]/)[3]) - 1;
const times = <T>(count: number, one: (index: number) => T): T[] =>
  Array.from({ length: count }, (_, index) => one(index));
const weightLists = fc.array(fc.integer({ min: 1, max: 40 }), { minLength: 1, maxLength: 12 });

const HEALTH: HealthDefinition = {
  type: "tcp",
  intervalMs: 2000,
  fastIntervalMs: 2000,
  downIntervalMs: 2000,
  timeoutMs: 1000,
  rise: 2,
  fall: 3,
  spread: 0,
  port: 0,
  source: null,
  through: "direct",
};

for (const scheduler of SCHEDULER_NAMES) {
  test(`${scheduler}: no backend, no pick; one backend, always that`, () => {
    const world = createWorld({ scheduler, backends: [] });
    assert.equal(world.pick(), "");
    world.configure({ backends: backends([0]) });
    assert.equal(world.pick(), "", "weight 0 takes no new flow");
    world.configure({ backends: backends([3]) });
    assert.deepEqual(
      times(5, (index) => world.pick(index)),
      times(5, () => endpoint(0)),
    );
  });

  test(`${scheduler}: only backends that take flows are picked, and each of them is`, () => {
    const world = createWorld({ scheduler, health: HEALTH, backends: backends([1, 0, 2, 1, 1]) });
    for (const index of [0, 1, 2, 4])
      setSlot(world.views, world.slot(index), { health: HEALTH_UP });
    setSlot(world.views, world.slot(3), { health: HEALTH_DOWN });
    setSlot(world.views, world.slot(4), { weightOverride: 0 });
    world.rewrite();
    const random = createRandom(1);
    const held = [0, 0, 0, 0, 0];
    const picked = tally(
      times(400, (index) => {
        const chosen = world.pick(random.next32(), index);
        // Whoever is chosen has one more, so that counting schedulers go on.
        const at = indexOf(chosen);
        held[at]!++;
        world.setFlows(at, held[at]!, held[at]!);
        return chosen;
      }),
    );
    assert.deepEqual([...picked.keys()].toSorted(), [endpoint(0), endpoint(2)]);
    setSlot(world.views, world.slot(3), { health: HEALTH_UP });
    world.rewrite();
    const after = times(400, (index) => world.pick(random.next32(), index));
    assert.ok(after.includes(endpoint(3)), "it is back");
  });
}

test("round-robin: each in turn, whatever the weight, and on through a reload", () => {
  const world = createWorld({ scheduler: "round-robin", backends: backends([5, 1, 9]) });
  const order = times(7, () => world.pick());
  assert.deepEqual(order, [0, 1, 2, 0, 1, 2, 0].map(endpoint));
  world.configure({ backends: backends([1, 1, 1, 1]) });
  assert.deepEqual(
    times(4, () => world.pick()),
    [1, 2, 3, 0].map(endpoint),
  );
});

test("property: round-robin is an index that counts up, and begins anew beyond the end", () => {
  const lengths = fc.array(fc.tuple(fc.integer({ min: 1, max: 6 }), fc.nat(12)), { maxLength: 12 });
  fc.assert(
    fc.property(lengths, (steps) => {
      const world = createWorld({ scheduler: "round-robin" });
      let next = 0;
      for (const [length, picks] of steps) {
        world.configure({ backends: backends(times(length, () => 1)) });
        for (let pick = 0; pick < picks; pick++) {
          if (next >= length) next = 0;
          assert.equal(world.pick(), endpoint(next));
          next = (next + 1) % length;
        }
      }
    }),
    { numRuns: 60 },
  );
});

/** One cycle of LVS's walk, written down as what it comes to: level by level from the top. */
function weightedCycle(weights: readonly number[]): string[] {
  const divisor = (a: number, b: number): number => (b === 0 ? a : divisor(b, a % b));
  const step = weights.reduce(divisor);
  const cycle: string[] = [];
  for (let level = Math.max(...weights); level > 0; level -= step) {
    weights.forEach((weight, index) => {
      if (weight >= level) cycle.push(endpoint(index));
    });
  }
  return cycle;
}

test("property: weighted-round-robin is LVS's cycle, in which shares are exactly the weights", () => {
  fc.assert(
    fc.property(weightLists, (weights) => {
      const world = createWorld({
        scheduler: "weighted-round-robin",
        backends: backends(weights),
      });
      const cycle = weightedCycle(weights);
      const picked = times(2 * cycle.length, () => world.pick());
      assert.deepEqual(picked, [...cycle, ...cycle]);
      const counts = tally(cycle);
      weights.forEach((weight, index) => {
        assert.equal(counts.get(endpoint(index))! * weights[0]!, counts.get(endpoint(0))! * weight);
      });
    }),
    { numRuns: 60 },
  );
});

test("property: weighted-round-robin goes on after any change of the list", () => {
  const steps = fc.array(fc.tuple(weightLists, fc.nat(30)), { minLength: 2, maxLength: 6 });
  fc.assert(
    fc.property(steps, (changes) => {
      const world = createWorld({ scheduler: "weighted-round-robin" });
      for (const [weights, picks] of changes) {
        world.configure({ backends: backends(weights) });
        const known = new Set(weights.map((_, index) => endpoint(index)));
        for (let pick = 0; pick < picks; pick++) assert.ok(known.has(world.pick()));
      }
      // Wherever the walk stands, a cycle's length from there on has everyone's share.
      const [weights] = changes.at(-1)!;
      const cycle = weightedCycle(weights);
      for (let pick = 0; pick < cycle.length; pick++) world.pick();
      assert.deepEqual(tally(times(cycle.length, () => world.pick())), tally(cycle));
    }),
    { numRuns: 60 },
  );
});

const loads = fc.array(
  fc.record({
    active: fc.integer({ min: 0, max: 2_000_000 }),
    inactive: fc.integer({ min: 0, max: 2_000_000 }),
    weight: fc.integer({ min: 1, max: 65_535 }),
  }),
  { minLength: 1, maxLength: 12 },
);
const smallLoads = fc.array(
  fc.record({
    active: fc.nat(3),
    inactive: fc.nat(600),
    weight: fc.integer({ min: 1, max: 4 }),
  }),
  { minLength: 1, maxLength: 12 },
);

for (const scheduler of ["least-connections", "weighted-least-connections"] as const) {
  test(`property: ${scheduler} is the first of those with the least load`, () => {
    fc.assert(
      fc.property(fc.oneof(loads, smallLoads), (list) => {
        const world = createWorld({
          scheduler,
          backends: backends(list.map(({ weight }) => weight)),
        });
        list.forEach(({ active, inactive }, index) => {
          world.setFlows(index, active + inactive, active);
        });
        // Exact fractions with one denominator: the product of all weights.
        const isWeighted = scheduler === "weighted-least-connections";
        const product = list.reduce((all, { weight }) => all * BigInt(weight), 1n);
        const values = list.map(({ active, inactive, weight }) => {
          const load = BigInt(active) * 256n + BigInt(inactive);
          return isWeighted ? (load * product) / BigInt(weight) : load;
        });
        const [least] = values.toSorted((a, b) => (a < b ? -1 : a > b ? 1 : 0));
        assert.equal(world.pick(), endpoint(values.indexOf(least!)));
      }),
      { numRuns: 200 },
    );
  });
}

test("least connections: held connections come out even, and by weight", () => {
  for (const [scheduler, expected] of [
    ["least-connections", [200, 200, 200]],
    ["weighted-least-connections", [100, 200, 300]],
  ] as const) {
    const world = createWorld({ scheduler, backends: backends([1, 2, 3]) });
    const held = [0, 0, 0];
    for (let flow = 0; flow < 600; flow++) {
      const at = indexOf(world.pick());
      held[at]!++;
      world.setFlows(at, held[at]!, held[at]!);
    }
    assert.deepEqual(held, expected);
  }
});

test("source-hash: a client's address alone decides", () => {
  const world = createWorld({ scheduler: "source-hash", backends: backends([1, 1, 1, 1, 1]) });
  const random = createRandom(2);
  const seen = new Set<string>();
  for (let client = 0; client < 200; client++) {
    const from = random.next32();
    const first = world.pick(from, 1);
    seen.add(first);
    for (const port of [2, 40_000, 65_535]) assert.equal(world.pick(from, port), first);
    assert.equal(world.pick(from, 1, 17), first);
  }
  assert.equal(seen.size, 5);
});

test("maglev: the whole 5-tuple decides", () => {
  const world = createWorld({ scheduler: "maglev", backends: backends([1, 1, 1, 1, 1]) });
  const byPort = times(100, (port) => world.pick(1, port));
  assert.deepEqual(
    times(100, (port) => world.pick(1, port)),
    byPort,
  );
  assert.equal(new Set(byPort).size, 5);
  assert.notDeepEqual(
    times(100, (port) => world.pick(1, port, 17)),
    byPort,
  );
});

test("hash schedulers: shares are the weights but for chance (chi-squared), ports in order included", () => {
  const weights = [1, 2, 3, 1, 5, 1, 2, 1, 1, 3, 4];
  const sum = weights.reduce((total, weight) => total + weight);
  const flows = 40_000;
  const random = createRandom(3);
  const clients: Record<string, (index: number) => readonly [number, number]> = {
    "at random": () => [random.next32(), random.below(65_536)],
    "of one network, ports in order": (index) => [0x0a000000 + index, 1024 + (index % 60_000)],
  };
  for (const scheduler of ["maglev", "source-hash"] as const) {
    const world = createWorld({ scheduler, tableSize: 65_537, backends: backends(weights) });
    for (const [name, client] of Object.entries(clients)) {
      const counts = tally(times(flows, (index) => world.pick(...client(index))));
      const found = weights.map((_, index) => counts.get(endpoint(index)) ?? 0);
      // The source-hash table has 256 slots, so its shares are off by up to half a slot each.
      const expected =
        scheduler === "maglev"
          ? weights.map((weight) => (flows * weight) / sum)
          : weights.map((weight) => (flows * Math.round((256 * weight) / sum)) / 256);
      const statistic = chiSquared(found, expected);
      assert.ok(statistic < 3, `${scheduler}, clients ${name}: ${statistic}`);
    }
  }
});

test("hash schedulers: another seed is another choice, the same seed the same", () => {
  for (const scheduler of ["maglev", "source-hash"] as const) {
    const choices = (seed: string): string[] => {
      const world = createWorld({ scheduler, backends: backends([1, 1, 1, 1]) }, seed);
      return times(64, (client) => world.pick(client));
    };
    assert.deepEqual(choices("fleet-1"), choices("fleet-1"));
    assert.notDeepEqual(choices("fleet-1"), choices("fleet-2"));
  }
});

test("hash schedulers: what a fleet's nodes choose does not change between versions or processes", () => {
  const expected = {
    maglev: "435545255312444444422424544242244344244444444444",
    "source-hash": "454244444124441215245344443422414435523424441442",
  };
  for (const scheduler of ["maglev", "source-hash"] as const) {
    const world = createWorld(
      { scheduler, tableSize: 4093, backends: backends([1, 2, 1, 7, 1]) },
      "fleet",
    );
    const choices = times(48, (client) => world.pick(0x0a000000 + client, 1000 + client));
    assert.equal(choices.map((choice) => choice.charAt(8)).join(""), expected[scheduler]);
  }
});
