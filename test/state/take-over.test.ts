import assert from "node:assert/strict";
import { test } from "node:test";
import fc from "fast-check";
import { HeadgateError } from "../../src/base/errors.ts";
import { createRandom } from "../../src/base/random.ts";
import { recordIsSound } from "../../src/flow/check-record.ts";
import {
  BACKEND_SLOT_BITS,
  backendSlotOf,
  F_BACKEND,
  F_BACKEND_REPLY_PORTS,
  F_CLIENT_ADDR,
  F_CLIENT_VIP_PORTS,
  F_STATE,
  F_VERSION,
  FLAG_ACTIVE,
  FLOW_WORDS,
  GENERATION_MASK,
  protocolOf,
  STATE_FREE,
  STATE_SYN_SENT,
} from "../../src/flow/flow-record.ts";
import { createFlowTable } from "../../src/flow/flow-table.ts";
import { OWNER_ADDRESS_ONLY, OWNER_PORT_COUNTS, ownerOfClient } from "../../src/flow/owner.ts";
import {
  B_ADMIN,
  B_GENERATION,
  B_PROTOCOL,
  B_SERVICE,
  B_USED,
  B_WEIGHT_OVERRIDE,
  BACKEND_WORDS,
  BF_CONNECTIONS,
  BF_PACKETS_IN,
  R_CURRENT_WEIGHT,
  R_FLOWS,
  SERVICE_SLOT_WORDS,
  V_CURSOR,
  V_USED,
} from "../../src/service/backend-slots.ts";
import {
  backendActive,
  backendFlows,
  backendRunWord,
  backendTotal,
  serviceRunWord,
} from "../../src/service/runs.ts";
import {
  H_FLOWS_SCATTERED,
  H_OWNER_PORT_MASK,
  H_READY,
  H_SECRET,
  KEY_BYTES,
  type RegionSize,
  type RegionViews,
  viewShard,
  W_FLOWS_USED,
} from "../../src/state/layout.ts";
import type { Region } from "../../src/state/region.ts";
import { counterTotal } from "../../src/state/shards.ts";
import { findOriginal, findReply, insertSample } from "../flow/sample-flows.ts";
import { createMemoryMapper } from "./memory-mapper.ts";
import {
  backendWord,
  flowOf,
  generationOf,
  openSample,
  PATH,
  populate,
  SIZE,
  serviceWord,
  useBackend,
  useService,
} from "./sample-region.ts";

// Goal: the next process goes on with what is whole, and follows nothing else.
// Method: regions with flows are left behind, changed in many ways, and opened again.

function counts(region: Region): readonly number[] {
  const { flowsKept, flowsDropped, flowsNoRoom, slotsDropped } = region.report;
  return [flowsKept, flowsDropped, flowsNoRoom, slotsDropped];
}

/** Every flow is sound, indexed, and counted in a slot that is in use with its generation. */
function checkRegion(views: RegionViews): number {
  const { layout } = views;
  const flows = new Int32Array(layout.backends);
  const active = new Int32Array(layout.backends);
  const live = layout.shards.reduce(
    (sum, { worker }) => sum + checkShard(viewShard(views, worker), flows, active),
    0,
  );
  for (let slot = 0; slot < layout.backends; slot++) {
    assert.equal(backendFlows(views, slot), flows[slot], `flows of slot ${slot}`);
    assert.equal(backendActive(views, slot), active[slot], `active flows of slot ${slot}`);
  }
  return live;
}

function checkShard(views: RegionViews, flows: Int32Array, active: Int32Array): number {
  const { i32, layout } = views;
  const table = createFlowTable(views);
  let live = 0;
  for (let row = 0; row < layout.flowCapacity; row++) {
    const at = table.word(row);
    if (i32[at + F_STATE] === STATE_FREE) continue;
    live++;
    assert.ok(recordIsSound(i32, at), `row ${row}`);
    const word = (index: number): number => i32[at + index]!;
    const protocol = protocolOf(word(F_STATE));
    assert.equal(table.find(protocol, word(2), word(3), word(4)), row << 1);
    assert.equal(table.find(protocol, word(5), word(6), word(7)), (row << 1) | 1);
    const slot = backendSlotOf(word(F_BACKEND));
    assert.equal(i32[backendWord(views, slot) + B_USED], 1);
    assert.equal(
      i32[backendWord(views, slot) + B_GENERATION]! & GENERATION_MASK,
      word(F_BACKEND) >>> BACKEND_SLOT_BITS,
    );
    flows[slot]!++;
    if ((word(F_STATE) & FLAG_ACTIVE) !== 0) active[slot]!++;
  }
  assert.equal(table.used(), live);
  return live;
}

