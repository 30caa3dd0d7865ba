import assert from "node:assert/strict";
import { test } from "node:test";
import { AlreadyRunningError, StateError } from "../../src/base/errors.ts";
import { layoutHash } from "../../src/state/header.ts";
import {
  H_BANK_PUBLISHED,
  H_LAYOUT_HASH,
  H_MAGIC,
  H_OWNER_PID,
  H_READY,
  H_RUN,
  H_RUN_WORDS,
  H_SECRET,
  H_SERVICES,
  H_STARTED_TICK,
  H_STOP,
  H_VERSION,
  HEADER_WORDS,
  LAYOUT_VERSION,
  MAGIC,
  planRegion,
  RUN_BEGUN,
  RUN_ENDED,
  W_BATCHES,
  W_HOP_REQUESTS,
  WORKER_WORDS,
} from "../../src/state/layout.ts";
import { attachRegion, defaultStateFile } from "../../src/state/region.ts";
import { createMemoryMapper } from "./memory-mapper.ts";
import { openSample, PATH, populate, SIZE } from "./sample-region.ts";

function words(mapper: ReturnType<typeof createMemoryMapper>, path = PATH): Int32Array {
  const file = mapper.files.get(path);
  assert.ok(file !== undefined, `${path} is there`);
  return new Int32Array(file.buffer);
}

/** The message of the StateError that opening gives. */
function refusal(mapper: ReturnType<typeof createMemoryMapper>): string {
  let message = "";
  assert.throws(
    () => openSample(mapper),
    (error) => {
      assert.ok(error instanceof StateError, String(error));
      message = error.message;
      return true;
    },
  );
  assert.equal(mapper.held(), 0, "an error gives everything back");
  return message;
}

test("a new region: header, secret, ready, not clean", () => {
  const mapper = createMemoryMapper();
  const region = openSample(mapper, { tick: 5, processId: 42 });
  const { i32, layout } = region.views;
  assert.equal(region.path, PATH);
  assert.equal(region.report.kind, "new");
  assert.equal(region.report.setAside, null);
  assert.equal(mapper.files.get(PATH)!.buffer.byteLength, layout.bytes);
  assert.equal(i32[H_MAGIC], MAGIC);
  assert.equal(i32[H_VERSION], LAYOUT_VERSION);
  assert.equal(i32[H_LAYOUT_HASH], layoutHash(planRegion(SIZE)));
  assert.deepEqual([...i32.subarray(H_SECRET, H_SECRET + 2)], [0x04030201, 0x08070605]);
  assert.equal(i32[H_READY], 1);
  assert.equal(i32[H_OWNER_PID], 42);
  assert.equal(i32[H_STARTED_TICK], 5);
  assert.equal(i32[H_RUN], RUN_BEGUN);
  region.markClean();
  assert.equal(i32[H_RUN], RUN_ENDED);
  region.close();
  region.close();
  assert.equal(mapper.held(), 0);
});

test("a second gateway is told that one is running", () => {
  const mapper = createMemoryMapper();
  openSample(mapper);
  assert.throws(() => openSample(mapper), AlreadyRunningError);
});

test("an orderly end and a death are told apart", () => {
  const mapper = createMemoryMapper();
  const first = openSample(mapper, { processId: 7 });
  first.markClean();
  first.close();
  const second = openSample(mapper, { processId: 8 });
  assert.equal(second.report.kind, "taken-over");
  assert.equal(second.report.previousProcessId, 7);
  assert.equal(second.report.previousClean, true);
  mapper.kill();
  const third = openSample(mapper);
  assert.equal(third.report.previousProcessId, 8);
  assert.equal(third.report.previousClean, false);
});

test("what belonged to the process that was is cleared; the secret stays", () => {
  const mapper = createMemoryMapper();
  const { i32, layout } = openSample(mapper).views;
  const secret = i32.slice(H_SECRET, H_SECRET + 2);
  i32[H_BANK_PUBLISHED] = 9;
  i32[H_STOP] = 1;
  i32[layout.workerWord + W_BATCHES] = 1234;
  i32[layout.workerWord + W_HOP_REQUESTS + 5] = 77;
  mapper.kill();
  const next = openSample(mapper, { random: (bytes) => new Uint8Array(bytes).fill(0xee) });
  assert.deepEqual(next.views.i32.slice(H_SECRET, H_SECRET + 2), secret);
  assert.ok(next.views.i32.subarray(H_RUN_WORDS, HEADER_WORDS).every((word) => word === 0));
  const { workerWord } = layout;
  const own = next.views.i32.subarray(workerWord, workerWord + WORKER_WORDS);
  assert.ok(own.every((word) => word === 0));
});

