import assert from "node:assert/strict";
import { test } from "node:test";
import { setTimeout as sleep } from "node:timers/promises";
import type { AffinityList, WorkerRow } from "../../src/base/admin-types.ts";
import {
  createLab,
  type GatewayProcess,
  LAB_BACKENDS,
  LAB_CLIENT,
  LAB_CLIENT6,
  LAB_VIP,
  LAB_VIP6,
  type Lab,
  type LabDevice,
  labProgram,
  SKIP_UNLESS_ROOT,
} from "../support/lab.ts";
import { startTcpEcho } from "../support/servers.ts";

/**
 * Clients of many addresses keep their backends: over two ports of one group, while a backend is
 * drained and comes back, over a reload, and over kill -9 with other workers and another table.
 */

interface Clients {
  readonly sources: readonly string[];
  /** Each client opens a connection. @returns the backends that they got, by client */
  ask(port: number): Promise<string[]>;
}

/** Addresses that the client's host has all of: 192.0.2.0/24, or of 2001:db8:1:a::/64. */
function clientsOf(lab: Lab, family: 4 | 6, count = 250): Clients {
  const network = family === 4 ? "192.0.2.0/24" : "2001:db8:1:a::/64";
  lab.execSync("client", ["ip", `-${family}`, "route", "add", "local", network, "dev", "lo"]);
  lab.execSync("client", ["sysctl", "-qw", "net.ipv6.ip_nonlocal_bind=1"]);
  // TUN leaves the way back to the host's routes.
  const via = family === 4 ? LAB_CLIENT : LAB_CLIENT6;
  lab.execSync("gateway", ["ip", `-${family}`, "route", "add", network, "via", via]);
  const sources = Array.from({ length: count }, (_, index) =>
    family === 4 ? `192.0.2.${index + 1}` : `2001:db8:1:a::${(index + 1).toString(16)}`,
  );
  const vip = family === 4 ? LAB_VIP : LAB_VIP6;
  return {
    sources,
    async ask(port) {
      const program = labProgram("tools/tcp-many.js");
      const argv = [process.execPath, program, vip, String(port), ...sources];
      const names = JSON.parse((await lab.exec("client", argv)).stdout) as string[];
      assert.ok(
        names.every((name) => name !== ""),
        "every client was answered",
      );
      return names;
    },
  };
}

interface Wanted {
  readonly workers: number;
  readonly affinity?: object;
  readonly limit?: number;
  readonly family?: 4 | 6;
  /** One more service. */
  readonly third?: boolean;
  /** More keys of the configuration. */
  readonly more?: object;
}

function configOf(lab: Lab, { workers, limit = 1000, family = 4, ...wanted }: Wanted): string {
  const { affinity = { timeout: "1h", group: "shop" }, third = false } = wanted;
  const tcp = { protocol: "tcp", family } as const;
  return lab.config({
    mode: "nat",
    workers,
    services: [
      { ...tcp, name: "web", port: 7000, backendPort: 7001, more: { affinity } },
      { ...tcp, name: "tls", port: 7443, backendPort: 7002, more: { affinity } },
      ...(third ? [{ ...tcp, name: "aaa", port: 7500, backendPort: 7001 }] : []),
    ],
    more: {
      limits: { services: 64, backends: 256, hashSlots: 524288, affinity: limit },
      ...wanted.more,
    },
  });
}

async function entriesOf(gateway: GatewayProcess, query = ""): Promise<AffinityList> {
  return gateway.get<AffinityList>(`/api/v1/affinity?limit=1000&${query}`);
}

async function handedOver(gateway: GatewayProcess): Promise<number> {
  const rows = await gateway.get<WorkerRow[]>("/api/v1/workers");
  return rows.reduce((sum, row) => sum + row.handedOut, 0);
}

/** Drain or enable a backend in both services. */
async function backends(gateway: GatewayProcess, verb: "drain" | "enable"): Promise<void> {
  for (const target of [`web/${LAB_BACKENDS.b1}:7001`, `tls/${LAB_BACKENDS.b1}:7002`]) {
    const { code, stderr } = await gateway.cli(["backend", verb, target]);
    assert.equal(code, 0, stderr);
  }
}

async function killAndStart(lab: Lab, gateway: GatewayProcess, config: string) {
  // Two deaths in a gateway's first second would be the file's fault (design 1.4).
  await sleep(1100);
  gateway.kill("SIGKILL");
  await gateway.exited;
  return lab.startGateway(config);
}

