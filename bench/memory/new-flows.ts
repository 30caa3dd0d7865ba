import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import path from "node:path";
import { formatIpv4 } from "../../src/base/address.ts";
import { createRandom } from "../../src/base/random.ts";
import { W_FLOWS_USED } from "../../src/state/layout.ts";
import { median } from "../statistics.ts";
import { createFastPath, type FastPath, memoryYaml } from "./fast-path.ts";
import { synFields } from "./flow-frames.ts";
import { clientOf, createFrameStore, WINDOW_FRAMES, writeFrame } from "./frame-store.ts";

/**
 * What opening a flow costs: one flow opened again and again, and a million clients whose first SYNs
 * fill a table of a million and come on when it is full, with and without 100,000 denied prefixes
 * that every one of them is looked up in. As with the first SYNs, the first ones that come to a full
 * table find code that V8 has never run, and are not counted: a tenth of a million.
 */
export interface NewFlowsCase {
  /** 1: one flow, opened and reset in turns. More: as many clients, and two tenths more at the end. */
  readonly flows: number;
  readonly prefixes: number;
}

export interface NewFlowsResult extends NewFlowsCase {
  /** Nanoseconds a packet, median of the batches, while there is room. */
  readonly ns: number;
  /** The 99th percentile over batches of nanoseconds a packet, while there is room. */
  readonly p99: number;
  /** The same for what comes to a full table, the tenth after the first one; 0 with one flow. */
  readonly fullP99: number;
}

export const NEW_FLOWS_CASES: readonly NewFlowsCase[] = [
  { flows: 1, prefixes: 0 },
  { flows: 1_000_000, prefixes: 0 },
  { flows: 1_000_000, prefixes: 100_000 },
];

const SYN = 2;
const RST = 4;
const BATCHES_WARM = 400;

/** In a process of its own: the fast path is one closure an isolate. */
export function measureNewFlows(one: NewFlowsCase): NewFlowsResult {
  const memory = { mode: "nat", protocol: "tcp", services: 1, backends: 3 } as const;
  const frames = one.flows === 1 ? 200_000 : one.flows;
  const fast = createFastPath(
    { ...memory, flows: one.flows, accessPrefixes: Math.max(1, one.prefixes) },
    Math.max(one.flows, 4096),
  );
  const folder = mkdtempSync("/dev/shm/headgate-lists-");
  try {
    if (one.prefixes > 0) deny(fast, memoryYaml({ ...memory, flows: 1 }), folder, one.prefixes);
    const room = run(fast, one, 0, frames);
    const used = fast.views.i32[fast.views.layout.workerWord + W_FLOWS_USED]!;
    if (one.flows > 1 && used !== one.flows) throw new Error(`${used} flows were opened`);
    const tenth = frames / 10;
    if (one.flows > 1) run(fast, one, frames, tenth);
    const full = one.flows === 1 ? [] : run(fast, one, frames + tenth, tenth);
    return {
      ...one,
      ns: median(room.slice(BATCHES_WARM)),
      p99: percentile99(room.slice(BATCHES_WARM)),
      fullP99: full.length === 0 ? 0 : percentile99(full),
    };
  } finally {
    fast.close();
    rmSync(folder, { recursive: true });
  }
}

/** Prefixes of 17 to 32 bits where no client of the bench is. */
function deny(fast: FastPath, yaml: string, folder: string, count: number): void {
  const random = createRandom(0xdec1de);
  const lines = Array.from({ length: count }, () => {
    const bits = 17 + random.below(16);
    const address = ((128 + random.below(64)) << 24) | (random.next32() >>> 8);
    return `${formatIpv4(address & (-1 << (32 - bits)))}/${bits}`;
  });
  const denyFile = path.join(folder, "deny");
  writeFileSync(denyFile, lines.join("\n"));
  const definition = JSON.parse(yaml) as { services: Record<string, unknown>[] };
  for (const service of definition.services) service["access"] = { denyFile };
  fast.configure(JSON.stringify(definition));
  fast.datapath.runBatch(0);
}

/** @returns nanoseconds a packet of every batch */
function run(fast: FastPath, one: NewFlowsCase, first: number, count: number): number[] {
  const store = createFrameStore(WINDOW_FRAMES);
  const fields = synFields();
  const client = new Int32Array(2);
  const times: number[] = [];
  for (let from = first; from < first + count; from += WINDOW_FRAMES) {
    const part = Math.min(WINDOW_FRAMES, first + count - from);
    for (let index = 0; index < part; index++) {
      clientOf(one.flows === 1 ? 0 : from + index, client);
      fields.source = client[0]!;
      fields.ports = (client[1]! << 16) | 80;
      fields.tcpFlags = one.flows === 1 && (index & 1) === 1 ? RST : SYN;
      writeFrame(store, index, fields);
    }
    fast.device.load(store, 0, part);
    fast.device.setTick(1);
    for (let left = part; left > 0; ) {
      const begun = performance.now();
      const done = fast.datapath.runBatch(0);
      times.push(((performance.now() - begun) * 1e6) / done);
      left -= done;
    }
  }
  return times;
}

function percentile99(values: readonly number[]): number {
  const sorted = values.toSorted((a, b) => a - b);
  return sorted[Math.min(sorted.length - 1, Math.floor(sorted.length * 0.99))]!;
}
