import assert from "node:assert/strict";
import { closeSync, openSync, readFileSync, readSync, writeSync } from "node:fs";
import path from "node:path";
import { test } from "node:test";
import type { BackendRow } from "../../src/base/admin-types.ts";
import { B_HEALTH, BACKEND_WORDS, HEALTH_STARTING } from "../../src/service/backend-slots.ts";
import { BACKEND_STATES } from "../../src/service/effective.ts";
import { readSize } from "../../src/state/header.ts";
import { planRegion } from "../../src/state/layout.ts";
import { type FlowHolder, startFlowHolder, startNamedEcho } from "../support/flow-holder.ts";
import {
  createLab,
  type GatewayProcess,
  LAB_BACKENDS,
  type Lab,
  PROJECT_ROOT,
  SKIP_UNLESS_ROOT,
} from "../support/lab.ts";
import type { RunningProcess } from "../support/processes.ts";
import { waitFor } from "../support/wait.ts";

/**
 * Goal: what docs/states.md says in its table is so.
 * Method: every row is a service of its own with two backends. A flow of it is held to the first
 * one, which is then brought into the row's state; new flows, the held flow, and after a reload that
 * ends the deadline the held flow again, must do what the row says. Deadlines are an hour before that
 * reload and 0 after it, so that no clock decides.
 */

interface Row {
  readonly name: string;
  readonly port: number;
  readonly state: string;
  readonly because: string;
  readonly protocol: string;
  /** Key and word of `existingFlows`; null: any. */
  readonly rule: readonly [string, string] | null;
  readonly newFlows: string;
  readonly atOnce: string;
  readonly later: string;
}

const FIRST_PORT = 9000;
const CHECK_PORT = 9999;
/** Enough of the state file to read its sizes. */
const HEADER_WORDS = 1024;
const KEYS = ["drained", "removed", "down", "disabled", "ejected"];

/** The table, one entry for each cause and protocol of a line. */
function documentedRows(): Row[] {
  const text = readFileSync(path.join(PROJECT_ROOT, "docs/states.md"), "utf8");
  const [, after] = text.split("| state | because |");
  const lines = after!.split("\n").slice(2);
  const table = lines.slice(
    0,
    lines.findIndex((line) => !line.startsWith("|")),
  );
  const cells = table.map((line) => line.split("|").map((cell) => cell.trim()));
  const rows = cells.flatMap(([, state, causes, protocols, rule, newFlows, atOnce, later]) =>
    causes!.split(", ").flatMap((because) =>
      protocols!.split(", ").map((protocol) => {
        const [key, word] = rule!.split(": ");
        return {
          state: state!,
          because,
          protocol,
          rule: word === undefined ? null : ([key!, word] as const),
          newFlows: newFlows!,
          atOnce: atOnce!,
          later: later!,
        };
      }),
    ),
  );
  return rows.map((row, index) => {
    const words = [row.because.replaceAll(" ", "-"), row.protocol, row.rule?.[1] ?? "any"];
    return { ...row, name: words.join("-"), port: FIRST_PORT + index };
  });
}

test("the table has every state, and every rule of each for both protocols", () => {
  const rows = documentedRows();
  const states = new Set(rows.map(({ state }) => state));
  assert.deepEqual([...states].sort(), [...BACKEND_STATES].sort());
  for (const key of KEYS) {
    const found = rows.filter(({ rule }) => rule?.[0] === key);
    const causes = new Set(found.map(({ because }) => because));
    for (const because of causes) {
      const own = found.filter((row) => row.because === because);
      const combinations = new Set(own.map(({ protocol, rule }) => `${protocol} ${rule![1]}`));
      assert.equal(combinations.size, 6, `${because}: ${[...combinations].join(", ")}`);
    }
    assert.ok(causes.size > 0, key);
  }
  assert.equal(new Set(rows.map(({ name }) => name)).size, rows.length);
});

/** What is done to the first backend; nothing is done to `up`. */
interface Phase {
  readonly deadline: string;
  /** False: all rows are as they were before anything happened. */
  readonly isOut: boolean;
}

function config(lab: Lab, rows: readonly Row[], { deadline, isOut }: Phase): string {
  const base = JSON.parse(lab.config({ mode: "nat", services: [] })) as { services: unknown[] };
  base.services = rows.map((row) => {
    const rules = KEYS.map((key) => [key, row.rule?.[0] === key ? row.rule[1] : "reset"]);
    const first = { address: LAB_BACKENDS.b1, port: row.port };
    const weight = isOut && row.because === "weight 0" ? { weight: 0 } : {};
    const isGone = isOut && row.because === "removed";
    return {
      name: row.name,
      vip: "203.0.113.10",
      port: row.port,
      protocol: row.protocol,
      scheduler: "rr",
      existingFlows: { ...Object.fromEntries(rules), deadline },
      ...healthOf(row),
      backends: [
        ...(isGone ? [] : [{ ...first, ...weight }]),
        { address: LAB_BACKENDS.b2, port: row.port },
      ],
    };
  });
  return JSON.stringify(base, null, 2);
}

