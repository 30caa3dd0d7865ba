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
      (flowCapacity, services, backends, hashSlots) => {
        const layout = planRegion({ flowCapacity, services, backends, hashSlots });
        const sections = [
          layout.header,
          layout.flows,
          layout.flowIndex,
          layout.flowFree,
          layout.backendSlots,
          layout.backendKeys,
          layout.serviceSlots,
          layout.serviceKeys,
          layout.counters,
          layout.samples,
          ...layout.hops,
          ...layout.banks,
        ];
        let at = 0;
        for (const section of sections) {
          assert.equal(section.at, at);
          assert.equal(section.at % 4096, 0);
          at += Math.ceil(section.bytes / 4096) * 4096;
        }
        assert.equal(layout.bytes, at);
      },
    ),
  );
});

test("a flow costs at most 128 bytes, both directions, index and free list counted", () => {
  const capacity = 1 << 20;
  const layout = planRegion({ flowCapacity: capacity, services: 1, backends: 1, hashSlots: 1 });
  const bytes = layout.flows.bytes + layout.flowIndex.bytes + layout.flowFree.bytes;
  assert.ok(bytes / capacity <= 128, `${bytes / capacity} bytes a flow`);
});
