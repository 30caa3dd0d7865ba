import assert from "node:assert/strict";
import { test } from "node:test";
import { createRandom } from "../../src/base/random.ts";
import { recordIsSound } from "../../src/flow/check-record.ts";
import {
  backendWordOf,
  FLAG_BY_BACKEND,
  KEY_SLOW,
  PROTOCOL_UDP,
  REPLY,
  STATE_UDP_ONE_WAY,
} from "../../src/flow/flow-record.ts";
import {
  createFlowTable,
  INSERT_ORIGINAL_TAKEN,
  INSERT_REPLY_TAKEN,
} from "../../src/flow/flow-table.ts";
import {
  BACKEND,
  CLIENT,
  createViews,
  insertSample,
  replyPorts,
  type SampleFlow,
  sampleFlow,
  VIP,
} from "./sample-flows.ts";

/**
 * Goal: flows of one client's tuple to several backends (FLAG_BY_BACKEND) are each found by tuple and
 * backend, never by the tuple alone, and live through a take-over.
 * Method: random inserts and removals against a Map.
 */

const SEED = 0x5eed_0900;

function flowTo(slot: number, clientPort: number, flags = FLAG_BY_BACKEND): SampleFlow {
  return sampleFlow({
    protocol: PROTOCOL_UDP,
    clientPort,
    state: STATE_UDP_ONE_WAY,
    slot,
    backend: BACKEND + slot,
    // The key byte is where the protocol is.
    flags: flags | (KEY_SLOW << 8),
  });
}

test("random flows by backend against a map, and after a rebuild", (t) => {
  t.diagnostic(`seed ${SEED}`);
  const random = createRandom(SEED);
  const views = createViews({ flowCapacity: 512 });
  const table = createFlowTable(views);
  const rows = new Map<string, { readonly row: number; readonly flow: SampleFlow }>();
  const ports = (port: number): number => (port << 16) | 80;
  const check = (): void => {
    for (let port = 1; port <= 20; port++) {
      assert.equal(table.find(PROTOCOL_UDP, CLIENT, VIP, ports(port)), -1, "by the tuple alone");
      for (let slot = 0; slot < 8; slot++) {
        const known = rows.get(`${port} ${slot}`);
        const word = backendWordOf(slot, 1);
        const found = table.findByBackend(PROTOCOL_UDP, CLIENT, VIP, ports(port), word);
        assert.equal(found, known?.row ?? -1);
        if (known === undefined) continue;
        const back = table.find(PROTOCOL_UDP, BACKEND + slot, CLIENT, replyPorts(known.flow));
        assert.equal(back, (known.row << 1) | REPLY, "the answer's way");
        assert.ok(recordIsSound(views.i32, table.word(known.row)));
      }
    }
  };
  for (let step = 0; step < 3000; step++) {
    const [port, slot] = [1 + random.below(20), random.below(8)];
    const key = `${port} ${slot}`;
    const known = rows.get(key);
    const flow = flowTo(slot, port);
    if (known === undefined) rows.set(key, { row: insertSample(table, flow), flow });
    else if (random.below(2) === 0) {
      assert.equal(insertSample(table, flow), INSERT_ORIGINAL_TAKEN);
    } else {
      table.remove(known.row);
      rows.delete(key);
    }
    if (step % 300 === 0) check();
  }
  check();
  const report = table.rebuild();
  assert.deepEqual(report, { kept: rows.size, dropped: 0, noRoom: 0 });
  check();
});

test("a flow by backend and a plain one of the same tuple: two backends side by side, one never", () => {
  const table = createFlowTable(createViews({ flowCapacity: 64 }));
  const plain = insertSample(table, flowTo(0, 9, 0));
  assert.equal(table.find(PROTOCOL_UDP, CLIENT, VIP, (9 << 16) | 80), plain << 1);
  assert.equal(insertSample(table, flowTo(0, 9)), INSERT_REPLY_TAKEN, "the reply tuple is one");
  assert.ok(insertSample(table, flowTo(1, 9)) >= 0);
  assert.equal(table.find(PROTOCOL_UDP, CLIENT, VIP, (9 << 16) | 80), plain << 1);
});
