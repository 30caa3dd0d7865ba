import assert from "node:assert/strict";
import { test } from "node:test";
import { createLog } from "../../src/base/log.ts";
import { createShutdown, liveFlows, type Shutdown } from "../../src/control/shutdown.ts";
import { STATE_CLOSE, STATE_FREE, STATE_TIME_WAIT } from "../../src/flow/flow-record.ts";
import { H_NODE_DRAINED, type RegionViews, W_FLOWS_USED } from "../../src/state/layout.ts";
import { addFlow, memoryRegion } from "./region.ts";

interface Bench {
  readonly views: RegionViews;
  readonly shutdown: Shutdown;
  readonly reasons: string[];
  finished: number;
}

function bench(mode: "keep" | "drain", timeoutMs = 60_000): Bench {
  const views = memoryRegion();
  const reasons: string[] = [];
  const log = createLog("info", {
    write: (line) => {
      const { event, reason } = JSON.parse(line) as { event: string; reason?: string };
      if (event === "stopped") reasons.push(reason!);
    },
  });
  const shutdown = createShutdown({
    views,
    log,
    wake: () => {},
    settings: () => ({ mode, timeoutMs }),
    finish: async () => {
      self.finished++;
    },
  });
  const self: Bench = { views, shutdown, reasons, finished: 0 };
  return self;
}

const FLOW = {
  slot: 0,
  vip: "203.0.113.10",
  vipPort: 80,
  backend: "10.20.0.11",
  backendPort: 80,
};

/** The worker ends the flow in row 0. */
function endFlow(views: RegionViews): void {
  views.i32[(views.layout.flows.at >> 2) + 1] = STATE_FREE;
  views.i32[views.layout.workerWord + W_FLOWS_USED] = 0;
}

test("keep: flows stay, the gateway ends at once, and once", async () => {
  const self = bench("keep");
  addFlow(self.views, FLOW);
  self.shutdown.stop("SIGTERM");
  self.shutdown.stop("SIGINT");
  assert.equal(await self.shutdown.ended, 0);
  assert.equal(self.finished, 1);
  assert.deepEqual(self.reasons, ["SIGTERM"]);
  assert.equal(self.views.i32[H_NODE_DRAINED], 0);
  assert.equal(liveFlows(self.views), 1);
});

test("drain: no new flows, the end comes with the last flow", async () => {
  const self = bench("drain");
  addFlow(self.views, FLOW);
  self.shutdown.stop("SIGTERM");
  assert.equal(self.views.i32[H_NODE_DRAINED], 1);
  assert.equal(self.shutdown.isDraining(), true);
  await new Promise((resolve) => setTimeout(resolve, 250));
  assert.equal(self.finished, 0);
  endFlow(self.views);
  assert.equal(await self.shutdown.ended, 0);
  assert.deepEqual(self.reasons, ["drained"]);
});

test("drain: a second signal ends at once", async () => {
  const self = bench("drain");
  addFlow(self.views, FLOW);
  self.shutdown.stop("SIGTERM");
  self.shutdown.stop("SIGTERM");
  assert.equal(await self.shutdown.ended, 0);
  assert.deepEqual(self.reasons, ["SIGTERM"]);
});

test("drain: the time is over with flows left", async () => {
  const self = bench("drain", 1);
  addFlow(self.views, FLOW);
  self.shutdown.stop("SIGTERM");
  assert.equal(await self.shutdown.ended, 0);
  assert.deepEqual(self.reasons, ["drain timeout"]);
});

test("the drain command says how many flows are left, and may be given another time", async () => {
  const self = bench("keep");
  addFlow(self.views, FLOW);
  assert.equal(self.shutdown.drain(3_600_000), 1);
  assert.equal(self.shutdown.drain(1), 1);
  assert.equal(await self.shutdown.ended, 0);
  assert.equal(self.shutdown.drain(1), 1);
});

test("closed connections need not be waited for", () => {
  const { views } = bench("keep");
  addFlow(views, { ...FLOW, state: STATE_TIME_WAIT });
  addFlow(views, { ...FLOW, state: STATE_CLOSE });
  assert.equal(liveFlows(views), 0);
  addFlow(views, FLOW);
  assert.equal(liveFlows(views), 1);
});
