import assert from "node:assert/strict";
import { test } from "node:test";
import fc from "fast-check";
import { portPrefixes } from "../../src/host/port-prefixes.ts";

/** All ports of some prefixes, in order, each as often as it is named. */
function portsOf(prefixes: readonly { port: number; bits: number }[]): number[] {
  return prefixes.flatMap(({ port, bits }) =>
    Array.from({ length: 1 << (16 - bits) }, (_, index) => port + index),
  );
}

const CASES: { readonly low: number; readonly high: number; readonly count: number }[] = [
  { low: 80, high: 80, count: 1 },
  { low: 0, high: 65_535, count: 1 },
  { low: 8000, high: 8063, count: 1 },
  { low: 1, high: 65_535, count: 16 },
  // The most that a range can take: 2 * 16 - 2.
  { low: 1, high: 65_534, count: 30 },
];
for (const { low, high, count } of CASES) {
  test(`ports ${low}-${high} are ${count} prefixes`, () => {
    assert.equal(portPrefixes(low, high).length, count);
  });
}

test("prefixes are exactly the range, each port once, and at most 30", () => {
  const port = fc.integer({ min: 0, max: 65_535 });
  fc.assert(
    fc.property(port, port, (a, b) => {
      const [low, high] = [Math.min(a, b), Math.max(a, b)];
      const prefixes = portPrefixes(low, high);
      const expected = Array.from({ length: high - low + 1 }, (_, index) => low + index);
      assert.deepEqual(portsOf(prefixes), expected);
      assert.ok(prefixes.length <= 30);
      // A prefix has no bits set behind its length.
      for (const prefix of prefixes) assert.equal(prefix.port % (1 << (16 - prefix.bits)), 0);
    }),
  );
});
