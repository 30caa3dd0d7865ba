import { setPriority } from "node:os";
import { Worker } from "node:worker_threads";
import { reasonOf } from "../../base/log.ts";
import { giveUpCapabilities } from "../../device/privileges-native.ts";
import type { Failure, FromNursery, FromThread, ThreadData, ToNursery } from "./protocol.ts";

/**
 * The process that the threads of a module come from. A thread has the capabilities and the priority of
 * the one that makes it: this one gives up all it has before the first, and runs no code but this. Its
 * children cannot load an addon (--no-addons) and see no environment. It ends with the gateway.
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

const threads = new Map<number, Worker>();

function say(message: FromNursery): void {
  if (process.connected) process.send?.(message);
}

function begin({ id, name, files, tableSizeMax }: ToNursery & { kind: "start" }): void {
  let failure: Failure = "exit";
  let message = "";
  const worker = new Worker(new URL("./thread.js", import.meta.url), {
    name: `headgate policy ${name}`,
    workerData: { files, tableSizeMax } satisfies ThreadData,
    execArgv: ["--no-addons"],
    env: {},
    stdout: true,
    stderr: true,
    resourceLimits: RESOURCE_LIMITS,
  });
  threads.set(id, worker);
  worker.stdout.resume();
  worker.stderr.resume();
  worker.on("message", (said: FromThread) => say({ kind: "said", id, message: said }));
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
    say({ kind: "ended", id, failure, message });
  });
}

giveUpCapabilities();
setPriority(0, NICENESS);
process.on("message", (message: ToNursery) => {
  if (message.kind === "start") begin(message);
  else if (message.kind === "call") threads.get(message.id)?.postMessage(message.message);
  else void threads.get(message.id)?.terminate();
});
// An exit in order waits for threads, and one of them may loop.
process.on("disconnect", () => process.kill(process.pid, "SIGKILL"));
