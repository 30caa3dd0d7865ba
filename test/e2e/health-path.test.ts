import assert from "node:assert/strict";
import { chmodSync } from "node:fs";
import path from "node:path";
import { test } from "node:test";
import {
  createLab,
  type GatewayProcess,
  LAB_BACKEND_NAMES,
  LAB_VIP,
  type Lab,
  type LabBackend,
  type LabBalance,
  type LabMode,
  PROJECT_ROOT,
  SKIP_UNLESS_ROOT,
} from "../support/lab.ts";
import type { RunningProcess } from "../support/processes.ts";
import { httpLoad, startNginx } from "../support/servers.ts";
import { waitFor } from "../support/wait.ts";

/**
 * Health checks through the data path: the host's own checks find a backend well whose way back to
 * clients is broken, and those that come in as a client find it as dead as one whose server is.
 */

const TIMING = { interval: "200ms", fastInterval: "100ms", timeout: "100ms", rise: 1, fall: 2 };

const web = (name: string, port: number, health: Record<string, unknown>) => ({
  name,
  protocol: "tcp" as const,
  port,
  backendPort: 8080,
  // A backend that is down gives up its flows: those of checks have to go on all the same.
  more: { existingFlows: { down: "reset" }, health: { ...TIMING, ...health } },
});

interface Row {
  readonly service: string;
  readonly address: string;
  readonly state: string;
  readonly reason: string;
}

/** `up up down` of the three backends of a service. */
async function statesOf(gateway: GatewayProcess, service: string): Promise<string> {
  const rows = await gateway.get<Row[]>(`/api/v1/backends?service=${service}`);
  return rows.map(({ state }) => state).join(" ");
}

async function waitStates(gateway: GatewayProcess, wanted: Record<string, string>): Promise<void> {
  for (const [service, states] of Object.entries(wanted)) {
    await waitFor(`${service}: ${states}`, async () => {
      const found = await statesOf(gateway, service);
      return found === states;
    });
  }
}

/** What clients of the two services get. */
async function answersOf(lab: Lab, port: number): Promise<string[]> {
  const report = await httpLoad(lab, { requests: 30, port });
  assert.equal(report.failed, 0);
  return Object.keys(report.bodies).sort();
}

const UP = "up up up";
const B2_DOWN = "up down up";

/** The way back of b2 to clients, broken and mended; the gateway itself is in its own subnet. */
function way(lab: Lab, mode: LabMode, isBroken: boolean): void {
  if (mode === "nat") {
    const change = isBroken ? ["del", "default"] : ["add", "default", "via", "10.20.0.1"];
    lab.execSync("b2", ["ip", "route", ...change]);
    return;
  }
  // Full-NAT: clients come from the pool, which the backend's firewall knows nothing of.
  const rule =
    "table inet broken { chain input { type filter hook input priority 0; ip saddr 10.20.0.100-10.20.0.103 drop; }; }";
  lab.execSync("b2", isBroken ? ["nft", rule] : ["nft", "delete", "table", "inet", "broken"]);
}

const CASES = [
  ["packet", "nat", 2],
  ["xdp", "full-nat", 1],
] as const;

