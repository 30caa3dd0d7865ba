import { setPriority } from "node:os";
import { parentPort, Worker } from "node:worker_threads";
import { assert } from "../../base/assert.ts";
import { reasonOf } from "../../base/log.ts";
import { giveUpCapabilities } from "../../device/privileges-native.ts";
import type { Failure, FromNursery, ThreadData, ToNursery } from "./protocol.ts";

/**
 * The thread that policies' threads come from. A thread has the capabilities and the priority of the one
 * that makes it: this one gives up what control has, runs no code but this, and so has nothing to hand
 * on. Its children cannot load an addon (--no-addons) and see no environment.
 */

/** A policy that loops for its timeout must not take a processor from the workers. */
const NICENESS = 10;

const RESOURCE_LIMITS = {
  maxOldGenerationSizeMb: 64,
  maxYoungGenerationSizeMb: 16,
  codeRangeSizeMb: 16,
  stackSizeMb: 2,
} as const;

const OUT_OF_MEMORY = "ERR_WORKER_OUT_OF_MEMORY";

assert(parentPort !== null, "the nursery runs as a thread of the gateway");
const control = parentPort;
const threads = new Map<number, Worker>();

function begin({ id, name, port, files, tableSizeMax }: ToNursery & { kind: "start" }): void {
  let failure: Failure = "exit";
  let message = "";
  const worker = new Worker(new URL("./thread.js", import.meta.url), {
    name: `headgate policy ${name}`,
    workerData: { port, files, tableSizeMax } satisfies ThreadData,
    transferList: [port],
    execArgv: ["--no-addons"],
    env: {},
    stdout: true,
    stderr: true,
    resourceLimits: RESOURCE_LIMITS,
  });
  threads.set(id, worker);
  worker.stdout.resume();
  worker.stderr.resume();
  worker.once("error", (error: unknown) => {
    const isFull = (error as NodeJS.ErrnoException).code === OUT_OF_MEMORY;
    failure = isFull ? "memory" : "throws";
    message = isFull
      ? `expected at most ${RESOURCE_LIMITS.maxOldGenerationSizeMb} MB of objects, got more`
      : reasonOf(error);
  });
  worker.once("exit", (code) => {
    threads.delete(id);
    message ||= `its thread ended with code ${code}`;
    control.postMessage({ id, failure, message } satisfies FromNursery);
  });
}

giveUpCapabilities();
setPriority(0, NICENESS);
control.on("message", (message: ToNursery) => {
  if (message.kind === "start") begin(message);
  else void threads.get(message.id)?.terminate();
});
