import assert from "node:assert/strict";
import { test } from "node:test";
import fc from "fast-check";
import { EVICT_LOOKS, SWEEP_ROWS_MAX } from "../../src/base/limits.ts";
import { createRandom, type Random } from "../../src/base/random.ts";
import {
  F_EXPIRES,
  F_HOP_MAC_HIGH,
  F_HOP_MAC_LOW,
  F_STATE,
  F_VERSION,
  FLOW_WORDS,
  PROTOCOL_TCP,
  PROTOCOL_UDP,
  STATE_CLOSE,
  STATE_CLOSE_WAIT,
  STATE_ESTABLISHED,
  STATE_FIN_WAIT,
  STATE_LAST_ACK,
  STATE_NAMES,
  STATE_SYN_RECV,
  STATE_SYN_SENT,
  STATE_TIME_WAIT,
  STATE_UDP_ONE_WAY,
  STATE_UDP_REPLIED,
} from "../../src/flow/flow-record.ts";
import {
  type FlowTable,
  INSERT_INDEX_FULL,
  INSERT_ORIGINAL_TAKEN,
  INSERT_REPLY_TAKEN,
  INSERT_TABLE_FULL,
  WALK_DONE,
  WALK_PAUSE,
} from "../../src/flow/flow-table.ts";
import { type RegionViews, W_FLOWS_HIGH_WATER } from "../../src/state/layout.ts";
import {
  BACKEND,
  CLIENT,
  createSampleTable,
  distinctFlow,
  findOriginal,
  findReply,
  insertSample,
  originalPorts,
  pick,
  replyAddress,
  replyPorts,
  type SampleFlow,
  SNAT,
  sampleFlow,
  VIP,
} from "./sample-flows.ts";

// Goal: the table answers as a Map would, and what it keeps beside the records is always right.
// Method: random operations on few addresses and ports, so that keys often meet, beside a model of
// plain objects; every invariant is checked by a scan. Printed seeds repeat a run.

const HALF_OPEN = [STATE_SYN_SENT, STATE_SYN_RECV, STATE_UDP_ONE_WAY];
const CLOSED = [STATE_TIME_WAIT, STATE_CLOSE];
const TCP_STATES = [1, 2, 3, 4, 5, 6, 7, 8];
const UDP_STATES = [STATE_UDP_ONE_WAY, STATE_UDP_REPLIED];

interface Model {
  /** By key, either direction: reference. */
  readonly keys: Map<string, number>;
  readonly rows: Map<number, SampleFlow>;
}

function originalKey(flow: SampleFlow): string {
  return `${flow.protocol} ${flow.client} ${flow.vip} ${originalPorts(flow)}`;
}

function replyKey(flow: SampleFlow): string {
  return `${flow.protocol} ${flow.backend} ${replyAddress(flow)} ${replyPorts(flow)}`;
}

function randomFlow(random: Random): SampleFlow {
  const protocol = pick(random, [PROTOCOL_TCP, PROTOCOL_UDP]);
  const flow = sampleFlow({
    protocol,
    // Sometimes the client is a backend, and the VIP an address of the pool: keys of the two
    // directions then meet.
    client: pick(random, [CLIENT, CLIENT + 1, CLIENT + 2, BACKEND]),
    clientPort: pick(random, [80, 1024, 1025, 1026, 40_000]),
    vip: pick(random, [VIP, VIP + 1, SNAT]),
    vipPort: pick(random, [80, 1024]),
    backend: pick(random, [BACKEND, BACKEND + 1, CLIENT]),
    backendPort: pick(random, [80, 8080, 1024]),
    state: pick(random, protocol === PROTOCOL_TCP ? TCP_STATES : UDP_STATES),
    expires: random.below(1000),
  });
  if (random.below(2) === 0) return flow;
  return { ...flow, snat: { address: SNAT, port: pick(random, [80, 1024, 1025]) } };
}

