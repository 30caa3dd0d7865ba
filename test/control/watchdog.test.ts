import assert from "node:assert/strict";
import { test } from "node:test";
import { createWatchdog, WATCHDOG_LOOKS } from "../../src/control/watchdog.ts";
import { H_BATCHES, planRegion, viewRegion } from "../../src/state/layout.ts";

test("the watchdog barks after so many looks in a row without a batch, not before", () => {
  const layout = planRegion({ flowCapacity: 8, services: 1, backends: 1, hashSlots: 1 });
  const views = viewRegion(new ArrayBuffer(layout.bytes), layout);
  const watchdog = createWatchdog(views);
  for (let look = 1; look < WATCHDOG_LOOKS; look++) assert.equal(watchdog.look(), false);
  views.i32[H_BATCHES] = 1;
  for (let look = 0; look < WATCHDOG_LOOKS; look++) assert.equal(watchdog.look(), false);
  assert.equal(watchdog.look(), true);
});
