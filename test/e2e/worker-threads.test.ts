import assert from "node:assert/strict";
import { readdirSync, readFileSync } from "node:fs";
import { test } from "node:test";
import type { Status } from "../../src/base/admin-types.ts";
import { createLab, SKIP_UNLESS_ROOT } from "../support/lab.ts";
import { httpLoad, startWeb } from "../support/servers.ts";

/** What a worker's thread does while it has nothing to do, and where it runs. */

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

/** Threads of a process: name, and the processors that it may run on. */
function threadsOf(pid: number): { name: string; cpus: string }[] {
  return readdirSync(`/proc/${pid}/task`).map((thread) => {
    const status = readFileSync(`/proc/${pid}/task/${thread}/status`, "utf8");
    const field = (name: string): string => new RegExp(`^${name}:\\t(.*)$`, "m").exec(status)![1]!;
    return { name: field("Name"), cpus: field("Cpus_allowed_list") };
  });
}

test("workers have names, and stay on the processors that device.cpus gives them", {
  skip: SKIP_UNLESS_ROOT,
}, async (t) => {
  const lab = createLab({ device: "packet" });
  t.after(() => lab.stop());
  const device = { type: "packet", interfaces: lab.interfaces, workers: 2 };
  const start = (cpus: number[]) =>
    lab.startGateway(
      lab.config({ mode: "nat", services: [WEB], more: { device: { ...device, cpus } } }),
    );
  const gateway = await start([1, 0]);
  const workers = threadsOf(gateway.pid).filter(({ name }) => name.startsWith("headgate-w"));
  assert.deepEqual(
    workers.sort((a, b) => a.name.localeCompare(b.name)),
    [
      { name: "headgate-w0", cpus: "1" },
      { name: "headgate-w1", cpus: "0" },
    ],
  );
  // The others go where the kernel puts them.
  assert.ok(
    threadsOf(gateway.pid).some(({ name, cpus }) => !name.startsWith("headgate-w") && cpus !== "1"),
  );
  assert.deepEqual(await gateway.stop(), { code: 0, signal: null });
  await assert.rejects(start([0, 1023]), /device\.cpus: headgate-w1 cannot run on processor 1023/);
});
