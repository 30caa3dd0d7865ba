import assert from "node:assert/strict";
import { test } from "node:test";
import { Worker } from "node:worker_threads";
import { planRegion } from "../../src/state/layout.ts";
import type { ThreadReport, ThreadTask } from "./handover-thread.ts";

/**
 * Goal: rings between threads that really run at once lose, tear and reorder nothing, also when they
 * are full most of the time.
 * Method: three threads on one region, each sending numbered frames to the two others.
 */

const SIZE = { flowCapacity: 16, services: 1, backends: 1, hashSlots: 1, workers: 3 };
const FRAMES_EACH = 20_000;

function run(task: ThreadTask): Promise<ThreadReport> {
  return new Promise((resolve, reject) => {
    const worker = new Worker(new URL("./handover-thread.js", import.meta.url), {
      workerData: task,
    });
    worker.once("message", resolve);
    worker.once("error", reject);
  });
}

test("three threads hand 120,000 frames to each other, in order and whole", async (t) => {
  const region = new SharedArrayBuffer(planRegion(SIZE).bytes);
  const seed = Math.floor(Math.random() * 2 ** 31);
  t.diagnostic(`seed ${seed}`);
  const reports = await Promise.all(
    [0, 1, 2].map((worker) => run({ region, size: SIZE, worker, seed, framesEach: FRAMES_EACH })),
  );
  for (const { received } of reports) assert.equal(received, 2 * FRAMES_EACH);
  const refused = reports.reduce((sum, report) => sum + report.refused, 0);
  assert.ok(refused > 0, "rings were full at times, so that wrapping and refusal were met");
});
