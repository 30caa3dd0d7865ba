import assert from "node:assert/strict";
import { test } from "node:test";
import fc from "fast-check";
import { planRegion } from "../../src/state/layout.ts";

test("sections of a region follow one another without a gap or an overlap", () => {
  fc.assert(
    fc.property(
      fc.integer({ min: 1, max: 1 << 20 }),
      fc.integer({ min: 1, max: 2048 }),
      fc.integer({ min: 1, max: 8192 }),
      fc.integer({ min: 1, max: 1 << 22 }),
      fc.integer({ min: 1, max: 16 }),
      (flowCapacity, services, backends, hashSlots, workers) => {
        const layout = planRegion({
          flowCapacity,
          services,
          backends,
          hashSlots,
          workers,
          accessPrefixes: hashSlots & 0xffff,
          sources: backends,
          splices: workers & 1,
          affinity: hashSlots & 0xfffff,
        });
        const sections = [
          layout.header,
          layout.backendSlots,
          layout.backendKeys,
          layout.serviceSlots,
          layout.serviceKeys,
          ...layout.hops,
          ...layout.banks,
          ...layout.access,
          layout.handover,
          ...layout.shards.flatMap((shard) => [
            shard.workerHeader,
            shard.flows,
            shard.flowIndex,
            shard.flowFree,
            shard.backendRuns,
            shard.serviceRuns,
            shard.counters,
            shard.admissionRuns,
            shard.sources,
            shard.splices,
            shard.passiveRuns,
            shard.affinity,
            shard.affinityFlows,
            shard.samples,
          ]),
        ];
        let at = 0;
        for (const section of sections) {
          assert.equal(section.at, at);
          assert.equal(section.at % 4096, 0);
          at += Math.ceil(section.bytes / 4096) * 4096;
        }
        assert.equal(layout.bytes, at);
        const rows = layout.shards.reduce((sum, shard) => sum + shard.flowCapacity, 0);
        assert.ok(rows >= flowCapacity && rows < flowCapacity + workers, "rows for every flow");
        assert.equal(layout.handover.bytes, workers * (workers - 1) * layout.handoverBytes);
        assert.ok(layout.handover.bytes <= 32 << 20, "rings are bounded");
      },
    ),
  );
});

test("a flow costs at most 128 bytes, both directions, index and free list counted", () => {
  const capacity = 1 << 20;
  const size = { flowCapacity: capacity, services: 1, backends: 1, hashSlots: 1, workers: 1 };
  const layout = planRegion(size).shards[0]!;
  const bytes = layout.flows.bytes + layout.flowIndex.bytes + layout.flowFree.bytes;
  assert.ok(bytes / capacity <= 128, `${bytes / capacity} bytes a flow`);
});
