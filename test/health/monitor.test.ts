import assert from "node:assert/strict";
import { subscribe, unsubscribe } from "node:diagnostics_channel";
import type { Socket } from "node:net";
import { type TestContext, test } from "node:test";
import { setTimeout as pause } from "node:timers/promises";
import { isDeepStrictEqual } from "node:util";
import {
  createHealthMonitor,
  FIRST_CHECK_MS,
  type HealthResult,
  type HealthTarget,
} from "../../src/health/monitor.ts";
import { HEALTH_DOWN, HEALTH_UP } from "../../src/service/backend-slots.ts";
import { CHECKS_AT_ONCE } from "../../src/service/definition.ts";
import { waitFor } from "../support/wait.ts";
import {
  closedPort,
  definition,
  httpDefinition,
  httpServer,
  type Recorder,
  recorder,
  type TestServer,
  target,
  tcpServer,
} from "./targets.ts";

async function open(t: TestContext, server: Promise<TestServer>): Promise<TestServer> {
  const opened = await server;
  t.after(() => opened.close());
  return opened;
}

function record(t: TestContext, onChange?: Parameters<typeof recorder>[0]): Recorder {
  const made = recorder(onChange);
  t.after(() => made.monitor.close());
  return made;
}

/** Sockets and timers that keep this process alive. */
function held(): Record<string, number> {
  const counts = { TCPSocketWrap: 0, TCPConnectWrap: 0, Timeout: 0 };
  for (const name of process.getActiveResourcesInfo()) {
    if (name in counts) counts[name as keyof typeof counts]++;
  }
  return counts;
}

test("starting to up at the first success, to down after `fall` failures", async (t) => {
  const server = await open(t, tcpServer());
  const { monitor, results, waitForChanges } = record(t);
  monitor.apply([target(3, server.port), target(4, await closedPort())]);
  const story = await waitForChanges(2);
  assert.deepEqual(story.toSorted(), ["3 up: connected", "4 down: connect ECONNREFUSED"]);
  const upTo = (slot: number): boolean[] =>
    results.filter((result) => result.slot === slot).map((result) => result.ok);
  assert.deepEqual(upTo(4).slice(0, 3), [false, false, false]);
  assert.equal(upTo(3)[0], true);
});

test("up, down after `fall`, up again after `rise`: every change once", async (t) => {
  let status = 200;
  const server = await open(
    t,
    httpServer((_request, response) => {
      response.statusCode = status;
      response.end("x");
    }),
  );
  const { monitor, results, waitForChanges } = record(t);
  const http = httpDefinition({ rise: 3, fall: 2 });
  monitor.apply([target(7, server.port, { definition: http })]);
  await waitForChanges(1);
  status = 503;
  await waitForChanges(2);
  status = 204;
  const story = await waitForChanges(3);
  assert.deepEqual(story, ["7 up: status 200", "7 down: status 503", "7 up: status 204"]);
  const reasons = results.map((result) => result.reason);
  assert.deepEqual(reasons.slice(reasons.indexOf("status 503")).slice(0, 5), [
    "status 503",
    "status 503",
    "status 204",
    "status 204",
    "status 204",
  ]);
});

test("a silent backend is down by timeout", async (t) => {
  const server = await open(t, tcpServer());
  const { monitor, waitForChanges } = record(t);
  const http = httpDefinition({ fall: 2 });
  monitor.apply([target(1, server.port, { definition: http, health: HEALTH_UP })]);
  assert.deepEqual(await waitForChanges(1), ["1 down: timeout after 100ms"]);
});

test("a backend that is up or down stays so until results say otherwise", async (t) => {
  const server = await open(t, tcpServer());
  const { monitor, changes, waitForResults, waitForChanges } = record(t);
  monitor.apply([target(1, server.port, { health: HEALTH_UP })]);
  await waitForResults(1, 3);
  assert.equal(changes.length, 0);
  monitor.apply([target(2, server.port, { health: HEALTH_DOWN })]);
  assert.deepEqual(await waitForChanges(1), ["2 up: connected"]);
  assert.equal((await waitForResults(2, 2)).length >= 2, true, "rise is 2");
});

test("the definition's port goes before the backend's", async (t) => {
  const server = await open(t, tcpServer());
  const { monitor, waitForChanges } = record(t);
  const checked = definition({ port: server.port });
  monitor.apply([target(1, await closedPort(), { definition: checked })]);
  assert.deepEqual(await waitForChanges(1), ["1 up: connected"]);
});