function expectedInsert(model: Model, flow: SampleFlow, capacity: number): number {
  if (model.keys.has(originalKey(flow))) return INSERT_ORIGINAL_TAKEN;
  if (model.keys.has(replyKey(flow))) return INSERT_REPLY_TAKEN;
  if (originalKey(flow) === replyKey(flow)) return INSERT_REPLY_TAKEN;
  return model.rows.size === capacity ? INSERT_TABLE_FULL : 0;
}

function forget(model: Model, table: FlowTable, row: number): void {
  const flow = model.rows.get(row);
  assert.ok(flow !== undefined, `row ${row} is live`);
  table.remove(row);
  model.rows.delete(row);
  model.keys.delete(originalKey(flow));
  model.keys.delete(replyKey(flow));
}

function checkInvariants(views: RegionViews, table: FlowTable, model: Model): void {
  const { i32, layout } = views;
  const highWater = i32[layout.workerWord + W_FLOWS_HIGH_WATER]!;
  assert.equal(table.used(), model.rows.size, "used() is the number of live flows");
  assert.equal(model.keys.size, 2 * model.rows.size, "no two live flows share a key");
  const free = new Set<number>();
  for (let row = 0; row < layout.flowCapacity; row++) {
    const at = table.word(row);
    assert.equal(i32[at + F_VERSION]! & 1, 0, "versions are even between operations");
    assert.equal(i32[at + F_STATE] !== 0, model.rows.has(row), `row ${row}`);
    if (row < highWater && !model.rows.has(row)) free.add(row);
    if (row >= highWater) assert.equal(i32[at + F_STATE], 0, "above the mark nothing is used");
  }
  const stack = i32.subarray(layout.flowFree.at >> 2).subarray(0, highWater - table.used());
  assert.deepEqual(new Set(stack), free, "the stack holds the free rows below the mark");
  assert.equal(stack.length, free.size, "each of them once");
  const references: number[] = [];
  for (let bucket = 0; bucket < layout.flowBuckets; bucket++) {
    for (let entry = 8; entry < 16; entry++) {
      const reference = i32[(layout.flowIndex.at >> 2) + bucket * 16 + entry]!;
      if (reference !== 0) references.push(reference - 1);
    }
  }
  const expected = [...model.rows.keys()].flatMap((row) => [row << 1, (row << 1) | 1]);
  assert.deepEqual(
    references.sort((a, b) => a - b),
    expected.sort((a, b) => a - b),
    "two index entries a live flow",
  );
  for (const [row, flow] of model.rows) {
    assert.equal(findOriginal(table, flow), row << 1);
    assert.equal(findReply(table, flow), (row << 1) | 1);
  }
}

/** Rows that a sweep finds; each is removed at once, as the data plane does. */
function sweepAll(model: Model, table: FlowTable, rows: number, tick: number): number[] {
  const found: number[] = [];
  table.sweepBegin(rows);
  for (let row = table.sweepNext(tick); row >= 0; row = table.sweepNext(tick)) {
    forget(model, table, row);
    found.push(row);
  }
  return found;
}

function live(model: Model, row: number, flow: SampleFlow): void {
  model.rows.set(row, flow);
  model.keys.set(originalKey(flow), row << 1);
  model.keys.set(replyKey(flow), (row << 1) | 1);
}

/** A full table: a victim is chosen before the draft was refused, and its row is the draft's then. */
function makeRoom(model: Model, table: FlowTable, random: Random, flow: SampleFlow): void {
  assert.ok(table.isFull());
  if (random.below(2) === 0) table.prepareEviction(500);
  // What was chosen may have gone, or become another, since.
  if (random.below(4) === 0) return;
  assert.equal(insertSample(table, flow), INSERT_TABLE_FULL);
  const victim = table.evict(500);
  if (victim < 0) {
    assert.equal(table.insertChosen(), INSERT_TABLE_FULL);
    return;
  }
  forget(model, table, victim);
  assert.equal(table.insertChosen(), victim, "the row that was freed last");
  live(model, victim, flow);
}

