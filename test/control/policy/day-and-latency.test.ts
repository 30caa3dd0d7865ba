import assert from "node:assert/strict";
import { test } from "node:test";
import { rebuild } from "../../../lab/policies/day-and-latency.ts";
import type { Backend, Statistics } from "../../../src/control/policy/policy.d.ts";

// Goal: the example weighs by time of day and latency as its first comment says.

const NOON = Date.UTC(2026, 5, 1, 12);
const NIGHT = Date.UTC(2026, 5, 1, 23);

function weightsAt(nowMs: number, backends: readonly Partial<Backend>[]): number[] {
  const all = backends.map(
    (it, index) => ({ index, weight: 10, takesNewFlows: true, latencyMs: null, ...it }) as Backend,
  );
  const decision = rebuild(all, { nowMs } as Statistics);
  assert.ok("weights" in decision);
  return Array.from(decision.weights);
}

const CASES: { name: string; at: number; backends: Partial<Backend>[]; want: number[] }[] = [
  { name: "by day all by weight", at: NOON, backends: [{}, { weight: 30 }], want: [10, 30] },
  { name: "at night half of them", at: NIGHT, backends: [{}, {}, {}, {}], want: [10, 10, 1, 1] },
  {
    name: "half of those that take flows",
    at: NIGHT,
    backends: [{ takesNewFlows: false }, {}, {}],
    want: [1, 10, 1],
  },
  {
    name: "the slower, the less, down to a quarter",
    at: NOON,
    backends: [{ latencyMs: 2 }, { latencyMs: 4 }, { latencyMs: 200 }],
    want: [10, 5, 2.5],
  },
  {
    name: "below half a millisecond all are alike, and who is not known is fast",
    at: NOON,
    backends: [{ latencyMs: 0.1 }, { latencyMs: 0.4 }, {}],
    want: [10, 10, 10],
  },
  { name: "nobody to choose from", at: NOON, backends: [{ weight: 0 }], want: [1] },
];

for (const { name, at, backends, want } of CASES) {
  test(`day-and-latency: ${name}`, () => assert.deepEqual(weightsAt(at, backends), want));
}
