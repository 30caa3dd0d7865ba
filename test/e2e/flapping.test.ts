import assert from "node:assert/strict";
import { type TestContext, test } from "node:test";
import { setTimeout as pause } from "node:timers/promises";
import type { BackendRow } from "../../src/base/admin-types.ts";
import { type FlowHolder, startFlowHolder, startNamedEcho } from "../support/flow-holder.ts";
import {
  createLab,
  type GatewayProcess,
  LAB_BACKEND_NAMES,
  LAB_BACKENDS,
  LAB_VIP,
  type Lab,
  SKIP_UNLESS_ROOT,
} from "../support/lab.ts";
import type { RunningProcess } from "../support/processes.ts";
import { waitFor } from "../support/wait.ts";

/**
 * Goal: a backend that flaps moves no flow between the others, and the log has one line a change; a
 * backend that is down gets no new flow.
 * Method: the third server closes and opens the port that is checked. `udp.perPacket` has every
 * datagram scheduled by itself: a client's port shows which backend a new flow of it goes to.
 *
 * HEADGATE_FLAPS: how often, at 1 Hz from 60 on (6, as fast as it goes). HEADGATE_CHECK_INTERVAL: of
 * the backend that dies after three failures (200ms).
 */
const FLAPS = Number(process.env["HEADGATE_FLAPS"] ?? 6);
const INTERVAL = process.env["HEADGATE_CHECK_INTERVAL"] ?? "200ms";
const DATAGRAM_PORT = 9000;
const LONG_PORT = 9001;
const DYING_PORT = 9002;
const CHECK_PORT = 9999;
const CLIENTS = 60;
const LONG_FLOWS = 30;

/** A timeout that a busy machine keeps: a closed port refuses at once. */
const often = { type: "tcp", interval: "400ms", timeout: "400ms", rise: 1, fall: 1 };

function config(lab: Lab): string {
  const health = { ...often, port: CHECK_PORT };
  const common = { scheduler: "maglev", tableSize: 65_537 };
  return lab.config({
    mode: "nat",
    more: { log: { level: "debug" } },
    services: [
      {
        name: "datagrams",
        protocol: "udp",
        port: DATAGRAM_PORT,
        backendPort: DATAGRAM_PORT,
        more: { ...common, health, udp: { perPacket: true } },
      },
      {
        name: "long",
        protocol: "tcp",
        port: LONG_PORT,
        backendPort: LONG_PORT,
        more: { ...common, health },
      },
      {
        name: "dying",
        protocol: "tcp",
        port: DYING_PORT,
        backendPort: DYING_PORT,
        more: { health: { ...health, interval: INTERVAL, timeout: INTERVAL, fall: 3 } },
      },
    ],
  });
}

interface World {
  readonly gateway: GatewayProcess;
  readonly holder: FlowHolder;
  /** The third server. */
  readonly server: RunningProcess;
}

/** The lines about the third backend's state in a service, or about what its checks say. */
function changes({ gateway }: World, service: string, key = "state"): string[] {
  return gateway.log
    .filter((line) => line["event"] === `backend_${key}` && line["service"] === service)
    .filter((line) => String(line["backend"]).startsWith(LAB_BACKENDS.b3))
    .map((line) => String(line[key]));
}

const FLAPPING = ["datagrams", "long"] as const;

/** Both services have taken the change: a line is written when the data plane has it. */
async function settled(world: World, state: string): Promise<void> {
  await waitFor(state, () => FLAPPING.every((service) => changes(world, service).at(-1) === state));
}

/** Close or open the checked port, until both services have taken the change. */
async function flap(world: World, signal: "SIGUSR1" | "SIGUSR2"): Promise<void> {
  const before = FLAPPING.map((service) => changes(world, service).length);
  const started = performance.now();
  world.server.kill(signal);
  await waitFor(signal, () =>
    FLAPPING.every((service, index) => changes(world, service).length > before[index]!),
  );
  await settled(world, signal === "SIGUSR1" ? "down" : "up");
  if (FLAPS >= 60) await pause(Math.max(0, 500 - (performance.now() - started)));
}

async function othersAreUp({ gateway }: World): Promise<boolean> {
  const rows = await gateway.get<BackendRow[]>("/api/v1/backends");
  return rows.every(({ address, state }) => address === LAB_BACKENDS.b3 || state === "up");
}

/** Which server each client's datagrams go to, and each long connection is with. */
async function whereFlowsGo(world: World, prefix: string, count: number): Promise<string[]> {
  const { gateway } = world;
  const changesOfAll = (): number =>
    gateway.log.filter((line) => line["event"] === "backend_state").length;
  for (;;) {
    const changesBefore = changesOfAll();
    const state = changes(world, "datagrams").at(-1);
    const names: string[] = [];
    for (let index = 0; index < count; index++) {
      names.push(await world.holder.ask(`${prefix}${index}`));
    }
    await gateway.get("/api/v1/services");
    // On a machine that is busy a check can time out meanwhile, and the next one undo that.
    if (changesOfAll() === changesBefore) return names;
    if (state !== undefined) await settled(world, state);
    await waitFor("the others up", () => othersAreUp(world));
  }
}

