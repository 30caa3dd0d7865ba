import assert from "node:assert/strict";
import { test } from "node:test";
import fc from "fast-check";
import { createRandom, type Random } from "../../src/base/random.ts";
import { createContext } from "../../src/datapath/context.ts";
import { createHandover, type Handover } from "../../src/datapath/handover.ts";
import { DROP_HANDOVER_FULL, DROPPED, HANDED_OVER } from "../../src/datapath/verdict.ts";
import {
  D_AT,
  D_BYTES,
  D_CSUM,
  D_INTERFACE,
  D_RESULT,
  D_VNET,
  DESCRIPTOR_WORDS,
} from "../../src/device/device.ts";
import { createMemoryDevice, type MemoryDevice } from "../../src/device/memory.ts";
import { planRegion, viewRegion, viewShard, W_SLEEPS } from "../../src/state/layout.ts";

/**
 * Goal: rings between workers lose, change and reorder nothing, and refuse only when full.
 * Method: random frames and random moments to look, against queues that are plain arrays.
 */

interface End {
  readonly device: MemoryDevice;
  readonly handover: Handover;
}

const INLET_SLOTS = 128;
const RECORD_BYTES = 16;

function makeEnds(workers: number, linkHeaderBytes: 0 | 14) {
  const layout = planRegion({ flowCapacity: 16, services: 1, backends: 1, hashSlots: 1, workers });
  const views = viewRegion(new ArrayBuffer(layout.bytes), layout);
  const ends = layout.shards.map(({ worker }): End => {
    const device = createMemoryDevice({
      linkHeaderBytes,
      interfaces: [0, 1].map((index) => ({ name: `eth${index}`, index, mac: "", mtu: 1500 })),
      slots: 64,
      slotBytes: 66_000,
      inletSlots: INLET_SLOTS,
    });
    return { device, handover: createHandover(createContext(device, viewShard(views, worker))) };
  });
  return { layout, views, ends };
}

interface Frame {
  readonly bytes: Uint8Array;
  readonly interface: number;
  readonly vnet: number;
  readonly csum: number;
}

/** @param isLarge - as large as GSO frames get, so that rings fill up */
function randomFrame(random: Random, isLarge = false): Frame {
  const sizes = [60, 61, 62, 63, 1514, 2046, 2047, 9014, 65_550];
  const ordinary = random.below(3) === 0 ? 15 + random.below(9000) : sizes[random.below(9)]!;
  const bytes = new Uint8Array(isLarge ? 65_550 : ordinary);
  for (let at = 0; at < bytes.length; at += 1 + random.below(97)) bytes[at] = random.below(256);
  return {
    bytes,
    interface: random.below(2),
    vnet: random.below(2) === 0 ? 0 : random.below(2 ** 31),
    csum: random.below(2 ** 31),
  };
}

/** What a worker finds in its inlet. */
function describe(device: MemoryDevice, index: number): Frame & { handed: number } {
  const { rx } = device.batch;
  const word = index * DESCRIPTOR_WORDS;
  const at = rx[word + D_AT]!;
  assert.equal((at + device.linkHeaderBytes) % 4, 0, "the IP header is aligned");
  assert.ok(at >= device.inletAt);
  assert.ok(at + rx[word + D_BYTES]! <= device.inletAt + INLET_SLOTS * device.inletSlotBytes);
  return {
    bytes: new Uint8Array(device.memory.slice(at, at + rx[word + D_BYTES]!)),
    interface: rx[word + D_INTERFACE]!,
    vnet: rx[word + D_VNET]!,
    csum: rx[word + D_CSUM]!,
    handed: rx[word + D_RESULT]!,
  };
}

/** Bring one frame in, and have it sent to another worker. */
function sendOne({ device, handover }: End, frame: Frame, to: number): number {
  device.inject(frame.bytes, frame.interface, frame);
  assert.equal(device.receive(0), 1);
  return handover.send(0, to);
}

function recordBytes(frame: Frame, linkHeaderBytes: number): number {
  return RECORD_BYTES + Math.ceil(((-linkHeaderBytes & 3) + frame.bytes.length) / 4) * 4;
}

