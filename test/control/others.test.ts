import assert from "node:assert/strict";
import { test } from "node:test";
import { publishOthers } from "../../src/control/others.ts";
import { pickLeastConnections } from "../../src/scheduler/least-connections.ts";
import {
  R_ACTIVE,
  R_FLOWS,
  R_OTHERS_ACTIVE,
  R_OTHERS_FLOWS,
} from "../../src/service/backend-slots.ts";
import { E_SLOT, ENTRY_WORDS } from "../../src/service/bank.ts";
import { backendRunWord } from "../../src/service/runs.ts";
import { assignSlots, usedBackendSlots } from "../../src/service/slots.ts";
import { backend, gateway, service } from "./definitions.ts";
import { memoryRegion } from "./region.ts";

test("each worker is told what the others hold, and least-connections goes by the sum", () => {
  const definition = gateway([
    service("web", { backends: [backend("10.20.0.11:80"), backend("10.20.0.12:80")] }),
  ]);
  const views = memoryRegion(definition, 3);
  assignSlots(views, definition, 0);
  const [first, second] = usedBackendSlots(views);
  const { i32 } = views;
  const set = (worker: number, slot: number, flows: number, active: number): void => {
    const run = backendRunWord(views, worker, slot);
    i32[run + R_FLOWS] = flows;
    i32[run + R_ACTIVE] = active;
  };
  set(0, first!, 1, 0);
  set(0, second!, 5, 5);
  set(1, first!, 9, 7);
  set(2, first!, 4, 3);
  publishOthers(views);
  const othersOf = (worker: number, slot: number): readonly number[] => {
    const run = backendRunWord(views, worker, slot);
    return [i32[run + R_OTHERS_FLOWS]!, i32[run + R_OTHERS_ACTIVE]!];
  };
  assert.deepEqual(othersOf(0, first!), [13, 10]);
  assert.deepEqual(othersOf(1, first!), [5, 3]);
  assert.deepEqual(othersOf(2, first!), [10, 7]);
  assert.deepEqual(othersOf(0, second!), [0, 0]);
  assert.deepEqual(othersOf(1, second!), [5, 5]);

  // Alone, worker 0 would take the first backend, which has few of its own flows.
  const list = views.layout.banks[0].at >> 2;
  i32[list + E_SLOT] = first!;
  i32[list + ENTRY_WORDS + E_SLOT] = second!;
  const runs = views.layout.backendRuns.at >> 2;
  assert.equal(pickLeastConnections(i32, runs, list, 2, 0), list + ENTRY_WORDS);
});
