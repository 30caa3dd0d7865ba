import assert from "node:assert/strict";
import { test } from "node:test";
import { createRandom } from "../../src/base/random.ts";
import { createPassiveChecks, type PassiveChecks } from "../../src/control/passive.ts";
import type { Applied } from "../../src/control/reconcile.ts";
import {
  ADMIN_DISABLED,
  B_ADMIN,
  B_COST_US,
  B_EJECTED,
  B_EJECTED_TIMES,
  B_EJECTED_UNTIL,
  B_EJECTIONS,
  B_HEALTH,
  B_LATENCY_US,
  B_PASSIVE_EPOCH,
  HEALTH_DOWN,
  HEALTH_UP,
} from "../../src/service/backend-slots.ts";
import type { PassiveDefinition } from "../../src/service/definition.ts";
import { backendState } from "../../src/service/effective.ts";
import {
  FAILED_REFUSED,
  FAILED_SILENT,
  LATENCY_SCALE,
  P_ANSWER_TICK,
  P_ANSWERS,
  P_EPOCH,
  P_LATENCY,
  P_OPEN,
  P_OPEN_TICK,
  P_RUN,
  P_RUN_TICK,
  passiveRunWord,
} from "../../src/service/passive-run.ts";
import { assignSlots, backendSlotWord, usedBackendSlots } from "../../src/service/slots.ts";
import type { RegionViews } from "../../src/state/layout.ts";
import { backend, gateway, service } from "./definitions.ts";
import { memoryRegion } from "./region.ts";

// Goal: docs/passive.md: who is ejected, for how long, how many at once, and what ends it. Method: the
// words that workers write are written by the test, the clock is the test's, slow rules say what follows.

const PASSIVE: PassiveDefinition = {
  failures: 5,
  silenceMs: 100,
  ejectionMs: 30_000,
  maximumMs: 300_000,
  intervalMs: 10_000,
  ejectAtMost: 0.1,
  activeCheckEnds: true,
  answers: false,
};

class World {
  readonly views: RegionViews;
  readonly workers: number;
  checks: PassiveChecks;
  applied: Applied;
  now = 1000;
  refreshes = 0;

  constructor(backends: number, workers = 1, passive: Partial<PassiveDefinition> = {}) {
    this.workers = workers;
    const definition = gateway([
      service("web", {
        passive: { ...PASSIVE, ...passive },
        backends: Array.from({ length: backends }, (_, index) =>
          backend(`10.20.0.${index + 1}:80`),
        ),
      }),
    ]);
    this.views = memoryRegion(definition, workers);
    this.applied = { definition, assignment: assignSlots(this.views, definition, 0) };
    this.checks = this.process();
  }

  /** A process begins, on the slots that are there. */
  process(): PassiveChecks {
    this.checks = createPassiveChecks({
      views: this.views,
      tick: () => this.now | 0,
      refresh: () => this.refreshes++,
    });
    this.checks.follow(this.applied);
    return this.checks;
  }

  word(slot: number, index: number): number {
    return this.views.i32[backendSlotWord(this.views, slot) + index]!;
  }

  setWord(slot: number, index: number, value: number): void {
    this.views.i32[backendSlotWord(this.views, slot) + index] = value;
  }

  /** What a worker does before it counts. */
  private row(slot: number, worker: number): number {
    const { i32 } = this.views;
    const run = passiveRunWord(this.views, worker, slot);
    const epoch = this.word(slot, B_PASSIVE_EPOCH);
    if (i32[run + P_EPOCH] !== epoch) {
      i32[run + P_OPEN] = 0;
      i32[run + P_RUN] = 0;
      i32[run + P_EPOCH] = epoch;
    }
    return run;
  }

  syn(slot: number, worker = 0): void {
    const { i32 } = this.views;
    const run = this.row(slot, worker);
    if (i32[run + P_OPEN] === 0) i32[run + P_OPEN_TICK] = this.now;
    i32[run + P_OPEN] = i32[run + P_OPEN]! + 1;
  }