for (const [workers, link] of [
  [2, 14],
  [2, 0],
  [16, 14],
] as const) {
  test(`${workers} workers, link header ${link}: rings behave as queues`, () => {
    const { layout, ends } = makeEnds(workers, link);
    const outcomes = { sent: 0, full: 0, came: 0 };
    fc.assert(
      fc.property(fc.integer(), (seed) => {
        const random = createRandom(seed);
        const queues = new Map<string, Frame[]>();
        const used = new Map<string, number>();
        const queueOf = (from: number, to: number): Frame[] => {
          const key = `${from} ${to}`;
          if (!queues.has(key)) queues.set(key, []);
          return queues.get(key)!;
        };
        const drain = (to: number): void => {
          const { device, handover } = ends[to]!;
          // Due at most every other time, and only when something waits.
          let idle = 0;
          while (idle < 2) {
            if (!handover.isDue()) {
              idle++;
              continue;
            }
            idle = 0;
            const count = handover.receive();
            assert.ok(count > 0);
            for (let index = 0; index < count; index++) {
              const got = describe(device, index);
              const from = got.bytes[14]! % workers;
              const wanted = queueOf(from, to).shift();
              assert.ok(wanted !== undefined, "a frame that was sent");
              assert.deepEqual(got, { ...wanted, handed: 1 });
              const key = `${from} ${to}`;
              used.set(key, used.get(key)! - recordBytes(wanted, link));
              outcomes.came++;
            }
          }
          for (let from = 0; from < workers; from++) {
            if (from !== to) assert.equal(queueOf(from, to).length, 0, "everything came");
          }
        };
        const steps = 20 + random.below(60);
        const isLarge = random.below(3) === 0;
        for (let step = 0; step < steps; step++) {
          const from = random.below(workers);
          const to = (from + 1 + random.below(workers - 1)) % workers;
          const frame = randomFrame(random, isLarge);
          frame.bytes[14] = from;
          const key = `${from} ${to}`;
          const bytes = recordBytes(frame, link);
          const fits = (used.get(key) ?? 0) + bytes <= layout.handoverBytes;
          const verdict = sendOne(ends[from]!, frame, to);
          assert.equal(verdict, fits ? HANDED_OVER : DROPPED | (DROP_HANDOVER_FULL << 8));
          if (fits) {
            queueOf(from, to).push(frame);
            used.set(key, (used.get(key) ?? 0) + bytes);
            outcomes.sent++;
          } else outcomes.full++;
          if (random.below(isLarge ? 40 : 8) !== 0) continue;
          for (const { handover } of ends) assert.equal(handover.flush(), 0, "nobody sleeps");
          drain(random.below(workers));
        }
        for (const { handover } of ends) handover.flush();
        for (let to = 0; to < workers; to++) drain(to);
      }),
      { numRuns: 60 },
    );
    assert.equal(outcomes.came, outcomes.sent);
    assert.ok(outcomes.full > 0 && outcomes.sent > 1000, JSON.stringify(outcomes));
  });
}

test("what is not flushed is not seen", () => {
  const { ends } = makeEnds(2, 14);
  sendOne(ends[0]!, randomFrame(createRandom(1)), 1);
  assert.equal(ends[1]!.handover.isDue(), false);
  ends[0]!.handover.flush();
  assert.equal(ends[1]!.handover.isDue(), true);
});

test("handed frames and a worker's own take turns", () => {
  const { ends } = makeEnds(2, 14);
  for (let count = 0; count < 100; count++) {
    sendOne(ends[0]!, { ...randomFrame(createRandom(count)), bytes: new Uint8Array(60) }, 1);
  }
  ends[0]!.handover.flush();
  const { handover } = ends[1]!;
  assert.equal(handover.isDue(), true);
  assert.equal(handover.receive(), 64);
  assert.equal(handover.isDue(), false, "now the device's own");
  assert.equal(handover.isDue(), true);
  assert.equal(handover.receive(), 36);
  assert.equal(handover.isDue(), false);
  assert.equal(handover.isDue(), false);
});

test("a sleeper is woken once, by whoever hands it a frame first; one that is awake is not", () => {
  const { ends, layout, views } = makeEnds(3, 14);
  const frame = randomFrame(createRandom(1));
  const [first, second, third] = ends as [End, End, End];
  sendOne(first, frame, 2);
  assert.equal(first.handover.flush(), 0);
  assert.equal(third.handover.sleep(10), 0, "a frame waits: no sleep");
  third.handover.awake();
  assert.equal(third.handover.isDue(), true);
  third.handover.receive();
  assert.equal(third.handover.sleep(10), 10);
  sendOne(second, frame, 2);
  assert.equal(second.handover.flush(), 1 << 2);
  sendOne(first, frame, 2);
  assert.equal(first.handover.flush(), 0, "it was woken already");
  third.handover.awake();
  assert.equal(views.i32[layout.shards[2]!.workerWord + W_SLEEPS], 0);
  assert.equal(third.handover.sleep(0), 0, "who does not wait needs no waking");
  assert.equal(views.i32[layout.shards[2]!.workerWord + W_SLEEPS], 0);
});

test("a frame that goes on says how often it was handed over", () => {
  const { ends } = makeEnds(3, 14);
  const frame = randomFrame(createRandom(3));
  sendOne(ends[0]!, frame, 1);
  ends[0]!.handover.flush();
  ends[1]!.handover.isDue();
  ends[1]!.handover.receive();
  assert.equal(ends[1]!.handover.send(0, 2), HANDED_OVER);
  ends[1]!.handover.flush();
  ends[2]!.handover.isDue();
  assert.equal(ends[2]!.handover.receive(), 1);
  assert.deepEqual(describe(ends[2]!.device, 0), { ...frame, handed: 2 });
});
