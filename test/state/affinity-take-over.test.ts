import assert from "node:assert/strict";
import { test } from "node:test";
import { createRandom } from "../../src/base/random.ts";
import {
  AE_ADDRESS_WORD,
  AE_BACKEND,
  AE_EXPIRES,
  AE_FLOWS,
  AE_GROUP,
  AE_PORT,
  AE_TIMEOUT_MS,
  AE_VERSION,
} from "../../src/flow/affinity-record.ts";
import { type AffinityTable, createAffinityTable } from "../../src/flow/affinity-table.ts";
import { OWNER_ADDRESS_ONLY, ownerHostBits, ownerOfClient } from "../../src/flow/owner.ts";
import { listAffinity } from "../../src/flow/read-affinity.ts";
import { H_SECRET, type RegionSize, type RegionViews, viewShard } from "../../src/state/layout.ts";
import type { Region } from "../../src/state/region.ts";
import { insertSample } from "../flow/sample-flows.ts";
import { createMemoryMapper, type MemoryMapper } from "./memory-mapper.ts";
import { flowOf, openSample, populate, SIZE } from "./sample-region.ts";

/**
 * Goal: the next process knows which backends clients have, whatever room and workers it has, and
 * believes nothing that is damaged.
 */

const WITH: RegionSize = { ...SIZE, flowCapacity: 256, affinity: 200 };
const TIMEOUT_MS = 600_000;
const CLIENTS = 100;

function open(mapper: MemoryMapper, size: Partial<RegionSize> = {}, tick = 1000): Region {
  const options = { ownerPortMask: OWNER_ADDRESS_ONLY, tick, deathWindowMs: 0 };
  return openSample(mapper, { size: { ...WITH, ...size }, ...options });
}

function key(table: AffinityTable, client: number): void {
  table.draft[AE_GROUP] = 3;
  table.setClient4(client, 32);
}

const clientOf = (id: number): number => (0x0a630000 + id) | 0;

/** Entries of CLIENTS, the first twenty of which have two flows each. */
function fill(views: RegionViews): AffinityTable {
  const { table: flows } = populate(views, 0);
  const table = createAffinityTable(views);
  for (let id = 0; id < CLIENTS; id++) {
    key(table, clientOf(id));
    table.draft[AE_EXPIRES] = 1000 + TIMEOUT_MS;
    table.draft[AE_TIMEOUT_MS] = TIMEOUT_MS;
    table.draft[AE_PORT] = 8080;
    table.draft[AE_ADDRESS_WORD] = id;
    table.draft.set([0, 0, 0xffff, id + 1], AE_BACKEND);
    assert.equal(table.find(), -1);
    const entry = table.insert(1000, true);
    table.setAnswered(entry);
    for (let flow = 0; flow < (id < 20 ? 2 : 0); flow++) {
      const sample = flowOf(id % 16, 1000 + 2 * id + flow, { client: clientOf(id) });
      table.attach(insertSample(flows, sample), entry);
    }
  }
  return table;
}

/** Every client's backend and flows, by client; each found by its key where its flows are. */
function seen(views: RegionViews): Map<number, string> {
  const all = new Map<number, string>();
  const { i32, layout } = views;
  for (const { worker } of layout.shards) {
    const own = viewShard(views, worker);
    const table = createAffinityTable(own);
    for (let id = 0; table.exists && id < CLIENTS; id++) {
      key(table, clientOf(id));
      const entry = table.find();
      if (entry < 0) continue;
      const [k0, k1] = i32.subarray(H_SECRET, H_SECRET + 2);
      const owner = ownerOfClient(k0!, k1!, clientOf(id), 0, 0, layout.workers);
      assert.equal(worker, owner, "the entry is with its client's worker");
      all.set(id, `${i32[entry + AE_BACKEND + 3]} ${i32[entry + AE_FLOWS]}`);
    }
  }
  assert.equal(listAffinity(views, {}, 0).total, all.size);
  return all;
}

const counts = ({ report }: Region): readonly number[] => [
  report.affinityKept,
  report.affinityDropped,
  report.affinityNoRoom,
];

test("the same room, other room, other workers: every entry goes on, with its flows", () => {
  const mapper = createMemoryMapper();
  fill(open(mapper).views);
  let before: Map<number, string> | null = null;
  const sizes = [
    {},
    { affinity: 400 },
    { affinity: 400, workers: 3 },
    { affinity: 1000, workers: 2, flowCapacity: 300 },
    { workers: 1 },
  ];
  for (const size of sizes) {
    mapper.kill();
    const region = open(mapper, size, 2000);
    assert.deepEqual(counts(region), [CLIENTS, 0, 0], JSON.stringify(size));
    assert.equal(region.report.flowsKept, 40);
    const now = seen(region.views);
    assert.equal(now.get(3), "4 2");
    assert.equal(now.get(50), "51 0");
    assert.deepEqual(now, before ?? now);
    before = now;
  }
});

