import { spawnSync } from "node:child_process";
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
} from "../memory/fast-path.ts";
import { openFlows, steadyFrames } from "../memory/flow-frames.ts";
import { WINDOW_FRAMES } from "../memory/frame-store.ts";
import { flowCapacity } from "../memory/measure.ts";
import { pinThread } from "../memory/workers.ts";
import { GATEWAY_CPU, GENERATOR_CPU } from "../traffic.ts";

/**
 * What a reload costs: how long control takes for it, and how long the worker's batches get
 * meanwhile. Two threads on one mapped region, as in the gateway: this one does what a reload does
 * (parse and check, slots, banks and scheduler tables, hop table, publish), the other one forwards and
 * times every batch. The worker has a CPU of its own, as docs/tuning.md advises: without, what is
 * measured is how long the kernel has a thread wait for its turn.
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
  /** Longest batch of the worker in a quarter second without a reload. */
  readonly restBatchUs: readonly number[];
  /**
   * Longest batch while this thread only counts, for as long as a reload takes: what the machine does
   * to a thread when its other CPU is busy. A virtual machine can take a CPU away for 100 ms then, and
   * that is nothing that a reload does.
   */
  readonly busyBatchUs: readonly number[];
  /** Longest batch from the reload's begin until a quarter second after it was published. */
  readonly reloadBatchUs: readonly number[];
  /** Batches that took more than a millisecond, for each second of both. */
  readonly busySlowPerSecond: readonly number[];
  readonly reloadSlowPerSecond: readonly number[];
}

/** Cells that both threads see. */
const LONGEST = 0;
const STOP = 1;
const BATCHES = 2;
const SLOW = 3;
const CELLS = 4;

const SLOW_MS = 1;
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
  pinThread(GATEWAY_CPU);
  const fast = attachFastPath(reloadWorker.statePath, reloadWorker.size);
  openFlows(fast, one);
  const store = steadyFrames(fast, one, 16 * WINDOW_FRAMES, 11);
  const { device, datapath } = fast;
  let warm = 0;
  let tick = 1;
  while (cells[STOP] === 0) {
    for (let first = 0; first < store.frames && cells[STOP] === 0; first += WINDOW_FRAMES) {
      device.load(store, first, WINDOW_FRAMES);
      device.setTick(tick++);
      for (let done = 0; done < WINDOW_FRAMES; ) {
        const from = performance.now();
        done += datapath.runBatch(0);
        const took = performance.now() - from;
        if (took > cells[LONGEST]!) cells[LONGEST] = took;
        if (took > SLOW_MS) cells[SLOW] = cells[SLOW]! + 1;
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

/** Keeps this thread's CPU busy, and touches nothing that the worker has. */
function spin(ms: number): void {
  const until = performance.now() + ms;
  let sum = 0;
  while (performance.now() < until) {
    for (let at = 0; at < 10_000; at++) sum = (sum + Math.imul(at, at)) | 0;
  }
  spun[0] = sum;
}

const spun = new Int32Array(1);

interface Watched {
  readonly longestUs: number;
  readonly slowPerSecond: number;
}

/** What the worker's batches are like from now until a quarter second after `work`. */
async function watch(cells: Float64Array, work: () => void): Promise<Watched> {
  cells[LONGEST] = 0;
  cells[SLOW] = 0;
  const from = performance.now();
  work();
  await pause(250);
  const seconds = (performance.now() - from) / 1000;
  return { longestUs: cells[LONGEST]! * 1000, slowPerSecond: cells[SLOW]! / seconds };
}

/** Measure a case. In a process of its own. */
export async function measureReload(one: ReloadCase, rounds: number): Promise<ReloadResult> {
  // All threads of the process, V8's helpers too; the worker then goes to its own.
  spawnSync("taskset", ["-apc", String(GENERATOR_CPU), String(process.pid)], { stdio: "ignore" });
  const fast = createFastPath({ ...one, flows: FLOWS }, flowCapacity(FLOWS));
  fast.configure(yamlOf(one, 0));
  const cells = new Float64Array(new SharedArrayBuffer(CELLS * 8));
  const task: ReloadTask = {
    reloadWorker: { statePath: fast.statePath, size: fast.views.layout.size },
    one: { ...one, flows: FLOWS },
    cells,
  };
  const worker = new Worker(new URL(import.meta.url), {
    workerData: task,
    // Reading the clock makes garbage, which the gateway's worker does not; its collection would wait
    // for V8's helper threads, which have this thread's garbage to do. Here it does not come to one.
    resourceLimits: { maxYoungGenerationSizeMb: 512 },
  });
  const ended = new Promise((resolve) => worker.once("exit", resolve));
  await new Promise((resolve, reject) => {
    worker.once("message", resolve);
    worker.once("error", reject);
  });
  const parseMs: number[] = [];
  const applyMs: number[] = [];
  const rest: Watched[] = [];
  const busy: Watched[] = [];
  const reload: Watched[] = [];
  for (let round = 0; round < rounds; round++) {
    const text = yamlOf(one, round + 1);
    const parseFrom = performance.now();
    parseConfig(text, "bench.yaml");
    const parsed = performance.now() - parseFrom;
    rest.push(await watch(cells, () => undefined));
    let took = 0;
    const reloaded = await watch(cells, () => {
      const from = performance.now();
      fast.configure(text);
      took = performance.now() - from;
    });
    reload.push(reloaded);
    busy.push(await watch(cells, () => spin(took)));
    parseMs.push(parsed);
    applyMs.push(Math.max(0, took - parsed));
  }
  if (!(cells[BATCHES]! > 0)) throw new Error("the worker made no batch");
  cells[STOP] = 1;
  await ended;
  fast.close();
  const longest = (all: readonly Watched[]): number[] => all.map(({ longestUs }) => longestUs);
  const slow = (all: readonly Watched[]): number[] => all.map(({ slowPerSecond }) => slowPerSecond);
  return {
    ...one,
    flows: FLOWS,
    parseMs,
    applyMs,
    restBatchUs: longest(rest),
    busyBatchUs: longest(busy),
    reloadBatchUs: longest(reload),
    busySlowPerSecond: slow(busy),
    reloadSlowPerSecond: slow(reload),
  };
}

if (!isMainThread && parentPort !== null && "reloadWorker" in (workerData as object)) {
  serve(parentPort, workerData as ReloadTask);
}
