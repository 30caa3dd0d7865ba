import assert from "node:assert/strict";
import { test } from "node:test";
import fc from "fast-check";
import { createRandom } from "../../src/base/random.ts";
import { UNKNOWN_FLOWS_MAX } from "../../src/scheduler/least-latency.ts";
import { B_COST_US } from "../../src/service/backend-slots.ts";
import { backendSlotWord } from "../../src/service/slots.ts";
import { backendList, createWorld, type World } from "./world.ts";

// Goal: least-latency is latency times connections over weight, of the least. Method: what control
// publishes is written by the test; choices are compared with a slow search and with what follows from
// the rule for 100,000 flows.

function worldOf(weights: readonly number[], latencies: readonly number[]): World {
  const world = createWorld({ scheduler: "least-latency", backends: backendList(weights) });
  for (const [index, latency] of latencies.entries()) setLatency(world, index, latency);
  return world;
}

function setLatency(world: World, index: number, latencyUs: number): void {
  world.views.i32[backendSlotWord(world.views, world.slot(index)) + B_COST_US] = latencyUs;
}

test("property: the choice is one of those that cost the least", () => {
  const one = fc.record({
    weight: fc.integer({ min: 1, max: 100 }),
    latency: fc.integer({ min: 1, max: 1 << 27 }),
    flows: fc.integer({ min: 0, max: 5000 }),
    active: fc.integer({ min: 0, max: 5000 }),
  });
  fc.assert(
    fc.property(fc.array(one, { minLength: 1, maxLength: 20 }), (backends) => {
      const world = worldOf(
        backends.map(({ weight }) => weight),
        backends.map(({ latency }) => latency),
      );
      backends.forEach(({ active, flows }, index) => {
        world.setFlows(index, active + flows, active);
      });
      const cost = ({ weight, latency, flows, active }: (typeof backends)[number]): number =>
        (latency * (256 * (active + 1) + flows)) / weight;
      const least = Math.min(...backends.map(cost));
      assert.ok(cost(backends[world.position()]!) <= least * (1 + 1e-12));
    }),
    { numRuns: 300 },
  );
});

test("100,000 flows: connections stand as weight over latency, to one connection", () => {
  const random = createRandom(7);
  for (const size of [3, 30, 100]) {
    const weights = Array.from({ length: size }, () => 1 + random.below(10));
    const latencies = Array.from({ length: size }, () => 50 + random.below(3000));
    const world = worldOf(weights, latencies);
    const counts = weights.map(() => 0);
    for (let flow = 0; flow < 100_000; flow++) {
      const at = world.position();
      counts[at]!++;
      world.setFlows(at, counts[at]!, counts[at]!);
    }
    // Whoever got the last flow was the least then: nobody is more than one connection ahead.
    const before = counts.map((count, index) => (latencies[index]! * count) / weights[index]!);
    const after = counts.map((count, index) => (latencies[index]! * (count + 1)) / weights[index]!);
    assert.ok(Math.max(...before) <= Math.min(...after) * (1 + 1e-9), `${size} backends`);
  }
});

test("a backend that is not known is tried first, by few; then as the slowest", () => {
  const world = worldOf([1, 1, 1], [100, 400, 0]);
  const counts = [0, 0, 0];
  const picked: number[] = [];
  for (let flow = 0; flow < 100; flow++) {
    const at = world.position();
    counts[at]!++;
    world.setFlows(at, counts[at]!, counts[at]!);
    picked.push(at);
  }
  assert.deepEqual(
    picked.slice(0, UNKNOWN_FLOWS_MAX),
    Array.from({ length: UNKNOWN_FLOWS_MAX }, () => 2),
  );
  assert.ok(counts[2]! >= UNKNOWN_FLOWS_MAX && counts[2]! <= counts[0]!);
  // With 400 us for both, the second and the third have the same.
  assert.ok(Math.abs(counts[1]! - counts[2]!) <= 1, counts.join(" "));
});

test("where nobody is known, connections decide, and equals have their turns", () => {
  const world = worldOf([1, 1, 1, 1], [0, 0, 0, 0]);
  const counts = [0, 0, 0, 0];
  for (let flow = 0; flow < 400; flow++) {
    const at = world.position();
    counts[at]!++;
    world.setFlows(at, counts[at]!, counts[at]!);
  }
  assert.deepEqual(counts, [100, 100, 100, 100]);
});
