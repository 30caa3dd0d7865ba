import assert from "node:assert/strict";
import { test } from "node:test";
import type { BackendRow } from "../../src/base/admin-types.ts";
import {
  createLab,
  type GatewayProcess,
  LAB_BACKEND_NAMES,
  LAB_BACKENDS,
  LAB_VIP,
  type Lab,
  type LabBackend,
  SKIP_UNLESS_ROOT,
} from "../support/lab.ts";
import type { RunningProcess } from "../support/processes.ts";
import { waitFor } from "../support/wait.ts";

/**
 * Goal: a backend that dies under load gets no SYN any more once the log says so, also none of clients
 * that were waiting for it; no more are ejected than may be; ejections outlast the process and end.
 * Method: connections all the time; a counter of nftables in each backend's namespace sees what
 * arrives there before anything of it is dropped. How long it took is printed, not asserted.
 */

/** Opens connections without a pause; SIGUSR1 prints how many were made, refused and lost. */
const CLIENT = `
const net = require("node:net");
const count = { made: 0, refused: 0, lost: 0 };
let open = 0;
function connect() {
  open++;
  const socket = net.connect({ host: "${LAB_VIP}", port: 80 });
  const timer = setTimeout(() => { count.lost++; socket.destroy(); }, 8000);
  const over = () => { clearTimeout(timer); open--; };
  socket.on("connect", () => { count.made++; socket.destroy(); });
  socket.on("error", () => { count.refused++; });
  socket.on("close", over);
}
setInterval(() => { for (let n = 0; n < 2 && open < 3000; n++) connect(); }, 4);
process.on("SIGUSR1", () => console.log("counts " + JSON.stringify(count)));
console.log("connecting");
`;

/** Takes connections and closes when the client does. */
const SERVER = `
const server = require("node:net").createServer((socket) => { socket.on("error", () => {}); socket.resume(); });
server.listen({ port: 8080, backlog: 1024 }, () => console.log("listening"));
`;

interface Counts {
  readonly made: number;
  readonly refused: number;
  readonly lost: number;
}

async function countsOf(client: RunningProcess): Promise<Counts> {
  const before = client.lines.length;
  client.kill("SIGUSR1");
  const line = await waitFor("the client's counts", () =>
    client.lines.slice(before).find((one) => one.startsWith("counts ")),
  );
  return JSON.parse(line.slice("counts ".length)) as Counts;
}

/** Wait until so many more connections were made. */
async function more(client: RunningProcess, count: number): Promise<Counts> {
  const { made } = await countsOf(client);
  let last: Counts | null = null;
  await waitFor(
    `${count} more connections`,
    async () => {
      last = await countsOf(client);
      return last.made >= made + count;
    },
    { timeoutMs: 60_000, everyMs: 50 },
  );
  return last!;
}

function watchSyns(lab: Lab, node: LabBackend): void {
  const rules = `
table inet seen {
  counter syns { }
  chain first {
    type filter hook prerouting priority raw
    tcp dport 8080 tcp flags syn / syn,ack counter name syns
  }
  chain dead { type filter hook input priority filter; }
}`;
  lab.execSync(node, ["nft", rules]);
}

function synsAt(lab: Lab, node: LabBackend): number {
  const text = lab.execSync(node, ["nft", "-j", "list", "counter", "inet", "seen", "syns"]);
  const { nftables } = JSON.parse(text) as {
    nftables: { counter?: { packets: number } }[];
  };
  return nftables.find((entry) => entry.counter !== undefined)!.counter!.packets;
}

type Line = Record<string, unknown>;

function changes(gateway: GatewayProcess, node: LabBackend): Line[] {
  return gateway.log.filter(
    (line) => line["event"] === "backend_state" && line["backend"] === `${LAB_BACKENDS[node]}:8080`,
  );
}

async function becomes(
  gateway: GatewayProcess,
  node: LabBackend,
  state: string,
  from = 0,
): Promise<Line> {
  return waitFor(
    `${node} to be ${state}`,
    () =>
      changes(gateway, node)
        .slice(from)
        .find((line) => line["state"] === state),
    { timeoutMs: 30_000, everyMs: 5 },
  );
}