test(`a backend that flaps, and one that dies`, {
  skip: SKIP_UNLESS_ROOT,
  timeout: 180_000,
}, async (t) => {
  const lab = createLab({ device: "packet" });
  t.after(() => lab.stop());
  const [servers, holder] = await Promise.all([
    Promise.all(
      LAB_BACKEND_NAMES.map((node) => startNamedEcho(lab, node, DATAGRAM_PORT, 3, CHECK_PORT)),
    ),
    startFlowHolder(lab),
  ]);
  const gateway = await lab.startGateway(config(lab));
  const world: World = { gateway, holder, server: servers[2]! };
  const isUp = async (): Promise<boolean> => {
    const rows = await gateway.get<BackendRow[]>("/api/v1/backends");
    return rows.every(({ state }) => state === "up");
  };
  await waitFor("all backends up", isUp);
  await flapping(t, world);
  await waitFor("all backends up again", isUp);
  await dying(t, lab, world);
});

async function flapping(t: TestContext, world: World): Promise<void> {
  const { holder } = world;
  for (let index = 0; index < CLIENTS; index++) {
    await holder.holdAny("udp", DATAGRAM_PORT, `datagram${index}`);
  }
  for (let index = 0; index < LONG_FLOWS; index++) {
    await holder.holdAny("tcp", LONG_PORT, `long${index}`);
  }
  const before = await whereFlowsGo(world, "datagram", CLIENTS);
  const long = await whereFlowsGo(world, "long", LONG_FLOWS);
  assert.equal(new Set(before).size, 3, before.join());
  assert.equal(new Set(long).size, 3, long.join());

  let without: string[] | null = null;
  for (let count = 0; count < FLAPS; count++) {
    await flap(world, "SIGUSR1");
    const down = await whereFlowsGo(world, "datagram", CLIENTS);
    for (const [index, name] of down.entries()) {
      if (before[index] === "b3") assert.notEqual(name, "b3", `client ${index} of ${count}`);
      else assert.equal(name, before[index], `client ${index}, down for the ${count + 1}. time`);
    }
    without ??= down;
    assert.deepEqual(down, without, "the same choice each time");
    await flap(world, "SIGUSR2");
    assert.deepEqual(await whereFlowsGo(world, "datagram", CLIENTS), before);
    assert.deepEqual(await whereFlowsGo(world, "long", LONG_FLOWS), long);
  }
  for (const service of FLAPPING) {
    const lines = changes(world, service);
    assert.deepEqual(lines, changes(world, service, "health"), `${service}: one line a change`);
    const twice = lines.filter((state, index) => state === lines[index - 1]);
    assert.deepEqual(twice, [], service);
    assert.ok(lines.filter((state) => state === "down").length >= FLAPS, service);
  }
  t.diagnostic(`${FLAPS} flaps: 0 of ${CLIENTS + LONG_FLOWS} flows moved, one line a change`);
}

/** Connects as often as it is told a second; SIGUSR1: prints how many there were. */
const CONNECTOR = `
const net = require("node:net");
let opened = 0;
setInterval(() => {
  const socket = net.connect(${DYING_PORT}, "${LAB_VIP}", () => { opened++; socket.end(); });
  socket.on("error", () => undefined);
  setTimeout(() => socket.destroy(), 1000);
}, 5);
process.on("SIGUSR1", () => console.log("opened " + opened));
console.log("connecting");
`;

async function dying(t: TestContext, lab: Lab, world: World): Promise<void> {
  const { gateway, server } = world;
  const client = lab.spawn("client", [process.execPath, "-e", CONNECTOR]);
  await client.waitLine(/^connecting/);
  const opened = async (): Promise<number> => {
    const before = client.lines.length;
    client.kill("SIGUSR1");
    await waitFor("an answer", () => client.lines.length > before);
    return Number(client.lines.at(-1)!.split(" ")[1]);
  };
  const newFlows = async (): Promise<number> => {
    const rows = await gateway.get<BackendRow[]>("/api/v1/backends?service=dying");
    return rows.find(({ address }) => address === LAB_BACKENDS.b3)!.connections;
  };
  await waitFor("new flows to it", async () => (await newFlows()) > 20);
  const count = changes(world, "dying").length;
  const started = performance.now();
  server.kill("SIGUSR1");
  // The line is written when the data plane has taken the change.
  await waitFor("the change", () => changes(world, "dying").length > count);
  const elapsedMs = performance.now() - started;
  const atChange = await newFlows();
  const then = await opened();
  await waitFor("200 flows more", async () => (await opened()) >= then + 200);
  assert.equal(await newFlows(), atChange, "no new flow after the change");
  const accepted = server.lines.filter((line) => line === `accepted ${DYING_PORT}`).length;
  assert.ok(accepted <= atChange, `${accepted} at the server, ${atChange} before the change`);
  t.diagnostic(
    `a backend that dies, checks every ${INTERVAL}, fall 3: down after ${Math.round(elapsedMs)} ms, 0 of 200 new flows to it from then on`,
  );
  await client.stop("SIGTERM");
}
