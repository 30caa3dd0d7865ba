import { readFileSync, realpathSync } from "node:fs";
import path from "node:path";
import { createLab, type LabBalance } from "../../test/support/lab.ts";
import { waitFor } from "../../test/support/wait.ts";
import type { MemoryCase } from "../memory/fast-path.ts";
import type { MemoryResult } from "../memory/measure.ts";
import { throughVip } from "../pps/contenders.ts";
import { median, spread, table } from "../statistics.ts";
import { directBackends, generate, TRAFFIC_PORT, TRAFFIC_VIP_PORT } from "../traffic.ts";
import type { ReloadCase, ReloadResult } from "./reload.ts";

/** How cost and memory grow with flows and backends, and what a reload of many services costs. */

/** The memory of a whole gateway process with so many live flows. */
export interface GatewayResident {
  readonly flows: number;
  /** Pages that are there, each once, whoever else has them too. */
  readonly bytes: number;
  /** Of these, pages of Node's own program file: all Node processes of a machine have the same ones. */
  readonly programBytes: number;
  /** VmRSS, which counts the state file for each of the two threads that map it. */
  readonly mappedBytes: number;
}

export interface ConnsFigures {
  readonly byFlows: readonly MemoryResult[];
  readonly byBackends: readonly MemoryResult[];
  readonly resident: readonly GatewayResident[];
  readonly reloads: readonly ReloadResult[];
}

const NAT = { mode: "nat", protocol: "udp" } as const;

export const FLOW_CASES: readonly MemoryCase[] = [1, 10, 100, 1000, 10_000, 100_000, 1_000_000].map(
  (flows) => ({ ...NAT, flows, services: 1, backends: 3 }),
);

export const BACKEND_CASES: readonly MemoryCase[] = [1, 10, 100, 1000].map((backends) => ({
  ...NAT,
  flows: 10_000,
  services: 1,
  backends,
}));

export const RELOAD_CASES: readonly ReloadCase[] = (["rr", "maglev"] as const).map((scheduler) => ({
  ...NAT,
  flows: 64_000,
  services: 1000,
  backends: 65_000,
  each: 100,
  hashSlots: 16_777_216,
  scheduler,
}));

export const RESIDENT_FLOWS = [0, 1000, 100_000, 1_000_000] as const;

function kilobytes(file: string, name: string): number {
  const found = new RegExp(`^${name}:\\s+(\\d+) kB`, "m").exec(readFileSync(file, "utf8"));
  if (found === null) throw new Error(`${file} has no ${name}`);
  return Number(found[1]) * 1024;
}

/** "55d0-55d1 r-xp 00000000 fe:00 1234   /usr/bin/node": the first line of a mapping in smaps (proc(5)). */
const MAPPING = /^[0-9a-f]+-[0-9a-f]+ \S+ \S+ \S+ \S+ *(.*)$/;

/**
 * Pages of a process, each once. Not Pss: it divides a page by those who have it, so that more Node
 * processes beside this one make it look smaller.
 *
 * @param smaps - of /proc/PID/smaps
 * @param twice - the file that is mapped more than once, as a whole each time
 * @param program - the program's file
 */
export function residentOnce(
  smaps: string,
  twice: string,
  program: string,
): { readonly bytes: number; readonly programBytes: number } {
  let file = "";
  let [bytes, most, programBytes] = [0, 0, 0];
  for (const line of smaps.split("\n")) {
    file = MAPPING.exec(line)?.[1] ?? file;
    const found = /^Rss:\s+(\d+) kB/.exec(line);
    if (found === null) continue;
    const rss = Number(found[1]) * 1024;
    if (file === twice) most = Math.max(most, rss);
    else bytes += rss;
    if (file === program) programBytes += rss;
  }
  return { bytes: bytes + most, programBytes };
}

/**
 * A gateway on AF_PACKET with room for a million flows, and its resident set as they come.
 *
 * @param steps - ascending
 */
export async function measureGatewayResident(steps: readonly number[]): Promise<GatewayResident[]> {
  const lab = createLab({ device: "packet" });
  try {
    await directBackends(lab);
    const stateFile = path.join(lab.memory, "state");
    const balance: LabBalance = {
      mode: "nat",
      services: [
        { name: "conns", protocol: "udp", port: TRAFFIC_VIP_PORT, backendPort: TRAFFIC_PORT },
      ],
      more: { flows: { capacity: 1_048_576, stateFile } },
    };
    const gateway = await lab.balance(balance);
    const targets = throughVip(lab);
    const results: GatewayResident[] = [];
    for (const flows of steps) {
      // Each flow sends once, and again for those whose frame was lost.
      await waitFor(
        `${flows} flows`,
        async () => {
          const { live } = (await gateway!.get<{ flows: { live: number } }>("/api/v1/status"))
            .flows;
          if (live >= flows) return true;
          await generate(lab, { targets, flows, rate: 200_000, seconds: 30, count: flows });
          return false;
        },
        { timeoutMs: 60_000 },
      );
      const folder = `/proc/${gateway!.pid}`;
      results.push({
        flows,
        ...residentOnce(
          readFileSync(`${folder}/smaps`, "utf8"),
          stateFile,
          realpathSync(`${folder}/exe`),
        ),
        mappedBytes: kilobytes(`${folder}/status`, "VmRSS"),
      });
    }
    return results;
  } finally {
    await lab.stop();
  }
}

export function formatConns({ byFlows, byBackends, resident, reloads }: ConnsFigures): string {
  const parts: string[] = [];
  for (const [what, rows, pick] of [
    ["live flows (1 service, 3 backends)", byFlows, (one: MemoryResult) => one.flows],
    ["backends (1 service, 10,000 flows)", byBackends, (one: MemoryResult) => one.backends],
  ] as const) {
    if (rows.length === 0) continue;
    parts.push(
      table(
        [what, "ns a packet", "x the first row", "C++, ns"],
        rows.map((one) => [
          pick(one).toLocaleString("en"),
          spread(one.ns, 0),
          (median(one.ns) / median(rows[0]!.ns)).toFixed(2),
          spread(one.referenceNs, 0),
        ]),
      ),
    );
  }
  if (resident.length > 0) {
    parts.push(
      table(
        [
          "live flows of a gateway (AF_PACKET)",
          "resident, MiB",
          "of it Node's program file",
          "VmRSS, MiB",
        ],
        resident.map(({ flows, ...one }) => [
          flows.toLocaleString("en"),
          ...[one.bytes, one.programBytes, one.mappedBytes].map((bytes) =>
            (bytes / 2 ** 20).toFixed(0),
          ),
        ]),
      ),
    );
  }
  if (reloads.length > 0) {
    parts.push(
      table(
        [
          "reload of 1,000 services x 100 backends",
          "parse and check, ms",
          "slots, tables, publish, ms",
          "longest batch at rest, us",
          "beside a thread that counts, us",
          "in the reload, us",
          "over 1 ms, a second: counting",
          "reload",
        ],
        reloads.map((one) => [
          one.scheduler,
          spread(one.parseMs, 0),
          spread(one.applyMs, 0),
          spread(one.restBatchUs, 0),
          spread(one.busyBatchUs, 0),
          spread(one.reloadBatchUs, 0),
          median(one.busySlowPerSecond).toFixed(1),
          median(one.reloadSlowPerSecond).toFixed(1),
        ]),
      ),
    );
  }
  return parts.join("\n\n");
}