  answer(slot: number, latencyUs = 300, worker = 0): void {
    const { i32 } = this.views;
    const run = this.row(slot, worker);
    i32[run + P_OPEN] = 0;
    i32[run + P_RUN] = 0;
    i32[run + P_ANSWERS] = i32[run + P_ANSWERS]! + 1;
    i32[run + P_ANSWER_TICK] = this.now;
    i32[run + P_LATENCY] = latencyUs * LATENCY_SCALE;
  }

  fail(slot: number, kind = FAILED_REFUSED, worker = 0): void {
    const { i32 } = this.views;
    const run = this.row(slot, worker);
    if (i32[run + P_RUN] === 0) i32[run + P_RUN_TICK] = this.now;
    i32[run + P_RUN] = (((i32[run + P_RUN]! >> 2) + 1) << 2) | kind;
  }

  /** Let time pass, with the looks that belong to it. */
  pass(ms: number, look = 25): void {
    for (let passed = 0; passed < ms; passed += look) {
      this.now += Math.min(look, ms - passed);
      this.checks.look();
    }
  }

  state(slot: number): string {
    return backendState(this.views, slot).state;
  }

  /** Fail as often as it takes. */
  kill(slot: number): void {
    for (let count = 0; count < 5; count++) this.fail(slot);
    this.pass(50);
  }
}

test("silence ejects once nothing was answered for long enough, and an answer before it does not", () => {
  const world = new World(3);
  world.answer(0);
  world.pass(100);
  for (let count = 0; count < 40; count++) {
    world.syn(0);
    world.pass(2, 2);
  }
  assert.equal(world.state(0), "up", "80 ms");
  world.answer(0);
  for (let count = 0; count < 40; count++) {
    world.syn(0);
    world.pass(2, 2);
  }
  assert.equal(world.state(0), "up", "an answer came");
  for (let count = 0; count < 20; count++) {
    world.syn(0);
    world.pass(2, 2);
  }
  assert.equal(world.state(0), "ejected");
  assert.match(
    world.checks.reasonOf(0),
    /^\d+ connections in a row failed: no answer; ejected for 30s$/,
  );
  assert.ok(world.refreshes > 0);
});

test("an idle backend, a slow one, and one that nobody knows yet are not silent", () => {
  const world = new World(3);
  world.answer(0);
  world.pass(60_000);
  for (let count = 0; count < 4; count++) world.syn(0);
  world.pass(5000);
  assert.equal(world.state(0), "up", "four are not five");

  // 30 ms away: SYNs go on while their answers are under way, for a long time.
  const due: number[] = [];
  for (let ms = 0; ms < 20_000; ms++) {
    world.now++;
    if (ms % 3 === 0) {
      world.syn(1);
      due.push(world.now + 30);
    }
    if (due[0] === world.now) {
      due.shift();
      world.answer(1, 30_000);
    }
    if (ms % 25 === 0) world.checks.look();
  }
  assert.equal(world.state(1), "up");
  // And when it stalls for seven of its latencies.
  for (let ms = 0; ms < 210; ms++) {
    world.syn(1);
    world.pass(1, 1);
  }
  assert.equal(world.state(1), "up");
  world.answer(1, 30_000);

  for (let ms = 0; ms < 900; ms++) {
    world.syn(2);
    world.pass(1, 1);
  }
  assert.equal(world.state(2), "up", "it has never answered: maybe it is far away");
  world.pass(200);
  assert.equal(world.state(2), "ejected");
});

test("failures in a row need a second look without an answer between", () => {
  const world = new World(3);
  for (let count = 0; count < 5; count++) world.fail(0);
  world.pass(25);
  assert.equal(world.state(0), "up");
  world.answer(0);
  for (let count = 0; count < 5; count++) world.fail(0);
  world.pass(25);
  assert.equal(world.state(0), "up", "an answer came between the looks");
  world.pass(25);
  assert.equal(world.state(0), "ejected");
  assert.match(world.checks.reasonOf(0), /^5 connections in a row failed: RST in answer to SYN/);
});

