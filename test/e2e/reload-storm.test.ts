import assert from "node:assert/strict";
import { type TestContext, test } from "node:test";
import { setTimeout as sleep } from "node:timers/promises";
import type { LoadReport } from "../../lab/tools/http-load.ts";
import type { HoldReport } from "../../lab/tools/tcp-hold.ts";
import {
  createLab,
  LAB_VIP,
  type LabBalance,
  labProgram,
  SKIP_UNLESS_ROOT,
} from "../support/lab.ts";
import { startTcpEcho, startWeb } from "../support/servers.ts";

/**
 * Reloads under load: 500 new connections a second, and 50 long transfers whose every byte is
 * compared. HEADGATE_RELOADS: how many (100; the full figure is 1,000).
 */
const RELOADS = Number(process.env["HEADGATE_RELOADS"] ?? 100);
const RELOADS_PER_SECOND = 20;
const CONNECTIONS_PER_SECOND = 500;

/** Configuration `number`: weights, a time-out, a second service and the third backend come and go. */
function balance(number: number, workers: number): LabBalance {
  const odd = number % 2 === 1;
  return {
    mode: "nat",
    workers,
    services: [
      {
        name: "web",
        protocol: "tcp",
        port: 80,
        backendPort: 8080,
        more: {
          scheduler: odd ? "wlc" : "rr",
          timeouts: { tcp: { timeWait: odd ? "30s" : "1m" } },
        },
        ...(number % 3 === 2 ? { backends: ["b1", "b2"] } : {}),
      },
      {
        name: "echo",
        protocol: "tcp",
        port: 7000,
        backendPort: 7001,
        more: { scheduler: "maglev", tableSize: 251 },
      },
      ...(odd
        ? [{ name: `extra-${number}`, protocol: "tcp", port: 81, backendPort: 8080 } as const]
        : []),
    ],
  };
}

for (const workers of [1, 2]) {
  const title = `workers: ${workers}: ${RELOADS} reloads at ${CONNECTIONS_PER_SECOND} new connections a second cost none`;
  test(title, { skip: SKIP_UNLESS_ROOT, timeout: 300_000 }, (t) => storm(t, workers));
}

async function storm(t: TestContext, workers: number): Promise<void> {
  const lab = createLab({ device: "packet" });
  t.after(() => lab.stop());
  await startWeb(lab);
  await startTcpEcho(lab);
  const gateway = await lab.startGateway(lab.config(balance(0, workers)));
  const holder = lab.spawn("client", [
    process.execPath,
    labProgram("tools/tcp-hold.js"),
    ...["--target", `${LAB_VIP}:7000`, "--connections", "50", "--every", "10", "--bytes", "1400"],
  ]);
  await holder.waitLine(/^holding/);
  const requests = Math.ceil((RELOADS / RELOADS_PER_SECOND) * CONNECTIONS_PER_SECOND * 1.2);
  const load = lab.spawn("client", [
    process.execPath,
    labProgram("tools/http-load.js"),
    ...["--target", `${LAB_VIP}:80`, "--requests", String(requests)],
    ...["--concurrency", "256", "--rate", String(CONNECTIONS_PER_SECOND)],
  ]);
  for (let number = 1; number <= RELOADS; number++) {
    const answer = await gateway.reload(lab.config(balance(number, workers)));
    assert.equal(answer.status, 200, answer.body);
    await sleep(1000 / RELOADS_PER_SECOND / 2);
  }
  await load.exited;
  const report = JSON.parse(load.lines.at(-1)!) as LoadReport;
  assert.deepEqual(report.failures, {});
  assert.equal(report.ok, requests);
  await holder.stop("SIGTERM", 15_000);
  const held = JSON.parse(holder.lines.at(-1)!) as HoldReport;
  console.log(
    `workers: ${workers}: ${RELOADS} reloads, ${report.ok} requests, ${held.lines} lines of 1,400 bytes compared`,
  );
  assert.deepEqual(held.ended, {});
  assert.equal(held.wrong, 0);
  assert.equal(held.whole, 50);
}