test("a file off tmpfs is refused: path, and what to set", () => {
  const mapper = createMemoryMapper();
  mapper.onTmpfs = false;
  assert.match(
    refusal(mapper),
    /^state file \/run\/headgate\/state: .*tmpfs.*set flows\.stateFile/,
  );
});

test("a file that is not ours is refused and left as it is", () => {
  for (const contents of ["hello", "x".repeat(100_000), `${"\0".repeat(8192)}end!`]) {
    const mapper = createMemoryMapper();
    const buffer = new Uint8Array(Buffer.from(contents)).buffer;
    mapper.files.set(PATH, { buffer, locked: false });
    assert.match(refusal(mapper), /not a state file of headgate.*move it away/);
    assert.equal(Buffer.from(mapper.files.get(PATH)!.buffer).toString(), contents);
  }
});

test("another layout version is refused in a sentence that says what to do", () => {
  const mapper = createMemoryMapper();
  openSample(mapper);
  mapper.kill();
  words(mapper)[H_VERSION] = LAYOUT_VERSION + 1;
  const before = words(mapper).slice();
  assert.equal(
    refusal(mapper),
    `state file /run/headgate/state: has layout version ${LAYOUT_VERSION + 1}, ` +
      `this headgate knows version ${LAYOUT_VERSION}; ` +
      "start the release that made it, or move the file away (its flows end then) and start again",
  );
  assert.deepEqual(words(mapper), before);
});

test("no room is the mapper's sentence, and nothing is held", () => {
  const mapper = createMemoryMapper();
  mapper.room = 1000;
  assert.match(refusal(mapper), /no room: needs \d+ bytes/);
});

test("a file that a process was making when it died is made anew, after any store", () => {
  const mapper = createMemoryMapper();
  const made = openSample(mapper);
  const header = made.views.i32.slice(0, HEADER_WORDS);
  // The stores of a new header in their order; without the last of them it is not ready.
  const order = [H_MAGIC, H_VERSION, H_LAYOUT_HASH, 3, 4, 5, 6, 7, 8, 9, 10, 12, 13, 14];
  mapper.kill();
  for (let stores = 0; stores <= order.length; stores++) {
    const i32 = words(mapper);
    i32.fill(0);
    for (const word of order.slice(0, stores)) i32[word] = header[word]!;
    const region = openSample(mapper);
    assert.equal(region.report.kind, "new", `after store ${stores}`);
    assert.equal(region.report.setAside, null);
    assert.equal(region.views.i32[H_READY], 1);
    mapper.kill();
  }
});

test("a file made anew keeps nothing of what was in it, and has its own size", () => {
  const mapper = createMemoryMapper();
  const region = openSample(mapper, { size: { ...SIZE, flowCapacity: 5000 } });
  populate(region.views, 50);
  region.views.i32[H_READY] = 0;
  mapper.kill();
  const next = openSample(mapper);
  assert.equal(next.report.kind, "new");
  assert.equal(mapper.files.get(PATH)!.buffer.byteLength, planRegion(SIZE).bytes);
  assert.ok(next.views.u8.subarray(HEADER_WORDS * 4).every((byte) => byte === 0));
});

const DAMAGES: readonly { readonly name: string; readonly patch: readonly [number, number] }[] = [
  { name: "an impossible size", patch: [H_SERVICES, -1] },
  { name: "a huge size", patch: [H_SERVICES, 1 << 30] },
  { name: "another size", patch: [H_SERVICES, SIZE.services + 1] },
  { name: "another hash", patch: [H_LAYOUT_HASH, 1] },
  { name: "another length", patch: [4, 1] },
  { name: "ready, but not quite", patch: [H_READY, 2] },
];

for (const { name, patch } of DAMAGES) {
  test(`a header that contradicts itself is set aside: ${name}`, () => {
    const mapper = createMemoryMapper();
    openSample(mapper);
    mapper.kill();
    words(mapper)[patch[0]] = patch[1];
    const damaged = words(mapper).slice();
    const region = openSample(mapper);
    assert.equal(region.report.kind, "new");
    assert.equal(region.report.setAside?.path, `${PATH}.bad-20260102T030405Z`);
    assert.match(region.report.setAside.reason, /^its header|^it has/);
    assert.deepEqual(words(mapper, region.report.setAside.path), damaged);
    assert.equal(region.views.i32[H_READY], 1);
    region.close();
    assert.equal(mapper.held(), 0);
  });
}

test("a file that was cut off is set aside", () => {
  const mapper = createMemoryMapper();
  openSample(mapper);
  mapper.kill();
  const file = mapper.files.get(PATH)!;
  file.buffer = file.buffer.slice(0, 8192);
  assert.match(openSample(mapper).report.setAside?.reason ?? "", /^it has 8192 bytes instead of/);
});

