import assert from "node:assert/strict";
import { test } from "node:test";
import type { BackendRow, DropList, Status } from "../../src/base/admin-types.ts";
import { createLab, SKIP_UNLESS_ROOT } from "../support/lab.ts";
import { httpLoad } from "../support/servers.ts";
import { waitFor } from "../support/wait.ts";

/** Nobody listens: the client is refused at once, first by the backend, then by the gateway. */

const REQUESTS = 20;

for (const device of ["tun", "packet", "xdp"] as const) {
  for (const mode of ["nat", "full-nat"] as const) {
    test(`refused ${mode} ${device}`, { skip: SKIP_UNLESS_ROOT }, async (t) => {
      const lab = createLab({ device });
      t.after(() => lab.stop());
      const web = { name: "web", protocol: "tcp", port: 80, backendPort: 8080 } as const;
      const gateway = await lab.startGateway(lab.config({ mode, services: [web] }));
      const load = { requests: REQUESTS, concurrency: 4, requestMs: 5000 };

      // No health check: the backends' kernels refuse, and their RST comes back through the VIP.
      const byBackend = await httpLoad(lab, load);
      assert.deepEqual(byBackend.failures, { "connect ECONNREFUSED": REQUESTS });
      const created = (await gateway.get<Status>("/api/v1/status")).flows.created;
      assert.equal(created, REQUESTS);

      const more = {
        noBackend: { action: "reset" },
        health: { type: "tcp", interval: "100ms", timeout: "100ms", rise: 1, fall: 1 },
      };
      const reload = await gateway.reload(lab.config({ mode, services: [{ ...web, more }] }));
      assert.equal(reload.status, 200, reload.body);
      await waitFor("all backends to be down", async () =>
        (await gateway.get<BackendRow[]>("/api/v1/backends")).every((row) => row.state === "down"),
      );
      const byGateway = await httpLoad(lab, load);
      assert.deepEqual(byGateway.failures, { "connect ECONNREFUSED": REQUESTS });
      const status = await gateway.get<Status>("/api/v1/status");
      assert.equal(status.flows.created, created, "no flow for a connection that was refused");
      assert.ok(status.frames.replied >= REQUESTS);
      const drops = await gateway.get<DropList>("/api/v1/drops");
      assert.deepEqual(
        drops.reasons.filter((row) => row.reason.startsWith("reply_") && row.count > 0),
        [],
      );
      assert.deepEqual(lab.checksumErrors(), {});
    });
  }
}
