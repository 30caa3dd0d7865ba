import assert from "node:assert/strict";
import { test } from "node:test";
import { buildMaglevTable } from "../../src/scheduler/maglev-table.ts";
import { HEALTH_DOWN, HEALTH_UP } from "../../src/service/backend-slots.ts";
import type { SchedulerName } from "../../src/service/bank.ts";
import type { ServiceDefinition } from "../../src/service/definition.ts";
import { eligibleBackends } from "../../src/service/effective.ts";
import { createHashTables } from "../../src/service/hash-tables.ts";
import { assignSlots } from "../../src/service/slots.ts";
import { gateway, service, TCP_HEALTH } from "../control/definitions.ts";
import { backendList } from "../scheduler/world.ts";
import { memoryRegion, setSlot } from "./regions.ts";

/** Services with a table, whose tables are asked for again and again, as banks are written. */
class Tables {
  readonly views = memoryRegion({ backends: 256 });
  /** Names of services whose whole table was built, in order. */
  readonly built: number[] = [];
  readonly #assignment;
  readonly #tables;

  constructor(schedulers: readonly SchedulerName[], weights: readonly number[], tableSize = 4093) {
    const services = schedulers.map(
      (scheduler, index): ServiceDefinition =>
        service(`s${index}`, {
          ...{ scheduler, maxLoad: scheduler === "bounded-maglev" ? 1.25 : null, tableSize },
          ports: [{ low: 80 + index, high: 80 + index }],
          health: TCP_HEALTH,
          backends: backendList(weights),
        }),
    );
    this.#assignment = assignSlots(this.views, gateway(services), 0);
    this.#tables = createHashTables(this.views, (backends, size, seed) => {
      this.built.push(backends.length);
      return buildMaglevTable(backends, size, seed);
    });
    for (const { backends } of this.#assignment.services) {
      for (const { slot } of backends) setSlot(this.views, slot, { health: HEALTH_UP });
    }
  }

  /** Of every service. */
  all(): Uint16Array[] {
    return this.#assignment.services.map((one) =>
      this.#tables.tableOf(one, eligibleBackends(this.views, one), 7),
    );
  }

  /** Backend endpoints by slot of the table of a service with slots. */
  owners(index: number): string[] {
    const one = this.#assignment.services[index]!;
    const list = eligibleBackends(this.views, one);
    const table = this.#tables.tableOf(one, list, 7);
    return [...table].map((position) => `${list[position]!.address}:${list[position]!.port}`);
  }

  health(index: number, backend: number, health: number): void {
    const { slot } = this.#assignment.services[index]!.backends[backend]!;
    setSlot(this.views, slot, { health });
  }
}

const WITH_TABLE = [
  ...(["maglev", "bounded-maglev", "source-hash", "rendezvous"] as const),
  ...(["power-of-two", "random", "failover", "overflow"] as const),
];

test("a backend's change makes its own service's table anew, and no other's", () => {
  const tables = new Tables([...WITH_TABLE, ...WITH_TABLE], [1, 2, 3, 4]);
  let before = tables.all();
  assert.ok(before.every((table) => table.length > 0));
  for (const index of before.keys()) {
    tables.health(index, 2, HEALTH_DOWN);
    const after = tables.all();
    const changed = after.flatMap((table, at) => (table === before[at] ? [] : [at]));
    assert.deepEqual(changed, [index]);
    before = after;
  }
  assert.equal(tables.built.length, 4, "whole maglev tables are those of the first time");
});

test("a maglev backend that flaps for a minute moves no slot between the others", (t) => {
  const tables = new Tables(["maglev", "bounded-maglev"], [1, 2, 3, 4, 5, 1, 1, 1, 1, 1]);
  const whole = [tables.owners(0), tables.owners(1)];
  const flapping = whole[0]!.find((owner, _, all) => owner !== all[0])!;
  const at = backendList(Array.from({ length: 10 }, () => 1)).findIndex(
    ({ address, port }) => `${address.value}:${port}` === flapping,
  );
  let moved = 0;
  let own = 0;
  for (let second = 0; second < 60; second++) {
    for (const index of [0, 1]) {
      tables.health(index, at, second % 2 === 0 ? HEALTH_DOWN : HEALTH_UP);
      tables.owners(index).forEach((owner, slot) => {
        const before = whole[index]![slot]!;
        if (before === flapping) own += owner === before ? 0 : 1;
        else if (owner !== before) moved++;
      });
    }
  }
  t.diagnostic(`${own} slots of the flapping backend were lent, ${moved} of the others moved`);
  assert.ok(own > 0);
  assert.equal(moved, 0);
  assert.deepEqual([tables.owners(0), tables.owners(1)], whole);
  assert.equal(tables.built.length, 2, "no change of health builds a whole table");
});

test("another weight or seed is another table", () => {
  for (const scheduler of WITH_TABLE) {
    const [one, other] = [
      [1, 2, 3],
      [3, 2, 1],
    ].map((weights) => {
      return new Tables([scheduler], weights).all()[0]!;
    });
    // Rendezvous keeps weights in the list.
    if (scheduler === "rendezvous") assert.deepEqual(one, other);
    else assert.notDeepEqual(one, other, scheduler);
  }
});
