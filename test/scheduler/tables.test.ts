import assert from "node:assert/strict";
import { createHash } from "node:crypto";
import { test } from "node:test";
import fc from "fast-check";
import { parseIpv4 } from "../../src/base/address.ts";
import { createRandom } from "../../src/base/random.ts";
import { apportion } from "../../src/scheduler/apportion.ts";
import {
  buildMaglevTable,
  type MaglevBackend,
  withShares,
} from "../../src/scheduler/maglev-table.ts";
import { mix, seedWord } from "../../src/scheduler/mix.ts";
import {
  buildSourceHashTable,
  greatestCommonDivisor,
  sourceHashSize,
} from "../../src/scheduler/source-hash-table.ts";

/** The table while some are absent. */
function withoutAbsent(
  table: Uint16Array,
  backends: readonly MaglevBackend[],
  isPresent: readonly boolean[],
  seed: number,
): Uint16Array {
  const shares = isPresent.map((present) => (present ? 100 : 0));
  return withShares(table, backends, shares, seed);
}

function backendsFrom(first: string, weights: readonly number[]): MaglevBackend[] {
  const address = parseIpv4(first)!;
  return weights.map((weight, index) => ({ address: (address + index) | 0, port: 8080, weight }));
}
const ones = (count: number): number[] => Array.from({ length: count }, () => 1);

function countsOf(table: Uint16Array, positions: number): number[] {
  const counts = new Array<number>(positions).fill(0);
  for (const position of table) counts[position]!++;
  return counts;
}

function spread(counts: readonly number[]): number {
  return Math.max(...counts) - Math.min(...counts);
}

/** Shares of whole slots: exact ones rounded up or down. */
function assertShares(counts: readonly number[], weights: readonly number[], slots: number): void {
  const sum = weights.reduce((total, weight) => total + weight, 0);
  counts.forEach((count, index) => {
    const exact = (slots * weights[index]!) / sum;
    assert.ok(Math.abs(count - exact) < 1, `${count} slots where ${exact} are due`);
  });
  assert.equal(
    counts.reduce((total, count) => total + count, 0),
    slots,
  );
}

test("property: apportion gives every weight its share, rounded up or down, and all slots", () => {
  const weights = fc.array(fc.integer({ min: 0, max: 65_535 }), { minLength: 1, maxLength: 50 });
  fc.assert(
    fc.property(weights, fc.integer({ min: 0, max: 1 << 20 }), (list, slots) => {
      fc.pre(list.some((weight) => weight > 0));
      const order = [...list.keys()];
      const shares = [...apportion(list, slots, order)];
      assertShares(shares, list, slots);
      const reversed = apportion(list, slots, order.toReversed());
      shares.forEach((share, index) => {
        assert.ok(Math.abs(share - reversed[index]!) <= 1);
      });
    }),
  );
});

test("maglev: with equal weights slots differ by at most 1, whatever the numbers", () => {
  const sizes = [
    [251, [1, 2, 3, 10, 250, 251, 252, 400]],
    [4093, [7, 100, 1000]],
    [65_537, [1, 2, 3, 10, 33, 100]],
  ] as const;
  for (const [size, counts] of sizes) {
    for (const count of counts) {
      const table = buildMaglevTable(backendsFrom("10.20.0.11", ones(count)), size, 1);
      assert.equal(table.length, size);
      assert.ok(spread(countsOf(table, count)) <= 1, `${count} backends in ${size} slots`);
    }
  }
});

test("property: maglev shares are the weights to the slot, with and without absent backends", () => {
  const lists = fc.array(
    fc.record({ weight: fc.integer({ min: 1, max: 1000 }), present: fc.boolean() }),
    { minLength: 1, maxLength: 30 },
  );
  const sizes = fc.constantFrom(251, 509, 1021);
  fc.assert(
    fc.property(lists, sizes, fc.integer(), (list, size, seed) => {
      const weights = list.map(({ weight }) => weight);
      const backends = backendsFrom("10.0.0.1", weights);
      const whole = buildMaglevTable(backends, size, seed);
      assertShares(countsOf(whole, list.length), weights, size);
      const isPresent = list.map(({ present }) => present);
      const table = withoutAbsent(whole, backends, isPresent, seed);
      if (!isPresent.includes(true)) {
        assert.equal(table.length, 0);
        return;
      }
      const presentWeights = weights.map((weight, index) => (isPresent[index] ? weight : 0));
      assertShares(countsOf(table, list.length), presentWeights, size);
    }),
    { numRuns: 200 },
  );
});

