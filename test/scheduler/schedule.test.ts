import assert from "node:assert/strict";
import { test } from "node:test";
import fc from "fast-check";
import { createRandom } from "../../src/base/random.ts";
import { firstTurn } from "../../src/scheduler/turns.ts";
import { weightShift } from "../../src/scheduler/weight-ranges.ts";
import { smoothWeight } from "../../src/scheduler/weighted-round-robin.ts";
import { B_SLOW_SHARE, HEALTH_DOWN, HEALTH_UP } from "../../src/service/backend-slots.ts";
import { S_SCHEDULER_SEED, SCHEDULER_NAMES } from "../../src/service/bank.ts";
import { backendSlotWord } from "../../src/service/slots.ts";
import { TCP_HEALTH } from "../control/definitions.ts";
import { setSlot } from "../service/regions.ts";
import { backendList as backends, chiSquared, createWorld, tally, type World } from "./world.ts";

const endpoint = (index: number): string => `10.20.0.${index + 1}:80`;
const indexOf = (text: string): number => Number(text.split(/[.:]/)[3]) - 1;
const times = <T>(count: number, one: (index: number) => T): T[] =>
  Array.from({ length: count }, (_, index) => one(index));
const weightLists = fc.array(fc.integer({ min: 1, max: 40 }), { minLength: 1, maxLength: 12 });

/** Where the first worker begins in a list of so many. */
function startOf(world: World, count: number): number {
  return firstTurn(world.views.i32[world.serviceWord() + S_SCHEDULER_SEED]!, 0, 1, count);
}

/** `maglev` with a bound has one here too. */
const NAMED = SCHEDULER_NAMES.map((scheduler) => ({
  scheduler,
  maxLoad: scheduler === "bounded-maglev" ? 1.25 : null,
}));

for (const { scheduler, maxLoad } of NAMED) {
  test(`${scheduler}: no backend, no pick; one backend, always that`, () => {
    const world = createWorld({ scheduler, maxLoad, backends: [] });
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
    const weights = scheduler === "overflow" ? [100, 0, 250, 100, 100] : [1, 0, 2, 1, 1];
    const world = createWorld({
      ...{ scheduler, maxLoad, health: TCP_HEALTH },
      backends: backends(weights),
    });
    for (const index of [0, 1, 2, 4])
      setSlot(world.views, world.slot(index), { health: HEALTH_UP });
    setSlot(world.views, world.slot(3), { health: HEALTH_DOWN });
    setSlot(world.views, world.slot(4), { weightOverride: 0 });
    world.rewrite();
    const random = createRandom(1);
    const held = [0, 0, 0, 0, 0];
    const picked = tally(
      times(300, (index) => {
        const chosen = world.pick(random.next32(), index);
        // Whoever is chosen has one more, so that counting schedulers go on.
        const at = indexOf(chosen);
        held[at]!++;
        world.setFlows(at, held[at]!, held[at]!);
        return chosen;
      }),
    );
    // Failover has one backend at a time.
    const wanted = scheduler === "failover" ? [endpoint(2)] : [endpoint(0), endpoint(2)];
    assert.deepEqual([...picked.keys()].toSorted(), wanted);
    setSlot(world.views, world.slot(3), { health: HEALTH_UP });
    if (scheduler === "failover") setSlot(world.views, world.slot(2), { health: HEALTH_DOWN });
    if (scheduler === "failover") setSlot(world.views, world.slot(0), { health: HEALTH_DOWN });
    if (scheduler === "overflow") world.setFlows(0, 101, 101);
    world.rewrite();
    const after = times(400, (index) => world.pick(random.next32(), index));
    assert.ok(after.includes(endpoint(3)), "it is back");
  });
}

test("round-robin: each in turn, whatever the weight, and on through a reload", () => {
  const world = createWorld({ scheduler: "round-robin", backends: backends([5, 1, 9]) });
  const start = startOf(world, 3);
  const order = times(7, () => world.position());
  assert.deepEqual(
    order,
    times(7, (index) => (start + index) % 3),
  );
  const next = order.at(-1)! + 1;
  world.configure({ backends: backends([1, 1, 1, 1]) });
  assert.deepEqual(
    times(4, () => world.position()),
    times(4, (index) => (next + index) % 4),
  );
});

