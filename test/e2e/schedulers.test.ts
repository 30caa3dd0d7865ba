import assert from "node:assert/strict";
import { test } from "node:test";
import type { BackendRow } from "../../src/base/admin-types.ts";
import {
  createLab,
  LAB_BACKEND_NAMES,
  LAB_BACKENDS,
  LAB_CLIENT,
  LAB_VIP,
  type Lab,
  type LabBackend,
  SKIP_UNLESS_ROOT,
} from "../support/lab.ts";
import type { RunningProcess } from "../support/processes.ts";
import { httpLoad, startTcpEcho, startWeb } from "../support/servers.ts";
import { waitFor } from "../support/wait.ts";

/**
 * Goal: real connections go where each scheduler's theory says, over both families, through one
 * gateway that is reloaded from one scheduler to the next.
 * Method: weights 3, 2, 1. HTTP requests, each a connection of its own; connections that are held
 * where the scheduler counts; connections from the same port again where it promises the same choice.
 */

const WEIGHTS: Readonly<Record<LabBackend, number>> = { b1: 3, b2: 2, b3: 1 };
const REQUESTS = 60;
type Shares = Readonly<Record<LabBackend, number>>;

/** Connects to the VIP from each port of a range, one after the other; prints who answered. */
const FROM_PORTS = `
const { connect } = require("node:net");
const ask = (localPort) => new Promise((resolve, reject) => {
  const socket = connect({ host: "${LAB_VIP}", port: 7000, localAddress: "${LAB_CLIENT}", localPort });
  socket.once("data", (data) => { resolve(String(data).trim()); socket.resetAndDestroy(); });
  socket.once("error", reject);
});
(async () => {
  const names = [];
  for (let port = 20000; port < 20024; port++) names.push(await ask(port));
  console.log(JSON.stringify(names));
})();
`;

/** Holds connections to the VIP, opened one after the other; prints how many each backend has. */
const HOLDER = `
const { connect } = require("node:net");
const open = () => new Promise((resolve, reject) => {
  const socket = connect(7000, "${LAB_VIP}");
  socket.once("data", (data) => resolve(String(data).trim()));
  socket.on("error", reject);
});
(async () => {
  const counts = { b1: 0, b2: 0, b3: 0 };
  for (let left = Number(process.argv[1]); left > 0; left--) counts[await open()]++;
  console.log(JSON.stringify(counts));
})().catch((error) => { console.log(error.code); process.exit(1); });
`;

function configOf(lab: Lab, more: Readonly<Record<string, unknown>>): string {
  const config = JSON.parse(
    lab.config({
      mode: "nat",
      services: [
        { name: "web", protocol: "tcp", port: 80, backendPort: 8080, more },
        { name: "six", protocol: "tcp", port: 80, backendPort: 8080, family: 6, more },
        { name: "echo", protocol: "tcp", port: 7000, backendPort: 7001, more },
      ],
    }),
  ) as { services: { backends: Record<string, unknown>[] }[] };
  for (const { backends } of config.services) {
    backends.forEach((backend, index) => {
      backend["weight"] = WEIGHTS[LAB_BACKEND_NAMES[index]!];
    });
  }
  return JSON.stringify(config, null, 2);
}

class Bench {
  readonly lab: Lab;
  readonly gateway: Awaited<ReturnType<Lab["startGateway"]>>;
  #holder: RunningProcess | null = null;

  private constructor(lab: Lab, gateway: Awaited<ReturnType<Lab["startGateway"]>>) {
    this.lab = lab;
    this.gateway = gateway;
  }

  static async start(lab: Lab): Promise<Bench> {
    await startWeb(lab);
    await startTcpEcho(lab);
    return new Bench(lab, await lab.startGateway(configOf(lab, { scheduler: "rr" })));
  }

  async use(scheduler: string, more: Readonly<Record<string, unknown>> = {}): Promise<void> {
    const { status, body } = await this.gateway.reload(
      configOf(this.lab, { scheduler, tableSize: 251, ...more }),
    );
    assert.equal(status, 200, body);
  }

  /** Who answered the requests; each is answered. */
  async requests(family: 4 | 6 = 4): Promise<Record<LabBackend, number>> {
    const report = await httpLoad(this.lab, { requests: REQUESTS, concurrency: 4, family });
    assert.deepEqual(report.failures, {});
    assert.equal(report.ok, REQUESTS);
    return { b1: 0, b2: 0, b3: 0, ...report.bodies };
  }

  async fromPorts(): Promise<LabBackend[]> {
    const { stdout } = await this.lab.exec("client", [process.execPath, "-e", FROM_PORTS]);
    return JSON.parse(stdout) as LabBackend[];
  }

  /** Holds connections until release(). @returns how many each backend has, or the error */
  async hold(connections: number): Promise<Record<LabBackend, number> | string> {
    const argv = [process.execPath, "-e", HOLDER, String(connections)];
    this.#holder = this.lab.spawn("client", argv);
    const line = await this.#holder.waitLine(/^\{|^E/);
    return line.startsWith("{") ? (JSON.parse(line) as Record<LabBackend, number>) : line;
  }