test("maglev: a table follows from who the backends are, not from their order", () => {
  const backends = backendsFrom("10.20.0.11", [1, 5, 2, 1, 1, 9, 1]);
  const shuffled = [3, 6, 0, 2, 5, 1, 4].map((index) => backends[index]!);
  const owners = (list: readonly MaglevBackend[]): number[] =>
    [...buildMaglevTable(list, 4093, 5)].map((position) => list[position]!.address);
  assert.deepEqual(owners(shuffled), owners(backends));
  const isPresent = (list: readonly MaglevBackend[]): boolean[] =>
    list.map((one) => one !== backends[1] && one !== backends[4]);
  const rest = (list: readonly MaglevBackend[]): number[] =>
    [...withoutAbsent(buildMaglevTable(list, 4093, 5), list, isPresent(list), 5)].map(
      (position) => list[position]!.address,
    );
  assert.deepEqual(rest(shuffled), rest(backends));
});

test("maglev: same port or same address are other backends", () => {
  const address = parseIpv4("10.20.0.11")!;
  const backends = [80, 81, 82].map((port) => ({ address, port, weight: 1 }));
  assert.ok(spread(countsOf(buildMaglevTable(backends, 65_537, 0), 3)) <= 1);
});

test("maglev: one of ten goes down: of the others no slot moves, and shares stay even", () => {
  const backends = backendsFrom("10.20.0.11", ones(10));
  const whole = buildMaglevTable(backends, 65_537, 0);
  for (let gone = 0; gone < 10; gone++) {
    const isPresent = backends.map((_, index) => index !== gone);
    const table = withoutAbsent(whole, backends, isPresent, 0);
    let moved = 0;
    whole.forEach((owner, slot) => {
      if (owner !== gone && table[slot] !== owner) moved++;
    });
    assert.equal(moved, 0);
    const counts = countsOf(table, 10);
    assert.equal(counts[gone], 0);
    assert.ok(spread(counts.filter((_, index) => index !== gone)) <= 1);
  }
});

test("maglev: one of ten leaves the configuration: on average 0.2 % of the others' slots move", () => {
  const moves: number[] = [];
  for (const first of ["10.20.0.11", "192.0.2.200", "10.0.0.250"]) {
    const backends = backendsFrom(first, ones(10));
    const whole = buildMaglevTable(backends, 65_537, 0);
    for (let gone = 0; gone < 10; gone++) {
      const rest = backends.filter((_, index) => index !== gone);
      const table = buildMaglevTable(rest, 65_537, 0);
      let moved = 0;
      let others = 0;
      whole.forEach((owner, slot) => {
        if (owner === gone) return;
        others++;
        if (rest[table[slot]!] !== backends[owner]) moved++;
      });
      moves.push(moved / others);
    }
  }
  // One in a hundred is above 0.3 %.
  assert.ok(Math.max(...moves) <= 0.004, `${moves.map((share) => (100 * share).toFixed(3))} %`);
  const mean = moves.reduce((sum, share) => sum + share, 0) / moves.length;
  assert.ok(mean <= 0.002, `${100 * mean} % on average`);
});

test("maglev: a changed weight moves little more than it must", () => {
  const before = buildMaglevTable(backendsFrom("10.20.0.11", [10, 10, 10, 10]), 65_537, 0);
  const after = buildMaglevTable(backendsFrom("10.20.0.11", [10, 10, 10, 5]), 65_537, 0);
  let moved = 0;
  before.forEach((owner, slot) => {
    if (owner !== after[slot]) moved++;
  });
  const least = 65_537 / 4 - 65_537 / 7;
  assert.ok(
    moved >= Math.floor(least) && moved < 1.02 * least,
    `${moved} slots, ${least} at least`,
  );
});

