import assert from "node:assert/strict";
import { test } from "node:test";
import { createRateMeter, NO_RATES, type Totals } from "../../src/control/rates.ts";

const ZERO: Totals = { packetsIn: 0, packetsOut: 0, bytesIn: 0, bytesOut: 0, connections: 0 };

test("a rate is the difference of two samples over the time between them", () => {
  const meter = createRateMeter();
  meter.sample(10_000, new Map([["web", ZERO]]));
  assert.deepEqual(meter.of("web"), NO_RATES);
  meter.sample(
    12_000,
    new Map([["web", { ...ZERO, packetsIn: 3000, bytesOut: 9, connections: 4 }]]),
  );
  assert.deepEqual(meter.of("web"), {
    ...NO_RATES,
    packetsInPerSecond: 1500,
    bytesOutPerSecond: 5,
    connectionsPerSecond: 2,
  });
});

test("a subject that comes, goes, or starts at 0 again never has a wrong rate", () => {
  const meter = createRateMeter();
  meter.sample(0, new Map([["web", { ...ZERO, packetsIn: 500 }]]));
  meter.sample(1000, new Map([["dns", { ...ZERO, packetsIn: 70 }]]));
  assert.deepEqual(meter.of("web"), NO_RATES);
  assert.deepEqual(meter.of("dns"), NO_RATES);
  meter.sample(2000, new Map([["dns", { ...ZERO, packetsIn: 10 }]]));
  assert.deepEqual(meter.of("dns"), NO_RATES);
});