  async active(): Promise<Record<LabBackend, number>> {
    const rows = await this.gateway.get<BackendRow[]>("/api/v1/backends");
    const counts = { b1: 0, b2: 0, b3: 0 };
    for (const row of rows.filter(({ service }) => service === "echo")) {
      const node = LAB_BACKEND_NAMES.find((one) => LAB_BACKENDS[one] === row.address)!;
      counts[node] += row.active;
    }
    return counts;
  }

  async release(): Promise<void> {
    await this.#holder?.stop("SIGKILL");
    await waitFor("no connection to be active", async () => {
      return Object.values(await this.active()).every((count) => count === 0);
    });
  }
}

/** Within `off` of shares of the requests. */
function assertShares(found: Shares, shares: Shares, off: number, what: string): void {
  for (const node of LAB_BACKEND_NAMES) {
    const message = `${what}: ${JSON.stringify(found)} of ${JSON.stringify(shares)}`;
    assert.ok(Math.abs(found[node] - shares[node]) <= off, message);
  }
}

test("every scheduler over real connections", { skip: SKIP_UNLESS_ROOT }, async (t) => {
  const lab = createLab({ device: "packet" });
  t.after(() => lab.stop());
  const bench = await Bench.start(lab);

  // A connection that a backend in TIME_WAIT refuses is opened again, and has another turn.
  for (const family of [4, 6] as const) {
    await bench.use("rr");
    assertShares(await bench.requests(family), { b1: 20, b2: 20, b3: 20 }, 1, `rr ${family}`);
    await bench.use("wrr");
    assertShares(await bench.requests(family), { b1: 30, b2: 20, b3: 10 }, 2, `wrr ${family}`);
  }

  for (const scheduler of ["random", "twos", "maglev", "hrw"]) {
    await bench.use(scheduler);
    for (const family of [4, 6] as const) {
      const found = await bench.requests(family);
      t.diagnostic(`${scheduler} over IPv${family}: ${JSON.stringify(found)}`);
      // 30, 20 and 10 are due; chance is off by four standard deviations once in 10,000 times.
      assertShares(found, { b1: 30, b2: 20, b3: 10 }, 16, scheduler);
      assert.ok(Object.values(found).every((count) => count > 0));
    }
  }

  const choices = new Map<string, LabBackend[]>();
  for (const round of [1, 2]) {
    for (const scheduler of ["sh", "maglev", "hrw", "fo"]) {
      await bench.use(scheduler);
      const names = await bench.fromPorts();
      if (round === 2) assert.deepEqual(names, choices.get(scheduler), `${scheduler} again`);
      choices.set(scheduler, names);
    }
  }
  const reached = [...choices].map(([scheduler, names]) => [scheduler, new Set(names).size]);
  assert.deepEqual(Object.fromEntries(reached), { sh: 1, maglev: 3, hrw: 3, fo: 1 });
  assert.equal(choices.get("fo")![0], "b1");

  await bench.use("sh");
  for (const family of [4, 6] as const) {
    const found = Object.values(await bench.requests(family));
    assert.deepEqual(found.toSorted(), [0, 0, REQUESTS], "sh: one client, one backend");
  }
  await bench.use("fo");
  const drained = await bench.gateway.cli(["backend", "drain", `web/${LAB_BACKENDS.b1}:8080`]);
  assert.equal(drained.code, 0, drained.stderr);
  assert.equal((await bench.requests()).b2, REQUESTS, "fo: the second, without the first");
  const back = await bench.gateway.cli(["backend", "reset", `web/${LAB_BACKENDS.b1}:8080`]);
  assert.equal(back.code, 0, back.stderr);
  assert.equal((await bench.requests()).b1, REQUESTS, "fo: the first is back");

  for (const [scheduler, wanted] of [
    ["lc", { b1: 4, b2: 4, b3: 4 }],
    ["wlc", { b1: 6, b2: 4, b3: 2 }],
    ["sed", { b1: 6, b2: 4, b3: 2 }],
    ["nq", { b1: 6, b2: 4, b3: 2 }],
  ] as const) {
    await bench.use(scheduler);
    assert.deepEqual(await bench.hold(12), wanted, scheduler);
    assert.deepEqual(await bench.active(), wanted, `${scheduler}: the gateway counts the same`);
    await bench.release();
  }

  await bench.use("ovf");
  assert.deepEqual(await bench.hold(9), { b1: 4, b2: 3, b3: 2 }, "ovf: one more than the weight");
  const refused = await lab.exec("client", [process.execPath, "-e", HOLDER, "1"], { check: false });
  assert.equal(refused.stdout.trim(), "ECONNREFUSED", "and then nobody");
  await bench.release();

  await bench.use("maglev", { maxLoad: 1.25 });
  const bounded = (await bench.hold(12)) as Record<LabBackend, number>;
  t.diagnostic(`maglev with maxLoad: ${JSON.stringify(bounded)}`);
  for (const node of LAB_BACKEND_NAMES) {
    const most = Math.ceil((1.25 * 12 * WEIGHTS[node]) / 6);
    assert.ok(bounded[node] <= most, `${node} has ${bounded[node]}, bound ${most}`);
  }
  await bench.release();
  assert.deepEqual(lab.checksumErrors(), {});
});
