import assert from "node:assert/strict";
import { test } from "node:test";
import fc from "fast-check";
import { SNAT_PROBES_MAX } from "../../src/base/limits.ts";
import { createRandom } from "../../src/base/random.ts";
import { PROTOCOL_TCP, PROTOCOL_UDP } from "../../src/flow/flow-record.ts";
import type { FlowTable } from "../../src/flow/flow-table.ts";
import { createSnatPorts, type SnatPorts } from "../../src/flow/snat-ports.ts";
import type { RegionViews } from "../../src/state/layout.ts";
import {
  BACKEND,
  createSampleTable,
  distinctFlow,
  insertSample,
  originalPorts,
  type SampleFlow,
  SNAT,
  sampleFlow,
  VIP,
} from "./sample-flows.ts";

// Goal: an address and port never serve twice towards one backend address and port; the search is
// bounded, and looks at everything when the pool is small.
// Method: flows are opened as the data plane does it, and compared with a set of what was given.

interface Pool {
  readonly addresses: readonly number[];
  readonly low: number;
  readonly high: number;
}

interface Gateway {
  readonly views: RegionViews;
  readonly table: FlowTable;
  readonly ports: SnatPorts;
  readonly pool: Pool;
}

function gateway(pool: Pool, flowCapacity: number, secret = [1, 2]): Gateway {
  const { views, table } = createSampleTable({ flowCapacity }, secret);
  pool.addresses.forEach((address, index) => {
    views.i32[poolWord(views) + index] = address;
  });
  return { views, table, ports: createSnatPorts(views, table), pool };
}

/** Any words that nothing else uses will do: the pool of a bank lies in the bank. */
function poolWord(views: RegionViews): number {
  return views.layout.banks[0].at >> 2;
}

/** @returns address and port, or null */
function ask(on: Gateway, flow: SampleFlow): { address: number; port: number } | null {
  const { views, ports, pool } = on;
  const found = ports.pick(
    flow.protocol,
    flow.client,
    flow.vip,
    originalPorts(flow),
    flow.backend,
    flow.backendPort,
    poolWord(views),
    pool.addresses.length,
    pool.low,
    pool.high,
  );
  return found === 0 ? null : { address: ports.result[0]!, port: ports.result[1]! };
}

/** @returns "address:port", or null when the ports are exhausted */
function open(on: Gateway, flow: SampleFlow): string | null {
  const snat = ask(on, flow);
  if (snat === null) return null;
  const { pool } = on;
  assert.ok(pool.addresses.includes(snat.address), "the address is of the pool");
  assert.ok(snat.port >= pool.low && snat.port <= pool.high, `port ${snat.port} is of the pool`);
  assert.ok(insertSample(on.table, { ...flow, snat }) >= 0, "the reply tuple was free");
  return `${snat.address}:${snat.port}`;
}

test("a small pool is given out completely, once towards each backend and protocol", () => {
  fc.assert(
    fc.property(
      fc.integer({ min: 1, max: 4 }),
      fc.integer({ min: 1, max: 32 }),
      fc.integer(),
      (addressCount, portCount, seed) => {
        const addresses = Array.from({ length: addressCount }, (_, index) => SNAT + index);
        const pool = { addresses, low: 1024, high: 1024 + portCount - 1 };
        const on = gateway(pool, 1024, [seed, ~seed]);
        const space = addressCount * portCount;
        let id = 0;
        for (const backend of [BACKEND, BACKEND + 1]) {
          for (const [protocol, state] of [
            [PROTOCOL_TCP, 3],
            [PROTOCOL_UDP, 9],
          ] as const) {
            const given = new Set<string>();
            const flow = (): SampleFlow => distinctFlow(id++, { backend, protocol, state });
            for (let count = 0; count < space; count++) given.add(open(on, flow()) ?? "exhausted");
            assert.equal(given.size, space, "every address and port once");
            assert.equal(open(on, flow()), null, "and then no more");
          }
        }
      },
    ),
    { numRuns: 40 },
  );
});

test("a port that is free again is found again", () => {
  const on = gateway({ addresses: [SNAT], low: 2000, high: 2099 }, 256);
  const rows: number[] = [];
  for (let id = 0; id < 100; id++) {
    const flow = distinctFlow(id);
    const snat = ask(on, flow);
    assert.ok(snat !== null);
    rows.push(insertSample(on.table, { ...flow, snat }));
  }
  assert.equal(open(on, distinctFlow(1000)), null);
  on.table.remove(rows[42]!);
  assert.notEqual(open(on, distinctFlow(1000)), null);
  assert.equal(open(on, distinctFlow(1001)), null);
});

test("with 19 of 20 taken, a port is found nearly always, within the probes", () => {
  // 95 % of 4,000 candidates: 128 independent probes fail once in 700 searches.
  const pool = { addresses: [SNAT, SNAT + 1], low: 10_000, high: 11_999 };
  let failed = 0;
  for (const seed of [11, 12, 13]) {
    const random = createRandom(seed);
    const on = gateway(pool, 4096, [random.next32(), random.next32()]);
    let id = 0;
    while (on.table.used() < 3800) if (open(on, distinctFlow(id++)) === null) failed++;
    for (let search = 0; search < 2000; search++) {
      if (ask(on, distinctFlow(id++)) === null) failed++;
    }
  }
  assert.ok(failed < 60, `${failed} of 17400 searches failed`);
});

test("the search gives up after SNAT_PROBES_MAX candidates", () => {
  let looks = 0;
  const { views } = gateway({ addresses: [SNAT], low: 1024, high: 65_535 }, 64);
  const full = { find: () => looks++ } as unknown as FlowTable;
  views.i32[poolWord(views)] = SNAT;
  const ports = createSnatPorts(views, full);
  const word = poolWord(views);
  assert.equal(ports.pick(6, 1, 2, 3, 4, 5, word, 1, 1024, 65_535), 0);
  assert.equal(looks, SNAT_PROBES_MAX);
  looks = 0;
  assert.equal(ports.pick(6, 1, 2, 3, 4, 5, word, 1, 1024, 1025), 0);
  assert.equal(looks, 2);
  looks = 0;
  assert.equal(ports.pick(6, 1, 2, 3, 4, 5, word, 0, 1024, 65_535), 0, "an empty pool");
  assert.equal(looks, 0);
});

test("the same client begins at the same port; the secret decides which", () => {
  const pool = { addresses: [SNAT, SNAT + 1], low: 1024, high: 65_535 };
  const first = ask(gateway(pool, 64), sampleFlow());
  assert.deepEqual(ask(gateway(pool, 64), sampleFlow()), first);
  assert.notDeepEqual(ask(gateway(pool, 64, [1, 3]), sampleFlow()), first);
});

test("a client that is the backend itself gets no tuple that its own packets have", () => {
  // The VIP is also of the pool, and the only free candidate would be the client's own tuple.
  const pool = { addresses: [VIP], low: 80, high: 80 };
  const own = { client: BACKEND, clientPort: 8080, vip: VIP, vipPort: 80 };
  assert.equal(ask(gateway(pool, 64), sampleFlow(own)), null);
  assert.notEqual(ask(gateway(pool, 64), sampleFlow({ ...own, clientPort: 8081 })), null);
});