test("maglev: neither neighbours nor owners are a pattern", () => {
  const count = 8;
  const table = buildMaglevTable(backendsFrom("10.20.0.11", ones(count)), 65_537, 9);
  let same = 0;
  table.forEach((owner, slot) => {
    if (owner === table[(slot + 1) % table.length]) same++;
  });
  // Chance: an eighth, give or take four standard deviations.
  const expected = table.length / count;
  assert.ok(Math.abs(same - expected) < 4 * Math.sqrt(expected), `${same} of ${expected}`);
});

test("tables are the same in every process, on every node and in every version", () => {
  const digest = (table: Uint16Array): string =>
    createHash("sha256").update(table).digest("hex").slice(0, 16);
  const backends = backendsFrom("10.20.0.11", [1, 2, 1, 7, 1, 65_535, 30]);
  const whole = buildMaglevTable(backends, 65_537, seedWord("fleet"));
  const isPresent = backends.map((_, index) => index !== 5);
  assert.deepEqual(
    {
      whole: digest(whole),
      rest: digest(withoutAbsent(whole, backends, isPresent, seedWord("fleet"))),
      source: digest(buildSourceHashTable([1, 2, 1, 7], 256)),
      seed: seedWord("fleet"),
    },
    {
      whole: "7d444b7098afb0c0",
      rest: "feb4a899d31cf74a",
      source: "f46f2fa30e2a5fb7",
      seed: 1083432699,
    },
  );
});

test("source-hash: 256 slots as in LVS, more for many backends or fine weights", () => {
  assert.equal(sourceHashSize([1]), 256);
  assert.equal(sourceHashSize(ones(16)), 256);
  assert.equal(sourceHashSize(ones(17)), 512);
  assert.equal(sourceHashSize([1000, 2000]), 256, "1 to 2");
  assert.equal(sourceHashSize([1, 999]), 1024);
  assert.equal(sourceHashSize([65_535, 65_534]), 65_536);
  assert.equal(sourceHashSize(ones(5000)), 65_536);
});

test("property: source-hash shares are the weights to the slot", () => {
  const weights = fc.array(fc.integer({ min: 1, max: 65_535 }), { minLength: 1, maxLength: 40 });
  fc.assert(
    fc.property(weights, (list) => {
      const size = sourceHashSize(list);
      assertShares(countsOf(buildSourceHashTable(list, size), list.length), list, size);
    }),
    { numRuns: 200 },
  );
  assert.equal(buildSourceHashTable([], 256).length, 0);
});

test("greatest common divisor", () => {
  assert.deepEqual(
    [
      [0, 0],
      [0, 7],
      [7, 0],
      [12, 18],
      [65_535, 65_534],
      [65_535, 13_107],
    ].map(([a, b]) => greatestCommonDivisor(a!, b!)),
    [0, 7, 7, 6, 1, 13_107],
  );
});

test("mix: a changed bit of any word changes every bit of the hash half of the time", () => {
  const random = createRandom(4);
  const draws = 2000;
  for (let word = 0; word < 5; word++) {
    const flips = new Array<number>(32).fill(0);
    for (let draw = 0; draw < draws; draw++) {
      const words = [0, 1, 2, 3, 4].map(() => random.next32());
      const before = mix(words[0]!, words[1]!, words[2]!, words[3]!, words[4]!);
      words[word] = words[word]! ^ (1 << random.below(32));
      const difference = before ^ mix(words[0]!, words[1]!, words[2]!, words[3]!, words[4]!);
      for (let bit = 0; bit < 32; bit++) flips[bit]! += (difference >>> bit) & 1;
    }
    for (const count of flips) assert.ok(Math.abs(count / draws - 0.5) < 0.06, `${count}`);
  }
});
