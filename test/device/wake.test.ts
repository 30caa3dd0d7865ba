import assert from "node:assert/strict";
import { existsSync, readSync } from "node:fs";
import { test } from "node:test";
import { Worker } from "node:worker_threads";
import { DeviceError } from "../../src/base/errors.ts";
import { createWake } from "../../src/device/wake.ts";

const wakeModule = new URL("../../src/device/wake.js", import.meta.url).href;

/** Reads the eventfd's counter; undefined when it is 0 (EAGAIN). */
function readCounter(fd: number): bigint | undefined {
  const bytes = Buffer.alloc(8);
  try {
    readSync(fd, bytes);
  } catch (error) {
    if (error instanceof Error && "code" in error && error.code === "EAGAIN") return undefined;
    throw error;
  }
  return bytes.readBigUInt64LE();
}

test("wakes before a wait count as one wait's end", () => {
  const wake = createWake();
  assert.equal(readCounter(wake.fd), undefined);
  wake.wake();
  wake.wake();
  assert.equal(readCounter(wake.fd), 2n);
  assert.equal(readCounter(wake.fd), undefined);
  wake.close();
});

test("a closed wake says so, and closing twice is fine", () => {
  const wake = createWake();
  wake.close();
  wake.close();
  assert.throws(
    () => wake.wake(),
    (error: unknown) => {
      assert.ok(error instanceof DeviceError);
      assert.match(error.message, /closed/);
      return true;
    },
  );
});

test("the descriptor of another thread's wake works here, and goes with that thread", async () => {
  const worker = new Worker(
    `import { parentPort } from "node:worker_threads";
     const { createWake } = await import(${JSON.stringify(wakeModule)});
     const wake = createWake();
     wake.wake();
     parentPort.postMessage(wake.fd);
     parentPort.once("message", () => parentPort.close());`,
    { eval: true, execArgv: ["--input-type=module"] },
  );
  const fd = await new Promise<number>((resolve, reject) => {
    worker.once("message", resolve);
    worker.once("error", reject);
  });
  assert.equal(readCounter(fd), 1n);
  assert.ok(existsSync(`/proc/self/fd/${fd}`));
  const ended = new Promise((resolve) => worker.once("exit", resolve));
  worker.postMessage("end");
  await ended;
  assert.ok(!existsSync(`/proc/self/fd/${fd}`), "the thread's wake is closed");
});

test("a wake cannot be handed to another thread", () => {
  const wake = createWake();
  assert.throws(() => structuredClone(wake), { name: "DataCloneError" });
  wake.close();
});
