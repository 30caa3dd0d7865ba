import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import path from "node:path";
import { test } from "node:test";
import { fileURLToPath } from "node:url";
import { createRandom, type Random } from "../../src/base/random.ts";
import { openEcho } from "../../src/device/echo.ts";
import { checkBackend, NO_TOOLS } from "../../src/health/checkers.ts";
import type { HealthDefinition } from "../../src/service/health-definition.ts";
import { waitFor } from "../support/wait.ts";
import { makeCertificates, tlsQuestion } from "./certificates.ts";
import { endpoint, question } from "./questions.ts";
import { closedPort, definition, LOOPBACK, tcpServer } from "./targets.ts";

// Goal: no check of any type is ever rejected, and none leaves a socket, a timer or a child behind,
// however it ends: in order, at its timeout, by its signal, with a server of another protocol.
// Method: a few hundred checks at once with types, ports, timeouts and signals from a printed seed.

const SEED = Number(process.env["HEADGATE_TEST_SEED"] ?? Date.now() % 1_000_000);
const CHECKS = 300;

const { type: _tcp, ...COMMON } = definition();
const TYPES: readonly HealthDefinition[] = [
  { ...COMMON, type: "tcp" },
  { ...COMMON, type: "tls", tls: tlsQuestion() },
  { ...COMMON, type: "tls", tls: tlsQuestion({ verify: true }) },
  { ...COMMON, type: "http", ...question({ body: { kind: "matches", text: "well" } }) },
  { ...COMMON, type: "https", ...question(), tls: tlsQuestion() },
  { ...COMMON, type: "http2", ...question(), tls: null },
  { ...COMMON, type: "http2", ...question(), tls: tlsQuestion() },
  { ...COMMON, type: "grpc", grpcService: "", host: null, tls: null },
  { ...COMMON, type: "grpc", grpcService: "a.B", host: "x", tls: tlsQuestion() },
  { ...COMMON, type: "udp", sendHex: "01", expectHex: null },
  { ...COMMON, type: "udp", sendHex: "01", expectHex: "01" },
  { ...COMMON, type: "dns", query: ".", queryType: "SOA", rcode: ["NOERROR"], answers: [] },
  { ...COMMON, type: "icmp", payloadBytes: 56 },
  {
    ...COMMON,
    type: "exec",
    command: ["/bin/sh", "-c", "sleep 0.0$HEADGATE_PORT"],
    user: null,
    dynamicWeight: false,
  },
  {
    ...COMMON,
    type: "script",
    steps: [
      { kind: "send", text: "PING\r\n" },
      { kind: "expectRegex", text: "PONG" },
    ],
    tls: null,
  },
];

/** Real servers of every type, in a process of their own. */
async function startServers(): Promise<{ ports: number[]; stop: () => void }> {
  const folder = mkdtempSync(path.join(tmpdir(), "headgate-any-"));
  const certificates = makeCertificates();
  const [key, cert] = [path.join(folder, "key"), path.join(folder, "cert")];
  writeFileSync(key, certificates.good.key);
  writeFileSync(cert, certificates.good.cert);
  certificates.remove();
  const program = fileURLToPath(new URL("../support/health-servers-main.js", import.meta.url));
  const child = spawn(process.execPath, [program, "well", key, cert, LOOPBACK], {
    stdio: ["ignore", "pipe", "inherit"],
  });
  let text = "";
  child.stdout.on("data", (part: Buffer) => {
    text += part;
  });
  await waitFor("the servers", () => text.endsWith("\n"));
  child.stdout.destroy();
  child.unref();
  return {
    ports: text.trim().split(" ").slice(1).map(Number),
    stop() {
      child.kill("SIGKILL");
      rmSync(folder, { recursive: true });
    },
  };
}

/** What keeps this process alive, but for the pipes of the test runner. */
function held(): string[] {
  const ours =
    /^(TCP|UDP|TLS|Timeout|ProcessWrap|Pipe(Wrap|Connect)|DNSCHANNEL|QueryReq|Immediate)/;
  return process.getActiveResourcesInfo().filter((name) => ours.test(name));
}

async function checkAny(random: Random, ports: readonly number[], tools: typeof NO_TOOLS) {
  const pick = <T>(list: readonly T[]): T => list[random.below(list.length)]!;
  const controller = new AbortController();
  const timeoutMs = pick([5, 20, 60, 200]);
  const where = endpoint(pick(ports), { timeoutMs, service: "any" });
  if (random.below(4) === 0) setTimeout(() => controller.abort(), random.below(40));
  return checkBackend(where, pick(TYPES), tools, controller.signal);
}

test(`checks of any type against servers of any type, seed ${SEED}`, async (t) => {
  const servers = await startServers();
  t.after(servers.stop);
  assert.equal(servers.ports.length, 7);
  const silent = await tcpServer();
  const echo = openEcho();
  t.after(() => echo.close());
  const before = held().filter((name) => name !== "Timeout").length;
  const random = createRandom(SEED);
  const ports = [...servers.ports, silent.port, await closedPort()];
  const tools = { ...NO_TOOLS, echo };
  const results = [];
  for (let done = 0; done < CHECKS; done += 50) {
    results.push(
      ...(await Promise.all(Array.from({ length: 50 }, () => checkAny(random, ports, tools)))),
    );
  }
  assert.equal(results.length, CHECKS);
  assert.ok(results.some(({ ok }) => ok) && results.some(({ ok }) => !ok));
  for (const { reason, durationMs } of results) {
    assert.ok(reason.length > 0 && reason.length <= 200, reason);
    assert.ok(durationMs >= 0);
  }
  await waitFor("the server's side to end", () => silent.sockets.size === 0);
  await waitFor("all to be closed", () => held().length <= before, { timeoutMs: 5000 }).catch(
    () => {
      assert.fail(`left open: ${held().join(" ")}, before: ${before}`);
    },
  );
  await silent.close();
});