test("property: round-robin is an index that counts up, and goes round in a shorter list", () => {
  const lengths = fc.array(fc.tuple(fc.integer({ min: 1, max: 6 }), fc.nat(12)), { maxLength: 12 });
  fc.assert(
    fc.property(lengths, (steps) => {
      const world = createWorld({ scheduler: "round-robin" });
      let next = -1;
      for (const [length, picks] of steps) {
        world.configure({ backends: backends(times(length, () => 1)) });
        for (let pick = 0; pick < picks; pick++) {
          next = next < 0 ? startOf(world, length) : next % length;
          assert.equal(world.pick(), endpoint(next));
          next++;
        }
      }
    }),
    { numRuns: 60 },
  );
});

/**
 * nginx's ngx_http_upstream_get_peer (ngx_http_upstream_round_robin.c) over objects, without its
 * checks of failing peers, and from currents that are given.
 */
function nginxOrder(weights: readonly number[], from: readonly number[], picks: number): number[] {
  const peers = weights.map((weight, index) => ({ weight, current: from[index]!, index }));
  return times(picks, () => {
    let best: (typeof peers)[number] | null = null;
    let total = 0;
    for (const peer of peers) {
      peer.current += peer.weight;
      total += peer.weight;
      if (best === null || peer.current > best.current) best = peer;
    }
    best!.current -= total;
    return best!.index;
  });
}

test("the oracle of smooth weighted round robin gives what nginx documents", () => {
  assert.deepEqual(nginxOrder([5, 1, 1], [0, 0, 0], 7), [0, 0, 1, 0, 2, 0, 0]);
});

test("property: weighted-round-robin is nginx's, from a ramp; a backend is never 2 off its share", () => {
  fc.assert(
    fc.property(weightLists, fc.string({ maxLength: 4 }), (weights, seed) => {
      const world = createWorld(
        { scheduler: "weighted-round-robin", backends: backends(weights) },
        seed,
      );
      const sum = weights.reduce((total, weight) => total + weight);
      const start = startOf(world, weights.length);
      const ramp = weights.map((_, index) => {
        const turn = (index - start + weights.length) % weights.length;
        return Math.floor((sum * (weights.length - 1 - 2 * turn)) / (2 * weights.length));
      });
      const picked = times(3 * sum, () => world.position());
      assert.deepEqual(picked, nginxOrder(weights, ramp, 3 * sum));
      const counts = weights.map(() => 0);
      picked.forEach((at, flow) => {
        counts[at]!++;
        weights.forEach((weight, index) => {
          const due = ((flow + 1) * weight) / sum;
          assert.ok(Math.abs(counts[index]! - due) < 2, `${counts[index]} of ${due}`);
        });
      });
    }),
    { numRuns: 60 },
  );
});

test("weighted-round-robin: no burst, and equal weights have their turns in order", () => {
  const world = createWorld({ scheduler: "weighted-round-robin", backends: backends([5, 1, 1]) });
  const picked = times(70, () => world.position());
  for (let at = 0; at < 70; at += 7) {
    assert.equal(picked.slice(at, at + 7).filter((one) => one === 0).length, 5);
  }
  let run = 0;
  let longest = 0;
  for (const at of picked) {
    run = at === 0 ? run + 1 : 0;
    longest = Math.max(longest, run);
  }
  assert.ok(longest <= 4, `${longest} in a row, where LVS's walk has 5`);
  const even = createWorld({ scheduler: "weighted-round-robin", backends: backends([7, 7, 7]) });
  const start = startOf(even, 3);
  assert.deepEqual(
    times(9, () => even.position()),
    times(9, (index) => (start + index) % 3),
  );
});

