import assert from "node:assert/strict";
import { test } from "node:test";
import {
  B_EJECTED,
  B_EJECTED_UNTIL,
  B_LATENCY_US,
  EJECTED_YES,
} from "../../src/service/backend-slots.ts";
import {
  FAILED_REFUSED,
  FAILED_SILENT,
  failedTotal,
  LATENCY_SCALE,
  P_ANSWERS,
  P_LATENCY,
  P_OPEN,
  P_RUN,
  PF_FAILED,
  passiveRunWord,
} from "../../src/service/passive-run.ts";
import { assignSlots, backendSlotWord } from "../../src/service/slots.ts";
import { moveFlows, takeOverFlows } from "../../src/state/take-over.ts";
import { backend, gateway, service } from "../control/definitions.ts";
import { memoryRegion } from "../control/region.ts";

// Goal: what traffic has said of backends outlasts the process, also with another number of workers; what
// was under way when it ended does not.

const DEFINITION = gateway([
  service("web", { backends: [backend("10.20.0.11:80"), backend("10.20.0.12:80")] }),
]);

function filled(workers: number) {
  const views = memoryRegion(DEFINITION, workers);
  assignSlots(views, DEFINITION, 0);
  for (let worker = 0; worker < workers; worker++) {
    const run = passiveRunWord(views, worker, 1);
    views.i32[run + P_OPEN] = 7;
    views.i32[run + P_RUN] = (9 << 2) | FAILED_REFUSED;
    views.i32[run + P_ANSWERS] = 40;
    views.i32[run + P_LATENCY] = 500 * LATENCY_SCALE;
    views.f64[(run >> 1) + PF_FAILED + FAILED_REFUSED] = 3;
    views.f64[(run >> 1) + PF_FAILED + FAILED_SILENT] = worker;
  }
  const slot = backendSlotWord(views, 1);
  views.i32[slot + B_EJECTED] = EJECTED_YES;
  views.i32[slot + B_EJECTED_UNTIL] = 12_345;
  views.i32[slot + B_LATENCY_US] = 500;
  return views;
}

test("in place: latencies, failures and the ejection stay, rows begin anew, nonsense goes", () => {
  const views = filled(2);
  const damaged = passiveRunWord(views, 1, 0);
  views.i32[damaged + P_LATENCY] = -5;
  views.f64[(damaged >> 1) + PF_FAILED] = Number.NaN;
  takeOverFlows(views);
  for (const worker of [0, 1]) {
    const run = passiveRunWord(views, worker, 1);
    assert.equal(views.i32[run + P_OPEN], 0);
    assert.equal(views.i32[run + P_RUN], 0);
    assert.equal(views.i32[run + P_ANSWERS], 40);
    assert.equal(views.i32[run + P_LATENCY], 500 * LATENCY_SCALE);
  }
  assert.equal(failedTotal(views, 1, FAILED_REFUSED), 6);
  assert.equal(failedTotal(views, 0, FAILED_SILENT), 0);
  assert.equal(views.i32[damaged + P_LATENCY], 0);
  const slot = backendSlotWord(views, 1);
  assert.deepEqual(
    [B_EJECTED, B_EJECTED_UNTIL, B_LATENCY_US].map((word) => views.i32[slot + word]),
    [EJECTED_YES, 12_345, 500],
  );
});

test("with other workers: every failure is still counted once", () => {
  const from = filled(3);
  for (const workers of [1, 2, 4]) {
    const to = memoryRegion(DEFINITION, workers);
    moveFlows(from, to);
    assert.equal(failedTotal(to, 1, FAILED_REFUSED), 9, `${workers} workers`);
    assert.equal(failedTotal(to, 1, FAILED_SILENT), 3);
    const run = passiveRunWord(to, 0, 1);
    assert.equal(to.i32[run + P_LATENCY], 500 * LATENCY_SCALE);
    assert.equal(to.i32[run + P_OPEN], 0);
    assert.equal(to.i32[backendSlotWord(to, 1) + B_EJECTED], EJECTED_YES);
  }
});

test("the next user of a slot has no past", () => {
  const views = filled(1);
  const other = gateway([service("other", { backends: [backend("10.20.0.99:80")] })]);
  const none = gateway([]);
  assignSlots(views, none, 1);
  assignSlots(views, none, 2);
  const { slot } = assignSlots(views, other, 3).services[0]!.backends[0]!;
  const run = passiveRunWord(views, 0, slot);
  assert.deepEqual(
    [...views.i32.subarray(run, run + 16)],
    Array.from({ length: 16 }, () => 0),
  );
  assert.equal(views.i32[backendSlotWord(views, slot) + B_EJECTED], 0);
});
