import assert from "node:assert/strict";
import { test } from "node:test";
import fc from "fast-check";
import { createRandom, type Random } from "../../src/base/random.ts";
import { recordIsSound } from "../../src/flow/check-record.ts";
import { F_EXPIRES, F_STATE, FLOW_WORDS, STATE_FIN_WAIT } from "../../src/flow/flow-record.ts";
import { createFlowTable, type FlowTable } from "../../src/flow/flow-table.ts";
import { type RegionViews, viewRegion } from "../../src/state/layout.ts";
import { createSampleTable, distinctFlow, insertSample, pick } from "./sample-flows.ts";

// Goal: a process that dies between any two stores of the flow table leaves nothing that is
// followed wrongly, and everything else as it was.
// Method: the table works on a recorder that logs every store. Then, for each store in turn, the
// region as it was before is given the stores up to that one, and taken over.

interface Store {
  readonly index: number;
  readonly value: number;
}

/** Atomics refuse a recorder; to one thread a plain store is the same. This process tests no other. */
Atomics.store = ((array: Int32Array, index: number, value: number) =>
  (array[index] = value)) as typeof Atomics.store;

function record(views: RegionViews): { readonly views: RegionViews; readonly log: Store[] } {
  const log: Store[] = [];
  const i32 = new Proxy(views.i32, {
    get: (target, key) => {
      const value: unknown = Reflect.get(target, key);
      return typeof value === "function" ? value.bind(target) : value;
    },
    set: (target, key, value: number) => {
      log.push({ index: Number(key), value });
      target[Number(key)] = value;
      return true;
    },
  });
  return { views: { ...views, i32 }, log };
}

/** The words of every live, whole record, as text, but for its version. */
function liveRecords(i32: Int32Array, table: FlowTable, capacity: number): Map<number, string> {
  const live = new Map<number, string>();
  for (let row = 0; row < capacity; row++) {
    const at = table.word(row);
    if (recordIsSound(i32, at)) live.set(row, i32.subarray(at + 1, at + FLOW_WORDS).join());
  }
  return live;
}

/**
 * Interrupt `operation` after each of its stores, take over, and compare.
 *
 * @param touched - the row that the operation works on; every other one must be as before
 * @returns stores made
 */
function interruptEverywhere(
  views: RegionViews,
  operation: (table: FlowTable, i32: Int32Array) => number,
): number {
  const { layout } = views;
  // The secret of the hashes, and all that the worker writes.
  const first = layout.workerHeader.at;
  const header = views.u8.slice(0, layout.header.bytes);
  const before = views.u8.slice(first);
  const recorder = record(views);
  const plain = createFlowTable(views);
  const recordsBefore = liveRecords(views.i32, plain, layout.flowCapacity);
  const touched = operation(createFlowTable(recorder.views), recorder.views.i32);
  const recordsAfter = liveRecords(views.i32, plain, layout.flowCapacity);
  const copy = viewRegion(new ArrayBuffer(layout.bytes), layout);
  const successor = createFlowTable(copy);
  for (let stores = 0; stores <= recorder.log.length; stores++) {
    copy.u8.set(header);
    copy.u8.set(before, first);
    for (const { index, value } of recorder.log.slice(0, stores)) copy.i32[index] = value;
    const report = successor.rebuild();
    const live = liveRecords(copy.i32, successor, layout.flowCapacity);
    assert.equal(live.size, report.kept);
    assert.equal(successor.used(), report.kept);
    assert.ok(report.dropped <= 1 && report.noRoom === 0, `after store ${stores}`);
    for (const [row, words] of recordsBefore) {
      if (row !== touched) assert.equal(live.get(row), words, `row ${row} after store ${stores}`);
    }
    const now = live.get(touched);
    assert.ok(
      now === undefined || now === recordsBefore.get(touched) || now === recordsAfter.get(touched),
      `row ${touched} after store ${stores} is neither old nor new: ${now}`,
    );
    for (const row of live.keys()) checkFound(copy.i32, successor, row);
    if (stores === 0) assert.deepEqual(live, recordsBefore);
    if (stores === recorder.log.length) assert.deepEqual(live, recordsAfter);
  }
  return recorder.log.length;
}

function checkFound(i32: Int32Array, table: FlowTable, row: number): void {
  const word = (index: number): number => i32[table.word(row) + index]!;
  const protocol = (word(F_STATE) >>> 8) & 0xff;
  assert.equal(table.find(protocol, word(2), word(3), word(4)), row << 1);
  assert.equal(table.find(protocol, word(5), word(6), word(7)), (row << 1) | 1);
}

function prepared(): { readonly views: RegionViews; readonly table: FlowTable } {
  const { views, table } = createSampleTable({ flowCapacity: 32 });
  for (let id = 0; id < 12; id++) insertSample(table, distinctFlow(id));
  table.remove(4);
  table.remove(7);
  return { views, table };
}

test("insert into a row that was used before", () => {
  const { views } = prepared();
  const stores = interruptEverywhere(views, (table) => insertSample(table, distinctFlow(100)));
  // Version twice, fifteen words, two index entries of two words, the count.
  assert.equal(stores, 2 + 15 + 4 + 1);
});

test("insert into a row that was never used", () => {
  const { views, table } = prepared();
  insertSample(table, distinctFlow(50));
  insertSample(table, distinctFlow(51));
  const stores = interruptEverywhere(views, (table) => insertSample(table, distinctFlow(100)));
  assert.equal(stores, 2 + 15 + 4 + 1 + 1);
});

test("remove", () => {
  const { views } = prepared();
  const stores = interruptEverywhere(views, (table) => {
    table.remove(5);
    return 5;
  });
  // State, two index entries, the stack, the count.
  assert.equal(stores, 1 + 2 + 1 + 1);
});

test("a new last hop", () => {
  const { views } = prepared();
  const stores = interruptEverywhere(views, (table) => {
    table.setHop(3, 0x0a0b0c0d, 0x0e0f0001);
    return 3;
  });
  assert.equal(stores, 4);
});

test("a new state and a new time, as the data plane stores them, leave every flow whole", () => {
  const { views } = prepared();
  for (const [word, value] of [
    [F_STATE, STATE_FIN_WAIT | (6 << 8)],
    [F_EXPIRES, 123],
  ] as const) {
    const stores = interruptEverywhere(views, (table, i32) => {
      i32[table.word(3) + word] = value;
      return 3;
    });
    assert.equal(stores, 1);
  }
});

function randomOperation(table: FlowTable, live: Set<number>, random: Random): number {
  const choice = random.below(10);
  if (choice < 5 || live.size === 0) {
    const row = insertSample(table, distinctFlow(random.below(40)));
    if (row >= 0) live.add(row);
    return row;
  }
  const row = pick(random, [...live]);
  if (choice < 8) {
    table.remove(row);
    live.delete(row);
  } else {
    table.setHop(row, random.next32(), random.next32());
  }
  return row;
}

test("any operation, after any others, interrupted after any store", () => {
  let interruptions = 0;
  fc.assert(
    fc.property(fc.integer(), (seed) => {
      const random = createRandom(seed);
      const { views } = createSampleTable({ flowCapacity: 24 }, [seed, ~seed]);
      const live = new Set<number>();
      for (let operation = 0; operation < 30; operation++) {
        interruptions += interruptEverywhere(views, (table) =>
          randomOperation(table, live, random),
        );
      }
    }),
    { numRuns: 12 },
  );
  assert.ok(interruptions > 1000, `${interruptions} interruptions`);
});