for (const [device, mode, workers] of CASES) {
  test(`${device} ${mode}: a dead path is a dead backend to checks through the path`, {
    skip: SKIP_UNLESS_ROOT,
  }, async (t) => {
    const lab = createLab({ device, rpFilter: 1 });
    t.after(() => lab.stop());
    chmodSync(lab.directory, 0o755);
    const servers = await Promise.all(LAB_BACKEND_NAMES.map((node) => startNginx(lab, node)));
    const services = [
      web("direct", 80, { type: "tcp" }),
      web("path", 81, { type: "http", through: "path" }),
    ];
    const balance: LabBalance = { mode, workers, services, more: { user: "nobody", probe: {} } };
    const gateway = await lab.startGateway(lab.config(balance));
    await waitStates(gateway, { direct: UP, path: UP });
    assert.deepEqual(await answersOf(lab, 81), ["b1", "b2", "b3"]);
    const flows = await gateway.get<{
      flows: { client: string; backend: string; flags: string[] }[];
    }>("/api/v1/flows?service=path&limit=1000");
    const probes = flows.flows.filter(({ flags }) => flags.includes("probe"));
    assert.ok(probes.every(({ client }) => client.startsWith("198.18.0.")));
    assert.equal(
      new Set(probes.map(({ backend }) => backend)).size,
      3,
      "one flow a backend or more",
    );

    way(lab, mode, true);
    await waitStates(gateway, { path: B2_DOWN, direct: UP });
    assert.deepEqual(
      await answersOf(lab, 81),
      ["b1", "b3"],
      "clients keep away from the dead path",
    );
    way(lab, mode, false);
    await waitStates(gateway, { path: UP, direct: UP });

    // A dead server is dead by both ways, and comes back by both.
    await servers[1]!.stop("SIGKILL");
    await waitStates(gateway, { path: B2_DOWN, direct: B2_DOWN });
    const again = await startNginx(lab, "b2");
    t.after(() => again.stop());
    await waitStates(gateway, { path: UP, direct: UP });

    // A process without root's rights reloads: a new service, checked through the path from its start.
    const more = [...services, web("more", 82, { type: "tcp", through: "path" })];
    const answer = await gateway.reload(lab.config({ ...balance, services: more }));
    assert.equal(answer.status, 200, answer.body);
    await waitStates(gateway, { more: UP });
    const without = lab.config({ ...balance, services: more, more: { user: "nobody" } });
    const refused = await gateway.reload(without);
    assert.match(refused.body, /health\.through: expected direct without probe/);

    // Whoever comes after a crash makes the pair anew; an end in order leaves nothing.
    gateway.kill("SIGKILL");
    await gateway.exited;
    const next = await lab.startGateway(lab.config({ ...balance, services: more }));
    await waitStates(next, { direct: UP, path: UP, more: UP });
    await next.stop();
    assert.doesNotMatch(lab.execSync("gateway", ["ip", "link"]), /hgprobe/);
    assert.doesNotMatch(lab.execSync("gateway", ["ip", "rule"]), /198\.18/);
    const counters = lab.checksumErrors();
    assert.deepEqual(counters, {});
  });
}

/** The VIP on its loopback, for which it does not answer ARP; tunnels are taken off by a program. */
async function holdVip(lab: Lab, node: LabBackend): Promise<RunningProcess> {
  lab.execSync(node, ["ip", "addr", "add", `${LAB_VIP}/32`, "dev", "lo"]);
  lab.execSync(node, [
    ...["sysctl", "-qw", "net.ipv4.conf.all.arp_ignore=1", "net.ipv4.conf.all.arp_announce=2"],
    ...["net.ipv4.conf.all.rp_filter=0", "net.ipv4.conf.default.rp_filter=0"],
  ]);
  const tool = path.join(PROJECT_ROOT, "lab/tools/decap.py");
  const decap = lab.spawn(node, ["/usr/bin/python3", tool, "decap0"]);
  await Promise.all([startNginx(lab, node, lab.memory, [LAB_VIP]), decap.waitLine(/^ready/)]);
  return decap;
}

test("one-way modes: a backend without the VIP, and one that takes no tunnel off, are dead", {
  skip: SKIP_UNLESS_ROOT,
}, async (t) => {
  const lab = createLab({ device: "packet", rpFilter: 0 });
  t.after(() => lab.stop());
  const decaps = await Promise.all(LAB_BACKEND_NAMES.map((node) => holdVip(lab, node)));
  const config = (mode: string): string => {
    const services = [
      { ...web("direct", 80, { type: "tcp" }) },
      { ...web("path", 8080, { type: "tcp", through: "path" }) },
    ];
    const text = lab.config({ mode: "nat", services, more: { probe: {} } });
    const parsed = JSON.parse(text) as { services: { mode: string }[]; tunnel: unknown };
    parsed.services[1]!.mode = mode;
    parsed.tunnel = { source: { ipv4: "10.20.0.1" } };
    return JSON.stringify(parsed);
  };
  const gateway = await lab.startGateway(config("dsr"));
  await waitStates(gateway, { direct: UP, path: UP });
  lab.execSync("b2", ["ip", "addr", "del", `${LAB_VIP}/32`, "dev", "lo"]);
  await waitStates(gateway, { direct: UP, path: B2_DOWN });
  lab.execSync("b2", ["ip", "addr", "add", `${LAB_VIP}/32`, "dev", "lo"]);
  await waitStates(gateway, { direct: UP, path: UP });

  for (const mode of ["ipip", "gue"]) {
    const answer = await gateway.reload(config(mode));
    assert.equal(answer.status, 200, answer.body);
    decaps[1]!.kill("SIGSTOP");
    await waitStates(gateway, { direct: UP, path: B2_DOWN });
    decaps[1]!.kill("SIGCONT");
    await waitStates(gateway, { direct: UP, path: UP });
  }
});