function healthOf({ because }: Row): Record<string, unknown> {
  const often = { type: "tcp", interval: "1s", timeout: "1s", rise: 1, fall: 1 };
  if (because === "checks fail") return { health: { ...often, port: CHECK_PORT } };
  // One check at the start, and then none that would end the state.
  if (because === "no check has ended") return { health: { ...often, interval: "1h" } };
  // One new flow that fails is enough, and nothing ends the ejection.
  const passive = { failures: 1, ejection: "24h", maximum: "24h" };
  return because === "traffic fails" ? { passive } : {};
}

/** The lab, and all that runs in it. */
interface World {
  readonly lab: Lab;
  readonly rows: readonly Row[];
  readonly gateway: GatewayProcess;
  readonly holder: FlowHolder;
  readonly servers: Readonly<Record<"b1" | "b2", RunningProcess>>;
}

async function backendsOf({ gateway }: World): Promise<Map<string, BackendRow>> {
  const rows = await gateway.get<BackendRow[]>("/api/v1/backends");
  return new Map(
    rows.filter(({ address }) => address === LAB_BACKENDS.b1).map((row) => [row.service, row]),
  );
}

async function act({ gateway }: World, action: string, target: string): Promise<void> {
  const answer = await gateway.api("POST", "/api/v1/backends/action", { action, target });
  assert.equal(answer.status, 200, answer.body);
}

/** Write a word of a slot: no lab keeps a backend in a state that its first check ends. */
function writeSlot({ gateway }: World, slot: number, word: number, value: number): void {
  const file = openSync(gateway.stateFile, "r+");
  try {
    const header = new Int32Array(HEADER_WORDS);
    readSync(file, header, 0, header.byteLength, 0);
    const layout = planRegion(readSize(header));
    const at = layout.backendSlots.at + 4 * (slot * BACKEND_WORDS + word);
    writeSync(file, Int32Array.of(value), 0, 4, at);
  } finally {
    closeSync(file);
  }
}

async function reload({ lab, rows, gateway }: World, phase: Phase): Promise<void> {
  const answer = await gateway.reload(config(lab, rows, phase));
  assert.equal(answer.status, 200, answer.body);
}

/**
 * The first backend refuses new flows of the rows whose traffic fails, and only these: SYNs by RST,
 * datagrams that begin with "quiet" by port unreachable.
 */
async function failTraffic(world: World): Promise<void> {
  const { lab, holder } = world;
  const rows = world.rows.filter(({ because }) => because === "traffic fails");
  const ports = `{ ${rows.map(({ port }) => port).join(", ")} }`;
  const nft = (text: string): Promise<unknown> =>
    lab.exec("b1", ["nft", "-f", "-"], { input: text });
  const quie = 0x71756965;
  await nft(`table inet failing { chain in { type filter hook input priority 0;
    tcp dport ${ports} tcp flags & (syn | ack) == syn reject with tcp reset
    udp dport ${ports} @th,64,32 ${quie} reject
  }
}`);
  for (const { name, protocol, port } of rows) {
    // Round robin: one of two goes to the first backend.
    if (protocol === "tcp") await holder.fresh("tcp", port, 2);
    else for (const number of [0, 1]) await holder.quiet(port, `${name} fails ${number}`);
  }
  await waitFor("ejections", async () => {
    const states = await backendsOf(world);
    return rows.every(({ name }) => states.get(name)?.state === "ejected");
  });
  await nft("delete table inet failing");
}

/** Bring the first backend of every row into its state. */
async function takeOut(world: World): Promise<void> {
  const slots = await backendsOf(world);
  for (const { because, name, port } of world.rows) {
    const target = `${name}/${LAB_BACKENDS.b1}:${port}`;
    const { slot } = slots.get(name)!;
    if (because === "drained") await act(world, "drain", target);
    if (because === "disabled") await act(world, "disable", target);
    if (because === "no check has ended") writeSlot(world, slot, B_HEALTH, HEALTH_STARTING);
  }
  await failTraffic(world);
  world.servers.b1.kill("SIGUSR1");
  await world.servers.b1.waitLine(/^closed/);
  await reload(world, { deadline: "1h", isOut: true });
  await waitFor("every backend in its state", async () => {
    const states = await backendsOf(world);
    for (const { name, state, later } of world.rows) {
      const row = states.get(name);
      // One that is removed is shown as long as it has flows.
      const isGone = state === "removed" && later === "reset" && row === undefined;
      if (!isGone && state !== "removed") assert.equal(row?.state, state, name);
    }
    return true;
  });
}