/** Live records by key, without version. */
function records(views: RegionViews): Map<string, string> {
  const { i32, layout } = views;
  const all = new Map<string, string>();
  for (const { flows, flowCapacity } of layout.shards) {
    for (let row = 0; row < flowCapacity; row++) {
      const at = (flows.at >> 2) + row * FLOW_WORDS;
      if (i32[at + F_STATE] === STATE_FREE) continue;
      const words = i32.subarray(at + 1, at + FLOW_WORDS);
      all.set(words.subarray(1, 4).join(), words.join());
    }
  }
  return all;
}

function slotBytes(views: RegionViews, slot: number): readonly number[] {
  const { u8, layout } = views;
  const record = layout.backendSlots.at + slot * BACKEND_WORDS * 4;
  const key = layout.backendKeys.at + slot * KEY_BYTES;
  return [...u8.subarray(record, record + BACKEND_WORDS * 4), ...u8.subarray(key, key + KEY_BYTES)];
}

test("every flow goes on after a kill, at its row, with slots, keys and counters", () => {
  const mapper = createMemoryMapper();
  const { views } = openSample(mapper);
  const { table, flows } = populate(views, 60);
  for (const row of [3, 17, 58]) table.remove(row);
  insertSample(table, flowOf(2, 500, { flags: FLAG_ACTIVE }));
  views.f64[(views.layout.counters.at >> 3) + 5] = 12_345;
  const before = records(views);
  // Whatever the worker has counted, the take-over counts again.
  views.i32[backendRunWord(views, 0, 2) + R_FLOWS] = -7;
  const slot = slotBytes(views, 1);
  mapper.kill();
  const region = openSample(mapper);
  assert.equal(region.report.kind, "taken-over");
  assert.deepEqual(counts(region), [58, 0, 0, 0]);
  assert.deepEqual(records(region.views), before);
  assert.equal(checkRegion(region.views), 58);
  assert.equal(region.views.f64[(region.views.layout.counters.at >> 3) + 5], 12_345);
  assert.deepEqual(slotBytes(region.views, 1), slot);
  const next = createFlowTable(region.views);
  assert.equal(findOriginal(next, flows[0]!), 0);
  assert.equal(findReply(next, flows[59]!), (59 << 1) | 1);
});

test("index, free list, mark and count are made anew, whatever they were", () => {
  const mapper = createMemoryMapper();
  const { views } = openSample(mapper);
  populate(views, 40);
  const { flowIndex, flowFree } = views.layout;
  views.i32.fill(-1, flowIndex.at >> 2, (flowIndex.at + flowIndex.bytes) >> 2);
  views.i32.fill(-1, flowFree.at >> 2, (flowFree.at + flowFree.bytes) >> 2);
  views.i32[26] = 9999;
  views.i32[27] = -9999;
  mapper.kill();
  const region = openSample(mapper);
  assert.equal(checkRegion(region.views), 40);
  const table = createFlowTable(region.views);
  for (let id = 40; id < 64; id++) assert.ok(insertSample(table, flowOf(1, 1000 + id)) >= 0);
});

test("half-written and damaged records are dropped, counted, and their rows used again", () => {
  const mapper = createMemoryMapper();
  const { views } = openSample(mapper);
  const { table } = populate(views, 10);
  views.i32[table.word(1) + F_VERSION]!++; // the worker was writing it
  views.i32[table.word(2) + F_CLIENT_ADDR]! ^= 1 << 13;
  views.i32[table.word(3) + F_BACKEND]! ^= 1 << 20; // another generation
  views.i32[table.word(4) + F_BACKEND] = 0xffff; // no such slot
  views.i32[table.word(5) + F_STATE] = 77;
  mapper.kill();
  const region = openSample(mapper);
  assert.deepEqual(counts(region), [5, 5, 0, 0]);
  checkRegion(region.views);
  const next = createFlowTable(region.views);
  const rows = Array.from({ length: 5 }, (_, id) => insertSample(next, flowOf(0, 900 + id)));
  assert.deepEqual(rows, [1, 2, 3, 4, 5]);
});

