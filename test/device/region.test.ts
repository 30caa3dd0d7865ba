import assert from "node:assert/strict";
import { execFileSync, spawn } from "node:child_process";
import { mkdtempSync, readFileSync, rmSync, statSync, symlinkSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import path from "node:path";
import { after, test } from "node:test";
import { setFlagsFromString } from "node:v8";
import { runInNewContext } from "node:vm";
import { Worker } from "node:worker_threads";
import { AlreadyRunningError, StateError } from "../../src/base/errors.ts";
import { createRegionMapper } from "../../src/device/region.ts";
import { H_OWNER_PID } from "../../src/state/layout.ts";

const regionModule = new URL("../../src/device/region.js", import.meta.url).href;
const folder = mkdtempSync("/dev/shm/headgate-region-");
after(() => rmSync(folder, { recursive: true, force: true }));

const mapper = createRegionMapper();
let made = 0;
/** A path that no other test uses. */
function freshPath(): string {
  made += 1;
  return path.join(folder, `state-${made}`);
}

/** Mappings of files whose path contains `part`, in this process. */
function mappings(part: string): number {
  return readFileSync("/proc/self/maps", "utf8")
    .split("\n")
    .filter((line) => line.includes(part)).length;
}

function descriptors(): number {
  return Number(
    execFileSync("sh", ["-c", `ls /proc/${process.pid}/fd | wc -l`], { encoding: "utf8" }),
  );
}

test("a new file is 0600, of the size asked for, zero, and lies on tmpfs", () => {
  const file = freshPath();
  const region = mapper.open(file);
  assert.equal(region.bytesAtOpen, 0);
  assert.equal(region.onTmpfs, true);
  region.allocate(1 << 20);
  const mapped = region.map();
  assert.equal(mapped.buffer.byteLength, 1 << 20);
  assert.ok(new Uint8Array(mapped.buffer).every((byte) => byte === 0));
  const status = statSync(file);
  assert.equal(status.mode & 0o777, 0o600);
  // Every page is there: no store can meet a full file system (SIGBUS).
  assert.equal(status.blocks * 512, 1 << 20);
  mapped.close();
  region.close();
});

test("two mappings show the same bytes, and the bytes outlive both", () => {
  const file = freshPath();
  const region = mapper.open(file);
  region.allocate(8192);
  const first = region.map();
  const second = mapper.attach(file, []);
  const words = new Int32Array(first.buffer);
  const seen = new Int32Array(second.buffer);
  Atomics.store(words, 100, 0x12345678);
  assert.equal(Atomics.load(seen, 100), 0x12345678);
  first.close();
  assert.equal(seen[100], 0x12345678, "closing one leaves the other");
  second.close();
  region.close();
  const again = mapper.open(file);
  assert.equal(again.bytesAtOpen, 8192);
  const third = again.map();
  assert.equal(new Int32Array(third.buffer)[100], 0x12345678);
  third.close();
  again.close();
});

test("closing detaches every view, and closing twice is fine", () => {
  const region = mapper.open(freshPath());
  region.allocate(4096);
  const mapped = region.map();
  const words = new Int32Array(mapped.buffer);
  mapped.close();
  mapped.close();
  assert.equal(words.length, 0);
  assert.equal(mapped.buffer.byteLength, 0);
  assert.equal(words[0], undefined);
  region.close();
  region.close();
  assert.throws(() => region.map(), /used after close/);
  assert.throws(() => region.allocate(4096), /used after close/);
  assert.throws(() => region.rename("x"), /used after close/);
});

test("the size can grow and shrink, and what stays is kept", () => {
  const file = freshPath();
  const region = mapper.open(file);
  region.allocate(4096);
  const small = region.map();
  new Uint8Array(small.buffer).fill(7);
  small.close();
  region.allocate(3 * 4096);
  const large = region.map();
  const bytes = new Uint8Array(large.buffer);
  assert.equal(bytes.length, 3 * 4096);
  assert.equal(bytes[4095], 7);
  assert.equal(bytes[4096], 0);
  large.close();
  region.allocate(4096);
  assert.equal(statSync(file).size, 4096);
  region.close();
});

test("a second opener is told who has the file", () => {
  const file = freshPath();
  const region = mapper.open(file);
  assert.throws(
    () => mapper.open(file),
    (error: unknown) => {
      assert.ok(error instanceof AlreadyRunningError);
      assert.match(error.message, /a process that is starting/);
      assert.equal(error.exitCode, 75);
      return true;
    },
  );
  region.allocate(4096);
  const mapped = region.map();
  new Int32Array(mapped.buffer)[H_OWNER_PID] = process.pid;
  assert.throws(() => mapper.open(file), new RegExp(`in use by process ${process.pid};`));
  mapped.close();
  region.close();
  mapper.open(file).close();
});

test("the lock follows the file when it is moved aside, and the path is free", () => {
  const file = freshPath();
  const first = mapper.open(file);
  first.allocate(4096);
  first.rename(`${file}.bad`);
  const second = mapper.open(file);
  assert.equal(second.bytesAtOpen, 0);
  assert.throws(() => mapper.open(`${file}.bad`), AlreadyRunningError);
  first.close();
  second.close();
});

test("a process that is killed leaves its data and gives up its lock", async () => {
  const file = freshPath();
  const child = spawn(
    process.execPath,
    [
      "--input-type=module",
      "-e",
      `const { createRegionMapper } = await import(${JSON.stringify(regionModule)});
       const region = createRegionMapper().open(${JSON.stringify(file)});
       region.allocate(4096);
       const words = new Int32Array(region.map().buffer);
       words[${H_OWNER_PID}] = process.pid;
       words[500] = 4242;
       console.log("ready");
       setInterval(() => {}, 1000);`,
    ],
    { stdio: ["ignore", "pipe", "inherit"] },
  );
  await new Promise((resolve) => child.stdout.once("data", resolve));
  assert.throws(() => mapper.open(file), new RegExp(`process ${child.pid};`));
  const gone = new Promise((resolve) => child.once("exit", resolve));
  child.kill("SIGKILL");
  await gone;
  const region = mapper.open(file);
  const mapped = region.map();
  assert.equal(new Int32Array(mapped.buffer)[500], 4242);
  mapped.close();
  region.close();
});

test("no room: bytes needed, bytes free and the mount; the file keeps its size", () => {
  const file = freshPath();
  const region = mapper.open(file);
  region.allocate(4096);
  assert.throws(
    () => region.allocate(2 ** 45),
    (error: unknown) => {
      assert.ok(error instanceof StateError);
      assert.match(
        error.message,
        /needs 35184372088832 bytes .* \d+ bytes are free on \/dev\/shm;/,
      );
      return true;
    },
  );
  assert.equal(statSync(file).size, 4096);
  region.close();
});

test("what cannot be opened says why and what to do", () => {
  const file = freshPath();
  assert.throws(() => mapper.open(path.join(folder, "none", "state")), /ENOENT.*make its folder/);
  assert.throws(() => mapper.open(folder), /EISDIR/);
  writeFileSync(file, "");
  symlinkSync(file, `${file}.link`);
  assert.throws(() => mapper.open(`${file}.link`), /ELOOP.*symbolic link/);
  assert.throws(() => mapper.attach(file, []), /cannot map/, "an empty file has nothing to map");
  assert.throws(() => mapper.attach(freshPath(), []), /ENOENT/);
});

test("a file system on disk is told apart", (context) => {
  const disk = mkdtempSync(path.join(tmpdir(), "headgate-region-"));
  const type = execFileSync("stat", ["-f", "-c", "%T", disk], { encoding: "utf8" }).trim();
  const region = mapper.open(path.join(disk, "state"));
  context.diagnostic(`${disk} is ${type}`);
  assert.equal(region.onTmpfs, type === "tmpfs" || type === "ramfs");
  region.close();
  rmSync(disk, { recursive: true });
});

test("mapping and unmapping 200 times leaves no mapping and no descriptor", () => {
  const file = freshPath();
  const before = descriptors();
  for (let i = 0; i < 200; i += 1) {
    const region = mapper.open(file);
    region.allocate(65536);
    const mapped = region.map();
    const attached = mapper.attach(file, []);
    mapped.close();
    attached.close();
    region.close();
  }
  assert.equal(mappings(file), 0);
  assert.equal(descriptors(), before);
});

test("a mapping that nobody refers to is unmapped by the collector", async () => {
  const file = freshPath();
  const region = mapper.open(file);
  region.allocate(65536);
  (() => {
    for (let i = 0; i < 20; i += 1) new Int32Array(region.map().buffer)[i] = i;
  })();
  assert.equal(mappings(file), 20);
  setFlagsFromString("--expose-gc");
  const collect = runInNewContext("gc") as () => void;
  for (let i = 0; i < 20 && mappings(file) > 0; i += 1) {
    collect();
    await new Promise((resolve) => setImmediate(resolve));
  }
  assert.equal(mappings(file), 0);
  region.close();
});

test("a view keeps the mapping, though nobody holds the region any more", async () => {
  const region = mapper.open(freshPath());
  region.allocate(4096);
  const words = (() => new Int32Array(region.map().buffer))();
  setFlagsFromString("--expose-gc");
  const collect = runInNewContext("gc") as () => void;
  for (let i = 0; i < 5; i += 1) {
    collect();
    await new Promise((resolve) => setImmediate(resolve));
  }
  words[3] = 33;
  assert.equal(words[3], 33);
  region.close();
});

test("mapped memory cannot be transferred to another thread", () => {
  const region = mapper.open(freshPath());
  region.allocate(4096);
  const mapped = region.map();
  let moved: ArrayBuffer | undefined;
  try {
    moved = structuredClone(mapped.buffer, { transfer: [mapped.buffer] });
  } catch (error) {
    // From Node 21 on it is refused; Node 20 gives a copy.
    assert.equal((error as Error).name, "DataCloneError");
  }
  assert.equal(mapped.buffer.byteLength, 4096, "it stays here");
  new Uint8Array(mapped.buffer)[0] = 9;
  if (moved !== undefined) assert.equal(new Uint8Array(moved)[0], 0, "what was given is a copy");
  assert.throws(() => structuredClone(mapped), { name: "DataCloneError" });
  mapped.close();
  region.close();
});

for (const [ending, statement] of [
  ["ends", "parentPort.close();"],
  ["exits", "process.exit(0);"],
  ["is terminated", "setInterval(() => {}, 1000);"],
] as const) {
  test(`a thread that ${ending} leaves no mapping`, async () => {
    const file = freshPath();
    const region = mapper.open(file);
    region.allocate(65536);
    const worker = new Worker(
      `import { parentPort } from "node:worker_threads";
       const { createRegionMapper } = await import(${JSON.stringify(regionModule)});
       const mapped = createRegionMapper().attach(${JSON.stringify(file)}, []);
       globalThis.words = new Int32Array(mapped.buffer);
       globalThis.words[0] = 77;
       parentPort.postMessage("mapped");
       parentPort.once("message", () => { ${statement} });`,
      { eval: true, execArgv: ["--input-type=module"] },
    );
    await new Promise((resolve, reject) => {
      worker.once("message", resolve);
      worker.once("error", reject);
    });
    assert.equal(mappings(file), 1);
    const ended = new Promise((resolve) => worker.once("exit", resolve));
    if (ending === "is terminated") await worker.terminate();
    else worker.postMessage("end");
    await ended;
    assert.equal(mappings(file), 0);
    const mapped = region.map();
    assert.equal(new Int32Array(mapped.buffer)[0], 77);
    mapped.close();
    region.close();
  });
}