function step(views: RegionViews, table: FlowTable, model: Model, random: Random): void {
  const capacity = views.layout.flowCapacity;
  const choice = random.below(100);
  if (choice < 45) {
    const flow = randomFlow(random);
    const expected = expectedInsert(model, flow, capacity);
    const row = insertSample(table, flow);
    if (expected !== 0) {
      assert.equal(row, expected);
      if (expected === INSERT_TABLE_FULL) makeRoom(model, table, random, flow);
      return;
    }
    // So rare in a table this small that a run without any is the rule; then nothing changes.
    if (row === INSERT_INDEX_FULL) return;
    assert.ok(row >= 0 && row < capacity && !model.rows.has(row), `row ${row} was free`);
    live(model, row, flow);
    return;
  }
  if (choice < 75) {
    const flow = randomFlow(random);
    assert.equal(findOriginal(table, flow), model.keys.get(originalKey(flow)) ?? -1);
    assert.equal(findReply(table, flow), model.keys.get(replyKey(flow)) ?? -1);
    return;
  }
  if (choice < 88) {
    if (model.rows.size > 0) forget(model, table, pick(random, [...model.rows.keys()]));
    return;
  }
  if (choice < 94) {
    const row = table.evict(500);
    if (row < 0) return;
    assert.ok([...HALF_OPEN, ...CLOSED].includes(model.rows.get(row)!.state));
    forget(model, table, row);
    return;
  }
  if (choice < 96) {
    const tick = random.below(300);
    const expired = [...model.rows].filter(([, flow]) => flow.expires <= tick).map(([row]) => row);
    const found = sweepAll(model, table, capacity, tick);
    assert.deepEqual(
      found.sort((a, b) => a - b),
      expired.sort((a, b) => a - b),
    );
    return;
  }
  if (model.rows.size > 0) {
    const row = pick(random, [...model.rows.keys()]);
    const words = [random.next32(), random.next32()] as const;
    table.setHop(row, words[0], words[1]);
    const at = table.word(row);
    assert.deepEqual([views.i32[at + F_HOP_MAC_HIGH], views.i32[at + F_HOP_MAC_LOW]], words);
  }
}

test("the table does as a Map does, whatever the order", () => {
  fc.assert(
    fc.property(fc.integer(), fc.constantFrom(1, 7, 64), (seed, flowCapacity) => {
      const random = createRandom(seed);
      const { views, table } = createSampleTable({ flowCapacity }, [
        random.next32(),
        random.next32(),
      ]);
      const model: Model = { keys: new Map(), rows: new Map() };
      for (let operation = 0; operation < 2000; operation++) {
        step(views, table, model, random);
        if (operation % 100 === 0) checkInvariants(views, table, model);
      }
      checkInvariants(views, table, model);
      // What a take-over makes of it is the same table.
      assert.deepEqual(table.rebuild(), { kept: model.rows.size, dropped: 0, noRoom: 0 });
      checkInvariants(views, table, model);
    }),
    { numRuns: 75 },
  );
});

test("the row that was freed last is used first", () => {
  const { table } = createSampleTable();
  for (let id = 0; id < 5; id++) assert.equal(insertSample(table, distinctFlow(id)), id);
  table.remove(1);
  table.remove(3);
  assert.equal(insertSample(table, distinctFlow(10)), 3);
  assert.equal(insertSample(table, distinctFlow(11)), 1);
  assert.equal(insertSample(table, distinctFlow(12)), 5);
});

test("a row that is not live is not removed", () => {
  const { table } = createSampleTable();
  const row = insertSample(table, sampleFlow());
  table.remove(row);
  assert.throws(() => table.remove(row), /only a live flow is removed/);
});

test("two VIPs that meet on one backend port share no reply tuple", () => {
  const { table } = createSampleTable();
  assert.equal(insertSample(table, sampleFlow({ vip: VIP })), 0);
  assert.equal(insertSample(table, sampleFlow({ vip: VIP + 1 })), INSERT_REPLY_TAKEN);
  assert.equal(insertSample(table, sampleFlow({ vip: VIP + 1, backendPort: 8081 })), 1);
});

