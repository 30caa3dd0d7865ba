import assert from "node:assert/strict";
import { test } from "node:test";
import {
  F_STATE,
  F_VERSION,
  FLAG_ACTIVE,
  MODE_FULL_NAT,
  MODE_NAT,
  PROTOCOL_UDP,
  STATE_UDP_REPLIED,
} from "../../src/flow/flow-record.ts";
import { listFlows } from "../../src/flow/read-flows.ts";
import { W_FLOWS_HIGH_WATER } from "../../src/state/layout.ts";
import {
  BACKEND,
  CLIENT,
  createSampleTable,
  distinctFlow,
  insertSample,
  SNAT,
  sampleFlow,
  VIP,
} from "./sample-flows.ts";

test("a flow is listed with every field", () => {
  const { views, table } = createSampleTable();
  insertSample(table, sampleFlow({ slot: 3, generation: 0x801, flags: FLAG_ACTIVE }));
  insertSample(
    table,
    sampleFlow({
      protocol: PROTOCOL_UDP,
      state: STATE_UDP_REPLIED,
      snat: { address: SNAT, port: 65_535 },
    }),
  );
  const { flows, total } = listFlows(views, {}, 10);
  assert.equal(total, 2);
  assert.deepEqual(flows[0], {
    worker: 0,
    row: 0,
    state: 3,
    protocol: 6,
    mode: MODE_NAT,
    flags: FLAG_ACTIVE,
    client: CLIENT,
    clientPort: 40_000,
    vip: VIP,
    vipPort: 80,
    backend: BACKEND,
    backendPort: 8080,
    replyAddress: CLIENT,
    replyPort: 40_000,
    backendSlot: 3,
    backendGeneration: 0x801,
    expires: 1_000_000,
    created: 7,
    extension: null,
  });
  assert.equal(flows[1]!.mode, MODE_FULL_NAT);
  assert.equal(flows[1]!.replyAddress, SNAT);
  assert.equal(flows[1]!.replyPort, 65_535);
});

test("the limit cuts the list, not the count", () => {
  const { views, table } = createSampleTable();
  for (let id = 0; id < 20; id++) insertSample(table, distinctFlow(id));
  for (const row of [0, 3, 19]) table.remove(row);
  const { flows, total } = listFlows(views, {}, 5);
  assert.equal(total, 17);
  assert.deepEqual(
    flows.map(({ row }) => row),
    [1, 2, 4, 5, 6],
  );
  assert.deepEqual(listFlows(views, {}, 0), { flows: [], total: 17 });
});

test("filters: backend slots, and prefixes of every length", () => {
  const { views, table } = createSampleTable();
  insertSample(table, sampleFlow({ client: 0xc6336402 | 0, slot: 1 }));
  insertSample(table, sampleFlow({ client: 0xc6336403 | 0, slot: 2 }));
  insertSample(table, sampleFlow({ client: 0x46336402, slot: 2 }));
  const rows = (filter: Parameters<typeof listFlows>[1]): number[] =>
    listFlows(views, filter, 10).flows.map(({ row }) => row);
  const client = (address: number, prefixLength: number) => ({
    client: { address: address | 0, prefixLength },
  });
  assert.deepEqual(rows({ backends: new Set([2, 7]) }), [1, 2]);
  assert.deepEqual(rows({ backends: new Set() }), []);
  assert.deepEqual(rows(client(0xc6336402, 32)), [0]);
  assert.deepEqual(rows(client(0xc6336402, 31)), [0, 1]);
  assert.deepEqual(rows(client(0x80000000, 1)), [0, 1]);
  assert.deepEqual(rows(client(0, 0)), [0, 1, 2]);
  assert.deepEqual(rows({ ...client(0xc6336400, 24), backends: new Set([2]) }), [1]);
});

test("a record that is being written is skipped, and a wrong mark leads nowhere", () => {
  const { views, table } = createSampleTable();
  for (let id = 0; id < 3; id++) insertSample(table, distinctFlow(id));
  views.i32[table.word(1) + F_VERSION]!++;
  views.i32[table.word(2) + F_STATE] = 200;
  views.i32[views.layout.workerWord + W_FLOWS_HIGH_WATER] = 1 << 30;
  assert.deepEqual(
    listFlows(views, {}, 10).flows.map(({ row }) => row),
    [0],
  );
  views.i32[views.layout.workerWord + W_FLOWS_HIGH_WATER] = -1;
  assert.equal(listFlows(views, {}, 10).total, 0);
});

test("a record that changes while it is copied is copied again", () => {
  const { views, table } = createSampleTable();
  const row = insertSample(table, sampleFlow());
  const load = Atomics.load;
  let loads = 0;
  // Between the copy and the second look at the version, the row becomes another flow.
  Atomics.load = ((array: Int32Array, index: number) => {
    if (index === table.word(row) + F_VERSION && ++loads === 2) {
      table.remove(row);
      assert.equal(insertSample(table, sampleFlow({ clientPort: 50_000 })), row);
    }
    return load(array, index);
  }) as typeof Atomics.load;
  try {
    const { flows } = listFlows(views, {}, 10);
    assert.equal(flows[0]!.clientPort, 50_000);
    assert.equal(flows[0]!.replyPort, 50_000);
  } finally {
    Atomics.load = load;
  }
});
