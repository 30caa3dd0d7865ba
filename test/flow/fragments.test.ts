import assert from "node:assert/strict";
import { test } from "node:test";
import { FRAGMENT_TIMEOUT_MS, FRAGMENT_WAYS } from "../../src/base/limits.ts";
import { createRandom } from "../../src/base/random.ts";
import {
  COVER_NEW,
  COVER_OVERLAP,
  COVER_TWICE,
  createFragmentTable,
} from "../../src/flow/fragments.ts";

/** The table of datagrams in fragments against a slow one: a list of units that have come, and a Map. */

const SEED = 0x5eed_0a00;

test("coverage of random fragments against a list of units", (t) => {
  t.diagnostic(`seed ${SEED}`);
  const random = createRandom(SEED);
  const table = createFragmentTable(1, 2, FRAGMENT_WAYS);
  const said = new Map<number, number>();
  let complete = 0;
  for (let round = 0; round < 3000; round++) {
    // Mostly short datagrams, so that they are complete now and then; some up to the last unit.
    const most = random.below(10) === 0 ? 8192 : 1 + random.below(40);
    const entry = table.choose(17, 1, 2, round, 0);
    table.begin(entry, 17, 1, 2, round, 0);
    const seen = new Set<number>();
    let whole = 0;
    for (let step = 0; step < 30; step++) {
      const first = random.below(most);
      const units = Math.min(1 + random.below(Math.max(2, most >> 2)), 8192 - first);
      const end = first + units;
      const isLast = random.below(6) === 0;
      const inside = Array.from({ length: units }, (_, index) => first + index);
      const known = inside.filter((unit) => seen.has(unit)).length;
      const beyond = [...seen].some((unit) => unit >= end);
      const contradicts = isLast
        ? (whole !== 0 && whole !== end) || beyond
        : whole !== 0 && end >= whole;
      let want = COVER_NEW;
      if (contradicts) want = COVER_OVERLAP;
      else if (known > 0) want = known === units ? COVER_TWICE : COVER_OVERLAP;
      const got = table.cover(entry, first, units, isLast);
      said.set(got, (said.get(got) ?? 0) + 1);
      assert.equal(got, want, `round ${round}: ${first}+${units} ${isLast ? "last" : ""}`);
      if (want !== COVER_NEW) continue;
      for (const unit of inside) seen.add(unit);
      if (isLast) whole = end;
      const isComplete = whole !== 0 && seen.size === whole;
      assert.equal(table.isComplete(entry), isComplete);
      if (isComplete) complete++;
    }
    table.free(entry);
  }
  for (const answer of [COVER_NEW, COVER_TWICE, COVER_OVERLAP]) assert.ok(said.get(answer)! > 100);
  assert.ok(complete > 100, `${complete} complete`);
});

test("entries by key and time against a map; a full set gives up what ends first", (t) => {
  t.diagnostic(`seed ${SEED + 1}`);
  const random = createRandom(SEED + 1);
  const table = createFragmentTable(3, 4, 4 * FRAGMENT_WAYS);
  const known = new Map<string, { readonly entry: number; readonly ends: number }>();
  let tick = 0x7fff_ff00;
  for (let step = 0; step < 20_000; step++) {
    tick = (tick + random.below(200)) | 0;
    const key = [6, 17, 17 | 0x80][random.below(3)]!;
    const [source, destination, id] = [random.below(3), random.below(3), random.below(6)];
    const text = `${key} ${source} ${destination} ${id}`;
    const found = table.find(key, source, destination, id, tick);
    const want = known.get(text);
    const isLive = want !== undefined && ((want.ends - tick) | 0) > 0;
    assert.equal(found, isLive ? want.entry : -1, `step ${step}`);
    if (found >= 0) {
      if (random.below(4) !== 0) continue;
      table.free(found);
      known.delete(text);
      continue;
    }
    const entry = table.choose(key, source, destination, id, tick);
    const holder = [...known].find(([, { entry: other }]) => other === entry);
    if (holder !== undefined) {
      // Nobody of the same set ends earlier: sets are runs of entries.
      const wordsOfSet = entry - (entry % (FRAGMENT_WAYS * 16));
      for (const { entry: other, ends } of known.values()) {
        if (other < wordsOfSet || other >= wordsOfSet + FRAGMENT_WAYS * 16) continue;
        assert.ok(((ends - holder[1].ends) | 0) >= 0);
      }
      known.delete(holder[0]);
    }
    table.begin(entry, key, source, destination, id, tick);
    known.set(text, { entry, ends: (tick + FRAGMENT_TIMEOUT_MS) | 0 });
  }
});