test("a record with an odd version is not found", () => {
  const { views, table } = createSampleTable();
  const flow = sampleFlow();
  const row = insertSample(table, flow);
  views.i32[table.word(row) + F_VERSION]!++;
  assert.equal(findOriginal(table, flow), -1);
  assert.equal(findReply(table, flow), -1);
});

test("versions go round without ever being 0, which says never used", () => {
  const { views, table } = createSampleTable();
  const at = table.word(0);
  views.i32[at + F_VERSION] = -2;
  assert.equal(insertSample(table, sampleFlow()), 0);
  assert.equal(views.i32[at + F_VERSION], 2);
});

test("setting the hop that is there stores nothing", () => {
  const { views, table } = createSampleTable();
  const row = insertSample(table, sampleFlow());
  const at = table.word(row);
  table.setHop(row, 1, 2);
  const version = views.i32[at + F_VERSION]!;
  table.setHop(row, 1, 2);
  assert.equal(views.i32[at + F_VERSION], version);
  table.setHop(row, 1, 3);
  assert.equal(views.i32[at + F_VERSION], version + 2);
});

const EVICTIONS: readonly {
  readonly name: string;
  readonly states: readonly (readonly [state: number, expires: number])[];
  /** Row, or -1. */
  readonly want: number;
}[] = [
  { name: "an empty table", states: [], want: -1 },
  {
    name: "half-open before closed",
    states: [
      [STATE_TIME_WAIT, 10],
      [STATE_ESTABLISHED, 5],
      [STATE_SYN_SENT, 900],
    ],
    want: 2,
  },
  {
    name: "of half-open ones the first to expire",
    states: [
      [STATE_SYN_RECV, 90],
      [STATE_UDP_ONE_WAY, 80],
      [STATE_SYN_SENT, 85],
    ],
    want: 1,
  },
  {
    name: "closed when there is no half-open one",
    states: [
      [STATE_ESTABLISHED, 5],
      [STATE_CLOSE, 70],
      [STATE_TIME_WAIT, 60],
    ],
    want: 2,
  },
  {
    name: "never one that carries data, also when it has expired",
    states: [
      [STATE_ESTABLISHED, -5],
      [STATE_FIN_WAIT, -5],
      [STATE_CLOSE_WAIT, -5],
      [STATE_LAST_ACK, -5],
      [STATE_UDP_REPLIED, -5],
    ],
    want: -1,
  },
];

for (const { name, states, want } of EVICTIONS) {
  test(`evict: ${name}`, () => {
    const { table } = createSampleTable();
    states.forEach(([state, expires], id) => {
      const protocol = state >= STATE_UDP_ONE_WAY ? PROTOCOL_UDP : PROTOCOL_TCP;
      insertSample(table, distinctFlow(id, { state, expires, protocol }));
    });
    assert.equal(table.evict(0), want);
  });
}

test("evict looks at a bounded number of rows, and in the end at all of them", () => {
  const { table } = createSampleTable({ flowCapacity: 64 });
  for (let id = 0; id < 64; id++) {
    const state = id === 40 ? STATE_SYN_SENT : STATE_ESTABLISHED;
    insertSample(table, distinctFlow(id, { state }));
  }
  const answers = Array.from({ length: 64 / EVICT_LOOKS }, () => table.evict(0));
  assert.deepEqual(answers, [-1, -1, -1, -1, -1, 40, -1, -1]);
});

test("ticks wrap: a flow expires after the wrap, not before it", () => {
  const { table } = createSampleTable();
  insertSample(table, sampleFlow({ expires: -(2 ** 31) + 10 }));
  table.sweepBegin(64);
  assert.equal(table.sweepNext(2 ** 31 - 10), -1);
  table.sweepBegin(64);
  assert.equal(table.sweepNext(-(2 ** 31) + 10), 0);
});