/** Kill at each of these ticks, starting again at once. @returns which starts set the file aside */
function deathsAt(ticks: readonly number[], options = {}): boolean[] {
  const mapper = createMemoryMapper();
  openSample(mapper, { tick: ticks[0]! - 1 });
  return ticks.map((tick) => {
    mapper.kill();
    return openSample(mapper, { tick, ...options }).report.setAside !== null;
  });
}

test("two deaths within 60 s set the file aside; after that it counts anew", () => {
  assert.deepEqual(deathsAt([1000, 60_999]), [false, true]);
  assert.deepEqual(deathsAt([1000, 61_000]), [false, false]);
  assert.deepEqual(deathsAt([1000, 70_000, 90_000, 91_000, 92_000]), [
    false,
    false,
    true,
    false,
    true,
  ]);
});

test("deaths are counted across the wrap of the tick, and tick 0 is one", () => {
  assert.deepEqual(deathsAt([2 ** 31 - 1000, -(2 ** 31) + 1000]), [false, true]);
  assert.deepEqual(deathsAt([0, 5]), [false, true]);
});

test("without a window no death sets a file aside", () => {
  const window = { deathWindowMs: 0 };
  assert.deepEqual(deathsAt([1, 2, 3, 4], window), [false, false, false, false]);
});

test("an orderly end between two deaths is none of them", () => {
  const mapper = createMemoryMapper();
  openSample(mapper, { tick: 1 });
  mapper.kill();
  const second = openSample(mapper, { tick: 1000 });
  second.markClean();
  second.close();
  assert.equal(openSample(mapper, { tick: 2000 }).report.setAside, null);
  mapper.kill();
  assert.notEqual(openSample(mapper, { tick: 3000 }).report.setAside, null);
});

test("a gateway that had proved the file good can be killed as often as one likes", () => {
  const mapper = createMemoryMapper();
  for (let round = 0; round < 20; round++) {
    const { report, markProven } = openSample(mapper, { tick: round * 1000 });
    assert.equal(report.setAside, null);
    assert.equal(report.previousClean, round === 0, "a new file had no owner");
    markProven();
    mapper.kill();
  }
  openSample(mapper, { tick: 30_000 }).markDoubtful();
  mapper.kill();
  const doubtful = openSample(mapper, { tick: 31_000 });
  assert.equal(doubtful.report.setAside, null, "the first death that counts");
  doubtful.markProven();
  doubtful.markDoubtful();
  mapper.kill();
  assert.notEqual(openSample(mapper, { tick: 32_000 }).report.setAside, null);
});

test("a process that dies while it takes over has died", () => {
  const mapper = createMemoryMapper();
  const first = openSample(mapper, { tick: 1 });
  first.markClean();
  first.close();
  // The second dies at the first thing it does with the records: it makes a bigger file.
  mapper.before = (operation, path) => {
    if (operation === "allocate" && path.endsWith(".new")) throw new Error("killed");
  };
  const size = { ...SIZE, flowCapacity: 128 };
  assert.throws(() => openSample(mapper, { tick: 2, size }), /killed/);
  mapper.before = () => undefined;
  assert.equal(openSample(mapper, { tick: 3 }).report.previousClean, false);
});

test("a worker attaches to the region that control has opened, and to no other", () => {
  const mapper = createMemoryMapper();
  const region = openSample(mapper);
  const attached = attachRegion(mapper, PATH, SIZE, 0);
  region.views.i32[region.views.layout.workerWord + W_BATCHES] = 99;
  assert.equal(attached.views.i32[region.views.layout.workerWord + W_BATCHES], 99);
  attached.close();
  const held = mapper.held();
  assert.throws(() => attachRegion(mapper, PATH, { ...SIZE, backends: 17 }, 0), StateError);
  assert.throws(() => attachRegion(mapper, "/run/headgate/none", SIZE, 0), StateError);
  region.views.i32[H_READY] = 0;
  assert.throws(() => attachRegion(mapper, PATH, SIZE, 0), /expected the region that this gateway/);
  assert.equal(mapper.held(), held);
});

test("the layout hash differs with every capacity", () => {
  const hashes = [
    SIZE,
    { ...SIZE, flowCapacity: 65 },
    { ...SIZE, services: 5 },
    { ...SIZE, backends: 17 },
    { ...SIZE, hashSlots: 65 },
    { ...SIZE, workers: 2 },
  ].map((size) => layoutHash(planRegion(size)));
  assert.equal(new Set(hashes).size, hashes.length);
});

test("the default place is /run where that is tmpfs, else /dev/shm", () => {
  assert.equal(
    defaultStateFile((folder) => folder === "/run"),
    "/run/headgate/state",
  );
  assert.equal(
    defaultStateFile(() => false),
    "/dev/shm/headgate/state",
  );
});