test("apply keeps what is the same: checks go on in their rhythm", async (t) => {
  const server = await open(t, tcpServer());
  const dead = await closedPort();
  const { monitor, changes, results, waitForResults } = record(t);
  const slow = definition({ intervalMs: 400, fall: 3 });
  const same = (): HealthTarget[] => [target(1, dead, { definition: { ...slow } })];
  monitor.apply(same());
  // A target that began anew with every apply would never get to a check, nor to three failures.
  const applied = setInterval(() => monitor.apply(same()), 20);
  try {
    await waitForResults(1, 2);
    assert.equal(changes.length, 0);
    await waitFor("the third failure", () => changes.length === 1);
  } finally {
    clearInterval(applied);
  }
  assert.equal(results.length, 3);
  assert.equal(server.accepted(), 0);
});

test("apply restarts what has changed, from the health that it has", async (t) => {
  const first = await open(t, tcpServer());
  const second = await open(t, tcpServer());
  const { monitor, waitForChanges, waitForResults, results } = record(t);
  const rare = definition({ intervalMs: 3_600_000, timeoutMs: 1000 });
  monitor.apply([target(1, first.port, { definition: rare })]);
  assert.deepEqual(await waitForChanges(1), ["1 up: connected"]);
  // Within half a second again, not in an hour: another port is another backend.
  monitor.apply([target(1, second.port, { definition: rare, health: HEALTH_UP })]);
  await waitForResults(1, 2);
  assert.deepEqual([first.accepted(), second.accepted()], [1, 1]);
  monitor.apply([target(1, second.port, { definition: { ...rare, rise: 5 }, health: HEALTH_UP })]);
  await waitForResults(1, 3);
  assert.deepEqual(
    results.map((result) => result.ok),
    [true, true, true],
  );
});

test("a slot that was given up and taken again begins anew", async (t) => {
  const server = await open(t, tcpServer());
  const { monitor, waitForChanges } = record(t);
  monitor.apply([target(1, server.port)]);
  await waitForChanges(1);
  monitor.apply([target(1, server.port)]);
  assert.deepEqual(await waitForChanges(2), ["1 up: connected", "1 up: connected"]);
});

test("apply ends what is missing: its connection closes, and nothing is reported any more", async (t) => {
  const silent = await open(t, tcpServer());
  const { monitor, changes, results } = record(t);
  const patient = httpDefinition({ intervalMs: 60_000, timeoutMs: 60_000 });
  monitor.apply([target(1, silent.port, { definition: patient })]);
  await waitFor("the check", () => silent.sockets.size === 1);
  monitor.apply([]);
  await waitFor("its end", () => silent.sockets.size === 0);
  await pause(50);
  assert.deepEqual([results.length, changes.length], [0, 0]);
});

test("a report may change the targets", async (t) => {
  const server = await open(t, tcpServer());
  let replaced = false;
  const made: Recorder = record(t, ({ slot }) => {
    if (slot !== 1 || replaced) return;
    replaced = true;
    made.monitor.apply([target(2, server.port)]);
  });
  made.monitor.apply([target(1, server.port)]);
  assert.deepEqual(await made.waitForChanges(2), ["1 up: connected", "2 up: connected"]);
  await made.waitForResults(2, 3);
  assert.equal(made.results.filter((result) => result.slot === 1).length, 1);
});

test("first checks are spread over half a second", async (t) => {
  const server = await open(t, tcpServer());
  const { monitor, results } = record(t);
  /** Until what has begun is done, and nothing more begins. */
  const settle = async (): Promise<number> => {
    for (let quiet = 0, last = -1; quiet < 100; quiet++) {
      await new Promise(setImmediate);
      if (results.length !== last || server.accepted() !== last) quiet = 0;
      last = results.length;
    }
    return results.length;
  };
  t.mock.timers.enable({ apis: ["setTimeout"] });
  const rare = definition({ intervalMs: 3_600_000, timeoutMs: 5000 });
  monitor.apply(
    Array.from({ length: 200 }, (_, slot) => target(slot, server.port, { definition: rare })),
  );
  const after: number[] = [];
  for (let step = 0; step < 5; step++) {
    t.mock.timers.tick(100);
    after.push(await settle());
  }
  after.forEach((count, step) => {
    const due = 40 * (step + 1);
    assert.ok(Math.abs(count - due) <= 20, `${count} checks after ${step + 1}00 ms`);
  });
  assert.equal(after[4], 200);
});

test("every target has its turn, also where more are due than may run at once", async (t) => {
  const silent = await open(t, tcpServer());
  const { monitor, results } = record(t);
  const http = httpDefinition({ intervalMs: 1000, timeoutMs: 700 });
  const count = CHECKS_AT_ONCE + 150;
  monitor.apply(
    Array.from({ length: count }, (_, slot) => target(slot, silent.port, { definition: http })),
  );
  await waitFor(
    "every target",
    () => new Set(results.map((result) => result.slot)).size === count,
    { timeoutMs: 20_000 },
  );
});

