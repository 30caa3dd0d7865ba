import assert from "node:assert/strict";
import { test } from "node:test";
import { StateError } from "../../src/base/errors.ts";
import { startCrew } from "../../src/control/crew.ts";
import type { WorkerHandle } from "../../src/control/worker-host.ts";
import type { WorkerOptions } from "../../src/control/worker-protocol.ts";
import { memoryRegion } from "./region.ts";

/** A crew of workers that only note what is asked of them. */
function bench(workers: number, failing = -1) {
  const events: string[] = [];
  const options: WorkerOptions[] = [];
  const deaths: string[] = [];
  const dies: ((reason: string) => void)[] = [];
  const started = startCrew({
    statePath: "/run/headgate/state",
    views: memoryRegion(undefined, workers),
    device: (_, wakeFd) => ({ type: "packet", interfaces: ["eth0", "eth1"], wakeFd }),
    cpus: [],
    limited: false,
    wakeFds: Array.from({ length: workers }, (_, worker) => 40 + worker),
    programFd: workers === 1 ? null : 30,
    wake: () => {},
    onDeath: (reason) => deaths.push(reason),
    startWorker: async (own, _views, _wake, onDeath): Promise<WorkerHandle> => {
      const { worker } = own;
      options.push(own);
      dies.push(onDeath);
      events.push(`start ${worker}`);
      await Promise.resolve();
      if (worker === failing) throw new StateError("no room");
      events.push(`started ${worker}`);
      return {
        interfaces: [{ name: "eth0", index: 2 + worker, mac: "", mtu: 1500 }],
        groups: worker === 0 ? [7, 8] : [],
        about: {},
        go: () => events.push(`go ${worker}`),
        stop: async () => {
          await Promise.resolve();
          events.push(`stopped ${worker}`);
        },
      };
    },
  });
  return { started, events, options, deaths, dies };
}

test("workers open their devices one after the other, in the groups of the first", async () => {
  const { started, events, options } = bench(3);
  const crew = await started;
  assert.deepEqual(
    events,
    [0, 1, 2].flatMap((worker) => [`start ${worker}`, `started ${worker}`]),
  );
  assert.deepEqual(
    options.map(({ worker, device, crew: own }) => [worker, device.wakeFd, own]),
    [0, 1, 2].map((worker) => [
      worker,
      40 + worker,
      { worker, programFd: 30, groups: worker === 0 ? [] : [7, 8], wakeFds: [40, 41, 42] },
    ]),
  );
  assert.equal(crew.interfaces[0]!.index, 2, "the first one's interfaces speak for all");
  crew.go();
  await crew.stop();
  assert.deepEqual(events.slice(6).toSorted(), [
    "go 0",
    "go 1",
    "go 2",
    "stopped 0",
    "stopped 1",
    "stopped 2",
  ]);
});

test("one worker needs no crew", async () => {
  const { started, options } = bench(1);
  await started;
  assert.deepEqual(
    options.map(({ worker, crew }) => [worker, crew]),
    [[0, undefined]],
  );
});

test("what one cannot open is the gateway's error, and those before it end", async () => {
  const { started, events } = bench(3, 1);
  await assert.rejects(started, StateError);
  assert.deepEqual(events, ["start 0", "started 0", "start 1", "stopped 0"]);
});

test("the death of any worker is told once, with its number", async () => {
  const { started, deaths, dies } = bench(3);
  await started;
  dies[2]!("out of memory");
  dies[0]!("worker exited with code 1");
  assert.deepEqual(deaths, ["worker 2: out of memory"]);
});
