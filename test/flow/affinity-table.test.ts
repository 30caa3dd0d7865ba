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
  AFFINITY_WAYS,
} from "../../src/flow/affinity-record.ts";
import { type AffinityTable, createAffinityTable } from "../../src/flow/affinity-table.ts";
import { countAffinity, listAffinity } from "../../src/flow/read-affinity.ts";
import {
  AFFINITY_SET_BYTES,
  affinitySetsOf,
  H_SECRET,
  planRegion,
  type RegionViews,
  viewRegion,
} from "../../src/state/layout.ts";

/**
 * Goal: the table remembers what it was told, as long as it was told to, and nothing when it is full.
 * Method: random clients, flows and time against a Map; and 100,000 clients at once.
 */

const TIMEOUT_MS = 60_000;

interface Bench {
  readonly views: RegionViews;
  readonly table: AffinityTable;
}

function bench(clients: number, flowCapacity = 64): Bench {
  const size = { flowCapacity, services: 1, backends: 1, hashSlots: 1, workers: 1 };
  const layout = planRegion({ ...size, affinity: clients });
  const views = viewRegion(new ArrayBuffer(layout.bytes), layout);
  views.i32[H_SECRET] = 0x1234567;
  views.i32[H_SECRET + 1] = -0x7654321;
  return { views, table: createAffinityTable(views) };
}

/** The table's way of adding a client, as datapath/affinity.ts does it. */
function add(
  { table }: Bench,
  group: number,
  client: number,
  backend: number,
  tick: number,
  bits = 32,
): number {
  const { draft } = table;
  draft[AE_GROUP] = group;
  table.setClient4(client, bits);
  draft[AE_EXPIRES] = (tick + TIMEOUT_MS) | 0;
  draft[AE_TIMEOUT_MS] = TIMEOUT_MS;
  draft[AE_PORT] = 8080;
  draft[AE_ADDRESS_WORD] = backend;
  draft.set([0, 0, 0xffff, backend], AE_BACKEND);
  const before = table.find();
  return before >= 0 ? before : table.insert(tick, true);
}

function find({ table }: Bench, group: number, client: number, bits = 32): number {
  table.draft[AE_GROUP] = group;
  table.setClient4(client, bits);
  return table.find();
}

test("100,000 clients: every one is remembered, in the memory that was taken at start", () => {
  const clients = 100_000;
  const made = bench(clients);
  const random = createRandom(7);
  const known = new Map<number, number>();
  while (known.size < clients) {
    const client = random.next32() | 0;
    if (known.has(client)) continue;
    const backend = random.next32() | 0;
    known.set(client, backend);
    const entry = add(made, 5, client, backend, 0);
    assert.ok(entry >= 0 && !made.table.hasEvicted(), `client ${known.size} has its place`);
    made.table.setAnswered(entry);
  }
  for (const [client, backend] of known) {
    const entry = find(made, 5, client);
    assert.equal(made.views.i32[entry + AE_BACKEND + 3], backend);
    assert.equal(find(made, 6, client), -1, "another group knows nothing of it");
  }
  assert.deepEqual([...countAffinity(made.views)], [[5, clients]]);
  const bytes = made.views.layout.affinity.bytes;
  assert.equal(bytes, affinitySetsOf(clients) * AFFINITY_SET_BYTES);
  assert.ok(bytes <= 90 * clients, `${bytes / clients} bytes a client`);
});

test("a full table: over, then unanswered, then idle ones give way; those with flows never", () => {
  const made = bench(13, 1024);
  const { table, views } = made;
  const places = table.sets * AFFINITY_WAYS;
  // Every place has an entry with a flow.
  let client = 0;
  const entries: number[] = [];
  while (entries.length < places) {
    const entry = add(made, 1, client++, 9, 0);
    if (entry < 0) continue;
    assert.equal(table.hasEvicted(), false);
    table.setAnswered(entry);
    table.attach(entries.length, entry);
    entries.push(entry);
  }
  assert.equal(add(made, 1, -1, 9, 10), -1, "all have flows");
  // One has none from tick 20 on: it is the one that goes, though it is not over.
  table.detach(3, 20);
  const next = add(made, 1, -2, 9, 30);
  assert.equal(next, entries[3]);
  assert.equal(table.hasEvicted(), true);
  // It was not answered: it goes before one that is idle, with its flow.
  table.attach(3, next);
  table.detach(7, 40);
  const third = add(made, 1, -3, 9, 50);
  assert.equal(third, next);
  assert.equal(table.hasEvicted(), true);
  table.setAnswered(third);
  table.attach(4 + places, third);
  // The end of the flow of what was there before is not the end of a flow of its own.
  table.detach(3, 60);
  assert.equal(views.i32[third + AE_FLOWS], 1);
  // What is over gives way silently.
  const fourth = add(made, 1, -4, 9, 40 + TIMEOUT_MS);
  assert.equal(fourth, entries[7]);
  assert.equal(table.hasEvicted(), false);
});