test("ejections grow, shrink with good time, and have a longest", () => {
  const world = new World(3, 1, { maximumMs: 80_000 });
  const lengths: number[] = [];
  for (let round = 0; round < 5; round++) {
    world.kill(0);
    assert.equal(world.state(0), "ejected");
    const from = world.now;
    assert.equal((world.word(0, B_EJECTED_UNTIL) - from) | 0, [30, 60, 80, 80, 80][round]! * 1000);
    while (world.state(0) === "ejected") world.pass(1000, 500);
    lengths.push(Math.round((world.now - from) / 1000));
    assert.match(world.checks.reasonOf(0), /^ejection over: its time of/);
  }
  assert.deepEqual(lengths, [30, 60, 80, 80, 80]);
  assert.equal(world.word(0, B_EJECTED_TIMES), 3);
  world.pass(21_000, 500);
  assert.equal(world.word(0, B_EJECTED_TIMES), 1);
  world.kill(0);
  assert.equal(world.word(0, B_EJECTED_TIMES), 2);
  assert.equal(world.word(0, B_EJECTIONS), 6);
});

test("failures of before an ejection do not count after it", () => {
  const world = new World(3);
  world.kill(0);
  for (let count = 0; count < 100; count++) world.syn(0);
  world.pass(30_000, 500);
  assert.equal(world.state(0), "up");
  world.pass(5000, 500);
  assert.equal(world.state(0), "up");
  for (let count = 0; count < 4; count++) world.fail(0);
  world.pass(1000);
  assert.equal(world.state(0), "up");
  world.fail(0);
  world.pass(100);
  assert.equal(world.state(0), "ejected");
});

test("a share of the service may be out, one of several always, never the last that is up", () => {
  const expected: readonly (readonly [number, number, number])[] = [
    [1, 0.1, 0],
    [2, 0.1, 1],
    [2, 1, 1],
    [3, 0, 0],
    [10, 0.1, 1],
    [19, 0.1, 1],
    [20, 0.1, 2],
    [8, 0.5, 4],
    [4, 1, 3],
  ];
  for (const [backends, ejectAtMost, most] of expected) {
    const world = new World(backends, 1, { ejectAtMost });
    for (let slot = 0; slot < backends; slot++) {
      for (let count = 0; count < 5; count++) world.fail(slot);
    }
    world.pass(1000);
    const out = usedBackendSlots(world.views).filter((slot) => world.state(slot) === "ejected");
    assert.equal(out.length, most, `${backends} backends, ${ejectAtMost}`);
  }
  const world = new World(3, 1, { ejectAtMost: 1 });
  world.setWord(0, B_ADMIN, ADMIN_DISABLED);
  world.setWord(1, B_HEALTH, HEALTH_DOWN);
  for (let count = 0; count < 9; count++) world.fail(2);
  world.pass(1000);
  assert.equal(world.state(2), "up", "nobody else is up");
});

test("an answer ends an ejection for silence, a health check any, one that began before does not", () => {
  const world = new World(3);
  world.answer(0);
  for (let count = 0; count < 5; count++) world.syn(0);
  world.pass(150);
  assert.equal(world.state(0), "ejected");
  world.answer(0);
  world.pass(25);
  assert.equal(world.state(0), "up");
  assert.equal(world.checks.reasonOf(0), "ejection over: it has answered");

  world.kill(1);
  world.answer(1);
  world.pass(100);
  assert.equal(world.state(1), "ejected", "one that refuses has answered others all the time");
  world.checks.checked(1, false, 1);
  world.checks.checked(1, true, 500);
  assert.equal(world.state(1), "ejected");
  world.pass(1000);
  world.checks.checked(1, true, 500);
  assert.equal(world.state(1), "up");
  assert.equal(world.checks.reasonOf(1), "ejection over: a health check has succeeded");

  const deaf = new World(3, 1, { activeCheckEnds: false });
  deaf.kill(0);
  deaf.pass(2000);
  deaf.checks.checked(0, true, 1);
  assert.equal(deaf.state(0), "ejected");
});

test("another process goes on with what the slots say; without passive checks nobody stays out", () => {
  const world = new World(3);
  world.kill(0);
  world.pass(10_000, 500);
  world.process();
  world.pass(19_000, 500);
  assert.equal(world.state(0), "ejected");
  world.pass(1500, 500);
  assert.equal(world.state(0), "up");
  world.kill(0);
  assert.equal(world.word(0, B_EJECTED_TIMES), 2);
  const [first] = world.applied.definition.services;
  const definition = gateway([{ ...first!, passive: null }]);
  const { refreshes } = world;
  world.checks.follow({ definition, assignment: assignSlots(world.views, definition, 0) });
  assert.equal(world.state(0), "up");
  assert.equal(world.refreshes, refreshes + 1);
});

