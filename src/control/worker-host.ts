import { Worker } from "node:worker_threads";
import { HeadgateError } from "../base/errors.ts";
import { reasonOf } from "../base/log.ts";
import type { DeviceInterface } from "../device/device.ts";
import { H_STOP, type RegionViews } from "../state/layout.ts";
import type { FromWorker, WorkerOptions } from "./worker-protocol.ts";

/** The data plane, or one worker of it, as control sees it. */
export interface WorkerHandle {
  /** What the device said about its interfaces when it was opened. */
  readonly interfaces: readonly DeviceInterface[];
  /** What else it said, for the log. */
  readonly about: Readonly<Record<string, boolean>>;
  /** AF_PACKET with several workers: fan-out group of each interface. */
  readonly groups: readonly number[];
  /** Begin to handle frames. Call once, when guard and bank 1 are in place. */
  go(): void;
  /** End it between two batches; its device is closed when the promise is fulfilled. */
  stop(): Promise<void>;
}

export type StartWorker = (
  options: WorkerOptions,
  views: RegionViews,
  wake: () => void,
  onDeath: (reason: string) => void,
) => Promise<WorkerHandle>;

/** A worker that does not end by itself within this time is terminated. */
const STOP_TIMEOUT_MS = 3000;

/**
 * The worker's heap: what start allocates, with room to spare. The mapped region and the device's
 * memory are not part of it.
 */
const RESOURCE_LIMITS = {
  maxOldGenerationSizeMb: 256,
  maxYoungGenerationSizeMb: 16,
  stackSizeMb: 4,
} as const;

/**
 * Start the worker thread and wait until it has opened its device.
 *
 * @param wake - ends the worker's wait for frames, so that it sees H_STOP at once
 * @param onDeath - called once when the worker ends without `stop()`
 * @throws HeadgateError what the worker could not open, with its exit code
 */
export const startWorker: StartWorker = (options, views, wake, onDeath) =>
  new Promise((resolve, reject) => {
    const worker = new Worker(new URL("../../bundled/src/worker.js", import.meta.url), {
      name: `headgate worker ${options.worker}`,
      workerData: options,
      execArgv: ["--enable-source-maps"],
      resourceLimits: RESOURCE_LIMITS,
    });
    let started = false;
    let stopping = false;
    const exited = new Promise<void>((done) => worker.once("exit", () => done()));
    const died = (reason: string): void => {
      if (stopping) return;
      stopping = true;
      if (started) onDeath(reason);
      else reject(new Error(`the worker died while starting: ${reason}`));
    };
    worker.once("error", (error) => {
      died(error instanceof Error ? (error.stack ?? error.message) : reasonOf(error));
    });
    worker.once("exit", (code) => died(`worker exited with code ${code}`));
    worker.once("message", (message: FromWorker) => {
      if (message.kind === "failed") {
        stopping = true;
        reject(new HeadgateError(message.code, message.message, message.exitCode));
        return;
      }
      started = true;
      resolve({
        interfaces: message.interfaces,
        about: message.about,
        groups: message.groups,
        go: () => worker.postMessage("go"),
        stop: async () => {
          stopping = true;
          Atomics.store(views.i32, H_STOP, 1);
          wake();
          // A worker that never got its "go" waits for it, and then sees H_STOP.
          worker.postMessage("stop");
          const timer = setTimeout(() => void worker.terminate(), STOP_TIMEOUT_MS);
          await exited;
          clearTimeout(timer);
        },
      });
    });
  });
