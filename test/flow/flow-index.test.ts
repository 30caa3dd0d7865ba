import assert from "node:assert/strict";
import { test } from "node:test";
import { createRandom } from "../../src/base/random.ts";
import { createFlowIndex } from "../../src/flow/flow-index.ts";
import { INSERT_INDEX_FULL, INSERT_TABLE_FULL } from "../../src/flow/flow-table.ts";
import {
  createSampleTable,
  distinctFlow,
  findOriginal,
  findReply,
  insertSample,
} from "./sample-flows.ts";

// Goal: the index, at most half full, has room for every flow that has a row.
// Method: tables filled to the last row, then kept full while flows come and go.

const CAPACITY = 1 << 15; // 2 entries a flow in 2^14 buckets of 8: exactly half full

test("a table filled to its last row, and kept full, has room in its index", () => {
  let inserts = 0;
  let refused = 0;
  for (const seed of [1, 2, 3]) {
    const { views, table } = createSampleTable({ flowCapacity: CAPACITY }, [seed, 77 * seed]);
    assert.equal(views.layout.flowBuckets * 8, 4 * CAPACITY);
    const random = createRandom(seed);
    const rows: number[] = [];
    let id = 0;
    const insert = (): void => {
      inserts++;
      const row = insertSample(table, distinctFlow(id++));
      if (row === INSERT_INDEX_FULL) refused++;
      else rows.push(row);
    };
    while (rows.length < CAPACITY) insert();
    assert.equal(insertSample(table, distinctFlow(id++)), INSERT_TABLE_FULL);
    for (let change = 0; change < 2 * CAPACITY; change++) {
      const at = random.below(rows.length);
      table.remove(rows[at]!);
      rows[at] = rows[rows.length - 1]!;
      rows.pop();
      while (rows.length < CAPACITY) insert();
    }
  }
  assert.ok(refused / inserts < 1e-4, `${refused} of ${inserts} inserts had no room`);
});

test("nineteen of twenty entries of a full table lie in their first bucket", () => {
  const { views, table } = createSampleTable({ flowCapacity: CAPACITY });
  const flows = Array.from({ length: CAPACITY }, (_, id) => distinctFlow(id));
  for (const flow of flows) insertSample(table, flow);
  const first = views.layout.flowIndex.at >> 2;
  let used = 0;
  let inFirst = 0;
  for (let bucket = 0; bucket < views.layout.flowBuckets; bucket++) {
    for (let entry = 0; entry < 8; entry++) {
      const at = first + bucket * 16 + entry;
      if (views.i32[at + 8] === 0) continue;
      used++;
      if ((views.i32[at]! & (views.layout.flowBuckets - 1)) === bucket) inFirst++;
    }
  }
  assert.equal(used, 2 * table.used());
  assert.ok(inFirst / used > 0.94, `${inFirst} of ${used}`);
  flows.forEach((flow, row) => {
    assert.equal(findOriginal(table, flow), row << 1);
    assert.equal(findReply(table, flow), (row << 1) | 1);
  });
});

test("two full buckets are an answer, and leave everything as it was", () => {
  const { views, table } = createSampleTable({ flowCapacity: 64 });
  const index = createFlowIndex(views);
  const flow = distinctFlow(1);
  const hash = index.hashOf(flow.protocol, flow.client, flow.vip, (flow.clientPort << 16) | 80);
  for (let filled = 0; filled < 16; filled++) {
    const entry = index.choose(hash, -1);
    assert.ok(entry >= 0, `entry ${filled}`);
    index.write(entry, hash, 100 + filled);
  }
  assert.equal(index.choose(hash, -1), -1);
  const before = views.u8.slice();
  assert.equal(insertSample(table, flow), INSERT_INDEX_FULL);
  assert.deepEqual(views.u8, before);
  for (let filled = 0; filled < 16; filled++) index.clear(hash, 100 + filled);
  assert.throws(() => index.clear(hash, 100), /a live flow has both its index entries/);
  assert.equal(insertSample(table, flow), 0);
});

test("an entry that is spoken for is not chosen again", () => {
  const { views } = createSampleTable();
  const index = createFlowIndex(views);
  const entry = index.choose(12345, -1);
  assert.notEqual(index.choose(12345, entry), entry);
});

test("a stale entry never leads to a record with another key", () => {
  const { views, table } = createSampleTable();
  const index = createFlowIndex(views);
  const gone = distinctFlow(1);
  const present = distinctFlow(2);
  const row = insertSample(table, present);
  const hash = index.hashOf(gone.protocol, gone.client, gone.vip, (gone.clientPort << 16) | 80);
  index.write(index.choose(hash, -1), hash, row << 1);
  assert.equal(findOriginal(table, gone), -1);
  assert.equal(findOriginal(table, present), row << 1);
});
