import assert from "node:assert/strict";
import { type TestContext, test } from "node:test";
import type { BackendRow } from "../../src/base/admin-types.ts";
import { type FlowHolder, startFlowHolder, startNamedEcho } from "../support/flow-holder.ts";
import {
  createLab,
  type GatewayProcess,
  LAB_BACKEND_NAMES,
  LAB_BACKENDS,
  type Lab,
  SKIP_UNLESS_ROOT,
} from "../support/lab.ts";
import type { RunningProcess } from "../support/processes.ts";
import { waitFor } from "../support/wait.ts";

/**
 * Goal: tiers, panic, caps and slow start decide where new flows go (docs/pools.md), also after
 * `kill -9`.
 * Method: one lab, a service for each; the first server closes and opens the port that is checked,
 * and goes on answering at the others.
 */

const FIRST_PORT = 9000;
const CHECK_PORT = 9999;
/** A timeout that a busy machine keeps: a closed port refuses at once. */
const health = { type: "tcp", interval: "1s", timeout: "1s", rise: 1, fall: 1 };

/** Keys of the service, and of its three backends in turn. */
const SERVICES: readonly {
  readonly name: string;
  readonly keys: Readonly<Record<string, unknown>>;
  readonly backends: readonly Readonly<Record<string, unknown>>[];
}[] = [
  { name: "tiers", keys: {}, backends: [{}, { priority: 1 }, { priority: 1 }] },
  {
    name: "two",
    keys: { minimumHealthy: 2 },
    backends: [{ priority: 0 }, { priority: 1 }, { priority: 2 }],
  },
  { name: "panic", keys: { panicThreshold: "60%" }, backends: [{}, {}, {}] },
  {
    name: "caps",
    keys: { scheduler: "maglev" },
    backends: [{ maxConnections: 1 }, { maxConnections: 2 }, {}],
  },
  { name: "slow", keys: { scheduler: "wrr" }, backends: [{}, {}, {}] },
];

function portOf(name: string): number {
  return FIRST_PORT + SERVICES.findIndex((service) => service.name === name);
}

function config(lab: Lab, slowStart: unknown): string {
  const base = JSON.parse(lab.config({ mode: "nat", services: [] })) as { services: unknown[] };
  base.services = SERVICES.map(({ name, keys, backends }) => ({
    name,
    vip: "203.0.113.10",
    port: portOf(name),
    protocol: "tcp",
    scheduler: "rr",
    health: { ...health, port: CHECK_PORT },
    ...keys,
    ...(name === "slow" ? { slowStart } : {}),
    backends: backends.map((own, index) => ({
      address: LAB_BACKENDS[LAB_BACKEND_NAMES[index]!],
      port: portOf(name),
      ...own,
    })),
  }));
  return JSON.stringify(base, null, 2);
}

interface World {
  readonly lab: Lab;
  gateway: GatewayProcess;
  readonly holder: FlowHolder;
  /** The first server. */
  readonly server: RunningProcess;
}

async function rowOf({ gateway }: World, service: string): Promise<BackendRow> {
  const rows = await gateway.get<BackendRow[]>(`/api/v1/backends?service=${service}`);
  return rows.find(({ address }) => address === LAB_BACKENDS.b1)!;
}

async function turn(world: World, signal: "SIGUSR1" | "SIGUSR2", state: string): Promise<void> {
  const count = (service: string): number =>
    world.gateway.log.filter(
      (line) =>
        line["event"] === "backend_state" &&
        line["service"] === service &&
        line["state"] === state &&
        String(line["backend"]).startsWith(LAB_BACKENDS.b1),
    ).length;
  const before = SERVICES.map(({ name }) => count(name));
  world.server.kill(signal);
  await waitFor(state, () => SERVICES.every(({ name }, index) => count(name) > before[index]!));
}

/** How many of `count` new flows each server has. */
async function shares(
  { holder }: World,
  service: string,
  count: number,
): Promise<Record<string, number>> {
  const names = await holder.fresh("tcp", portOf(service), count);
  const found: Record<string, number> = {};
  for (const name of names.sort()) found[name] = (found[name] ?? 0) + 1;
  return found;
}