const SLOT_DAMAGES: readonly {
  readonly name: string;
  readonly patch: readonly [word: number, value: number];
}[] = [
  { name: "used, but not quite", patch: [B_USED, 2] },
  { name: "a service that is none", patch: [B_SERVICE, SIZE.services] },
  { name: "a negative service", patch: [B_SERVICE, -1] },
  { name: "another protocol", patch: [B_PROTOCOL, 1] },
  { name: "an admin state that is none", patch: [B_ADMIN, 3] },
  { name: "an override that is none", patch: [B_WEIGHT_OVERRIDE, 65_536] },
];

for (const { name, patch } of SLOT_DAMAGES) {
  test(`a damaged backend slot is freed, and its flows with it: ${name}`, () => {
    const mapper = createMemoryMapper();
    const { views } = openSample(mapper);
    populate(views, 32); // two of each of the 16 backends
    views.i32[backendWord(views, 6) + patch[0]] = patch[1];
    mapper.kill();
    const region = openSample(mapper);
    assert.deepEqual(counts(region), [30, 2, 0, 1]);
    checkRegion(region.views);
    const at = backendWord(region.views, 6);
    assert.equal(region.views.i32[at + B_USED], 0);
    assert.equal(region.views.i32[at + B_GENERATION], generationOf(6) + 1);
    assert.ok(
      slotBytes(region.views, 6)
        .slice(BACKEND_WORDS * 4)
        .every((byte) => byte === 0),
    );
  });
}

test("a damaged service slot is freed; one that is free stays as it is", () => {
  const mapper = createMemoryMapper();
  const { views } = openSample(mapper);
  populate(views, 0);
  views.i32[serviceWord(views, 1) + V_USED] = 5;
  mapper.kill();
  const region = openSample(mapper);
  assert.equal(region.report.slotsDropped, 1);
  assert.equal(region.views.i32[serviceWord(region.views, 1) + V_USED], 0);
  assert.equal(region.views.i32[serviceWord(region.views, 2) + V_USED], 1);
});

for (const flowCapacity of [SIZE.flowCapacity, SIZE.flowCapacity + 1]) {
  test(`counters that are no counts begin at 0 again (${flowCapacity} rows)`, () => {
    const mapper = createMemoryMapper();
    const { views } = openSample(mapper);
    populate(views, 4);
    const counters = views.layout.counters.at >> 3;
    views.f64.set([Number.NaN, Number.POSITIVE_INFINITY, -1, 42], counters);
    const packets = (backendRunWord(views, 0, 3) >> 1) + BF_PACKETS_IN;
    views.f64[packets] = Number.NaN;
    mapper.kill();
    const next = openSample(mapper, { size: { ...SIZE, flowCapacity } }).views;
    const at = next.layout.counters.at >> 3;
    assert.deepEqual([...next.f64.subarray(at, at + 4)], [0, 0, 0, 42]);
    assert.equal(next.f64[(backendRunWord(next, 0, 3) >> 1) + BF_PACKETS_IN], 0);
  });
}

