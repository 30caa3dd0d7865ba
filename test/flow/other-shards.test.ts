import assert from "node:assert/strict";
import { test } from "node:test";
import fc from "fast-check";
import { createRandom } from "../../src/base/random.ts";
import { PROTOCOL_TCP } from "../../src/flow/flow-record.ts";
import { createFlowTable } from "../../src/flow/flow-table.ts";
import { createOtherShards } from "../../src/flow/other-shards.ts";
import { createSnatPorts } from "../../src/flow/snat-ports.ts";
import { BANK_SNAT_ADDRESSES } from "../../src/service/bank.ts";
import { H_FLOWS_SCATTERED, viewShard } from "../../src/state/layout.ts";
import { BACKEND, createViews, distinctFlow, insertSample, SNAT, VIP } from "./sample-flows.ts";

function snatFlow(id: number) {
  return distinctFlow(id, { snat: { address: SNAT, port: 2000 + id } });
}

test("a look from outside finds what the tables of the others hold, and nothing else", () => {
  fc.assert(
    fc.property(fc.integer(), fc.constantFrom(2, 3, 7), (seed, workers) => {
      const random = createRandom(seed);
      const views = createViews({ flowCapacity: 40 * workers, workers }, [seed, 5]);
      const tables = views.layout.shards.map((shard) =>
        createFlowTable(viewShard(views, shard.worker)),
      );
      const holders = new Map<number, { worker: number; row: number }>();
      for (let step = 0; step < 60; step++) {
        const id = random.below(50);
        const held = holders.get(id);
        if (held === undefined) {
          const worker = random.below(workers);
          const row = insertSample(tables[worker]!, snatFlow(id));
          if (row >= 0) holders.set(id, { worker, row });
        } else {
          tables[held.worker]!.remove(held.row);
          holders.delete(id);
        }
      }
      for (let asker = 0; asker < workers; asker++) {
        const others = createOtherShards(viewShard(views, asker));
        for (let id = 0; id < 50; id++) {
          const held = holders.get(id);
          const wanted = held !== undefined && held.worker !== asker;
          const ports = (8080 << 16) | (2000 + id);
          assert.equal(others.holdReply(PROTOCOL_TCP, BACKEND, SNAT, ports), wanted);
          assert.equal(others.holdReply(PROTOCOL_TCP, BACKEND + 1, SNAT, ports), false);
        }
      }
    }),
  );
});

for (const workers of [1, 2, 3, 16]) {
  test(`a worker of ${workers} takes only its own ports, every one of them, each once`, () => {
    for (let worker = 0; worker < workers; worker++) {
      const views = viewShard(createViews({ flowCapacity: 4096, workers }), worker);
      const table = createFlowTable(views);
      const snat = createSnatPorts(views, table);
      const pool = views.layout.banks[0].at / 4 + BANK_SNAT_ADDRESSES;
      views.i32[pool] = SNAT;
      const [low, high] = [2001, 2100];
      const taken: number[] = [];
      for (let id = 0; ; id++) {
        const { client, clientPort } = distinctFlow(id);
        const ports = (clientPort << 16) | 80;
        const found = snat.pick(6, client, VIP, ports, BACKEND, 8080, pool, 1, low, high);
        if (found === 0) break;
        const port = snat.result[1]!;
        insertSample(table, distinctFlow(id, { snat: { address: SNAT, port } }));
        taken.push(port);
      }
      const own = Array.from({ length: 100 }, (_, index) => low + index).filter(
        (port) => port % workers === worker,
      );
      assert.deepEqual(
        taken.toSorted((a, b) => a - b),
        own,
      );
    }
  });
}

test("a pool without a port for a worker is exhausted for it, and for it alone", () => {
  const found = [0, 1, 2].map((worker) => {
    const views = viewShard(createViews({ workers: 3 }), worker);
    const snat = createSnatPorts(views, createFlowTable(views));
    const pool = views.layout.banks[0].at / 4 + BANK_SNAT_ADDRESSES;
    views.i32[pool] = SNAT;
    return snat.pick(6, 7, VIP, (9 << 16) | 80, BACKEND, 8080, pool, 1, 2000, 2001);
  });
  // 2000 is 2 modulo 3, 2001 is 0.
  assert.deepEqual(found, [1, 0, 1]);
});

test("a port that a scattered flow has elsewhere is not taken again", () => {
  const views = createViews({ flowCapacity: 400, workers: 2 });
  const [first, second] = [viewShard(views, 0), viewShard(views, 1)];
  // Port 2000 is worker 0's by its number, and lies with worker 1.
  insertSample(createFlowTable(second), distinctFlow(1, { snat: { address: SNAT, port: 2000 } }));
  const table = createFlowTable(first);
  const snat = createSnatPorts(first, table);
  const pool = views.layout.banks[0].at / 4 + BANK_SNAT_ADDRESSES;
  views.i32[pool] = SNAT;
  const pick = () => snat.pick(6, 7, VIP, (9 << 16) | 80, BACKEND, 8080, pool, 1, 2000, 2001);
  assert.equal(pick(), 1, "nobody has said that flows are scattered");
  views.i32[H_FLOWS_SCATTERED] = 1;
  assert.equal(pick(), 0);
});