test("backends that die under load: silence, RST, the cap, kill -9 and the way back", {
  skip: SKIP_UNLESS_ROOT,
}, async (t) => {
  const lab = createLab({ device: "packet" });
  t.after(() => lab.stop());
  const servers = new Map<LabBackend, RunningProcess>();
  for (const node of LAB_BACKEND_NAMES) {
    const server = lab.spawn(node, [process.execPath, "-e", SERVER]);
    servers.set(node, server);
    await server.waitLine(/^listening/);
    watchSyns(lab, node);
  }
  const config = lab.config({
    mode: "nat",
    services: [
      {
        name: "web",
        protocol: "tcp",
        port: 80,
        backendPort: 8080,
        more: { scheduler: "round-robin", passive: { ejection: "4s", maximum: "60s" } },
      },
    ],
  });
  let gateway = await lab.startGateway(config);
  const client = lab.spawn("client", [process.execPath, "-e", CLIENT]);
  await client.waitLine(/^connecting/);
  await more(client, 200);
  const rows = await gateway.get<BackendRow[]>("/api/v1/backends");
  for (const { passive, address } of rows) {
    assert.ok(passive.latencyUs !== null && passive.latencyUs > 0, `${address} has a latency`);
    assert.equal(passive.ejections, 0);
  }

  // Silence: whatever comes to b2 is dropped, as if its host were gone.
  lab.execSync("b2", [
    "nft",
    "add",
    "rule",
    "inet",
    "seen",
    "dead",
    "tcp",
    "dport",
    "8080",
    "drop",
  ]);
  const droppedMs = Date.now();
  const ejected = await becomes(gateway, "b2", "ejected");
  assert.match(
    String(ejected["reason"]),
    /^\d+ connections in a row failed: no answer; ejected for 4s$/,
  );
  const atLine = synsAt(lab, "b2");
  t.diagnostic(
    `silent backend ejected ${Date.parse(String(ejected["time"])) - droppedMs} ms after the first dropped SYN could come`,
  );

  // It outlasts the process.
  gateway.kill("SIGKILL");
  await gateway.exited;
  gateway = await lab.startGateway(config);
  const after = await gateway.get<BackendRow[]>("/api/v1/backends");
  const b2 = after.find(({ address }) => address === LAB_BACKENDS.b2)!;
  assert.equal(b2.state, "ejected");
  assert.equal(b2.passive.ejections, 1);
  await more(client, 400);
  assert.equal(synsAt(lab, "b2"), atLine, "no SYN after the line, not even one that came again");

  // One of three may be out: b3 refuses, and stays in until b2 is back.
  servers.get("b3")!.kill("SIGKILL");
  lab.execSync("b2", ["nft", "flush", "chain", "inet", "seen", "dead"]);
  const refusing = await countsOf(client);
  await waitFor("connections to be refused", async () => {
    return (await countsOf(client)).refused > refusing.refused + 10;
  });
  const back = await becomes(gateway, "b2", "up");
  assert.equal(back["reason"], "ejection over: its time of 4s");
  const refused = await becomes(gateway, "b3", "ejected");
  assert.match(String(refused["reason"]), /^\d+ connections in a row failed: RST in answer to SYN/);
  assert.ok(Date.parse(String(refused["time"])) >= Date.parse(String(back["time"])));
  const before = synsAt(lab, "b2");
  const atRefusal = synsAt(lab, "b3");
  const then = await countsOf(client);
  const last = await more(client, 400);
  assert.equal(synsAt(lab, "b3"), atRefusal);
  assert.ok(synsAt(lab, "b2") > before, "b2 gets flows again");
  assert.equal(last.lost, 0, "whoever waited for b2 was given another backend");
  assert.equal(last.refused - then.refused, 0);

  const wide = await gateway.cli(["get", "backends", "-o", "wide"]);
  assert.match(wide.stdout, /Latency +Failed +Ejected/);
  const metrics = (await gateway.api("GET", "/metrics")).body;
  const label = `service="web",backend="${LAB_BACKENDS.b3}:8080",protocol="tcp"`;
  assert.match(metrics, new RegExp(`headgate_backend_ejections_total\\{${label}\\} 1\n`));
  assert.match(metrics, new RegExp(`headgate_backend_connect_latency_seconds\\{${label}\\} 0\\.`));
  assert.doesNotMatch(
    metrics,
    new RegExp(`headgate_backend_passive_failures_total\\{${label},kind="refused"\\} 0\n`),
  );
  assert.equal(changes(gateway, "b2").length, 1, "one line a change");
  assert.equal(changes(gateway, "b3").length, 1);
  assert.equal(changes(gateway, "b1").length, 0);
});

/** Deaths of each kind that are timed, and not judged by it: 10 in `npm run verify`. */
const DEATHS = Number(process.env["HEADGATE_DEATHS"] ?? 1);

test("how long a death under load takes to be known", {
  skip: SKIP_UNLESS_ROOT,
}, async (t) => {
  const lab = createLab({ device: "packet" });
  t.after(() => lab.stop());
  for (const node of LAB_BACKEND_NAMES) {
    await lab.spawn(node, [process.execPath, "-e", SERVER]).waitLine(/^listening/);
    watchSyns(lab, node);
  }
  const config = (passive: unknown): string =>
    lab.config({
      mode: "nat",
      services: [
        {
          name: "web",
          protocol: "tcp",
          port: 80,
          backendPort: 8080,
          more: { scheduler: "round-robin", passive },
        },
      ],
    });
  const gateway = await lab.startGateway(config({}));
  const client = lab.spawn("client", [process.execPath, "-e", CLIENT]);
  await client.waitLine(/^connecting/);
  for (const [how, verdict] of [
    ["silent", ["drop"]],
    ["refusing", ["reject", "with", "tcp", "reset"]],
  ] as const) {
    const times: number[] = [];
    for (let death = 0; death < DEATHS; death++) {
      await more(client, 300);
      const seen = changes(gateway, "b2").length;
      const from = Date.now();
      const rule = ["nft", "add", "rule", "inet", "seen", "dead", "tcp", "dport", "8080"];
      lab.execSync("b2", [...rule, ...verdict]);
      const line = await becomes(gateway, "b2", "ejected", seen);
      const syns = synsAt(lab, "b2");
      times.push(Date.parse(String(line["time"])) - from);
      await more(client, 300);
      assert.equal(synsAt(lab, "b2"), syns);
      lab.execSync("b2", ["nft", "flush", "chain", "inet", "seen", "dead"]);
      // Without passive checks nobody stays out.
      assert.equal((await gateway.reload(config("off"))).status, 200);
      await becomes(gateway, "b2", "up", seen);
      assert.equal((await gateway.reload(config({}))).status, 200);
    }
    const sorted = times.toSorted((a, b) => a - b);
    const median = sorted[Math.floor(sorted.length / 2)];
    t.diagnostic(`${how}: out ${median} ms after its death, worst ${sorted.at(-1)} of ${DEATHS}`);
  }
});
