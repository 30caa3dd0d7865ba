import assert from "node:assert/strict";
import type { Socket } from "node:net";
import { type TestContext, test } from "node:test";
import type { AgentLine } from "../../src/health/agent-line.ts";
import { type AgentTarget, createAgents } from "../../src/health/agents.ts";
import { createRounds } from "../../src/health/rounds.ts";
import { waitFor } from "../support/wait.ts";
import { closedPort, LOOPBACK, tcpServer } from "./targets.ts";

async function agentOf(t: TestContext, onConnection: (socket: Socket) => void): Promise<number> {
  const server = await tcpServer(onConnection);
  t.after(() => server.close());
  return server.port;
}

const target = (slot: number, port: number, send: string | null = null): AgentTarget => ({
  slot,
  address: LOOPBACK,
  port,
  serviceName: "web",
  definition: { port, intervalMs: 100, timeoutMs: 100, send },
});

function listen(t: TestContext) {
  const rounds = createRounds(8);
  t.after(() => rounds.close());
  const lines: [number, AgentLine][] = [];
  const silences: [number, string][] = [];
  const agents = createAgents(rounds, {
    onLine: (slot, line) => lines.push([slot, line]),
    onSilence: (slot, reason) => silences.push([slot, reason]),
  });
  return { agents, lines, silences };
}

test("one line, to its end or the connection's, after what is sent", async (t) => {
  const heard: string[] = [];
  const asked = await agentOf(t, (socket) => {
    socket.once("data", (data) => {
      heard.push(String(data));
      socket.write("75% rea");
      setImmediate(() => socket.write("dy\nnot read\n"));
    });
  });
  const short = await agentOf(t, (socket) => socket.end("drain # backup"));
  const { agents, lines } = listen(t);
  agents.apply([target(1, asked, "b1\n"), target(2, short)]);
  const of = (slot: number): AgentLine | undefined => lines.find(([it]) => it === slot)?.[1];
  await waitFor("both", () => of(1) !== undefined && of(2) !== undefined);
  assert.deepEqual([of(1)?.weightPercent, of(1)?.admin], [75, "ready"]);
  assert.deepEqual([of(2)?.admin, of(2)?.text], ["drain", "backup"]);
  assert.equal(heard[0], "b1\n");
  // Asked again, in its interval; a target that is gone is not.
  await waitFor("another round", () => lines.filter(([slot]) => slot === 2).length >= 2);
  agents.apply([target(2, short)]);
  const before = lines.filter(([slot]) => slot === 1).length;
  const others = lines.length;
  await waitFor("more of the other", () => lines.length >= others + 3);
  assert.equal(lines.filter(([slot]) => slot === 1).length, before);
});

test("no answer is no answer: refused, empty, or none in time", async (t) => {
  const empty = await agentOf(t, (socket) => socket.end("\n"));
  const mute = await agentOf(t, (socket) => socket.resume());
  const { agents, lines, silences } = listen(t);
  agents.apply([target(1, await closedPort()), target(2, empty), target(3, mute)]);
  const of = (slot: number): string | undefined => silences.find(([it]) => it === slot)?.[1];
  await waitFor("three reasons", () => [1, 2, 3].every((slot) => of(slot) !== undefined));
  assert.deepEqual([1, 2, 3].map(of), [
    "connect ECONNREFUSED",
    "the agent said nothing",
    "timeout after 100ms",
  ]);
  assert.deepEqual(lines, []);
});

test("an agent that never ends its line is read as far as a line goes", async (t) => {
  const port = await agentOf(t, (socket) => {
    const pour = (): void => {
      if (!socket.destroyed) socket.write("x".repeat(10_000), pour);
    };
    pour();
  });
  const { agents, lines } = listen(t);
  agents.apply([target(1, port)]);
  await waitFor("its line", () => lines.length > 0);
  assert.equal(lines[0]?.[1].unknown?.length, 120);
});
