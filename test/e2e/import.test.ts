import assert from "node:assert/strict";
import { writeFileSync } from "node:fs";
import path from "node:path";
import { test } from "node:test";
import { parse } from "yaml";
import type { BackendRow } from "../../src/base/admin-types.ts";
import {
  createLab,
  type GatewayProcess,
  gatewayProgram,
  LAB_SNAT,
  LAB_VIP,
  type Lab,
  SKIP_UNLESS_ROOT,
} from "../support/lab.ts";
import { httpLoad, startWeb } from "../support/servers.ts";
import { waitFor } from "../support/wait.ts";

/**
 * Goal: a gateway with an imported configuration does what the program did whose file it was.
 * Method: HAProxy itself in the gateway's place, then the gateway; the same requests, and who answers
 * them. What ipvsadm and keepalived would have done the kernel here cannot do: their weights say it.
 */

const REQUESTS = 40;
/** Of 40 requests, one after another, by weights of 2, 1 and 1. */
const SHARES = { b1: 20, b2: 10, b3: 10 };

const HAPROXY = `global
    maxconn 1000
defaults
    mode tcp
    timeout connect 5s
    timeout client 30s
    timeout server 30s
frontend web
    bind ${LAB_VIP}:80
    default_backend pool
backend pool
    balance roundrobin
    option httpchk GET /
    default-server check inter 300ms rise 1 fall 2
    server b1 10.20.0.11:8080 weight 2
    server b2 10.20.0.12:8080 weight 1
    server b3 10.20.0.13:8080 weight 1
    server spare 10.20.0.14:8080 backup
`;

const IPVSADM = `-A -t ${LAB_VIP}:80 -s wrr
-a -t ${LAB_VIP}:80 -r 10.20.0.11:8080 -m -w 2
-a -t ${LAB_VIP}:80 -r 10.20.0.12:8080 -m -w 1
-a -t ${LAB_VIP}:80 -r 10.20.0.13:8080 -m -w 1
`;

const KEEPALIVED = `virtual_server ${LAB_VIP} 80 {
    delay_loop 1
    lb_algo wrr
    lb_kind NAT
    real_server 10.20.0.11 8080 { weight 2
        TCP_CHECK { connect_timeout 1 } }
    real_server 10.20.0.12 8080 { weight 1
        TCP_CHECK { connect_timeout 1 } }
    real_server 10.20.0.13 8080 { weight 1
        TCP_CHECK { connect_timeout 1 } }
}
`;

async function answers(lab: Lab): Promise<Record<string, number>> {
  const load = await httpLoad(lab, { requests: REQUESTS, concurrency: 1 });
  assert.deepEqual(load.failures, {});
  return load.bodies;
}

/** A backend takes flows once it was checked, and their turns begin then. */
async function allUp(gateway: GatewayProcess): Promise<void> {
  await waitFor("three backends to be up", async () => {
    const rows = await gateway.get<BackendRow[]>("/api/v1/backends");
    return rows.filter(({ state }) => state === "up").length === 3;
  });
}

async function haproxyAnswers(lab: Lab): Promise<Record<string, number>> {
  const file = path.join(lab.directory, "haproxy.cfg");
  writeFileSync(file, HAPROXY);
  lab.execSync("gateway", ["ip", "addr", "add", `${LAB_VIP}/32`, "dev", "lo"]);
  const haproxy = lab.spawn("gateway", ["haproxy", "-db", "-f", file]);
  await waitFor("haproxy to answer", async () => {
    const argv = ["curl", "-s", "-m", "1", "-o", "/dev/null", `http://${LAB_VIP}/`];
    return (await lab.exec("client", argv, { check: false })).code === 0;
  });
  const bodies = await answers(lab);
  await haproxy.stop();
  lab.execSync("gateway", ["ip", "addr", "del", `${LAB_VIP}/32`, "dev", "lo"]);
  return bodies;
}

/** What `headgate import` prints, with the lab's own places. */
async function imported(lab: Lab, from: string, text: string, more: readonly string[] = []) {
  const file = path.join(lab.directory, `their-${from}`);
  writeFileSync(file, text);
  const interfaces = lab.interfaces.flatMap((name) => ["--interface", name]);
  const argv = [process.execPath, gatewayProgram(), "import", from, file, ...interfaces, ...more];
  const { stdout, stderr } = await lab.exec("gateway", argv);
  const config = {
    ...(parse(stdout) as Record<string, unknown>),
    flows: { capacity: 65_536, stateFile: path.join(lab.memory, "state") },
    admin: { socket: path.join(lab.directory, "admin.sock") },
  };
  return { config: JSON.stringify(config), notes: stderr };
}

test("imported from HAProxy, ipvsadm and keepalived: the same backends answer as often", {
  skip: SKIP_UNLESS_ROOT,
}, async (t) => {
  const lab = createLab({ device: "packet" });
  t.after(() => lab.stop());
  await startWeb(lab);
  assert.deepEqual(await haproxyAnswers(lab), SHARES);

  const range = `${LAB_SNAT[0]}-${LAB_SNAT.at(-1)}`;
  const { config, notes } = await imported(lab, "haproxy", HAPROXY, ["--snat", range]);
  assert.deepEqual(
    notes.split("\n").map((line) => line.replace(/^.*(:\d+): .*/, "$1")),
    [":2", ":5", ""],
    "global maxconn and timeout connect are named",
  );
  const gateway = await lab.startGateway(config);
  await allUp(gateway);
  assert.deepEqual(await answers(lab), SHARES);
  // A backup takes over only when all before it are down.
  const rows =
    await gateway.get<{ address: string; priority: number; connections: number }[]>(
      "/api/v1/backends",
    );
  const spare = rows.find(({ address }) => address === "10.20.0.14")!;
  assert.deepEqual([spare.priority, spare.connections], [1, 0]);
  const columns = (await gateway.cli(["get", "backends"])).stdout.split("\n")[0]!;
  assert.match(columns, /-> RemoteAddress:Port +Forward +Weight +ActiveConn +InActConn/);

  for (const [from, text] of [
    ["ipvsadm", IPVSADM],
    ["keepalived", KEEPALIVED],
  ] as const) {
    const other = await imported(lab, from, text);
    assert.equal(other.notes, "");
    const answer = await gateway.reload(other.config);
    // The pool of full-nat goes with the services that had it.
    assert.equal(answer.status, 200, answer.body);
    await allUp(gateway);
    assert.deepEqual(await answers(lab), SHARES, from);
  }
});
