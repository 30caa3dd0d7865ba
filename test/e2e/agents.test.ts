import assert from "node:assert/strict";
import { writeFileSync } from "node:fs";
import path from "node:path";
import { test } from "node:test";
import {
  createLab,
  type GatewayProcess,
  LAB_BACKEND_NAMES,
  LAB_BACKENDS,
  type Lab,
  type LabBackend,
  type LabBalance,
  SKIP_UNLESS_ROOT,
} from "../support/lab.ts";
import { httpLoad, startWeb } from "../support/servers.ts";
import { waitFor } from "../support/wait.ts";

/** Agents of real backends: what their lines do to traffic, and what of it outlives a gateway. */

const AGENT_PORT = 7777;

/** Says what stands in a file, a connection each; the name that it was asked by goes before it. */
const AGENT = (file: string): string => `
const { readFileSync } = require("node:fs");
require("node:net").createServer((socket) => {
  socket.on("error", () => {});
  socket.once("data", (name) => socket.end(readFileSync("${file}", "utf8") + "\\n"));
}).listen(${AGENT_PORT}, "0.0.0.0", () => console.log("listening"));`;

interface Row {
  readonly address: string;
  readonly state: string;
  readonly reason: string;
  readonly weight: number;
  readonly agentPercent: number | null;
}

function say(lab: Lab, node: LabBackend, line: string): void {
  writeFileSync(path.join(lab.directory, `agent-${node}`), line);
}

async function rowOf(gateway: GatewayProcess, node: LabBackend): Promise<Row> {
  const rows = await gateway.get<Row[]>("/api/v1/backends");
  return rows.find(({ address }) => address === LAB_BACKENDS[node])!;
}

async function waitRow(
  gateway: GatewayProcess,
  node: LabBackend,
  wanted: Partial<Row>,
): Promise<void> {
  await waitFor(`${node}: ${JSON.stringify(wanted)}`, async () => {
    const row = await rowOf(gateway, node);
    return Object.entries(wanted).every(([key, value]) => row[key as keyof Row] === value);
  });
}

async function bodiesOf(lab: Lab, requests = 60): Promise<Record<string, number>> {
  const report = await httpLoad(lab, { requests });
  assert.equal(report.failed, 0);
  return report.bodies;
}

test("agents: weight, drain, maint, down, silence; and what a killed gateway had heard", {
  skip: SKIP_UNLESS_ROOT,
}, async (t) => {
  const lab = createLab({ device: "packet" });
  t.after(() => lab.stop());
  await startWeb(lab);
  for (const node of LAB_BACKEND_NAMES) say(lab, node, "up 100%");
  const agents = await Promise.all(
    LAB_BACKEND_NAMES.map(async (node) => {
      const file = path.join(lab.directory, `agent-${node}`);
      const agent = lab.spawn(node, [process.execPath, "-e", AGENT(file)]);
      await agent.waitLine(/^listening/);
      return agent;
    }),
  );
  const agent = { port: AGENT_PORT, interval: "100ms", send: "state?\n" };
  const balance = (more: Record<string, unknown>): LabBalance => ({
    mode: "nat",
    services: [
      {
        name: "web",
        protocol: "tcp",
        port: 80,
        backendPort: 8080,
        more: { scheduler: "wrr", ...more },
      },
    ],
  });
  const gateway = await lab.startGateway(lab.config(balance({ agent })));
  for (const node of LAB_BACKEND_NAMES) await waitRow(gateway, node, { agentPercent: 100 });

  // A share of the weight is a share of new flows: wrr is exact.
  say(lab, "b1", "300% ready");
  await waitRow(gateway, "b1", { agentPercent: 300, state: "up" });
  await waitFor("three parts of five for b1", async () => {
    const { b1, b2, b3 } = await bodiesOf(lab, 50);
    return b1 === 30 && b2 === 10 && b3 === 10;
  });

  say(lab, "b1", "drain # backup runs");
  await waitRow(gateway, "b1", { state: "draining", reason: "agent drain: backup runs" });
  say(lab, "b2", "maint");
  await waitRow(gateway, "b2", { state: "disabled", reason: "agent maint" });
  await waitFor("all to b3", async () => Object.keys(await bodiesOf(lab)).join() === "b3");
  const table = (await gateway.cli(["get", "backends"])).stdout;
  assert.match(table, /1 \(agent 300%\) .* draining +agent drain: backup runs/);

  // Words of one kind leave those of another; an agent that says nothing changes nothing.
  say(lab, "b2", "stopped#too hot up-to-date maxconn:3");
  await waitFor("its word in the log", () =>
    gateway.log.some(({ event, operation }) => event === "backend_agent" && operation === "down"),
  );
  assert.equal((await rowOf(gateway, "b2")).state, "disabled", "it has not said ready");
  say(lab, "b2", "ready");
  await waitRow(gateway, "b2", { state: "down" });
  await agents[0]!.stop("SIGKILL");
  const silent = async (): Promise<number> => {
    const { body } = await gateway.api("GET", "/metrics");
    const line = /headgate_agent_failures_total\{[^}]*10\.20\.0\.11[^}]*\} (\d+)/.exec(body);
    return Number(line?.[1]);
  };
  await waitFor("three questions without an answer", async () => (await silent()) >= 3);
  await waitRow(gateway, "b1", { state: "draining", agentPercent: 300 });

  // An operator's word goes before the agent's; what was heard stands in the state file.
  gateway.kill("SIGKILL");
  await gateway.exited;
  const next = await lab.startGateway(lab.config(balance({ agent })));
  await waitRow(next, "b1", { state: "draining", agentPercent: 300, reason: "agent drain" });
  await waitRow(next, "b2", { state: "down" });
  await next.cli(["backend", "drain", "web/10.20.0.13:8080"]);
  await waitRow(next, "b3", { state: "draining", reason: "drained by operator" });
  await next.cli(["backend", "enable", "web/10.20.0.13:8080"]);

  // Words that nobody knows are logged once a backend and word.
  say(lab, "b3", "load 5 up");
  await waitFor("an ignored word", () =>
    next.log.some(({ event, word }) => event === "agent_word_ignored" && word === "load"),
  );

  // Nobody asks any more: everything is as the configuration says.
  const answer = await next.reload(lab.config(balance({})));
  assert.equal(answer.status, 200, answer.body);
  for (const node of LAB_BACKEND_NAMES) {
    await waitRow(next, node, { state: "up", agentPercent: null, weight: 1 });
  }
  await waitFor("all three again", async () => Object.keys(await bodiesOf(lab)).length === 3);
  const ignored = next.log.filter(({ event }) => event === "agent_word_ignored");
  assert.equal(ignored.length, 1);
});