test("an entry that no flow of was answered goes with its last flow", () => {
  const made = bench(1000);
  const entry = add(made, 1, 77, 9, 0);
  made.table.attach(0, entry);
  made.table.attach(1, entry);
  made.table.attach(1, entry);
  assert.equal(made.views.i32[entry + AE_FLOWS], 2, "a flow counts once");
  made.table.detach(0, 5);
  assert.equal(find(made, 1, 77), entry);
  made.table.detach(1, 6);
  made.table.detach(1, 7);
  assert.equal(find(made, 1, 77), -1);
  const again = add(made, 1, 77, 9, 8);
  made.table.attach(0, again);
  made.table.answered(0);
  made.table.detach(0, 9);
  assert.equal(find(made, 1, 77), again);
  assert.equal(made.table.isOver(again, 9 + TIMEOUT_MS - 1), false);
  assert.equal(made.table.isOver(again, 9 + TIMEOUT_MS), true);
  assert.equal(made.table.isOver(again, (9 - (1 << 30)) | 0), true, "half a round ago");
});

test("prefixes: clients of one network are one; lengths and families do not meet", () => {
  const made = bench(1000);
  const { table } = made;
  const entry = add(made, 1, 0xc6336402 | 0, 9, 0, 24);
  assert.equal(find(made, 1, 0xc63364ff | 0, 24), entry);
  assert.equal(find(made, 1, 0xc6336502 | 0, 24), -1);
  assert.equal(find(made, 1, 0xc6336400 | 0, 32), -1);
  table.draft[AE_GROUP] = 1;
  table.setClient6(new Int32Array([0x20010db8, 1, 2, 3]), 0, 64);
  assert.equal(table.find(), -1);
  const six = table.insert(0, true);
  table.setClient6(new Int32Array([0x20010db8, 1, 9, 9]), 0, 64);
  assert.equal(table.find(), six);
  table.setClient6(new Int32Array([0x20010db8, 0, 2, 3]), 0, 64);
  assert.equal(table.find(), -1);
  const texts = listAffinity(made.views, {}, 10).entries.map(
    ({ client, bits }) => `${client.text}/${bits}`,
  );
  assert.deepEqual(texts.toSorted(), ["198.51.100.0/24", "2001:db8:0:1::/64"]);
});

test("random clients, flows and time, against a Map", () => {
  for (const seed of [1, 2, 3]) {
    const made = bench(400, 256);
    const { table, views } = made;
    const random = createRandom(seed);
    const model = new Map<number, { backend: number; flows: number; ends: number; ok: boolean }>();
    const rows = new Map<number, number>();
    let tick = 0x7fff_0000;
    let sweepAt = 0;
    const forget = (): void => {
      for (const [client, it] of model) {
        if (it.flows === 0 && ((it.ends - tick) | 0) <= 0) model.delete(client);
      }
    };
    for (let step = 0; step < 20_000; step++) {
      tick = (tick + random.below(200)) | 0;
      forget();
      sweepAt = table.sweep(sweepAt, table.sets, tick);
      const client = random.below(300);
      const row = random.below(256);
      const kind = random.below(4);
      if (kind === 0 && rows.has(row)) {
        const it = model.get(rows.get(row)!)!;
        it.ok = true;
        table.answered(row);
      } else if (kind === 1 && rows.has(row)) {
        const of = rows.get(row)!;
        const it = model.get(of)!;
        rows.delete(row);
        it.flows--;
        if (it.flows === 0 && !it.ok) model.delete(of);
        if (it.flows === 0) it.ends = (tick + TIMEOUT_MS) | 0;
        table.detach(row, tick);
      } else if (kind >= 2 && !rows.has(row)) {
        const backend = random.next32() | 0;
        const entry = add(made, 1, client, backend, tick);
        const it = model.get(client) ?? { backend, flows: 0, ends: 0, ok: false };
        model.set(client, it);
        it.flows++;
        rows.set(row, client);
        table.attach(row, entry);
      }
      const known = find(made, 1, client);
      const want = model.get(client);
      const seen = known < 0 ? undefined : views.i32[known + AE_BACKEND + 3];
      assert.equal(seen, want?.backend, `seed ${seed}, step ${step}, client ${client}`);
      if (known >= 0) assert.equal(views.i32[known + AE_FLOWS], want!.flows);
    }
    assert.equal(countAffinity(views).get(1) ?? 0, model.size, `seed ${seed}`);
  }
});
