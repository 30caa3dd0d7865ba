import { spawnSync } from "node:child_process";
import { readlinkSync } from "node:fs";
import {
  isMainThread,
  type MessagePort,
  parentPort,
  Worker,
  workerData,
} from "node:worker_threads";
import { createFastPath, type MemoryCase } from "./fast-path.ts";
import { openFlows, steadyFrames } from "./flow-frames.ts";
import { STORE_BYTES, WINDOW_FRAMES } from "./frame-store.ts";
import { createRunner, flowCapacity } from "./measure.ts";

/**
 * Two workers on frames in memory: two isolates in threads of their own, each pinned to a CPU, each
 * with its own table, as the gateway's are. What they share is the memory bus, the last-level cache
 * and the process.
 */
export interface WorkersResult extends MemoryCase {
  /** Million packets a second of one worker while the other rests, by round. */
  readonly oneMpps: readonly number[];
  /** Of both together, in the same rounds. */
  readonly twoMpps: readonly number[];
}

interface WorkerTask {
  readonly memoryWorker: MemoryCase;
  readonly cpu: number;
}

/** Pins the calling thread. Failing is no error: the figure then says less. */
export function pinThread(cpu: number): void {
  const thread = readlinkSync("/proc/thread-self").split("/").at(-1)!;
  spawnSync("taskset", ["-pc", String(cpu), thread], { stdio: "ignore" });
}

/** The thread: prepares itself, then runs for as many milliseconds as it is told. */
function serve(port: MessagePort, { memoryWorker: one, cpu }: WorkerTask): void {
  pinThread(cpu);
  const fast = createFastPath(one, flowCapacity(one.flows));
  openFlows(fast, one);
  const store = steadyFrames(fast, one, 16 * WINDOW_FRAMES, 20_261_125 + 2 * cpu);
  const runner = createRunner(fast, store);
  for (let pass = 0; pass < 5; pass++) runner.pass();
  port.on("message", (ms: number) => {
    if (ms === 0) {
      fast.checkForwarded();
      fast.close();
      port.close();
      return;
    }
    const until = performance.now() + ms;
    let frames = 0;
    let ns = 0;
    while (performance.now() < until) {
      ns += runner.pass();
      frames += store.frames;
    }
    port.postMessage((frames * 1000) / ns);
  });
  port.postMessage(STORE_BYTES);
}

/** Measure it; `milliseconds` is one measurement. In a process of its own. */
export async function measureWorkers(
  one: MemoryCase,
  rounds: number,
  milliseconds: number,
): Promise<WorkersResult> {
  const workers = [0, 1].map(
    (cpu) => new Worker(new URL(import.meta.url), { workerData: { memoryWorker: one, cpu } }),
  );
  const answer = (worker: Worker): Promise<number> =>
    new Promise((resolve, reject) => {
      worker.once("message", resolve);
      worker.once("error", reject);
    });
  await Promise.all(workers.map(answer));
  const run = async (some: readonly Worker[]): Promise<number> => {
    const rates = some.map(answer);
    for (const worker of some) worker.postMessage(milliseconds);
    return (await Promise.all(rates)).reduce((sum, rate) => sum + rate, 0);
  };
  const oneMpps: number[] = [];
  const twoMpps: number[] = [];
  for (let round = 0; round < rounds; round++) {
    oneMpps.push(await run([workers[round % 2]!]));
    twoMpps.push(await run(workers));
  }
  const ended = workers.map((worker) => new Promise((resolve) => worker.once("exit", resolve)));
  for (const worker of workers) worker.postMessage(0);
  await Promise.all(ended);
  return { ...one, oneMpps, twoMpps };
}

if (!isMainThread && parentPort !== null && "memoryWorker" in (workerData as object)) {
  serve(parentPort, workerData as WorkerTask);
}