test("a row of all workers begins after the last answer that any of them has seen", () => {
  const world = new World(3, 3);
  world.answer(0, 300, 1);
  world.pass(10);
  for (let count = 0; count < 2; count++) world.fail(0, FAILED_SILENT, 0);
  for (let count = 0; count < 3; count++) world.fail(0, FAILED_SILENT, 2);
  world.pass(25);
  world.pass(25);
  assert.equal(world.state(0), "ejected", "two and three are five");

  // One worker's clients are shut out there; those of the others are answered.
  for (let round = 0; round < 50; round++) {
    world.fail(1, FAILED_SILENT, 0);
    world.syn(1, 0);
    world.pass(25);
    world.answer(1, 300, 1);
    world.pass(25);
  }
  assert.equal(world.state(1), "up");
});

test("latency is the mean over the workers by what each has seen; cost decays, and waits count", () => {
  const world = new World(2, 2);
  for (let count = 0; count < 30; count++) world.answer(0, 100, 0);
  for (let count = 0; count < 10; count++) world.answer(0, 500, 1);
  world.pass(100);
  assert.equal(world.word(0, B_LATENCY_US), 200);
  assert.equal(world.word(1, B_LATENCY_US), 0);
  const soon = world.word(0, B_COST_US);
  assert.ok(soon > 190 && soon <= 200, `${soon}`);
  world.pass(10_000, 100);
  const later = world.word(0, B_COST_US);
  assert.ok(later > 60 && later < 80, `${later}: about 1/e of 200`);
  assert.equal(world.word(0, B_LATENCY_US), 200, "what is shown stays");
  world.syn(0);
  world.pass(900, 100);
  const waiting = world.word(0, B_COST_US);
  assert.ok(waiting >= 700_000 && waiting <= 900_000, `${waiting}: a flow waits`);
});

test("random failures against slow rules", (t) => {
  const seed = Number(process.env["HEADGATE_SEED"] ?? 20_261_125);
  t.diagnostic(`seed ${seed}`);
  const random = createRandom(seed);
  const world = new World(12, 1, { ejectAtMost: 0.25, ejectionMs: 2000, intervalMs: 3000 });
  const most = 3;
  for (let step = 0; step < 3000; step++) {
    const slot = random.below(12);
    const before = usedBackendSlots(world.views).map((one) => world.word(one, B_EJECTIONS));
    const kind = random.below(4);
    if (kind === 0) world.answer(slot);
    else if (kind === 1) for (let count = 0; count < 5; count++) world.fail(slot);
    else if (kind === 2) for (let count = random.below(5); count > 0; count--) world.fail(slot);
    else world.setWord(slot, B_HEALTH, random.below(6) === 0 ? HEALTH_DOWN : HEALTH_UP);
    world.pass(random.below(400));
    const slots = usedBackendSlots(world.views);
    const out = slots.filter((one) => world.word(one, B_EJECTED) !== 0);
    assert.ok(out.length <= most, `seed ${seed}, step ${step}`);
    for (const one of slots) {
      const isNew = world.word(one, B_EJECTIONS) !== before[one];
      const leftMs = (world.word(one, B_EJECTED_UNTIL) - world.now) | 0;
      if (out.includes(one)) assert.ok(leftMs > 0 && leftMs <= 300_000);
      if (isNew && out.includes(one)) {
        assert.ok(leftMs <= 2000 * world.word(one, B_EJECTED_TIMES));
        assert.ok(slots.some((other) => world.state(other) === "up"));
      }
      assert.ok(world.word(one, B_EJECTED_TIMES) >= 0);
    }
  }
  const total = usedBackendSlots(world.views).reduce(
    (sum, slot) => sum + world.word(slot, B_EJECTIONS),
    0,
  );
  assert.ok(total > 50, `${total} ejections`);
});