test("more rows, slots and services: every flow is moved, slots keep their numbers", () => {
  const mapper = createMemoryMapper();
  const { views } = openSample(mapper);
  const { table } = populate(views, 60);
  table.remove(30);
  views.i32[serviceRunWord(views, 0, 3) + V_CURSOR] = 11;
  views.i32[backendRunWord(views, 0, 5) + R_CURRENT_WEIGHT] = -7;
  views.f64[(views.layout.counters.at >> 3) + 5] = 6;
  views.u8[views.layout.samples.at + 3] = 9;
  const before = records(views);
  const secret = views.i32.slice(H_SECRET, H_SECRET + 2);
  mapper.kill();
  const size = { flowCapacity: 1000, services: 9, backends: 40, hashSlots: 128, workers: 1 };
  const region = openSample(mapper, { size });
  assert.equal(region.report.kind, "resized");
  assert.equal(region.report.previousClean, false);
  assert.deepEqual(counts(region), [59, 0, 0, 0]);
  assert.deepEqual(records(region.views), before);
  assert.equal(checkRegion(region.views), 59);
  assert.deepEqual(region.views.i32.slice(H_SECRET, H_SECRET + 2), secret);
  assert.equal(region.views.i32[serviceRunWord(region.views, 0, 3) + V_CURSOR], 11);
  assert.equal(region.views.i32[backendRunWord(region.views, 0, 5) + R_CURRENT_WEIGHT], -7);
  assert.equal(region.views.f64[(region.views.layout.counters.at >> 3) + 5], 6);
  assert.equal(region.views.u8[region.views.layout.samples.at + 3], 9);
  assert.deepEqual(slotBytes(region.views, 5), slotBytes(views, 5));
  assert.deepEqual([...mapper.files.keys()], [PATH]);
  region.close();
  assert.equal(mapper.held(), 0);
});

test("fewer rows: flows that carry data go on, half-open ones stay behind, and are counted", () => {
  const mapper = createMemoryMapper();
  const { views } = openSample(mapper);
  populate(views, 0);
  const table = createFlowTable(views);
  for (let id = 0; id < 64; id++) {
    insertSample(table, flowOf(id % 16, id, id % 2 === 0 ? { state: STATE_SYN_SENT } : {}));
  }
  mapper.kill();
  const region = openSample(mapper, { size: { ...SIZE, flowCapacity: 40 } });
  assert.deepEqual(counts(region), [40, 0, 24, 0]);
  checkRegion(region.views);
  const next = createFlowTable(region.views);
  for (let id = 1; id < 64; id += 2) assert.ok(findOriginal(next, flowOf(id % 16, id)) >= 0);
});

test("fewer slots: those whose number does not fit stay behind, with their flows", () => {
  const mapper = createMemoryMapper();
  const { views } = openSample(mapper);
  populate(views, 64); // four of each of 16 backends, on services slot % 4
  views.i32[(views.layout.flows.at >> 2) + 5 * FLOW_WORDS + F_CLIENT_ADDR]! ^= 1;
  mapper.kill();
  const region = openSample(mapper, { size: { ...SIZE, backends: 10, services: 3 } });
  // Left: backends 10-15 and service 3; dropped: backends 3 and 7 of service 3, which is gone.
  assert.equal(region.report.slotsDropped, 6 + 1 + 2);
  assert.deepEqual(counts(region).slice(0, 3), [4 * 8 - 1, 1, 4 * 8]);
  checkRegion(region.views);
  assert.equal(region.views.i32[backendWord(region.views, 9) + B_WEIGHT_OVERRIDE], 9);
});

test("damage is found when flows are moved, too", () => {
  const mapper = createMemoryMapper();
  const { views } = openSample(mapper);
  const { table } = populate(views, 10);
  views.i32[table.word(1) + F_VERSION]!++;
  views.i32[table.word(2) + F_CLIENT_ADDR]! ^= 1 << 13;
  views.i32[table.word(20) + F_VERSION] = 1; // begun, with no word written yet
  views.i32.copyWithin(table.word(21), table.word(3), table.word(4));
  views.i32[backendWord(views, 4) + B_USED] = 3;
  mapper.kill();
  const region = openSample(mapper, { size: { ...SIZE, flowCapacity: 65 } });
  assert.deepEqual(counts(region), [7, 5, 0, 1]);
  checkRegion(region.views);
});