async function holdFlows({ rows, holder, servers }: World): Promise<Map<string, string>> {
  const quiet = new Map<string, string>();
  for (const { name, protocol, port } of rows) {
    await holder.hold(protocol, port, name, "b1");
    if (protocol !== "udp") continue;
    // Two in a row: round robin gives one of them to the first backend.
    const keys = [`${name}#0`, `${name}#1`];
    for (const key of keys) await holder.quiet(port, key);
    const isAtFirst = (key: string): boolean => servers.b1.lines.includes(`quiet ${key}`);
    await waitFor(`a silent flow of ${name}`, () => keys.some(isAtFirst));
    quiet.set(name, keys.find(isAtFirst)!);
  }
  return quiet;
}

/** @param before - what the flow did last: one that has moved is not told again */
async function checkFlow(
  { holder }: World,
  { name }: Row,
  expected: string,
  before: string,
): Promise<void> {
  const hasMoved = before === "moves" || before === "port unreachable";
  switch (expected) {
    case "goes on":
      assert.equal(await holder.ask(name), "b1", name);
      assert.equal(await holder.state(name), "open", name);
      return;
    case "reset":
      await waitFor(`a reset of ${name}`, async () => (await holder.state(name)) === "reset");
      return;
    case "moves":
      assert.equal(await holder.state(name), "open", name);
      assert.equal(await holder.ask(name), "b2", name);
      return;
    case "port unreachable":
      if (!hasMoved) {
        await waitFor(`${name} told`, async () => (await holder.state(name)) === "refused");
      }
      assert.equal(await holder.ask(name), "b2", name);
      return;
    default:
      assert.fail(`docs/states.md: ${name}: what is "${expected}"?`);
  }
}

async function checkNewFlows({ holder }: World, row: Row, isAlone: boolean): Promise<void> {
  const names = await holder.fresh(row.protocol, row.port, 4);
  const seen = [...new Set(names)].sort().join(", ");
  assert.ok(/^(yes|no|where none is up( or starting)?)$/.test(row.newFlows), row.newFlows);
  const expected = isAlone ? "b1" : row.newFlows === "yes" ? "b1, b2" : "b2";
  assert.equal(seen, expected, `new flows of ${row.name}`);
}

/** A flow without an answer moves at once, unless the backend is up or starting. */
async function checkQuiet(
  { holder, servers }: World,
  { port, state }: Row,
  key: string,
): Promise<void> {
  const text = await holder.quietAgain(key);
  const server = state === "up" || state === "starting" ? servers.b1 : servers.b2;
  await waitFor(`${text} (port ${port}) at ${server.name}`, () => server.lines.includes(text));
}

test("drain, weight 0, removal, disable, down: the documented table, TCP and UDP", {
  skip: SKIP_UNLESS_ROOT,
}, async (t) => {
  const rows = documentedRows();
  const lab = createLab({ device: "packet" });
  t.after(() => lab.stop());
  const [b1, b2, holder] = await Promise.all([
    startNamedEcho(lab, "b1", FIRST_PORT, rows.length, CHECK_PORT),
    startNamedEcho(lab, "b2", FIRST_PORT, rows.length, CHECK_PORT),
    startFlowHolder(lab),
  ]);
  const start = { deadline: "1h", isOut: false };
  const gateway = await lab.startGateway(config(lab, rows, start));
  const world: World = { lab, rows, gateway, holder, servers: { b1, b2 } };
  await waitFor("all backends up", async () =>
    [...(await backendsOf(world)).values()].every(({ state }) => state === "up"),
  );
  const quiet = await holdFlows(world);
  await takeOut(world);
  for (const row of rows) {
    await checkNewFlows(world, row, false);
    await checkFlow(world, row, row.atOnce, "");
    const key = quiet.get(row.name);
    if (key !== undefined) await checkQuiet(world, row, key);
  }
  await checkShown(world);

  // What is removed has left the configuration that says how long: it comes back, and goes again.
  await reload(world, { deadline: "0s", isOut: false });
  await reload(world, { deadline: "0s", isOut: true });
  for (const row of rows) await checkFlow(world, row, row.later, row.atOnce);

  for (const row of rows.filter(({ newFlows }) => newFlows.startsWith("where none"))) {
    await act(world, "drain", `${row.name}/${LAB_BACKENDS.b2}:${row.port}`);
    await checkNewFlows(world, row, true);
  }
  t.diagnostic(`${rows.length} rows`);
});

/** `get backends` says how many flows remain, since when, and until when. */
async function checkShown(world: World): Promise<void> {
  const shown = await backendsOf(world);
  const drained = shown.get("drained-tcp-drain")!;
  assert.equal(drained.remaining, 1);
  assert.equal(drained.takesNewFlows, false);
  assert.match(drained.since, /^\d{4}-\d\d-\d\dT/);
  assert.ok(drained.deadlineInMs! > 0 && drained.deadlineInMs! <= 3_600_000);
  assert.equal(shown.get("drained-tcp-keep")!.deadlineInMs, null);
  assert.equal(shown.get("nobody-objects-tcp-any")!.remaining, null);
  const wide = await world.gateway.cli(["get", "backends", "-o", "wide"]);
  assert.match(wide.stdout, /drained-tcp-drain .* no +1 +\d{4}-\S+ +\d+m/);
}