test("tiers, panic, caps and slow start, with real servers", {
  skip: SKIP_UNLESS_ROOT,
}, async (t) => {
  const lab = createLab({ device: "packet" });
  t.after(() => lab.stop());
  const [servers, holder] = await Promise.all([
    Promise.all(
      LAB_BACKEND_NAMES.map((node) =>
        startNamedEcho(lab, node, FIRST_PORT, SERVICES.length, CHECK_PORT),
      ),
    ),
    startFlowHolder(lab),
  ]);
  const gateway = await lab.startGateway(config(lab, "off"));
  const world: World = { lab, gateway, holder, server: servers[0]! };
  await waitFor("all up", async () => {
    const rows = await world.gateway.get<BackendRow[]>("/api/v1/backends");
    return rows.length === 3 * SERVICES.length && rows.every(({ state }) => state === "up");
  });
  const reload = await gateway.reload(config(lab, { window: "1h" }));
  assert.equal(reload.status, 200, reload.body);

  assert.deepEqual(await shares(world, "tiers", 6), { b1: 6 });
  assert.deepEqual(await shares(world, "two", 6), { b1: 3, b2: 3 });
  assert.deepEqual(await shares(world, "panic", 6), { b1: 2, b2: 2, b3: 2 });
  assert.deepEqual(await shares(world, "slow", 6), { b1: 2, b2: 2, b3: 2 });
  const standby = await gateway.get<BackendRow[]>("/api/v1/backends?service=tiers");
  assert.deepEqual(
    standby.map((row) => `${row.state} ${row.priority} ${row.takesNewFlows}`),
    ["up 0 true", "up 1 false", "up 1 false"],
  );
  await caps(world);

  await turn(world, "SIGUSR1", "down");
  assert.deepEqual(await shares(world, "tiers", 6), { b2: 3, b3: 3 });
  assert.deepEqual(await shares(world, "two", 6), { b2: 3, b3: 3 });
  assert.deepEqual(await shares(world, "panic", 6), { b2: 3, b3: 3 }, "two of three are up");
  const target = `panic/${LAB_BACKENDS.b3}:${portOf("panic")}`;
  const drained = await gateway.api("POST", "/api/v1/backends/action", { action: "drain", target });
  assert.equal(drained.status, 200, drained.body);
  assert.deepEqual(await shares(world, "panic", 6), { b1: 3, b2: 3 }, "one of two is up: panic");

  await turn(world, "SIGUSR2", "up");
  assert.deepEqual(await shares(world, "tiers", 6), { b1: 6 });
  await slowStart(t, world);
});

/** Flows above a backend's cap go to the next one that has room. */
async function caps({ holder }: World): Promise<void> {
  const found = { b1: 0, b2: 0, b3: 0 };
  for (let index = 0; index < 12; index++) {
    await holder.holdAny("tcp", portOf("caps"), `cap${index}`);
    found[(await holder.ask(`cap${index}`)) as "b1" | "b2" | "b3"]++;
  }
  assert.deepEqual(found, { b1: 1, b2: 2, b3: 9 });
}

async function slowStart(t: TestContext, world: World): Promise<void> {
  assert.equal((await rowOf(world, "slow")).slowStart, 10);
  assert.equal((await rowOf(world, "tiers")).slowStart, null);
  // A tenth of a weight beside two whole ones: one in 21.
  assert.deepEqual(await shares(world, "slow", 42), { b1: 2, b2: 20, b3: 20 });
  const { since } = await rowOf(world, "slow");

  world.gateway.kill("SIGKILL");
  await world.gateway.exited;
  world.gateway = await world.lab.startGateway(config(world.lab, { window: "1h" }));
  const after = await rowOf(world, "slow");
  assert.deepEqual([after.state, after.slowStart, after.since], ["up", 10, since]);
  assert.deepEqual(await shares(world, "slow", 42), { b1: 2, b2: 20, b3: 20 });
  const { stdout } = await world.gateway.cli(["get", "backends", "--service", "slow"]);
  assert.match(stdout, /10\.20\.0\.11:\d+ .* 1 \(slow start 10 %\)/);

  // An hour is over: the window has shrunk below the time that it has been up.
  const shorter = await world.gateway.reload(config(world.lab, { window: "1s" }));
  assert.equal(shorter.status, 200, shorter.body);
  await waitFor("the whole weight", async () => (await rowOf(world, "slow")).slowStart === null);
  assert.deepEqual(await shares(world, "slow", 6), { b1: 2, b2: 2, b3: 2 });
  t.diagnostic("slow start 10 % of one of three: 2 of 42 flows, also after kill -9");
}
