import assert from "node:assert/strict";
import { test } from "node:test";
import { createRandom, type Random } from "../../src/base/random.ts";
import { B_SLOW_SHARE, HEALTH_DOWN, HEALTH_UP } from "../../src/service/backend-slots.ts";
import { applyExistingRules, eligibleBackends } from "../../src/service/effective.ts";
import { createHashTables } from "../../src/service/hash-tables.ts";
import {
  choosePool,
  type PoolMember,
  type PoolRules,
  withShares,
} from "../../src/service/pools.ts";
import { assignSlots, backendSlotWord } from "../../src/service/slots.ts";
import { advanceSlowStart } from "../../src/service/slow-start.ts";
import { backend, gateway, service } from "../control/definitions.ts";
import { memoryRegion, setSlot } from "./regions.ts";

const DEFAULTS: PoolRules = {
  minimumHealthy: { count: 1 },
  panicThreshold: 0,
  noBackend: { action: "reset" },
};

/** `up:0 down:0 up:1`: states with their tiers; the answer is the places of those that take flows. */
function chosen(text: string, rules: Partial<PoolRules> = {}): string {
  const all = text.split(" ").map((word, place) => {
    const [state, tier] = word.split(":");
    return { state: state!, priority: Number(tier), place };
  });
  return choosePool(all, { ...DEFAULTS, ...rules })
    .map(({ place }) => place)
    .join(",");
}

test("tiers: the next one joins where those before it have fewer up than minimumHealthy", () => {
  assert.equal(chosen("up:0 up:0 up:1"), "0,1");
  assert.equal(chosen("down:0 up:0 up:1"), "1");
  assert.equal(chosen("down:0 draining:0 up:1 up:2"), "2");
  assert.equal(chosen("up:2 up:7"), "0", "numbers may be left out");
  const two = { minimumHealthy: { count: 2 } };
  assert.equal(chosen("down:0 up:0 up:1 up:1 up:2", two), "1,2,3", "whole tiers");
  assert.equal(chosen("down:0 down:0 up:1 up:2 up:3", two), "2,3");
  const half = { minimumHealthy: { percent: 50 } };
  assert.equal(chosen("up:0 up:0 down:0 down:0 up:1", half), "0,1");
  assert.equal(chosen("up:0 draining:0 down:0 down:0 up:1 up:2", half), "0,4", "two of four");
  assert.equal(chosen("up:0 down:0 down:0 up:1", half), "0,3", "1.5 of three is two");
});

test("where none is up: starting, then ejected, then what noBackend says", () => {
  assert.equal(chosen("starting:0 starting:1 down:0"), "0");
  assert.equal(chosen("starting:0 up:1"), "1", "up before starting, whatever the tier");
  assert.equal(chosen("ejected:0 down:0 starting:1"), "2");
  assert.equal(chosen("ejected:1 down:0"), "0");
  assert.equal(chosen("down:0 down:1 draining:0 disabled:0"), "");
  const panic = { noBackend: { action: "panic" } };
  assert.equal(chosen("down:0 down:1 draining:0 disabled:0", panic), "0,1");
});

test("panicThreshold: below it all take flows that nobody took out, of every tier", () => {
  const half = { panicThreshold: 50 };
  assert.equal(chosen("up:0 up:0 down:0 down:0", half), "0,1", "half is not less than half");
  assert.equal(chosen("up:0 down:0 down:0 ejected:1 draining:0", half), "0,1,2,3");
  assert.equal(chosen("up:0 down:0 draining:0 disabled:0 disabled:0", half), "0", "taken out");
  assert.equal(chosen("up:0 starting:0 starting:0 starting:0", half), "0", "starting says nothing");
  assert.equal(chosen("down:0 starting:0", half), "0,1");
});

test("pools against a slow rule, at random", (t) => {
  const seed = Number(process.env["HEADGATE_SEED"] ?? 20_251_125);
  t.diagnostic(`seed ${seed}`);
  const random = createRandom(seed);
  for (let trial = 0; trial < 3000; trial++) {
    const all = randomMembers(random);
    const count = 1 + random.below(4);
    const threshold = random.below(101);
    const rules = {
      minimumHealthy: { count },
      panicThreshold: threshold,
      noBackend: { action: random.below(2) === 0 ? "panic" : "drop" },
    };
    const got = choosePool(all, rules);
    const expected = all.filter((one) => takesFlows(one, all, rules, count));
    assert.deepEqual(got, expected, JSON.stringify({ trial, all, rules }));
  }
});

const STATES = ["up", "up", "up", "starting", "draining", "down", "down", "disabled", "ejected"];

function randomMembers(random: Random): PoolMember[] {
  return Array.from({ length: random.below(9) }, () => ({
    state: STATES[random.below(STATES.length)]!,
    priority: random.below(3),
  }));
}

/** The rules of docs/pools.md said of one backend. */
function takesFlows(
  one: PoolMember,
  all: readonly PoolMember[],
  rules: PoolRules,
  wanted: number,
): boolean {
  const count = (test: (other: PoolMember) => boolean): number => all.filter(test).length;
  const of = (state: string): number => count((other) => other.state === state);
  if (one.state === "draining" || one.state === "disabled") return false;
  const known = of("up") + of("down") + of("ejected");
  if (known > 0 && of("up") / known < rules.panicThreshold / 100) return true;
  const best = ["up", "starting", "ejected"].find((state) => of(state) > 0);
  if (best === undefined) return rules.noBackend.action === "panic";
  if (one.state !== best) return false;
  return count((other) => other.state === best && other.priority < one.priority) < wanted;
}

