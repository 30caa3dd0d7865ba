import assert from "node:assert/strict";
import { test } from "node:test";
import { shareOf, takeSourceToken } from "../../src/admission/source-limits.ts";
import { createRandom } from "../../src/base/random.ts";

test("each source has its own rate and burst, as an exact bucket says, over a clock that wraps", () => {
  const random = createRandom(0x50c);
  const sets = 64;
  const i32 = new Int32Array(sets * 16);
  const rate = 2;
  const burst = 5;
  const exact = new Map<number, { tokens: number; at: number }>();
  let now = 0x7fff_ff00;
  let taken = 0;
  for (let step = 0; step < 20_000; step++) {
    now += random.below(40);
    const source = random.below(12);
    const bucket = exact.get(source) ?? { tokens: burst * 1000, at: now };
    bucket.tokens = Math.min(burst * 1000, bucket.tokens + (now - bucket.at) * rate);
    bucket.at = now;
    const has = bucket.tokens >= 1000;
    if (has) bucket.tokens -= 1000;
    exact.set(source, bucket);
    // Four sources a set fit: three sets are enough for twelve.
    const hash = source >> 2;
    const got = takeSourceToken(i32, 0, sets - 1, hash, 1, source, rate, burst, now | 0);
    assert.equal(got, has, `step ${step}`);
    if (got) taken++;
  }
  assert.ok(taken > 1000 && taken < 15_000, `${taken} were taken`);
});

test("a fifth source takes the place of the one that was asked longest ago", () => {
  const i32 = new Int32Array(16);
  const take = (source: number, tick: number): boolean =>
    takeSourceToken(i32, 0, 0, 0, 1, source, 1, 1, tick);
  for (const source of [1, 2, 3, 4]) assert.ok(take(source, source));
  for (const source of [1, 2, 3, 4]) assert.ok(!take(source, 10 + source));
  assert.ok(take(5, 20), "a new source has its burst");
  assert.ok(!take(2, 21), "the others keep theirs");
  assert.ok(take(1, 22), "the first was forgotten, in its favour");
});

test("services do not share a source's tokens", () => {
  const i32 = new Int32Array(16);
  assert.ok(takeSourceToken(i32, 0, 0, 0, 1, 9, 1, 1, 5));
  assert.ok(takeSourceToken(i32, 0, 0, 0, 2, 9, 1, 1, 5));
  assert.ok(!takeSourceToken(i32, 0, 0, 0, 1, 9, 1, 1, 5));
});

test("the shares of all workers are the limit", () => {
  for (const workers of [1, 2, 3, 16]) {
    for (const limit of [workers, workers + 1, 100, 12_345]) {
      const shares = Array.from({ length: workers }, (_, worker) =>
        shareOf(limit, worker, workers),
      );
      assert.equal(
        shares.reduce((sum, share) => sum + share, 0),
        limit,
      );
      assert.ok(Math.max(...shares) - Math.min(...shares) <= 1);
    }
  }
});
