import assert from "node:assert/strict";
import { test } from "node:test";
import { addressOf4 } from "../../src/base/address.ts";
import { createLog } from "../../src/base/log.ts";
import { createHopPublisher } from "../../src/control/hop-publisher.ts";
import {
  HOP_ADDRESS,
  HOP_FLAGS,
  HOP_KNOWN,
  HOP_RESOLVED,
  type HopPlan,
} from "../../src/state/hop-table.ts";
import {
  H_HOPS_PUBLISHED,
  PAGE_BYTES,
  type RegionViews,
  W_HOPS_TAKEN,
} from "../../src/state/layout.ts";
import { memoryRegion } from "./region.ts";

function plan(address: number): HopPlan {
  return {
    backends: new Map([
      [0, { address: addressOf4(address), interface: 0, mtu: 1500, mac: "02:00:00:00:00:01" }],
    ]),
    neighbours: [],
    routes: [],
    interfaces: [{ mtu: 1500, mac: "02:00:00:00:00:02", up: true }],
  };
}

/** Address of the next hop of backend slot 0 in a table. */
function hopIn(views: RegionViews, number: number): number {
  const row = (views.layout.hops[number & 1]!.at + PAGE_BYTES) >> 2;
  assert.equal(views.i32[row + HOP_FLAGS], HOP_KNOWN | HOP_RESOLVED);
  return views.i32[row + HOP_ADDRESS]!;
}

const pause = (ms: number): Promise<void> => new Promise((resolve) => setTimeout(resolve, ms));

test("a table that is in use is never written; of plans that wait only the newest comes", async () => {
  const views = memoryRegion();
  let wakes = 0;
  const publisher = createHopPublisher(
    views,
    () => {
      wakes++;
    },
    createLog("error"),
  );
  publisher.publish(plan(1));
  assert.equal(views.i32[H_HOPS_PUBLISHED], 1);
  assert.equal(publisher.isSettled(), true);
  publisher.publish(plan(2));
  publisher.publish(plan(3));
  await pause(20);
  assert.equal(views.i32[H_HOPS_PUBLISHED], 1);
  assert.equal(publisher.isSettled(), false);
  views.i32[views.layout.workerWord + W_HOPS_TAKEN] = 1;
  for (let wait = 0; wait < 200 && !publisher.isSettled(); wait++) await pause(5);
  assert.equal(views.i32[H_HOPS_PUBLISHED], 2);
  assert.equal(hopIn(views, 1), 1);
  assert.equal(hopIn(views, 2), 3);
  assert.equal(wakes, 2);
  publisher.close();
});

test("after close nothing is published", async () => {
  const views = memoryRegion();
  const publisher = createHopPublisher(views, () => {}, createLog("error"));
  publisher.publish(plan(1));
  publisher.publish(plan(2));
  publisher.close();
  views.i32[views.layout.workerWord + W_HOPS_TAKEN] = 1;
  await pause(20);
  assert.equal(views.i32[H_HOPS_PUBLISHED], 1);
});