const CASES: readonly { device: LabDevice; workers: readonly number[] }[] = [
  { device: "packet", workers: [2, 1] },
  { device: "tun", workers: [2] },
];
for (const { device, workers } of CASES) {
  const title = `${device}: 250 clients keep their backends through drain, reload and kill -9`;
  test(title, { skip: SKIP_UNLESS_ROOT, timeout: 120_000 }, async (t) => {
    const lab = createLab({ device });
    t.after(() => lab.stop());
    await Promise.all([startTcpEcho(lab, 7001), startTcpEcho(lab, 7002)]);
    const { ask, sources } = clientsOf(lab, 4);
    let gateway = await lab.startGateway(configOf(lab, { workers: workers[0]! }));

    const have = await ask(7000);
    assert.equal(new Set(have).size, 3, "all backends have clients");
    assert.deepEqual(await ask(7443), have, "the group's other port");
    assert.deepEqual(await ask(7000), have);
    assert.equal((await entriesOf(gateway)).total, sources.length);
    const one = await gateway.cli(["get", "affinity", "--client", "192.0.2.7", "--service", "tls"]);
    assert.match(one.stdout, /^192\.0\.2\.7 +10\.20\.0\.1[123]:7001 +group shop +\d+ /m);
    const metrics = (await gateway.api("GET", "/metrics")).body;
    assert.match(metrics, /^headgate_affinity_entries 250$/m);
    assert.match(metrics, /^headgate_affinity_hits_total 500$/m);

    await backends(gateway, "drain");
    const moved = await ask(7443);
    have.forEach((name, client) => {
      if (name === "b1") assert.notEqual(moved[client], "b1", sources[client]);
      else assert.equal(moved[client], name, sources[client]);
    });
    assert.deepEqual(await ask(7000), moved, "they have moved on both ports");
    await backends(gateway, "enable");
    assert.deepEqual(await ask(7000), moved, "and stay there");

    await gateway.reload(configOf(lab, { workers: workers[0]!, third: true }));
    assert.deepEqual(await ask(7443), moved, "a reload");

    for (const [index, crew] of workers.entries()) {
      const limit = 500 + 500 * index;
      gateway = await killAndStart(lab, gateway, configOf(lab, { workers: crew, limit }));
      const opened = gateway.log.find(({ event }) => event === "state_opened")!;
      assert.equal(opened["affinity_kept"], sources.length);
      assert.deepEqual(await ask(7000), moved, `kill -9, then ${crew} workers`);
      assert.deepEqual(await ask(7443), moved);
      assert.equal((await entriesOf(gateway)).total, sources.length);
    }
  });
}

for (const family of [4, 6] as const) {
  const title = `IPv${family}, three workers: the clients of a network lie with one worker and have one backend`;
  test(title, { skip: SKIP_UNLESS_ROOT, timeout: 60_000 }, async (t) => {
    const lab = createLab({ device: "packet" });
    t.after(() => lab.stop());
    await Promise.all([startTcpEcho(lab, 7001), startTcpEcho(lab, 7002)]);
    const { ask, sources } = clientsOf(lab, family);
    // Sixteen addresses a client: those that differ in their last four bits.
    const affinity = { timeout: "1h", prefix: { ipv4: 28, ipv6: 124 } };
    const gateway = await lab.startGateway(configOf(lab, { workers: 3, family, affinity }));
    const before = await handedOver(gateway);
    const have = await ask(7000);
    assert.deepEqual(await ask(7000), have);
    assert.equal(await handedOver(gateway), before, "the kernel's program knows the prefix");
    const byNetwork = new Map<number, string>();
    have.forEach((name, index) => {
      const network = (index + 1) >> 4;
      assert.equal(byNetwork.get(network) ?? name, name, sources[index]);
      byNetwork.set(network, name);
    });
    assert.equal(new Set(have).size, 3);
    const { entries } = await entriesOf(gateway, "service=web");
    assert.equal(entries.length, 16);
    assert.ok(entries.every(({ client }) => client.endsWith(family === 4 ? "/28" : "/124")));
    assert.equal((await entriesOf(gateway, "service=tls")).total, 0);
    const rows = await gateway.get<WorkerRow[]>("/api/v1/workers");
    assert.ok(rows.filter(({ forwarded }) => forwarded > 0).length > 1, JSON.stringify(rows));
    const refused = await gateway.reload(
      configOf(lab, { workers: 3, family, affinity: { prefix: { ipv4: 20, ipv6: 100 } } }),
    );
    assert.equal(refused.status, 409);
    assert.match(
      refused.body,
      /a restart is needed to have the flows of such a client lie together/,
    );
  });
}

/** Clients of the last test; `npm run verify` has 100,000. */
const MANY = Number(process.env["HEADGATE_CLIENTS"] ?? 1000);

test(`${MANY} clients keep their backends through kill -9`, {
  skip: SKIP_UNLESS_ROOT,
  timeout: 600_000,
}, async (t) => {
  const lab = createLab({ device: "packet" });
  t.after(() => lab.stop());
  await Promise.all([startTcpEcho(lab, 7001), startTcpEcho(lab, 7002)]);
  const network = "198.18.0.0/15";
  lab.execSync("client", ["ip", "route", "add", "local", network, "dev", "lo"]);
  lab.execSync("gateway", ["ip", "route", "add", network, "via", LAB_CLIENT]);
  const flows = { capacity: 524_288, stateFile: `${lab.memory}/state` };
  const config = configOf(lab, { workers: 1, limit: MANY, more: { flows } });
  const ask = async (port: number): Promise<string[]> => {
    const argv = [labProgram("tools/tcp-many.js"), LAB_VIP, String(port), `198.18.0.1+${MANY}`];
    const { stdout } = await lab.exec("client", [process.execPath, ...argv], {
      timeoutMs: 180_000,
    });
    return JSON.parse(stdout) as string[];
  };
  let gateway = await lab.startGateway(config);
  const have = await ask(7000);
  assert.ok(!have.includes(""), "every client was answered");
  assert.equal((await entriesOf(gateway)).total, MANY);
  gateway = await killAndStart(lab, gateway, config);
  const opened = gateway.log.find(({ event }) => event === "state_opened")!;
  assert.equal(opened["affinity_kept"], MANY);
  const after = await ask(7443);
  const moved = after.filter((name, client) => name !== have[client]).length;
  assert.equal(moved, 0);
  t.diagnostic(`${MANY} clients, kill -9: ${moved} moved, ${after.length} answered`);
});
