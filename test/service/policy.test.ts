import assert from "node:assert/strict";
import { test } from "node:test";
import { addressOf4, parseIpv4 } from "../../src/base/address.ts";
import { differenceOf } from "../../src/control/policy/difference.ts";
import { ADMIN_DRAINED, B_ADMIN } from "../../src/service/backend-slots.ts";
import {
  S_HASH_SIZE,
  S_SCHEDULER,
  SCHEDULER_MAGLEV,
  SCHEDULER_POLICY,
} from "../../src/service/bank.ts";
import { writeBank } from "../../src/service/bank-writer.ts";
import type { ServiceDefinition } from "../../src/service/definition.ts";
import type { PolicyDecision } from "../../src/service/policy.ts";
import { assignSlots, backendSlotWord } from "../../src/service/slots.ts";
import { H_BANK_PUBLISHED } from "../../src/state/layout.ts";
import { backend, gateway, service } from "../control/definitions.ts";
import { policyOf } from "../control/policy/policies.ts";
import { readBank } from "./bank-reader.ts";
import { memoryRegion } from "./regions.ts";

// Goal: a bank has what a policy decided, of those backends that take new flows at that moment, and the
// fallback's own where nothing of the decision is left.

const HOSTS = [addressOf4(parseIpv4("192.0.2.1")!)];
const POLICY = policyOf({ "policy.ts": "" });

function world(overrides: Partial<ServiceDefinition> = {}) {
  const views = memoryRegion();
  const backends = ["11", "12", "13"].map((it) => backend(`10.20.0.${it}:80`, 5));
  const web = service("web", {
    ...{ scheduler: "maglev", tableSize: 1009, policy: POLICY, backends },
    ...overrides,
  });
  const definition = gateway([web]);
  const assignment = assignSlots(views, definition, 0);
  const [assigned] = assignment.services;
  const slots = assigned!.backends.map(({ slot }) => slot);
  let number = 0;
  return {
    views,
    slots,
    slot: assigned!.slot,
    drain: (index: number) => {
      views.i32[backendSlotWord(views, slots[index]!) + B_ADMIN] = ADMIN_DRAINED;
    },
    /** Shares of the table, by backend; and its scheduler and length. */
    write: (decision: PolicyDecision | null) => {
      number++;
      writeBank(views, number, definition, assignment, HOSTS, { of: () => decision });
      views.i32[H_BANK_PUBLISHED] = number;
      const bank = readBank(views, number);
      const list = bank.list(assigned!.slot);
      const counts = slots.map(() => 0);
      for (const position of bank.table(assigned!.slot)) {
        counts[slots.indexOf(list[position]!.slot)]!++;
      }
      const weights = slots.map((it) => list.find(({ slot }) => slot === it)?.weight ?? 0);
      const word = (offset: number): number => bank.service(assigned!.slot, offset);
      return { counts, weights, scheduler: word(S_SCHEDULER), size: word(S_HASH_SIZE) };
    },
  };
}

test("weights go to the fallback's machinery, and back to the configuration's when nothing is left", () => {
  const { write, slots, drain } = world();
  const plain = write(null);
  assert.deepEqual([plain.scheduler, plain.weights], [SCHEDULER_MAGLEV, [5, 5, 5]]);
  const weights = new Map(
    [slots[0]!, slots[1]!, slots[2]!].map((slot, at) => [slot, [3, 1, 0][at]!]),
  );
  const decided = write({ kind: "weights", weights });
  assert.deepEqual([decided.scheduler, decided.weights], [SCHEDULER_MAGLEV, [3, 1, 0]]);
  assert.deepEqual(decided.counts, [757, 252, 0]);
  drain(0);
  const without = write({ kind: "weights", weights });
  assert.deepEqual(
    [without.weights, without.counts],
    [
      [0, 1, 0],
      [0, 1009, 0],
    ],
  );
  drain(1);
  const nothing = write({ kind: "weights", weights });
  assert.deepEqual(
    [nothing.weights, nothing.counts],
    [
      [0, 0, 5],
      [0, 0, 1009],
    ],
  );
});

test("a table is the service's, whatever the fallback is", () => {
  for (const scheduler of ["maglev", "round-robin", "source-hash"] as const) {
    const { write, slots, drain } = world({ scheduler });
    const decision: PolicyDecision = { kind: "table", slots, table: Uint16Array.of(2, 0, 0, 0, 2) };
    const decided = write(decision);
    assert.deepEqual([decided.scheduler, decided.size], [SCHEDULER_POLICY, 5]);
    assert.deepEqual(decided.counts, [3, 0, 2]);
    drain(2);
    const without = write(decision);
    assert.deepEqual([without.scheduler, without.counts], [SCHEDULER_POLICY, [5, 0, 0]]);
    drain(0);
    const nothing = write(decision);
    assert.notEqual(nothing.scheduler, SCHEDULER_POLICY);
    assert.deepEqual(nothing.weights, [0, 5, 0]);
  }
});

test("shadow mode: tables slot by slot, weights by shares, lengths that differ by drawn flows", () => {
  const { views, write, slots, slot } = world();
  write(null);
  const table = (numbers: Uint16Array): PolicyDecision => ({
    kind: "table",
    slots,
    table: numbers,
  });
  const bank = readBank(views, 1);
  const own = Uint16Array.from(bank.table(slot));
  assert.equal(differenceOf(views, slot, table(own)).ratio, 0);
  const other = own.map((it, at) => (at < 100 ? (it + 1) % 3 : it));
  assert.equal(differenceOf(views, slot, table(other)).ratio, 100 / 1009);
  const one = differenceOf(views, slot, table(Uint16Array.of(1)));
  assert.ok(Math.abs(one.ratio - 2 / 3) < 0.02, String(one.ratio));
  assert.deepEqual(
    one.backends.map(({ policyShare }) => policyShare),
    [0, 1, 0],
  );
  const weights = differenceOf(views, slot, {
    kind: "weights",
    weights: new Map(slots.map((it, at) => [it, [2, 1, 1][at]!])),
  });
  assert.ok(Math.abs(weights.ratio - (1 / 2 - 1 / 3)) < 0.002, String(weights.ratio));
});

test("shadow mode: a fallback without weights sees only who is out", () => {
  const { views, write, slots, slot } = world({ scheduler: "round-robin" });
  write(null);
  const ratioOf = (given: readonly number[]): number =>
    differenceOf(views, slot, {
      kind: "weights",
      weights: new Map(slots.map((it, at) => [it, given[at]!])),
    }).ratio;
  assert.equal(ratioOf([9, 1, 1]), 0);
  assert.ok(Math.abs(ratioOf([9, 1, 0]) - 1 / 3) < 1e-9);
});