test("prefixes decide about workers from the next process on", () => {
  const mapper = createMemoryMapper();
  fill(open(mapper, { workers: 1 }).views);
  mapper.kill();
  const region = openSample(mapper, {
    size: { ...WITH, workers: 3 },
    ownerPortMask: OWNER_ADDRESS_ONLY,
    ownerHostBits: ownerHostBits(24, 64),
    tick: 2000,
  });
  const crews = new Set(listAffinity(region.views, {}, 1000).entries.map(({ worker }) => worker));
  assert.equal(crews.size, 1, "all clients are of one /24");
});

test("less room: entries with flows come first, what does not fit is counted", () => {
  const mapper = createMemoryMapper();
  fill(open(mapper).views);
  mapper.kill();
  const region = open(mapper, { affinity: 13 }, 2000);
  const now = seen(region.views);
  assert.equal(now.size + region.report.affinityNoRoom, CLIENTS);
  assert.ok(now.size <= 32 && now.size >= 26, `${now.size}`);
  for (let id = 0; id < 20; id++) assert.equal(now.get(id), `${id + 1} 2`);
  mapper.kill();
  const without = open(mapper, { affinity: 0 }, 2000);
  assert.equal(without.report.affinityNoRoom, now.size);
});

test("an entry whose flows died lasts its timeout from the start on; one that is over is not kept", () => {
  const mapper = createMemoryMapper();
  const region = open(mapper);
  fill(region.views);
  // The records of the flows are lost.
  const { flows, backendSlots } = region.views.layout;
  region.views.u8.fill(0, flows.at, flows.at + flows.bytes);
  assert.ok(backendSlots.bytes > 0);
  mapper.kill();
  const late = 1000 + TIMEOUT_MS - 10;
  const same = open(mapper, {}, late);
  assert.deepEqual(counts(same), [CLIENTS, 0, 0]);
  const { entries } = listAffinity(same.views, {}, 1000);
  const ends = new Set(entries.map(({ expires }) => expires));
  assert.deepEqual([...ends].sort(), [1000 + TIMEOUT_MS, late + TIMEOUT_MS].sort());
  mapper.kill();
  const later = open(mapper, { affinity: 400 }, late + 20);
  assert.deepEqual(counts(later), [20, 0, 0], "the others were over");
});

test("half-written, flipped, doubled: dropped, and nothing else", () => {
  const seed = Number(process.env["HEADGATE_SEED"] ?? 5);
  const random = createRandom(seed);
  for (let round = 0; round < 60; round++) {
    const mapper = createMemoryMapper();
    const { views } = open(mapper);
    const table = fill(views);
    key(table, clientOf(30));
    const victim = table.find();
    const half = round % 3 === 0;
    if (half) views.i32[victim + AE_VERSION] = views.i32[victim + AE_VERSION]! | 1;
    const { affinity, affinityFlows } = views.layout;
    // Bytes anywhere in the section, and in the words of the flows.
    for (let flips = 0; flips < (half ? 0 : 8); flips++) {
      const area = flips % 4 === 0 ? affinityFlows : affinity;
      views.u8[area.at + random.below(area.bytes)]! ^= 1 << random.below(8);
    }
    mapper.kill();
    const region = open(mapper, round % 2 === 0 ? {} : { affinity: 500, workers: 2 }, 2000);
    const { affinityKept, affinityDropped, affinityNoRoom } = region.report;
    if (half) assert.deepEqual(counts(region), [CLIENTS - 1, 1, 0], `seed ${seed}`);
    else assert.ok(affinityKept + affinityNoRoom >= CLIENTS - 8 && affinityDropped <= 8 + 1);
    for (const { worker } of region.views.layout.shards) {
      const own = createAffinityTable(viewShard(region.views, worker));
      for (let id = 0; id < CLIENTS; id++) {
        key(own, clientOf(id));
        const entry = own.find();
        const flows = entry < 0 ? 0 : region.views.i32[entry + AE_FLOWS]!;
        assert.ok(flows >= 0 && flows <= 2, `seed ${seed}, round ${round}: ${flows} flows`);
      }
      // Ends of all flows leave no count behind, whatever their words said.
      for (let row = 0; row < region.views.layout.shards[worker]!.flowCapacity; row++) {
        own.detach(row, 3000);
      }
    }
    const { entries } = listAffinity(region.views, {}, 1000);
    assert.ok(
      entries.every(({ flows }) => flows === 0),
      `seed ${seed}, round ${round}`,
    );
  }
});
