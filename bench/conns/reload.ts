import {
  isMainThread,
  type MessagePort,
  parentPort,
  Worker,
  workerData,
} from "node:worker_threads";
import { parseConfig } from "../../src/control/config/load.ts";
import type { RegionSize } from "../../src/state/layout.ts";
import {
  attachFastPath,
  createFastPath,
  type MemoryCase,
  memoryYaml,
  openFlows,
  steadyFrames,
} from "../memory/fast-path.ts";
import { WINDOW_FRAMES } from "../memory/frame-store.ts";
import { flowCapacity } from "../memory/measure.ts";

/**
 * What a reload costs: how long control takes for it, and how long the worker's batches get
 * meanwhile. Two threads on one mapped region, as in the gateway: this one does what a reload does
 * (parse and check, slots, banks and scheduler tables, hop table, publish), the other one forwards and
 * times every batch.
 */
export interface ReloadCase extends MemoryCase {
  readonly each: number;
  readonly scheduler: "rr" | "maglev";
}

export interface ReloadResult extends ReloadCase {
  /** Parse and check the YAML, by round. */
  readonly parseMs: readonly number[];
  /** Slots, bank with all tables, hop table, until it is published. */
  readonly applyMs: readonly number[];
  /** Longest batch of the worker in half a second without a reload. */
  readonly restBatchUs: readonly number[];
  /** Longest batch from the reload's begin until a quarter second after it was published. */
  readonly reloadBatchUs: readonly number[];
}

/** Cells that both threads see. */
const LONGEST = 0;
const STOP = 1;
const BATCHES = 2;
const CELLS = 4;

const FLOWS = 64_000;
const MAGLEV_SLOTS = 10_007;

interface ReloadTask {
  readonly reloadWorker: { readonly statePath: string; readonly size: RegionSize };
  readonly one: ReloadCase;
  readonly cells: Float64Array;
}

/** The configuration of a case; each `version` has another weight in every service. */
function yamlOf(one: ReloadCase, version: number): string {
  const config = JSON.parse(memoryYaml(one)) as {
    services: { scheduler: string; tableSize?: number; backends: { weight?: number }[] }[];
  };
  for (const service of config.services) {
    service.scheduler = one.scheduler;
    if (one.scheduler === "maglev") service.tableSize = MAGLEV_SLOTS;
    service.backends.at(-1)!.weight = 1 + (version % 2);
  }
  return JSON.stringify(config);
}

/** The thread that forwards until it is told to stop. */
function serve(port: MessagePort, { reloadWorker, one, cells }: ReloadTask): void {
  const fast = attachFastPath(reloadWorker.statePath, reloadWorker.size);
  openFlows(fast, one);
  const store = steadyFrames(fast, one, 16 * WINDOW_FRAMES, 11);
  const { device, datapath } = fast;
  let warm = 0;
  let tick = 1;
  while (cells[STOP] === 0) {
    for (let first = 0; first < store.frames && cells[STOP] === 0; first += WINDOW_FRAMES) {
      device.load(store.words, first, WINDOW_FRAMES);
      device.setTick(tick++);
      for (let done = 0; done < WINDOW_FRAMES; ) {
        const from = performance.now();
        done += datapath.runBatch(0);
        const took = performance.now() - from;
        if (took > cells[LONGEST]!) cells[LONGEST] = took;
        cells[BATCHES] = cells[BATCHES]! + 1;
      }
    }
    if (++warm === 5) port.postMessage("warm");
  }
  fast.checkForwarded();
  fast.close();
  port.close();
}

function pause(ms: number): Promise<void> {
  return new Promise((resolve) => setTimeout(resolve, ms));
}

/** Measure a case. In a process of its own. */
export async function measureReload(one: ReloadCase, rounds: number): Promise<ReloadResult> {
  const fast = createFastPath({ ...one, flows: FLOWS }, flowCapacity(FLOWS));
  fast.configure(yamlOf(one, 0));
  const cells = new Float64Array(new SharedArrayBuffer(CELLS * 8));
  const task: ReloadTask = {
    reloadWorker: { statePath: fast.statePath, size: fast.views.layout.size },
    one: { ...one, flows: FLOWS },
    cells,
  };
  const worker = new Worker(new URL(import.meta.url), { workerData: task });
  const ended = new Promise((resolve) => worker.once("exit", resolve));
  await new Promise((resolve, reject) => {
    worker.once("message", resolve);
    worker.once("error", reject);
  });
  const parseMs: number[] = [];
  const applyMs: number[] = [];
  const restBatchUs: number[] = [];
  const reloadBatchUs: number[] = [];
  for (let round = 0; round < rounds; round++) {
    const text = yamlOf(one, round + 1);
    cells[LONGEST] = 0;
    await pause(500);
    restBatchUs.push(cells[LONGEST]! * 1000);
    cells[LONGEST] = 0;
    const from = performance.now();
    parseConfig(text, "bench.yaml");
    const parsed = performance.now();
    // It parses once more; what that took is known.
    fast.configure(text);
    const done = performance.now();
    parseMs.push(parsed - from);
    applyMs.push(Math.max(0, done - parsed - (parsed - from)));
    await pause(250);
    reloadBatchUs.push(cells[LONGEST]! * 1000);
  }
  if (!(cells[BATCHES]! > 0)) throw new Error("the worker made no batch");
  cells[STOP] = 1;
  await ended;
  fast.close();
  return { ...one, flows: FLOWS, parseMs, applyMs, restBatchUs, reloadBatchUs };
}

if (!isMainThread && parentPort !== null && "reloadWorker" in (workerData as object)) {
  serve(parentPort, workerData as ReloadTask);
}