test("thousands of checks leave no socket and no timer behind", async () => {
  const nothing = { TCPSocketWrap: 0, TCPConnectWrap: 0, Timeout: 0 };
  await waitFor("the tests before to end", () => isDeepStrictEqual(held(), nothing));
  const server = await tcpServer();
  const http = await httpServer((_request, response) => response.end("x"));
  const silent = await tcpServer();
  const dead = await closedPort();
  const made = recorder();
  const quick = { intervalMs: 5, timeoutMs: 5 };
  const targets = Array.from({ length: 40 }, (_, slot): HealthTarget => {
    if (slot % 4 === 0) return target(slot, server.port, { definition: definition(quick) });
    if (slot % 4 === 1) return target(slot, dead, { definition: definition(quick) });
    const port = slot % 4 === 2 ? http.port : silent.port;
    return target(slot, port, { definition: httpDefinition(quick) });
  });
  for (let round = 0; round < 10; round++) {
    // Half of them end while they run, and come back.
    made.monitor.apply(round % 2 === 0 ? targets : targets.slice(0, 20));
    await waitFor("results", () => made.results.length >= (round + 1) * 200, { everyMs: 2 });
  }
  await made.monitor.close();
  const results = made.results.length;
  await waitFor("the servers' side to end", () =>
    [server, http, silent].every((one) => one.sockets.size === 0),
  );
  await Promise.all([server, http, silent].map((one) => one.close()));
  await pause(30);
  assert.equal(made.results.length, results, "a closed monitor reports nothing");
  assert.deepEqual(held(), nothing);
});

test("CHECKS_AT_ONCE run at once; close ends them and those that wait, for good", async (t) => {
  const silent = await open(t, tcpServer());
  const { monitor, results } = recorder();
  let closed = 0;
  const note = (message: unknown): void => {
    (message as { socket: Socket }).socket.once("close", () => closed++);
  };
  subscribe("net.client.socket", note);
  t.after(() => unsubscribe("net.client.socket", note));
  const patient = httpDefinition({ intervalMs: 60_000, timeoutMs: 60_000 });
  const targets = Array.from({ length: CHECKS_AT_ONCE + 20 }, (_, slot) =>
    target(slot, silent.port, { definition: patient }),
  );
  monitor.apply(targets);
  await waitFor("a full house", () => silent.sockets.size === CHECKS_AT_ONCE);
  await pause(FIRST_CHECK_MS);
  assert.equal(silent.accepted(), CHECKS_AT_ONCE, "by now all are due");
  await monitor.close();
  assert.equal(closed, CHECKS_AT_ONCE);
  await waitFor("the end of all", () => silent.sockets.size === 0);
  monitor.apply(targets);
  await pause(FIRST_CHECK_MS + 100);
  assert.deepEqual([results.length, silent.sockets.size], [0, 0]);
  assert.equal(silent.accepted(), CHECKS_AT_ONCE);
});

test("a backend that changes is looked at more often, and one that is down less", async (t) => {
  const alive = await tcpServer();
  t.after(() => alive.close());
  const asked: [number, number][] = [];
  const results: HealthResult[] = [];
  const monitor = createHealthMonitor({
    onChange: () => undefined,
    onResult: (result) => results.push(result),
    onStart: (slot, _late, intervalMs) => asked.push([slot, intervalMs]),
  });
  t.after(() => monitor.close());
  const timing = { intervalMs: 300, fastIntervalMs: 100, downIntervalMs: 200, rise: 2, fall: 3 };
  const checked = definition({ ...timing, spread: 0 });
  const dead = await closedPort();
  monitor.apply([
    target(1, alive.port, { definition: checked }),
    target(2, dead, { definition: checked, health: HEALTH_UP }),
  ]);
  const of = (slot: number): number[] => asked.filter(([it]) => it === slot).map(([, ms]) => ms);
  await waitFor("rounds of both", () => of(1).length >= 3 && of(2).length >= 5);
  // Starting is a change; after a success it is up, and nothing speaks against that.
  assert.deepEqual(of(1).slice(0, 3), [100, 300, 300]);
  // Up; two failures have not decided, the third one has.
  assert.deepEqual(of(2).slice(0, 5), [300, 100, 100, 200, 200]);
});

test("each backend may be checked at a place of its own", async (t) => {
  const elsewhere = await tcpServer(undefined, 0, "127.0.0.9");
  t.after(() => elsewhere.close());
  const { monitor, waitForChanges } = record(t);
  const place = { address: "127.0.0.9", port: elsewhere.port, source: "127.0.0.8" };
  monitor.apply([target(1, await closedPort(), { place })]);
  assert.deepEqual(await waitForChanges(1), ["1 up: connected"]);
  const [socket] = elsewhere.sockets;
  if (socket !== undefined) assert.equal(socket.remoteAddress, "127.0.0.8");
});
