import assert from "node:assert/strict";
import { test } from "node:test";
import { StateError } from "../../src/base/errors.ts";
import { startWorker } from "../../src/control/worker-host.ts";
import { memoryRegion } from "./region.ts";

test("what the worker cannot open is the gateway's own error, with its exit code", async () => {
  const views = memoryRegion();
  const size = { flowCapacity: 1024, services: 8, backends: 32, hashSlots: 4096, workers: 1 };
  const options = {
    statePath: "/nonexistent/headgate/state",
    size,
    worker: 0,
    cpu: null,
    device: { type: "packet", interfaces: ["none0"], wakeFd: -1 } as const,
    limited: false,
    crew: undefined,
  };
  const deaths: string[] = [];
  const started = startWorker(
    options,
    views,
    () => {},
    (reason) => deaths.push(reason),
  );
  const expected = new StateError("");
  await assert.rejects(started, (error: unknown) => {
    assert.ok(error instanceof Error && "code" in error && "exitCode" in error);
    assert.equal(error.code, expected.code);
    assert.equal(error.exitCode, expected.exitCode);
    assert.match(error.message, /\/nonexistent\/headgate\/state/);
    return true;
  });
  assert.deepEqual(deaths, []);
});