test("the sweep takes its share of rows, and goes on where it stopped", () => {
  const { views, table } = createSampleTable({ flowCapacity: 64 });
  for (let id = 0; id < 10; id++) insertSample(table, distinctFlow(id, { expires: 1 }));
  const share = (rows: number): number[] => {
    const found: number[] = [];
    table.sweepBegin(rows);
    for (let row = table.sweepNext(5); row >= 0; row = table.sweepNext(5)) found.push(row);
    return found;
  };
  assert.deepEqual(share(4), [0, 1, 2, 3]);
  assert.deepEqual(share(4), [4, 5, 6, 7]);
  assert.deepEqual(share(4), [8, 9, 0, 1]);
  // A share larger than the table is one round.
  assert.deepEqual(share(1000), [2, 3, 4, 5, 6, 7, 8, 9, 0, 1]);
  assert.deepEqual(share(0), []);
  views.i32[table.word(3) + F_EXPIRES] = 6;
  assert.equal(share(10).includes(3), false);
});

test("a walk sees every flow once, in shares of SWEEP_ROWS_MAX rows", () => {
  const flowCapacity = 2 * SWEEP_ROWS_MAX + 100;
  const { table } = createSampleTable({ flowCapacity });
  for (let id = 0; id < flowCapacity; id++) insertSample(table, distinctFlow(id));
  for (let row = 0; row < flowCapacity; row += 2) table.remove(row);
  const seen: number[] = [];
  const pauses: number[] = [];
  table.walkBegin();
  for (let row = table.walkNext(); row !== WALK_DONE; row = table.walkNext()) {
    if (row === WALK_PAUSE) pauses.push(seen.length);
    else seen.push(row);
  }
  assert.deepEqual(pauses, [SWEEP_ROWS_MAX / 2, SWEEP_ROWS_MAX]);
  assert.deepEqual(
    seen,
    Array.from({ length: flowCapacity / 2 }, (_, index) => 2 * index + 1),
  );
  assert.equal(table.walkNext(), WALK_DONE);
});

test("rebuild drops the later of two records with one key", () => {
  const { views, table } = createSampleTable();
  insertSample(table, sampleFlow());
  insertSample(table, distinctFlow(5));
  const from = table.word(0);
  views.i32.copyWithin(table.word(1), from, from + FLOW_WORDS);
  assert.deepEqual(table.rebuild(), { kept: 1, dropped: 1, noRoom: 0 });
  assert.equal(findOriginal(table, sampleFlow()), 0);
});

test("rebuild drops a flow whose backend is not known, and says what is known", () => {
  const { table } = createSampleTable();
  insertSample(table, distinctFlow(1, { slot: 3, generation: 0xfff }));
  insertSample(table, distinctFlow(2, { slot: 2, generation: 9 }));
  insertSample(table, distinctFlow(3, { slot: 16 })); // the layout has 16: 0..15
  assert.deepEqual(table.rebuild(), { kept: 2, dropped: 1, noRoom: 0 });
  const asked: number[][] = [];
  const report = table.rebuild((slot, generation) => {
    asked.push([slot, generation]);
    return slot === 3;
  });
  assert.deepEqual(report, { kept: 1, dropped: 1, noRoom: 0 });
  assert.deepEqual(asked, [
    [3, 0xfff],
    [2, 9],
  ]);
});

test("every state is either expendable when the table is full, or not, as the design says", () => {
  const expendable = STATE_NAMES.filter((_, state) => [...HALF_OPEN, ...CLOSED].includes(state));
  assert.deepEqual(expendable, ["SYN_SENT", "SYN_RECV", "TIME_WAIT", "CLOSE", "UDP_ONE_WAY"]);
  STATE_NAMES.forEach((name, state) => {
    if (state === 0) return;
    const { table } = createSampleTable();
    const protocol = state >= STATE_UDP_ONE_WAY ? PROTOCOL_UDP : PROTOCOL_TCP;
    insertSample(table, sampleFlow({ state, protocol }));
    assert.equal(table.evict(0), expendable.includes(name) ? 0 : -1, name);
  });
});
