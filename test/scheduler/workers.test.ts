import assert from "node:assert/strict";
import { test } from "node:test";
import { createRandom } from "../../src/base/random.ts";
import { publishOthers } from "../../src/control/others.ts";
import type { SchedulerName } from "../../src/service/bank.ts";
import { backendList, createWorld, type World } from "./world.ts";

/**
 * Goal: several workers do not march in step; what follows from seed and order is the same again; and
 * what counts is off by no more than what the other workers did since they were heard of last.
 */

const SEED = Number(process.env["SEED"] ?? 20_261_125);
const WORKERS = 4;
const times = <T>(count: number, one: (index: number) => T): T[] =>
  Array.from({ length: count }, (_, index) => one(index));

function worldOf(
  scheduler: SchedulerName,
  weights: readonly number[],
  seed = "",
  workers = WORKERS,
): World {
  const maxLoad = scheduler === "bounded-maglev" ? 1.25 : null;
  const one = { scheduler, maxLoad, backends: backendList(weights), tableSize: 4093 };
  return createWorld(one, seed, { workers, flowCapacity: workers });
}

const OWN_ORDER = [
  ...["round-robin", "weighted-round-robin", "least-connections"],
  ...["weighted-least-connections", "shortest-expected-delay", "never-queue"],
] as readonly SchedulerName[];

for (const scheduler of OWN_ORDER) {
  test(`${scheduler}: the workers begin evenly apart`, () => {
    const world = worldOf(
      scheduler,
      times(12, () => 3),
    );
    const firsts = times(WORKERS, (worker) => world.position({ worker }));
    const apart = firsts.map((at, worker) => (at - firsts[0]! - 3 * worker + 12) % 12);
    assert.deepEqual(apart, [0, 0, 0, 0]);
  });
}

test("weighted-round-robin: workers with unequal weights are in different places of a round", () => {
  const world = worldOf("weighted-round-robin", [9, 5, 3, 2, 1, 7, 4, 1]);
  const rounds = times(WORKERS, (worker) => times(32, () => world.position({ worker })).join(" "));
  assert.equal(new Set(rounds).size, WORKERS);
  const together = times(32, (flow) => new Set(rounds.map((round) => round.split(" ")[flow])).size);
  const same = together.filter((count) => count === 1).length;
  assert.ok(same <= 4, `${same} of 32 times all workers chose the same backend`);
});

for (const scheduler of ["random", "power-of-two"] as const) {
  test(`${scheduler}: each worker and each seed has draws of its own, and the same ones again`, () => {
    const draws = (seed: string, worker: number): string => {
      const world = worldOf(scheduler, [1, 2, 3, 4, 5], seed);
      return times(60, () => world.position({ worker })).join("");
    };
    const all = ["a", "b"].flatMap((seed) => times(WORKERS, (worker) => draws(seed, worker)));
    assert.equal(new Set(all).size, 2 * WORKERS);
    const again = ["a", "b"].flatMap((seed) => times(WORKERS, (worker) => draws(seed, worker)));
    assert.deepEqual(again, all);
  });
}

test("services of one gateway and seeds begin at different backends", () => {
  const starts = times(20, (index) =>
    worldOf(
      "round-robin",
      times(10, () => 1),
      `seed ${index}`,
    ).position(),
  );
  assert.ok(new Set(starts).size >= 5, starts.join(" "));
});

/** Flows of WORKERS workers: opened where the scheduler says, closed at random. */
class Traffic {
  readonly world: World;
  readonly held: number[][];
  /** Opened and closed at each backend by each worker since the last publication. */
  readonly #opened: number[][];
  readonly #closed: number[][];
  readonly #random = createRandom(SEED);
  readonly #count: number;