test("another number of workers: each flow goes to its owner, and every sum stays", () => {
  const mapper = createMemoryMapper();
  const { views } = openSample(mapper);
  const { table } = populate(views, 20);
  const snat = { address: 0x0a140064, port: 0 };
  for (let id = 100; id < 120; id++) {
    insertSample(table, flowOf(id % 16, id, { snat: { ...snat, port: 2000 + id } }));
  }
  views.f64[(views.layout.counters.at >> 3) + 5] = 6;
  const before = records(views);
  const packets = (at: RegionViews): number => backendTotal(at, 3, BF_CONNECTIONS);
  const counted = packets(views);
  for (const workers of [3, 16, 2, 2, 1]) {
    mapper.kill();
    const region = openSample(mapper, { size: { ...SIZE, flowCapacity: 1024, workers } });
    assert.deepEqual(counts(region), [40, 0, 0, 0]);
    assert.deepEqual(records(region.views), before);
    assert.equal(checkRegion(region.views), 40);
    assert.equal(counterTotal(region.views, 5), 6);
    assert.equal(packets(region.views), counted);
    const { i32, layout } = region.views;
    let scattered = 0;
    for (const { worker, flows, flowCapacity } of layout.shards) {
      for (let row = 0; row < flowCapacity; row++) {
        const at = (flows.at >> 2) + row * FLOW_WORDS;
        if (i32[at + F_STATE] === STATE_FREE) continue;
        const ports = i32[at + F_CLIENT_VIP_PORTS]! >>> 16;
        const client = i32[at + F_CLIENT_ADDR]!;
        const [k0, k1] = i32.subarray(H_SECRET, H_SECRET + 2);
        const owner = ownerOfClient(k0!, k1!, client, ports, OWNER_PORT_COUNTS, workers);
        assert.equal(worker, owner);
        const replyPort = i32[at + F_BACKEND_REPLY_PORTS]! & 0xffff;
        if (((i32[at + F_STATE]! >>> 16) & 0xff) === 1 && replyPort % workers !== worker)
          scattered++;
      }
    }
    assert.equal(i32[H_FLOWS_SCATTERED], scattered > 0 ? 1 : 0);
    assert.equal(scattered > 0, workers > 1);
  }
});

test("another owner of flows moves them, also among as many workers", () => {
  const mapper = createMemoryMapper();
  const size = { ...SIZE, flowCapacity: 1024, workers: 4 };
  const { views } = openSample(mapper, { size });
  views.i32[H_OWNER_PORT_MASK] = OWNER_PORT_COUNTS;
  for (let slot = 0; slot < 16; slot++) useBackend(views, slot);
  for (let service = 0; service < 4; service++) useService(views, service);
  // One client, many ports: all go to one worker once the address alone decides.
  const table = createFlowTable(views);
  for (let id = 0; id < 20; id++) insertSample(table, flowOf(3, id));
  mapper.kill();
  const region = openSample(mapper, { size, ownerPortMask: OWNER_ADDRESS_ONLY });
  assert.equal(region.report.kind, "resized");
  assert.deepEqual(counts(region), [20, 0, 0, 0]);
  checkRegion(region.views);
  const used = region.views.layout.shards.map(
    ({ workerWord }) => region.views.i32[workerWord + W_FLOWS_USED]!,
  );
  assert.deepEqual(
    used.toSorted((a, b) => b - a),
    [20, 0, 0, 0],
  );
});

test("a process that dies at any step of a resize leaves the flows to the next one", () => {
  const size: RegionSize = { ...SIZE, flowCapacity: 100 };
  let steps = 0;
  for (let last = 0; ; last++) {
    const mapper = createMemoryMapper();
    const { views } = openSample(mapper);
    populate(views, 30);
    const before = records(views);
    mapper.kill();
    steps = 0;
    mapper.before = () => {
      if (steps++ >= last) throw new Error("killed");
    };
    let done = true;
    try {
      openSample(mapper, { size });
    } catch (error) {
      assert.match(String(error), /killed/);
      done = false;
    }
    mapper.kill();
    mapper.before = () => undefined;
    const region = openSample(mapper, { size });
    assert.equal(region.report.flowsKept, 30, `killed at step ${last}`);
    assert.deepEqual(records(region.views), before);
    checkRegion(region.views);
    assert.deepEqual([...mapper.files.keys()], [PATH]);
    if (done) break;
  }
  assert.ok(steps >= 7, `${steps} steps`);
});

