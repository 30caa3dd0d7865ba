import assert from "node:assert/strict";
import { test } from "node:test";
import fc from "fast-check";
import { FRACTION_STEPS, handOverAbsent, wholeWeights } from "../../src/scheduler/policy-table.ts";

// Goal: what a policy says keeps its proportions on the way into a bank, and nobody who is absent gets
// a flow. Method: random answers against what they mean; the seed is printed on a failure.

test("whole weights stay; others keep their proportions, and none becomes 0", () => {
  const weight = fc.oneof(
    fc.integer({ min: 0, max: 65_535 }),
    fc.double({ min: 0, max: 1e9, noNaN: true }),
    fc.constantFrom(Number.MIN_VALUE, Number.MAX_VALUE, 65_536),
  );
  fc.assert(
    fc.property(fc.array(weight, { minLength: 1, maxLength: 40 }), (weights) => {
      const largest = Math.max(...weights);
      fc.pre(largest > 0);
      const whole = wholeWeights(weights);
      if (weights.every((it) => Number.isInteger(it) && it <= 65_535)) {
        assert.deepEqual([...whole], weights);
        return;
      }
      assert.equal(Math.max(...whole), FRACTION_STEPS);
      weights.forEach((it, index) => {
        const exact = (it / largest) * FRACTION_STEPS;
        assert.equal(whole[index]! > 0, it > 0);
        assert.ok(Math.abs(whole[index]! - exact) <= (exact < 1 ? 1 : 0.5), `${it} of ${largest}`);
      });
    }),
  );
});

test("slots of absent backends go to present ones, and no other slot moves", () => {
  const tables = fc.tuple(
    fc.array(fc.integer({ min: 0, max: 9 }), { minLength: 1, maxLength: 400 }),
    fc.array(fc.boolean(), { minLength: 10, maxLength: 10 }),
    fc.integer(),
  );
  fc.assert(
    fc.property(tables, ([numbers, present, seed]) => {
      // Positions are others than the numbers of the policy: the list has only those that are present.
      let next = 0;
      const positions = present.map((it) => (it ? next++ : -1));
      const table = Uint16Array.from(numbers);
      const got = handOverAbsent(table, positions, seed);
      const owners = new Set(numbers.map((it) => positions[it]!).filter((it) => it >= 0));
      if (owners.size === 0) {
        assert.equal(got, null);
        return;
      }
      assert.equal(got!.length, numbers.length);
      got!.forEach((position, slot) => {
        const own = positions[numbers[slot]!]!;
        if (own >= 0) assert.equal(position, own);
        else assert.ok(owners.has(position));
      });
      assert.deepEqual(handOverAbsent(table, positions, seed), got);
    }),
  );
});

test("heirs get slots in the proportion that they have", () => {
  // 1/2 absent, 3/8 and 1/8: of 40,000 freed slots 30,000 and 10,000 are expected, with a deviation of 87.
  const table = Uint16Array.from(
    { length: 80_000 },
    (_, slot) => [0, 1, 0, 1, 0, 1, 0, 2][slot % 8]!,
  );
  const got = handOverAbsent(table, [-1, 0, 1], 7)!;
  const counts = [0, 0];
  for (const position of got) counts[position]!++;
  assert.ok(Math.abs(counts[0]! - 60_000) < 5 * 87, String(counts));
});
