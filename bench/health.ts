import { readFileSync } from "node:fs";
import { setTimeout as sleep } from "node:timers/promises";
import { createLab, type GatewayProcess, type Lab } from "../test/support/lab.ts";
import { waitFor } from "../test/support/wait.ts";
import { median, spread, table } from "./statistics.ts";

/**
 * What health checks cost: one gateway whose 1,000 backends are checked every second, all of them on
 * one node of the lab. It is the control thread's whole time that counts, whatever it does beside.
 */

const BACKENDS = 1000;
const TYPES = ["none", "tcp", "http"] as const;
const PORT = 8080;

export interface HealthCost {
  readonly type: (typeof TYPES)[number];
  readonly backends: number;
  /** Of each round: share of a CPU that the control thread used. */
  readonly cpus: readonly number[];
  /** Checks a second, those that began late by more than a tenth of the interval, and failed ones. */
  readonly checksPerSecond: readonly number[];
  readonly late: number;
  readonly failed: number;
}

/** Answers on every address of its node. */
const SERVER = `require("node:http").createServer((_, answer) => answer.end("well"))
.listen({ port: ${PORT}, host: "0.0.0.0", backlog: 4096 }, () => console.log("listening"))`;

/** @param seconds - of one round */
export async function measureHealth(rounds: number, seconds: number): Promise<HealthCost[]> {
  const lab = createLab({ device: "packet" });
  try {
    lab.execSync("b1", ["ip", "route", "add", "local", "10.21.0.0/16", "dev", "lo"]);
    lab.execSync("gateway", ["ip", "route", "add", "10.21.0.0/16", "via", "10.20.0.11"]);
    const server = lab.spawn("b1", [process.execPath, "-e", SERVER]);
    await server.waitLine(/^listening/);
    const results: HealthCost[] = [];
    for (const type of TYPES) results.push(await measureType(lab, type, rounds, seconds));
    return results;
  } finally {
    await lab.stop();
  }
}

async function measureType(
  lab: Lab,
  type: HealthCost["type"],
  rounds: number,
  seconds: number,
): Promise<HealthCost> {
  const gateway = await lab.startGateway(configOf(lab, type));
  try {
    await waitFor("all backends to be up", async () => {
      const status = await gateway.get<{ backends: { up: number } }>("/api/v1/status");
      return status.backends.up === BACKENDS;
    });
    const cpus: number[] = [];
    const checksPerSecond: number[] = [];
    // The first checks of all are half a second's, and the compiler is at work.
    await sleep(2000);
    const first = await read(gateway);
    for (let round = 0; round < rounds; round++) {
      const before = await read(gateway);
      await sleep(seconds * 1000);
      const after = await read(gateway);
      const elapsed = after.seconds - before.seconds;
      cpus.push((after.cpuSeconds - before.cpuSeconds) / elapsed);
      checksPerSecond.push((after.checks - before.checks) / elapsed);
    }
    const last = await read(gateway);
    return {
      type,
      backends: BACKENDS,
      cpus,
      checksPerSecond,
      late: last.late - first.late,
      failed: last.failed - first.failed,
    };
  } finally {
    await gateway.stop();
  }
}

function configOf(lab: Lab, type: HealthCost["type"]): string {
  const config = JSON.parse(lab.config({ mode: "nat", services: [] })) as Record<string, unknown>;
  config["limits"] = { services: 16, backends: 2 * BACKENDS };
  config["services"] = [
    {
      name: "checked",
      vip: "203.0.113.10",
      port: 80,
      protocol: "tcp",
      health: type === "none" ? "none" : { type, interval: "1s" },
      backends: Array.from({ length: BACKENDS }, (_, index) => ({
        address: `10.21.${1 + (index >> 7)}.${1 + (index & 127)}`,
        port: PORT,
      })),
    },
  ];
  return JSON.stringify(config);
}

interface Reading {
  readonly seconds: number;
  readonly cpuSeconds: number;
  readonly checks: number;
  readonly late: number;
  readonly failed: number;
}

async function read(gateway: GatewayProcess): Promise<Reading> {
  const cpuSeconds = controlSeconds(gateway.pid);
  const seconds = performance.now() / 1000;
  const { body } = await gateway.api("GET", "/metrics");
  const sum = (name: string): number =>
    [...body.matchAll(new RegExp(`^headgate_${name}(?:\\{[^}]*\\})? (\\S+)$`, "gm"))].reduce(
      (total, [, value]) => total + Number(value),
      0,
    );
  return {
    seconds,
    cpuSeconds,
    checks: sum("health_checks_total"),
    late: sum("health_checks_late_total"),
    failed: sum("backend_health_check_failures_total"),
  };
}

/** CPU time of the process's first thread, from schedstat: nanoseconds on a CPU. */
function controlSeconds(processId: number): number {
  const text = readFileSync(`/proc/${processId}/task/${processId}/schedstat`, "utf8");
  return Number(text.split(" ")[0]) / 1e9;
}

export function formatHealth(results: readonly HealthCost[]): string {
  const idle = results.find(({ type }) => type === "none");
  return table(
    [
      "checks",
      "control thread, % of a CPU",
      "more than without",
      "checks a second",
      "late",
      "failed",
    ],
    results.map((one) => [
      one.type === "none" ? "none" : `${one.type}, ${one.backends} every second`,
      spread(
        one.cpus.map((share) => 100 * share),
        1,
      ),
      idle === undefined ? "" : (100 * (median(one.cpus) - median(idle.cpus))).toFixed(1),
      one.type === "none" ? "" : spread(one.checksPerSecond, 0),
      `${one.late}`,
      `${one.failed}`,
    ]),
  );
}
