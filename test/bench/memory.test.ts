import assert from "node:assert/strict";
import { spawnSync } from "node:child_process";
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import path from "node:path";
import { test } from "node:test";
import { fileURLToPath } from "node:url";
import {
  clientOf,
  createFrameStore,
  type FrameFields,
  STORE_BYTES,
  writeFrame,
} from "../../bench/memory/frame-store.ts";
import type { MemoryResult } from "../../bench/memory/measure.ts";
import { compareOutputs } from "../../bench/memory/reference.ts";
import {
  formatMemory,
  MEMORY_CASES,
  memoryName,
  type ResidentResult,
} from "../../bench/memory/suite.ts";
import type { WorkersResult } from "../../bench/memory/workers.ts";
import { tcpPacket, udpPacket } from "../support/frames.ts";

const CHILD = fileURLToPath(new URL("../../bench/child.js", import.meta.url));

function child(...args: (string | number)[]): unknown {
  const { status, stdout, stderr } = spawnSync(process.execPath, [CHILD, ...args.map(String)], {
    encoding: "utf8",
    timeout: 120_000,
  });
  assert.equal(status, 0, stderr);
  return JSON.parse(stdout.trimEnd().split("\n").at(-1)!);
}

for (const mode of ["nat", "full-nat"] as const) {
  for (const protocol of ["tcp", "udp"] as const) {
    test(`${mode}, ${protocol}: fast path and C++ send the same bytes, and drop nothing`, () => {
      const one = { mode, protocol, flows: 3000, services: 7, backends: 11 };
      const result = child("memory", JSON.stringify(one), 1) as MemoryResult;
      assert.equal(result.comparedFrames, 65_536);
      assert.equal(result.ns.length, 1);
      assert.equal(result.referenceNs.length, 1);
      assert.equal(result.bytesPerFlow, 100);
      assert.ok(result.ns[0]! > 0 && result.referenceNs[0]! > 0);
    });
  }
}

test("one wrong byte of the reference is found, and named", (t) => {
  const folder = mkdtempSync(path.join(tmpdir(), "headgate-bench-"));
  t.after(() => rmSync(folder, { recursive: true }));
  const file = path.join(folder, "sent");
  const sent = Uint8Array.from({ length: 5 * STORE_BYTES }, (_, at) => at * 7);
  writeFileSync(file, sent);
  compareOutputs(file, sent);
  for (let at = 0; at < sent.length; at++) {
    const wrong = sent.slice();
    wrong[at]! ^= 1;
    writeFileSync(file, wrong);
    const place = new RegExp(
      `^Error: frame ${Math.floor(at / STORE_BYTES)} differs .* at byte ${(at % STORE_BYTES) - 2}: no ratio`,
    );
    assert.throws(() => compareOutputs(file, sent), place);
  }
  writeFileSync(file, sent.subarray(0, 2 * STORE_BYTES));
  assert.throws(() => compareOutputs(file, sent), /sent 2 frames only/);
  writeFileSync(file, Uint8Array.of(...sent, 0));
  assert.throws(() => compareOutputs(file, sent), /sent more/);
});

test("frames of the store are those that the tests' own builder makes", () => {
  const store = createFrameStore(2);
  const fields: FrameFields = {
    side: 1,
    destinationMacHigh: 0x02000000,
    destinationMacLow: 0x0201,
    sourceMacHigh: 0x02000a14,
    sourceMacLow: 0x000b,
    protocol: 17,
    source: 0x0a14000b,
    destination: 0x64400102,
    ports: (8080 << 16) | 40_000,
    tcpFlags: 0,
  };
  writeFrame(store, 0, fields);
  writeFrame(store, 1, { ...fields, protocol: 6, tcpFlags: 16 });
  const ends = {
    source: fields.source,
    sourcePort: 8080,
    destination: fields.destination,
    destinationPort: 40_000,
  };
  const packet = (index: number): Uint8Array =>
    store.bytes.slice(index * STORE_BYTES + 16, index * STORE_BYTES + 62);
  const udp = udpPacket({ ...ends, data: new Uint8Array(18) });
  const tcp = tcpPacket({
    ...ends,
    flags: 16,
    sequence: 0x01020304,
    acknowledgement: 0x05060708,
    window: 0xffff,
    data: new Uint8Array(6),
  });
  // The identification is the builder's own choice: its word and the checksum differ by it.
  for (const [index, expected] of [udp, tcp].entries()) {
    const own = packet(index);
    assert.deepEqual(own.subarray(20), expected.subarray(20));
    assert.deepEqual(own.subarray(12, 20), expected.subarray(12, 20));
    assert.equal(own.length, expected.length);
  }
  assert.deepEqual([...store.bytes.subarray(0, 2)], [1, 60]);
});

test("no two clients are the same, and addresses and ports are without order", () => {
  const to = new Int32Array(2);
  const seen = new Set<number>();
  let ascending = 0;
  let last = 0;
  for (let id = 0; id < 100_000; id++) {
    clientOf(id, to);
    assert.ok(to[1]! >= 1024 && to[1]! <= 65_535);
    assert.equal(to[0]! >>> 22, 0x64400000 >>> 22);
    seen.add((to[0]! & 0x3fffff) * 65_536 + to[1]!);
    if (to[0]! > last) ascending++;
    last = to[0]!;
  }
  assert.equal(seen.size, 100_000);
  assert.ok(ascending > 45_000 && ascending < 55_000);
});

test("two workers both run, and the resident set counts the region", () => {
  const one = { mode: "nat", protocol: "udp", flows: 100, services: 1, backends: 3 };
  const { oneMpps, twoMpps } = child("workers", JSON.stringify(one), 1, 20) as WorkersResult;
  assert.ok(oneMpps[0]! > 0 && twoMpps[0]! > 0);
  const resident = child("resident", 1000) as ResidentResult;
  assert.ok(resident.withFlowsBytes > resident.beforeBytes);
});

test("every case has a name of its own, and its row", () => {
  assert.equal(new Set(MEMORY_CASES.map(memoryName)).size, MEMORY_CASES.length);
  const [one] = MEMORY_CASES;
  const text = formatMemory({
    cases: [
      {
        ...one!,
        ns: [60, 80, 70],
        referenceNs: [30, 40, 35],
        comparedFrames: 65_536,
        bytesPerPacket: 0,
        collections: 0,
        deoptimisations: 0,
        bytesPerFlow: 100,
      },
    ],
    workers: [],
    resident: null,
  });
  assert.match(text, /3 backends +\| +70 \(60-80\) \| +35 \(30-40\) \| +2\.00 \|/);
});
