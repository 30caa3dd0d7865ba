import assert from "node:assert/strict";
import { test } from "node:test";
import { createRandom } from "../../src/base/random.ts";
import { updateChecksum } from "../../src/wire/checksum.ts";
import { clampMss, findMss, MSS_UNCHANGED } from "../../src/wire/tcp-mss.ts";
import { checksumsOk, SYN, tcpPacket } from "../support/frames.ts";

/** The MSS option, wherever it stands, and the checksum after its change. */

const FIELDS = {
  source: "198.51.100.2",
  destination: "203.0.113.10",
  sourcePort: 40_000,
  destinationPort: 80,
  flags: SYN,
} as const;

const CASES: readonly { name: string; options: readonly number[]; at: number }[] = [
  { name: "none", options: [], at: -1 },
  { name: "first", options: [2, 4, 5, 180], at: 22 },
  { name: "behind No Operations, at an odd place", options: [1, 2, 4, 5, 180, 1, 1, 1], at: 23 },
  { name: "behind others", options: [4, 2, 8, 10, 0, 0, 0, 1, 0, 0, 0, 0, 2, 4, 5, 180], at: 34 },
  { name: "behind End", options: [0, 0, 0, 0, 2, 4, 5, 180], at: -1 },
  { name: "of a wrong length", options: [2, 3, 5, 1], at: -1 },
  { name: "behind a length of 0", options: [3, 0, 2, 4, 5, 180, 0, 0], at: -1 },
  { name: "cut by the header's end", options: [1, 1, 1, 2], at: -1 },
  { name: "longer than the header", options: [1, 1, 2, 40], at: -1 },
];
for (const { name, options, at } of CASES) {
  test(`findMss: ${name}`, () => {
    const packet = tcpPacket({ ...FIELDS, options });
    const view = new DataView(packet.buffer);
    assert.equal(findMss(view, 20, 20 + options.length), at < 0 ? -1 : 20 + at);
  });
}

test("clampMss lowers and never raises, and its difference makes the checksum right", () => {
  const seed = Number(process.env["SEED"] ?? 20_261_125);
  const random = createRandom(seed);
  for (let round = 0; round < 2000; round++) {
    const mss = random.below(65_536);
    const pad = random.below(3);
    const options = [...Array<number>(pad).fill(1), 2, 4, mss >>> 8, mss & 0xff, 1, 1, 1, 1];
    const packet = tcpPacket({ ...FIELDS, options: options.slice(0, 8) });
    const view = new DataView(packet.buffer);
    const most = random.below(65_536);
    const delta = clampMss(view, 20, 28, most);
    assert.equal(view.getUint16(20 + 20 + pad + 2), Math.min(mss, most), `seed ${seed}, ${round}`);
    assert.equal(delta === MSS_UNCHANGED, mss <= most);
    if (delta !== MSS_UNCHANGED) view.setUint16(36, updateChecksum(view.getUint16(36), delta));
    assert.ok(checksumsOk(packet, { linkHeaderBytes: 0 }), `seed ${seed}, ${round}`);
  }
});
