import assert from "node:assert/strict";
import { test } from "node:test";
import { createRandom } from "../../src/base/random.ts";
import { wireFaults } from "../support/wire-check.ts";
import { FAMILIES } from "./corpus.ts";
import { fuzzDatapath, type Spoiler, type Tally } from "./datapath.ts";
import { parseRun, replay, runText, shrink } from "./runs.ts";
import { refusalsOf, SERVICES, servicesOf, WORLDS } from "./worlds.ts";

/**
 * Malformed and mutated frames through the whole data path, on every device's own terms.
 * HEADGATE_MUTATIONS: how many frames in all (200,000; the full figure is 10,000,000).
 */
const FRAMES = Number(process.env["HEADGATE_MUTATIONS"] ?? 200_000);

function newTally(): Tally {
  return { frames: 0, sent: 0, batches: 0, counters: {} };
}

function seedOf(index: number): number {
  return Number(process.env["HEADGATE_SEED"] ?? Date.now() & 0x3fffffff) + index;
}

for (const [index, world] of WORLDS.entries()) {
  test(`${world.name}: mutated frames, no crash, the law exact, no wrong checksum, none too large`, () => {
    const seed = seedOf(index);
    const tally = newTally();
    const failure = fuzzDatapath(world, seed, FRAMES / WORLDS.length, tally);
    if (failure !== null) {
      const small = shrink(failure);
      assert.fail(
        `seed ${seed}: ${small.error.stack}\n` +
          `keep it as test/fuzz/cases/datapath-WHAT-IT-WAS.run:\n${runText(world, small.batches)}`,
      );
    }
    const { received = 0, forwarded = 0, replied = 0, dropped = 0 } = tally.counters;
    console.log(
      `${world.name}: ${tally.frames} frames in ${tally.batches} batches, ${forwarded} forwarded, ` +
        `${replied} replied, ${dropped} dropped, ${tally.sent} sent and checked, seed ${seed}`,
    );
    assert.equal(received, tally.frames);
    // A run in which all is dropped at the door has shown nothing.
    for (const part of [forwarded, replied, dropped]) assert.ok(part > received / 200, `${part}`);
  });
}

test("the corpus: every family has frames, and those that are not meant to be wrong are right", () => {
  for (const [name, build] of FAMILIES) {
    const seeds = build();
    assert.ok(seeds.length > 0, name);
    if (name === "malformed" || name === "fragments") continue;
    for (const { frame, vnet, csum } of seeds) {
      const faults = wireFaults(frame, { link: 14, vnet, csum, guePort: 6080 });
      assert.deepEqual(faults, [], `${name} ${Buffer.from(frame).toString("hex")}`);
    }
  }
});

test("the checker: a changed byte of a segment, datagram or message is found", () => {
  const random = createRandom(1);
  let checked = 0;
  for (const [name, build] of FAMILIES) {
    if (!["tcp", "udp", "icmp", "icmpv6"].includes(name)) continue;
    for (const { frame } of build()) {
      const isIpv4 = frame[12] === 8;
      // UDP without a checksum has nothing to be found by.
      if (isIpv4 && frame[23] === 17 && frame[40] === 0 && frame[41] === 0) continue;
      const at = isIpv4
        ? 14 + random.below(frame.length - 14)
        : 54 + random.below(frame.length - 54);
      const changed = frame.slice();
      changed[at] = changed[at]! ^ (1 << random.below(8));
      const found = wireFaults(changed, { link: 14 });
      assert.notDeepEqual(
        found,
        [],
        `${name}, byte ${at} of ${Buffer.from(frame).toString("hex")}`,
      );
      checked++;
    }
  }
  assert.ok(checked > 300, `${checked}`);
});

test("a gateway that sends a wrong checksum, or too much, is found, and its run made short", () => {
  const [world] = WORLDS;
  const spoilers: Record<string, Spoiler> = {
    // To the backend port of the full-NAT service alone.
    "TCP checksum": ({ bytes }) => {
      const isFull = bytes[23] === 6 && bytes[36] === 0x20 && bytes[37] === 0xfb;
      if (isFull && bytes[20] === 0x40) bytes[50] = bytes[50]! ^ 1;
    },
    "IPv4 header checksum": ({ bytes }) => {
      if (bytes[23] === 17) bytes[24] = bytes[24]! ^ 1;
    },
  };
  for (const [fault, spoil] of Object.entries(spoilers)) {
    const found = fuzzDatapath(world!, 7, 50_000, newTally(), Number.POSITIVE_INFINITY, spoil);
    assert.ok(found !== null, fault);
    const small = shrink(found);
    assert.match(small.error.message, new RegExp(fault));
    // The frame, and perhaps the one that its flow began with.
    const left = small.batches.reduce((sum, { frames }) => sum + frames.length, 0);
    assert.ok(left <= 2, `${left} frames`);
    // What is written down fails again when it is read, and is right without the defect.
    const read = parseRun(runText(small.world, small.batches));
    assert.match(replay(read.world, read.batches, spoil)?.message ?? "", new RegExp(fault));
    assert.equal(replay(read.world, read.batches), null);
  }
});

test("every service is in a world, and each world has those that its device can carry", (t) => {
  for (const world of WORLDS) {
    const refused = refusalsOf(world);
    assert.equal(servicesOf(world).length + refused.length, SERVICES.length);
    const names: string[] = [];
    for (const { row, why } of refused) {
      names.push(`${/name: (\S+),/.exec(row)?.[1]}`);
      assert.match(why, /^world\.yaml:\d+:\d+: services\[0\]\.mode: .*dsr/, row);
      assert.equal(world.link, 0);
    }
    t.diagnostic(`${world.name} goes without ${names.join(" ")}`);
  }
});