  constructor(scheduler: SchedulerName, weights: readonly number[]) {
    this.world = worldOf(scheduler, weights);
    this.#count = weights.length;
    const table = (): number[][] => times(WORKERS, () => weights.map(() => 0));
    [this.held, this.#opened, this.#closed] = [table(), table(), table()];
  }

  total(at: number): number {
    return this.held.reduce((sum, own) => sum + own[at]!, 0);
  }

  /** What the others than `worker` did at a backend that it has not heard of. */
  unheard(worker: number, at: number): { readonly opened: number; readonly closed: number } {
    const of = (counts: number[][]): number =>
      counts.reduce((sum, own, other) => sum + (other === worker ? 0 : own[at]!), 0);
    return { opened: of(this.#opened), closed: of(this.#closed) };
  }

  closedInAll(): number {
    return this.#closed.flat().reduce((sum, one) => sum + one, 0);
  }

  /** A flow comes to some worker; `check` sees the choice before it counts. */
  open(check: (at: number, worker: number) => void): void {
    const worker = this.#random.below(WORKERS);
    const at = this.world.position({ client: this.#random.next32(), worker });
    check(at, worker);
    if (at >= 0) this.#change(worker, at, 1);
  }

  close(): void {
    const worker = this.#random.below(WORKERS);
    const at = this.#random.below(this.#count);
    if (this.held[worker]![at]! > 0) this.#change(worker, at, -1);
  }

  publish(): void {
    publishOthers(this.world.views);
    for (const counts of [...this.#opened, ...this.#closed]) counts.fill(0);
  }

  #change(worker: number, at: number, by: 1 | -1): void {
    const held = this.held[worker]!;
    held[at] = held[at]! + by;
    const counts = (by > 0 ? this.#opened : this.#closed)[worker]!;
    counts[at]!++;
    this.world.setFlows(at, held[at]!, held[at]!, worker);
  }
}

const WEIGHTS = [5, 1, 3, 2, 8, 1, 1, 4, 2, 3];
/** Flows between two publications. */
const INTERVALS = [1, 10, 100] as const;

const COSTS: Partial<Record<SchedulerName, (flows: number, weight: number) => number>> = {
  "least-connections": (flows) => flows,
  "weighted-least-connections": (flows, weight) => flows / weight,
  "shortest-expected-delay": (flows, weight) => (flows + 1) / weight,
};

for (const [scheduler, cost] of Object.entries(COSTS)) {
  for (const interval of INTERVALS) {
    test(`${scheduler}, ${WORKERS} workers: a choice is off by what others did in ${interval} flows`, () => {
      const traffic = new Traffic(scheduler as SchedulerName, WEIGHTS);
      for (let flow = 0; flow < 4000; flow++) {
        if (flow % interval === 0) traffic.publish();
        if (flow % 3 === 0) traffic.close();
        traffic.open((at, worker) => {
          const own = cost!(traffic.total(at) - traffic.unheard(worker, at).opened, WEIGHTS[at]!);
          WEIGHTS.forEach((weight, other) => {
            const rest = traffic.total(other) + traffic.unheard(worker, other).closed;
            assert.ok(own <= cost!(rest, weight) + 1e-9, `seed ${SEED}, flow ${flow}`);
          });
        });
      }
    });
  }
}

test(`never-queue, ${WORKERS} workers: a busy one only where no idle one was heard of`, () => {
  const traffic = new Traffic("never-queue", WEIGHTS);
  for (let flow = 0; flow < 2000; flow++) {
    if (flow % 10 === 0) traffic.publish();
    traffic.close();
    traffic.open((at, worker) => {
      if (traffic.total(at) - traffic.unheard(worker, at).opened <= 0) return;
      WEIGHTS.forEach((_, other) => {
        const known = traffic.total(other) + traffic.unheard(worker, other).closed;
        assert.ok(known > 0, `seed ${SEED}, flow ${flow}: ${other} was idle`);
      });
    });
  }
});

for (const interval of INTERVALS) {
  test(`overflow, ${WORKERS} workers: above a weight by what others did in ${interval} flows`, () => {
    const weights = WEIGHTS.map((weight) => weight * 20);
    const traffic = new Traffic("overflow", weights);
    for (let flow = 0; flow < 3000; flow++) {
      if (flow % interval === 0) traffic.publish();
      if (flow % 2 === 0) traffic.close();
      traffic.open((at, worker) => {
        if (at < 0) return;
        const known = traffic.total(at) - traffic.unheard(worker, at).opened;
        assert.ok(known <= weights[at]!, `seed ${SEED}, flow ${flow}`);
      });
    }
  });

  test(`maglev with maxLoad, ${WORKERS} workers: above its bound by what others did in ${interval} flows`, () => {
    const traffic = new Traffic("bounded-maglev", WEIGHTS);
    const sum = WEIGHTS.reduce((total, weight) => total + weight, 0);
    for (let flow = 0; flow < 4000; flow++) {
      if (flow % interval === 0) traffic.publish();
      if (flow % 3 === 0) traffic.close();
      traffic.open((at, worker) => {
        const all = WEIGHTS.reduce((total, _, one) => total + traffic.total(one), 0);
        // Flows that ended since still count in the total that the worker knows.
        const most = (1.25 * (all + traffic.closedInAll() + 1) * WEIGHTS[at]!) / sum;
        const known = traffic.total(at) - traffic.unheard(worker, at).opened;
        assert.ok(known < most, `seed ${SEED}, flow ${flow}: ${known}, bound ${most}`);
      });
    }
  });
}
