import assert from "node:assert/strict";
import { test } from "node:test";
import { createWatchdog, WATCHDOG_LOOKS } from "../../src/control/watchdog.ts";
import { planRegion, viewRegion, W_BATCHES } from "../../src/state/layout.ts";

for (const workers of [1, 3]) {
  test(`the watchdog barks when any of ${workers} workers has no batch for so many looks`, () => {
    const layout = planRegion({ flowCapacity: 8, services: 1, backends: 1, hashSlots: 1, workers });
    const views = viewRegion(new ArrayBuffer(layout.bytes), layout);
    const watchdog = createWatchdog(views);
    for (let look = 1; look < WATCHDOG_LOOKS; look++) assert.equal(watchdog.look(), false);
    for (const { workerWord } of layout.shards) views.i32[workerWord + W_BATCHES] = 1;
    for (let look = 0; look < WATCHDOG_LOOKS; look++) {
      assert.equal(watchdog.look(), false);
      // All but the last go on.
      for (const { workerWord } of layout.shards.slice(0, -1)) views.i32[workerWord + W_BATCHES]!++;
    }
    assert.equal(watchdog.look(), true);
  });
}