test("what a resize left half-made is no obstacle", () => {
  const mapper = createMemoryMapper();
  const { views } = openSample(mapper);
  populate(views, 12);
  mapper.kill();
  mapper.files.set(`${PATH}.new`, { buffer: new Uint8Array(12_345).fill(7).buffer, locked: false });
  const region = openSample(mapper, { size: { ...SIZE, flowCapacity: 20 } });
  assert.deepEqual(counts(region), [12, 0, 0, 0]);
  checkRegion(region.views);
});

test("bytes that flip anywhere: opened or refused in a sentence, and nothing damaged is followed", () => {
  const mapper = createMemoryMapper();
  const { views } = openSample(mapper);
  populate(views, 48);
  const whole = views.u8.slice();
  const before = new Set(records(views).values());
  const { flows, backendSlots, serviceSlots, header } = views.layout;
  const areas = [
    { at: 0, bytes: 64 },
    header,
    { at: flows.at, bytes: 48 * FLOW_WORDS * 4 },
    flows,
    backendSlots,
    serviceSlots,
    { at: 0, bytes: views.layout.counters.at },
  ];
  const outcomes = new Map<string, number>();
  const size = fc.constantFrom(SIZE, { ...SIZE, flowCapacity: 80 }, { ...SIZE, backends: 9 });
  fc.assert(
    fc.property(fc.integer(), fc.constantFrom(...areas), size, (seed, area, nextSize) => {
      const random = createRandom(seed);
      const buffer = whole.slice().buffer;
      const bytes = new Uint8Array(buffer);
      const flips = 1 + random.below(20);
      const lines = new Set<number>();
      for (let flip = 0; flip < flips; flip++) {
        const at = area.at + random.below(area.bytes);
        // One flip a flow: two can undo each other in the difference, and then no check finds them.
        const isFlow = at >= flows.at && at < flows.at + flows.bytes;
        if (isFlow && lines.has(at >> 6)) continue;
        lines.add(at >> 6);
        bytes[at]! ^= 1 << random.below(8);
      }
      const fuzzed = createMemoryMapper();
      fuzzed.files.set(PATH, { buffer, locked: false });
      let outcome = "refused";
      try {
        const region = openSample(fuzzed, { size: nextSize });
        outcome = region.report.setAside === null ? region.report.kind : "set aside";
        checkRegion(region.views);
        // Words that no key depends on (times, hops, numbers) may differ; keys may not.
        const keys = new Set([...before].map((words) => words.split(",").slice(1, 7).join()));
        for (const words of records(region.views).values()) {
          assert.ok(keys.has(words.split(",").slice(1, 7).join()), "a key that was not there");
        }
        region.close();
      } catch (error) {
        if (!(error instanceof HeadgateError)) throw error;
        assert.equal(error.code, "HEADGATE_STATE");
      }
      assert.equal(fuzzed.held(), 0);
      outcomes.set(outcome, (outcomes.get(outcome) ?? 0) + 1);
    }),
    { numRuns: 600 },
  );
  for (const outcome of ["taken-over", "resized", "set aside", "refused"]) {
    assert.ok((outcomes.get(outcome) ?? 0) > 0, `${outcome} happened`);
  }
});

test("a slot that is used again does not take the flows of the one before", () => {
  const mapper = createMemoryMapper();
  const { views } = openSample(mapper);
  populate(views, 16);
  useBackend(views, 5);
  views.i32[backendWord(views, 5) + B_GENERATION] = generationOf(5) + 1;
  mapper.kill();
  const region = openSample(mapper);
  assert.deepEqual(counts(region), [15, 1, 0, 0]);
  assert.equal(backendFlows(region.views, 5), 0);
});

test("a region that was never ready again has no flows to give", () => {
  const mapper = createMemoryMapper();
  const { views } = openSample(mapper);
  populate(views, 8);
  views.i32[H_READY] = 0;
  mapper.kill();
  const region = openSample(mapper, { size: { ...SIZE, flowCapacity: 200 } });
  assert.equal(region.report.kind, "new");
  assert.equal(checkRegion(region.views), 0);
  assert.equal(views.i32[serviceWord(views, 0) + SERVICE_SLOT_WORDS - 1], 0);
});
