import assert from "node:assert/strict";
import { test } from "node:test";
import type { Status } from "../../src/base/admin-types.ts";
import { createLab, SKIP_UNLESS_ROOT } from "../support/lab.ts";
import { httpLoad, startWeb } from "../support/servers.ts";

/** `device.spin`: a worker that looks for frames before it sleeps misses none, and still sleeps. */

const WEB = { name: "web", protocol: "tcp", port: 80, backendPort: 8080 } as const;

for (const device of ["tun", "packet", "xdp"] as const) {
  test(`${device}: requests pass a worker that spins`, { skip: SKIP_UNLESS_ROOT }, async (t) => {
    const lab = createLab({ device });
    t.after(() => lab.stop());
    await startWeb(lab);
    const where = device === "tun" ? { name: "hg0" } : { interfaces: lab.interfaces };
    const more = { device: { type: device, ...where, spin: 300 } };
    const gateway = await lab.startGateway(lab.config({ mode: "nat", services: [WEB], more }));
    const load = await httpLoad(lab, { requests: 500, concurrency: 16 });
    assert.deepEqual(load.failures, {});
    const { frames } = await gateway.get<Status>("/api/v1/status");
    assert.equal(frames.missed, 0);
    // Frames that come after a pause end a sleep, not a spin.
    for (let pings = 0; pings < 3; pings++) {
      await lab.exec("client", ["ping", "-c2", "-i0.2", "-W2", "-n", "203.0.113.10"]);
    }
    assert.deepEqual(await gateway.stop(), { code: 0, signal: null });
  });
}