test("slow start: in ten steps from a tenth to the whole, at the same ticks for all", () => {
  const views = memoryRegion();
  const definition = gateway([
    service("web", {
      scheduler: "weighted-round-robin",
      slowStart: { windowMs: 30_000, minimumWeight: 10 },
      health: null,
      backends: [1, 2, 3].map((last) => backend(`10.20.0.1${last}:80`, last)),
    }),
  ]);
  const assignment = assignSlots(views, definition, 0);
  const web = assignment.services[0]!;
  const slots = web.backends.map(({ slot }) => slot);
  const run = (now: number): number | null => {
    const next = advanceSlowStart(views, assignment, now);
    applyExistingRules(views, definition, assignment, now);
    return next;
  };
  const shares = (): number[] =>
    slots.map((slot) => views.i32[backendSlotWord(views, slot) + B_SLOW_SHARE]!);
  const weights = (): number[] => eligibleBackends(views, web).map(({ weight }) => weight);

  run(0);
  assert.deepEqual(shares(), [10, 10, 10], "all begin together");
  assert.deepEqual(weights(), [1, 2, 3], "and have their weights to each other");
  assert.equal(run(30_000), null);
  assert.deepEqual(
    [shares(), weights()],
    [
      [0, 0, 0],
      [1, 2, 3],
    ],
  );

  setSlot(views, slots[1]!, { health: HEALTH_DOWN });
  run(40_000);
  setSlot(views, slots[1]!, { health: HEALTH_UP });
  assert.equal(run(46_000), 48_000, "the next step is on the common grid");
  assert.deepEqual(shares(), [0, 10, 0]);
  assert.deepEqual(weights(), [10, 2, 30]);
  const seen: number[] = [];
  let steps = 0;
  for (let now: number | null = 48_000; now !== null; steps++) {
    const next: number | null = run(now);
    seen.push(shares()[1]!);
    assert.ok(next === null || next === now + 3000, `${next} after ${now}`);
    now = next;
  }
  assert.deepEqual(seen, [19, 28, 37, 46, 55, 64, 73, 82, 91, 0]);
  assert.equal(steps, 10);

  setSlot(views, slots[1]!, { weightOverride: 0 });
  run(90_000);
  setSlot(views, slots[1]!, { weightOverride: -1 });
  assert.equal(run(91_000), null, "drained it was up all the time");
  assert.deepEqual(shares(), [0, 0, 0]);
});

test("slow start over the end of the clock, and long after it", () => {
  const views = memoryRegion();
  const slowStart = { windowMs: 10_000, minimumWeight: 50 };
  const definition = gateway([service("web", { slowStart, scheduler: "maglev" })]);
  const assignment = assignSlots(views, definition, 0);
  const last = 2 ** 31 - 1;
  assert.ok(advanceSlowStart(views, assignment, last - 100) !== null);
  applyExistingRules(views, definition, assignment, last - 100);
  const at = backendSlotWord(views, assignment.services[0]!.backends[0]!.slot);
  assert.notEqual(advanceSlowStart(views, assignment, (last + 4900) | 0), null);
  assert.ok(views.i32[at + B_SLOW_SHARE]! >= 70, `${views.i32[at + B_SLOW_SHARE]}`);
  assert.equal(advanceSlowStart(views, assignment, (last - 200) | 0), null);
  assert.equal(views.i32[at + B_SLOW_SHARE], 0);
});

test("weights with shares fit in 16 bits, and none is lost", () => {
  const list = withShares(
    [
      { weight: 65_535, share: 100 },
      { weight: 65_535, share: 10 },
      { weight: 1, share: 10 },
    ],
    "maglev",
  );
  assert.deepEqual(
    list.map(({ weight }) => weight),
    [65_535, 6554, 1],
  );
});

test("maglev in slow start: slots move to the backend that comes up, and between no others", () => {
  const views = memoryRegion();
  const definition = service("web", {
    scheduler: "maglev",
    tableSize: 4093,
    health: null,
    slowStart: { windowMs: 10_000, minimumWeight: 10 },
    backends: [1, 2, 3, 4, 5].map((last) => backend(`10.20.0.1${last}:80`, last)),
  });
  const assignment = assignSlots(views, gateway([definition]), 0);
  const web = assignment.services[0]!;
  const tables = createHashTables(views);
  const tableAt = (share: number): number[] => {
    const at = backendSlotWord(views, web.backends[2]!.slot);
    views.i32[at + B_SLOW_SHARE] = share;
    return [...tables.tableOf(web, eligibleBackends(views, web), 1)];
  };
  const whole = tableAt(0);
  for (const share of [10, 19, 55, 91]) {
    const table = tableAt(share);
    const own = table.filter((position) => position === 2).length;
    const expected = (4093 * 3 * share) / (12 * 100 + 3 * share);
    assert.ok(Math.abs(own - expected) <= 1, `${share} %: ${own}, expected ${expected}`);
    for (const [slot, position] of table.entries()) {
      if (whole[slot] !== 2) assert.equal(position, whole[slot], `slot ${slot} at ${share} %`);
    }
  }
});
