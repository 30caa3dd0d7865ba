import assert from "node:assert/strict";
import { test } from "node:test";
import type { Status, WorkerRow } from "../../src/base/admin-types.ts";
import { createLab, SKIP_UNLESS_ROOT } from "../support/lab.ts";
import { httpLoad, startWeb } from "../support/servers.ts";

/** Real HTTP, each request on a connection of its own, through every device and mode. */

const REQUESTS = { 1: 3000, 2: 10_000 } as const;
const WEB = { name: "web", protocol: "tcp", port: 80, backendPort: 8080 } as const;

for (const device of ["tun", "packet", "xdp"] as const) {
  for (const mode of ["nat", "full-nat"] as const) {
    for (const [arms, workers] of [
      [2, 1],
      [1, 1],
      [2, 2],
    ] as const) {
      const requests = workers === 1 ? REQUESTS[arms] : REQUESTS[1];
      const title = `http ${mode} ${device} ${arms}-arm, workers: ${workers}: ${requests} requests, none fails`;
      test(title, { skip: SKIP_UNLESS_ROOT }, async (t) => {
        const lab = createLab({ device, arms });
        t.after(() => lab.stop());
        await startWeb(lab);
        const gateway = await lab.startGateway(lab.config({ mode, workers, services: [WEB] }));

        const report = await httpLoad(lab, { requests, concurrency: 64 });
        assert.deepEqual(report.failures, {});
        assert.equal(report.ok, requests);
        assert.deepEqual(Object.keys(report.bodies).sort(), ["b1", "b2", "b3"]);

        const client = await lab.exec("client", ["curl", "-sS", "http://203.0.113.10/client"]);
        const sees = mode === "nat" ? /^198\.51\.100\.2\n$/ : /^10\.20\.0\.10[0-3]\n$/;
        assert.match(client.stdout, sees);
        assert.deepEqual(lab.checksumErrors(), {});

        const status = await gateway.get<Status>("/api/v1/status");
        // Every flow takes one turn of the round robin. There can be a few more flows than answers: a
        // backend still in TIME_WAIT refuses a SYN with an older timestamp, the client resets that
        // and asks again (RFC 6191), and this is a new flow.
        const again = status.flows.created - (requests + 1);
        assert.ok(again >= 0 && again < requests / 100, `${again} more flows than requests`);
        // Each worker has a round of its own.
        for (const count of Object.values(report.bodies)) {
          const text = JSON.stringify(report.bodies);
          assert.ok(Math.abs(count - requests / 3) < workers + again, `${text}, ${again} again`);
        }
        assert.equal(status.frames.missed, 0);
        checkWorkers(await gateway.get<WorkerRow[]>("/api/v1/workers"), status, workers);
        const end = await gateway.stop();
        assert.deepEqual(end, { code: 0, signal: null });
      });
    }
  }
}

/**
 * Every worker had its share, the shares are the whole, and the kernel steered every frame well. On
 * AF_XDP the driver's queues are what it is, and veth has one: worker 0 hands the others their share.
 */
function checkWorkers(rows: readonly WorkerRow[], status: Status, workers: number): void {
  const text = JSON.stringify(rows);
  assert.equal(rows.length, workers);
  const sum = (pick: (row: WorkerRow) => number): number =>
    rows.reduce((total, row) => total + pick(row), 0);
  assert.ok(sum((row) => row.received) >= status.frames.received, text);
  const handed = sum((row) => row.handedOut);
  assert.equal(
    sum((row) => row.handedIn),
    handed,
    text,
  );
  if (rows[0]?.device === "xdp" && workers > 1) assert.ok(handed > 0, text);
  else assert.equal(handed, 0, text);
  for (const { forwarded } of rows) {
    assert.ok(forwarded > (0.3 * status.frames.forwarded) / workers, text);
  }
}