test("property: weighted-round-robin keeps shares after any change of the list", () => {
  const steps = fc.array(fc.tuple(weightLists, fc.nat(30)), { minLength: 2, maxLength: 6 });
  fc.assert(
    fc.property(steps, (changes) => {
      const world = createWorld({ scheduler: "weighted-round-robin" });
      for (const [weights, picks] of changes) {
        world.configure({ backends: backends(weights) });
        for (let pick = 0; pick < picks; pick++) assert.ok(world.position() >= 0);
      }
      // Wherever the last list found them, two rounds on everyone has their share of two more.
      const [weights] = changes.at(-1)!;
      const sum = weights.reduce((total, weight) => total + weight);
      for (let pick = 0; pick < 2 * sum; pick++) world.position();
      const counts = weights.map(() => 0);
      for (let pick = 0; pick < 2 * sum; pick++) counts[world.position()]!++;
      weights.forEach((weight, index) => {
        const off = counts[index]! - 2 * weight;
        assert.ok(Math.abs(off) < 2, `${counts[index]} of ${2 * weight}`);
      });
    }),
    { numRuns: 60 },
  );
});

test("weighted-round-robin: 65,535 backends of the largest weight, whose sum no word holds", () => {
  const shift = weightShift(times(65_535, () => 65_535));
  assert.ok(65_535 * (65_535 >>> shift) < 2 ** 30);
  assert.equal(weightShift([65_535, 1]), 0);
  assert.equal(smoothWeight(1, shift), 1, "no weight becomes nothing");
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

/** What each of them minimises, as a fraction: over, and under the line. */
const COSTS = {
  "least-connections": (load: bigint) => [load, 1n],
  "weighted-least-connections": (load: bigint, weight: bigint) => [load, weight],
  "shortest-expected-delay": (load: bigint, weight: bigint) => [load + 256n, weight],
  "never-queue": (load: bigint, weight: bigint) => [load + 256n, weight],
} as const;

for (const scheduler of Object.keys(COSTS) as (keyof typeof COSTS)[]) {
  test(`property: ${scheduler} is the one with the least, the next in turn of several`, () => {
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
        const product = list.reduce((all, { weight }) => all * BigInt(weight), 1n);
        const values = list.map(({ active, inactive, weight }) => {
          const load = BigInt(active) * 256n + BigInt(inactive);
          const [over, under] = COSTS[scheduler](load, BigInt(weight));
          return (over! * product) / under!;
        });
        const idle = list.flatMap(({ active }, index) => (active === 0 ? [index] : []));
        const all = list.map((_, index) => index);
        const able = scheduler === "never-queue" && idle.length > 0 ? idle : all;
        const [least] = able.map((index) => values[index]!).toSorted((a, b) => (a < b ? -1 : 1));
        const equals = able.filter((index) => values[index] === least);
        let turn = startOf(world, list.length);
        for (let flow = 0; flow < 3; flow++) {
          const distance = (index: number): number => (index - turn + list.length) % list.length;
          const wanted = equals.toSorted((a, b) => distance(a) - distance(b))[0]!;
          assert.equal(world.position(), wanted);
          turn = (wanted + 1) % list.length;
        }
      }),
      { numRuns: 150 },
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
  for (const scheduler of ["maglev", "source-hash", "rendezvous"] as const) {
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
    rendezvous: "542125421444533144315344444444244454434534442354",
  };
  for (const scheduler of ["maglev", "source-hash", "rendezvous"] as const) {
    const world = createWorld(
      { scheduler, tableSize: 4093, backends: backends([1, 2, 1, 7, 1]) },
      "fleet",
    );
    const choices = times(48, (client) => world.pick(0x0a000000 + client, 1000 + client));
    assert.equal(choices.map((choice) => choice.charAt(8)).join(""), expected[scheduler]);
  }
});

test("slow start: failover keeps its ranks, and overflow counts connections as they are", () => {
  for (const [scheduler, taken] of [
    ["failover", 50],
    // A tenth of 40 connections, and one more.
    ["overflow", 5],
  ] as const) {
    const world = createWorld({ scheduler, backends: backends([40, 2]) });
    world.views.i32[backendSlotWord(world.views, world.slot(0)) + B_SLOW_SHARE] = 10;
    world.rewrite();
    const held = [0, 0];
    for (let flow = 0; flow < 50; flow++) {
      const at = world.position();
      if (at < 0) break;
      held[at]!++;
      world.setFlows(at, held[at]!, held[at]!);
    }
    assert.equal(held[0], taken, scheduler);
  }
});
