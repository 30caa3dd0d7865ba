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
  STORE_BYTES_IPV6,
  writeFrame,
  writeFrame6,
} from "../../bench/memory/frame-store.ts";
import type { MemoryResult, SteadyResult } from "../../bench/memory/measure.ts";
import { compareOutputs } from "../../bench/memory/reference.ts";
import { checkSent } from "../../bench/memory/slow-nat.ts";
import {
  formatMemory,
  IPV6_CASES,
  MEMORY_CASES,
  memoryName,
  type ResidentResult,
} from "../../bench/memory/suite.ts";
import type { WorkersResult } from "../../bench/memory/workers.ts";
import { parseIpv6 } from "../../src/base/address.ts";
import { tcpPacket, udpPacket } from "../support/frames.ts";
import { tcpPacket6, udpPacket6 } from "../support/frames6.ts";
import { frameOf, tcp6, udp6 } from "../support/packets6.ts";

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

for (const [mode, family, protocol] of [
  ["nat", "ipv6", "tcp"],
  ["full-nat", "ipv6", "udp"],
  ["full-nat", "ipv6-ipv4", "tcp"],
] as const) {
  test(`${mode}, ${family}, ${protocol}: every frame is what a NAT sends, and nothing is dropped`, () => {
    const one = { mode, family, protocol, flows: 3000, services: 7, backends: 11 };
    const result = child("alone", JSON.stringify(one), 1) as SteadyResult;
    assert.equal(result.comparedFrames, 65_536);
    assert.ok(result.ns.length === 1 && result.ns[0]! > 0);
    // Record, extension, index and place in the free list.
    assert.equal(result.bytesPerFlow, 64 + 64 + 32 + 4);
  });
}

/** One flow of full-nat over IPv6, a frame of each direction: received, and as a NAT sends it. */
function natPair(protocol: "tcp" | "udp"): { received: Uint8Array[]; sent: Uint8Array[] } {
  const build = protocol === "tcp" ? tcp6 : udp6;
  const gateway = ["02:00:00:00:01:01", "02:00:00:00:02:01"] as const;
  const router = "02:00:00:00:01:02";
  // The second of three: 10.20.0.11 in its last word.
  const host = "02:00:0a:14:00:0b";
  const client = { source: "2001:db8:1::6440:102", sourcePort: 40_000 };
  const vip = { destination: "2001:db8:ff::cb00:7000", destinationPort: 80 };
  const snat = { source: "2001:db8:2:1::3f", sourcePort: 1024 };
  const backend = { destination: "2001:db8:2::a14:b", destinationPort: 8080 };
  const back = (one: typeof client, other: typeof vip) => ({
    source: other.destination,
    sourcePort: other.destinationPort,
    destination: one.source,
    destinationPort: one.sourcePort,
  });
  const ip = { hopLimit: 63 };
  return {
    received: [
      frameOf(build({ ...client, ...vip }), { destination: gateway[0], source: router }),
      frameOf(build(back(snat, backend)), { destination: gateway[1], source: host }),
    ],
    sent: [
      frameOf(build({ ...snat, ...backend, ip }), { destination: host, source: gateway[1] }),
      frameOf(build({ ...back(client, vip), ip }), { destination: router, source: gateway[0] }),
    ],
  };
}

test("the slow NAT takes what a NAT sends, and finds each byte that is wrong", () => {
  for (const protocol of ["tcp", "udp"] as const) {
    const { received, sent } = natPair(protocol);
    const one = {
      mode: "full-nat",
      family: "ipv6",
      protocol,
      flows: 1,
      services: 1,
      backends: 3,
    } as const;
    // The backend's frame first: the binding is told by the client's all the same.
    const store = { ...createFrameStore(3, STORE_BYTES_IPV6), frames: 3 };
    const out = new Uint8Array(store.bytes.length);
    for (const [index, side] of [1, 0, 0].entries()) {
      const at = index * STORE_BYTES_IPV6;
      store.bytes.set([side, received[side]!.length, ...received[side]!], at);
      out.set([1 - side, sent[side]!.length, ...sent[side]!], at);
    }
    checkSent(store, out, one);
    let tried = 0;
    for (let at = 0; at < out.length; at++) {
      if (at % STORE_BYTES_IPV6 >= 2 + sent[0]!.length) continue;
      const wrong = out.slice();
      wrong[at]! ^= 1;
      assert.throws(() => checkSent(store, wrong, one), /^Error: frame \d is not what a NAT sends/);
      tried++;
    }
    assert.equal(tried, 3 * (2 + (protocol === "tcp" ? 74 : 62)));
    // Well-formed, but of an address that is in no pool.
    const stranger = { source: "2001:db8:2:1::40", sourcePort: 1024 };
    const backend = { destination: "2001:db8:2::a14:b", destinationPort: 8080 };
    const packet = (protocol === "tcp" ? tcp6 : udp6)({
      ...stranger,
      ...backend,
      ip: { hopLimit: 63 },
    });
    for (const index of [1, 2]) out.set(packet, index * STORE_BYTES_IPV6 + 16);
    assert.throws(() => checkSent(store, out, one), /\(source\)/);
  }
});

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

test("IPv6 frames of the store are those that the tests' own builder makes", () => {
  const store = createFrameStore(2, STORE_BYTES_IPV6);
  const source = "2001:db8:2::a14:b";
  const destination = "2001:db8:1::6440:102";
  const words = Int32Array.of(...parseIpv6(source)!, ...parseIpv6(destination)!);
  const fields: FrameFields = {
    side: 1,
    destinationMacHigh: 0x02000000,
    destinationMacLow: 0x0201,
    sourceMacHigh: 0x02000a14,
    sourceMacLow: 0x000b,
    protocol: 17,
    source: 0,
    destination: 0,
    ports: (8080 << 16) | 40_000,
    tcpFlags: 0,
  };
  writeFrame6(store, 0, fields, words, 0, 4);
  writeFrame6(store, 1, { ...fields, protocol: 6, tcpFlags: 16 }, words, 0, 4);
  const ends = { source, sourcePort: 8080, destination, destinationPort: 40_000 };
  const macs = { destination: "02:00:00:00:02:01", source: "02:00:0a:14:00:0b" };
  const numbers = { sequence: 0x01020304, acknowledgement: 0x05060708, window: 0xffff };
  const packets = [udpPacket6(ends), tcpPacket6({ ...ends, ...numbers, flags: 16 })];
  for (const [index, packet] of packets.entries()) {
    const frame = frameOf(packet, macs);
    const at = index * STORE_BYTES_IPV6;
    assert.deepEqual([...store.bytes.subarray(at, at + 2)], [1, frame.length]);
    assert.deepEqual(store.bytes.slice(at + 2, at + 2 + frame.length), frame);
  }
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
  const all = [...MEMORY_CASES, ...IPV6_CASES];
  assert.equal(new Set(all.map(memoryName)).size, all.length);
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
    ipv6: [
      {
        ...IPV6_CASES.at(-1)!,
        ns: [260, 270, 280],
        comparedFrames: 131_072,
        bytesPerPacket: 0,
        collections: 0,
        deoptimisations: 0,
        bytesPerFlow: 164,
      },
    ],
    workers: [],
    resident: null,
  });
  assert.match(text, /IPv6 to IPv4, .* 270 \(260-280\) \| +- \| +- \| +3\.70 \|/);
  assert.match(text, /^With room for IPv6 \(extensions too\): 164 bytes a connection\.$/m);
  assert.match(text, /3 backends +\| +70 \(60-80\) \| +35 \(30-40\) \| +2\.00 \|/);
});
