import assert from "node:assert/strict";
import { test } from "node:test";
import fc from "fast-check";
import { createRiseFall } from "../../src/health/rise-fall.ts";
import {
  HEALTH_DOWN,
  HEALTH_NAMES,
  HEALTH_STARTING,
  HEALTH_UP,
} from "../../src/service/backend-slots.ts";

/** What is known after each result: `+` a success, `-` a failure; `!` marks a reported change. */
function trace(health: number, rise: number, fall: number, results: string): string[] {
  const riseFall = createRiseFall(health, rise, fall);
  return [...results].map((result) => {
    const hasChanged = riseFall.record(result === "+");
    return `${HEALTH_NAMES[riseFall.health]}${hasChanged ? "!" : ""}`;
  });
}

test("starting: one success is up, whatever rise says", () => {
  assert.deepEqual(trace(HEALTH_STARTING, 5, 3, "+"), ["up!"]);
  assert.deepEqual(trace(HEALTH_STARTING, 5, 3, "--+"), ["starting", "starting", "up!"]);
});

test("starting: `fall` failures are down", () => {
  assert.deepEqual(trace(HEALTH_STARTING, 2, 3, "---"), ["starting", "starting", "down!"]);
  assert.deepEqual(trace(HEALTH_STARTING, 2, 1, "-"), ["down!"]);
});

test("up: `fall` failures in a row are down, a success between them starts the count anew", () => {
  assert.deepEqual(trace(HEALTH_UP, 2, 3, "--+---"), ["up", "up", "up", "up", "up", "down!"]);
  assert.deepEqual(trace(HEALTH_UP, 2, 3, "---"), ["up", "up", "down!"]);
});

test("down: `rise` successes in a row are up, a failure between them starts the count anew", () => {
  assert.deepEqual(trace(HEALTH_DOWN, 2, 3, "+-++"), ["down", "down", "down", "up!"]);
  assert.deepEqual(trace(HEALTH_DOWN, 1, 3, "+"), ["up!"]);
});

test("what a state is confirmed by changes nothing, and is reported by nobody", () => {
  assert.deepEqual(trace(HEALTH_UP, 2, 3, "++++"), ["up", "up", "up", "up"]);
  assert.deepEqual(trace(HEALTH_DOWN, 2, 3, "----"), ["down", "down", "down", "down"]);
});

test("a whole life: started, lost, back, lost again", () => {
  assert.deepEqual(trace(HEALTH_STARTING, 2, 2, "+--++--"), [
    "up!",
    "up",
    "down!",
    "down",
    "up!",
    "up",
    "down!",
  ]);
});

test("property: the health follows from the last results alone", () => {
  const results = fc.array(fc.boolean(), { maxLength: 60 });
  const threshold = fc.integer({ min: 1, max: 6 });
  const start = fc.constantFrom(HEALTH_STARTING, HEALTH_UP, HEALTH_DOWN);
  fc.assert(
    fc.property(results, threshold, threshold, start, (list, rise, fall, first) => {
      const riseFall = createRiseFall(first, rise, fall);
      let health: number = first;
      list.forEach((ok, index) => {
        const before = list.slice(0, index + 1);
        const run = before.length - (before.lastIndexOf(!ok) + 1);
        const needed = !ok ? fall : health === HEALTH_STARTING ? 1 : rise;
        const expected = run >= needed ? (ok ? HEALTH_UP : HEALTH_DOWN) : health;
        assert.equal(riseFall.record(ok), expected !== health);
        health = expected;
        assert.equal(riseFall.health, health);
      });
    }),
  );
});
