import assert from "node:assert/strict";
import { test } from "node:test";
import { PHASE_SPLICED, SPLICE_WORDS, X_COOKIE, X_PHASE } from "../../src/admission/splice.ts";
import { F_STATE, FLOW_WORDS, STATE_FREE } from "../../src/flow/flow-record.ts";
import { createFlowTable } from "../../src/flow/flow-table.ts";
import type { RegionViews } from "../../src/state/layout.ts";
import { findOriginal } from "../flow/sample-flows.ts";
import { createMemoryMapper } from "./memory-mapper.ts";
import { openSample, populate, SIZE } from "./sample-region.ts";

// Goal: a flow and its splice stay together, whatever the next process makes of the region, and a
// free row has none. Method: every second flow of a region is given a splice that names its row.

const spliceWord = ({ layout }: RegionViews, row: number): number =>
  (layout.splices.at >> 2) + row * SPLICE_WORDS;

for (const [name, next] of [
  ["the same size: in place", { ...SIZE, splices: 1 }],
  ["another capacity: moved", { ...SIZE, splices: 1, flowCapacity: 40 }],
  ["no room for splices: the spliced flows end", { ...SIZE, splices: 0 }],
] as const) {
  test(`take-over of splices, ${name}`, () => {
    const mapper = createMemoryMapper();
    const before = openSample(mapper, { size: { ...SIZE, splices: 1 } });
    const { table, flows } = populate(before.views, 20);
    flows.forEach((flow, id) => {
      const word = spliceWord(before.views, findOriginal(table, flow) >> 1);
      before.views.i32[word + X_PHASE] = id % 2 === 0 ? PHASE_SPLICED : 0;
      before.views.i32[word + X_COOKIE] = 1000 + id;
    });
    // A process that died between two stores.
    before.views.i32[spliceWord(before.views, 30) + X_PHASE] = PHASE_SPLICED;
    before.close();

    const { views, report } = openSample(mapper, { size: next });
    const has = views.layout.splices.bytes > 0;
    assert.deepEqual([report.flowsKept, report.flowsNoRoom], has ? [20, 0] : [10, 10]);
    if (!has) return;
    const after = createFlowTable(views);
    flows.forEach((flow, id) => {
      const word = spliceWord(views, findOriginal(after, flow) >> 1);
      assert.equal(views.i32[word + X_PHASE], id % 2 === 0 ? PHASE_SPLICED : 0);
      if (id % 2 === 0) assert.equal(views.i32[word + X_COOKIE], 1000 + id);
    });
    for (let row = 0; row < views.layout.flowCapacity; row++) {
      const state = views.i32[(views.layout.flows.at >> 2) + row * FLOW_WORDS + F_STATE];
      if (state === STATE_FREE) assert.equal(views.i32[spliceWord(views, row) + X_PHASE], 0);
    }
  });
}
