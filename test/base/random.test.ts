import assert from "node:assert/strict";
import { test } from "node:test";
import { monotonicMs } from "../../src/base/clock.ts";
import { createRandom } from "../../src/base/random.ts";

/** sfc32 with BigInt words, from its definition (PractRand 0.94, sfc.cpp). */
function slowSfc32(seed: number): () => number {
  const mask = 0xffff_ffffn;
  let [a, b, c, counter] = [0n, 0n, BigInt(seed >>> 0), 1n];
  const next = (): number => {
    const result = (a + b + counter) & mask;
    counter = (counter + 1n) & mask;
    a = b ^ (b >> 9n);
    b = (c + (c << 3n)) & mask;
    c = (((c << 21n) | (c >> 11n)) + result) & mask;
    return Number(BigInt.asIntN(32, result));
  };
  for (let round = 0; round < 15; round++) next();
  return next;
}

test("the numbers are those of sfc32", () => {
  for (const seed of [0, 1, 42, -1, 0x8000_0000]) {
    const random = createRandom(seed);
    const slow = slowSfc32(seed);
    assert.equal(random.seed, seed >>> 0);
    for (let round = 0; round < 1000; round++) assert.equal(random.next32(), slow());
  }
});

test("the same seed gives the same numbers, another seed others", () => {
  const take = (seed: number): number[] => {
    const random = createRandom(seed);
    return Array.from({ length: 16 }, () => random.next32());
  };
  assert.deepEqual(take(7), take(7));
  assert.notDeepEqual(take(7), take(8));
});

test("below() stays below its bound and reaches every value", () => {
  const random = createRandom(1);
  for (const bound of [1, 2, 3, 7, 256]) {
    const seen = new Set<number>();
    for (let round = 0; round < bound * 40; round++) {
      const value = random.below(bound);
      assert.ok(Number.isInteger(value) && value >= 0 && value < bound);
      seen.add(value);
    }
    assert.equal(seen.size, bound);
  }
  assert.ok(random.below(2 ** 32) < 2 ** 32);
  for (const bound of [0, -1, 1.5, 2 ** 32 + 1]) {
    assert.throws(() => random.below(bound), /invariant broken/);
  }
});

test("the tick is the monotonic clock in milliseconds as int32", () => {
  const before = process.hrtime.bigint() / 1_000_000n;
  const tick = monotonicMs();
  const after = process.hrtime.bigint() / 1_000_000n;
  assert.equal(tick, tick | 0);
  assert.ok(((tick - Number(BigInt.asIntN(32, before))) | 0) >= 0);
  assert.ok(((Number(BigInt.asIntN(32, after)) - tick) | 0) >= 0);
});
