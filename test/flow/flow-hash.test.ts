import assert from "node:assert/strict";
import { test } from "node:test";
import fc from "fast-check";
import { flowHash } from "../../src/flow/flow-hash.ts";

// Goal: flowHash is HalfSipHash-1-3 of sixteen bytes.
// Method: a slow oracle for any rounds and length, checked against the published vectors of
// HalfSipHash-2-4, then compared with the fast routine.

function rotate(value: number, bits: number): number {
  return ((value << bits) | (value >>> (32 - bits))) >>> 0;
}

/** HalfSipHash-c-d with 32 bits of result, from the reference's description, byte by byte. */
function halfSipHash(
  compressionRounds: number,
  finalRounds: number,
  key: Uint8Array,
  message: Uint8Array,
): number {
  const word = (bytes: Uint8Array, at: number): number =>
    (bytes[at]! | (bytes[at + 1]! << 8) | (bytes[at + 2]! << 16) | (bytes[at + 3]! << 24)) >>> 0;
  const k0 = word(key, 0);
  const k1 = word(key, 4);
  const v = [k0, k1, (0x6c796765 ^ k0) >>> 0, (0x74656462 ^ k1) >>> 0] as [
    number,
    number,
    number,
    number,
  ];
  const rounds = (count: number): void => {
    for (let round = 0; round < count; round++) {
      v[0] = (v[0] + v[1]) >>> 0;
      v[1] = rotate(v[1], 5);
      v[1] = (v[1] ^ v[0]) >>> 0;
      v[0] = rotate(v[0], 16);
      v[2] = (v[2] + v[3]) >>> 0;
      v[3] = rotate(v[3], 8);
      v[3] = (v[3] ^ v[2]) >>> 0;
      v[0] = (v[0] + v[3]) >>> 0;
      v[3] = rotate(v[3], 7);
      v[3] = (v[3] ^ v[0]) >>> 0;
      v[2] = (v[2] + v[1]) >>> 0;
      v[1] = rotate(v[1], 13);
      v[1] = (v[1] ^ v[2]) >>> 0;
      v[2] = rotate(v[2], 16);
    }
  };
  const absorb = (block: number): void => {
    v[3] = (v[3] ^ block) >>> 0;
    rounds(compressionRounds);
    v[0] = (v[0] ^ block) >>> 0;
  };
  const whole = message.length - (message.length % 4);
  for (let at = 0; at < whole; at += 4) absorb(word(message, at));
  let last = (message.length & 0xff) << 24;
  for (let at = whole; at < message.length; at++) last |= message[at]! << (8 * (at - whole));
  absorb(last >>> 0);
  v[2] = (v[2] ^ 0xff) >>> 0;
  rounds(finalRounds);
  return (v[1] ^ v[3]) | 0;
}

/** vectors_hsip32 of the reference implementation: key 00..07, message 00, 01, … of that length. */
const VECTORS = [
  "a9359f5b 27475ab8 fa62a603 8afee704 2a6e4689 c5fab669 5863fc23 8bcf63c5",
  "d0b8848f f806e779 94b07934 08083050 57f0872f 77e663ff d6fff87c 74fe2b97",
  "d9b5ac84 c474645b 465b8d9b 7befe387 e34d1045 613f62b3 70f367fe e6adb8bd",
]
  .join(" ")
  .split(" ");

test("the oracle gives the published vectors of HalfSipHash-2-4", () => {
  const key = Uint8Array.from({ length: 8 }, (_, index) => index);
  VECTORS.forEach((vector, length) => {
    const message = Uint8Array.from({ length }, (_, index) => index);
    const bytes = Buffer.alloc(4);
    bytes.writeInt32LE(halfSipHash(2, 4, key, message));
    assert.equal(bytes.toString("hex"), vector, `message of ${length} bytes`);
  });
});

test("flowHash is HalfSipHash-1-3 of its four words, little-endian", () => {
  const word = fc.integer({ min: -(2 ** 31), max: 2 ** 31 - 1 });
  fc.assert(
    fc.property(word, word, word, word, word, word, (k0, k1, a, b, c, d) => {
      const bytes = new Uint8Array(Int32Array.of(k0, k1, a, b, c, d).buffer);
      const slow = halfSipHash(1, 3, bytes.subarray(0, 8), bytes.subarray(8));
      assert.equal(flowHash(k0, k1, a, b, c, d), slow);
    }),
    { numRuns: 2000 },
  );
});

test("neighbouring clients spread over the buckets as random numbers do", () => {
  // 2^16 keys in 2^10 buckets: 64 a bucket, chi-squared about 1023 with deviation 45.
  for (const [k0, k1] of [
    [0, 0],
    [1, 2],
    [0x12345678, -0x7fffffff],
  ] as const) {
    const low = new Int32Array(1024);
    const high = new Int32Array(1024);
    for (let id = 0; id < 1 << 16; id++) {
      const client = 0x0a000000 + (id >>> 8);
      const ports = ((40_000 + (id & 0xff)) << 16) | 80;
      const hash = flowHash(k0, k1, 6, client, 0x7f000001, ports);
      low[hash & 1023]!++;
      high[Math.imul(hash, 0x9e3779b1) >>> 22]!++;
    }
    for (const counts of [low, high]) {
      const chi = counts.reduce((sum, count) => sum + (count - 64) ** 2 / 64, 0);
      assert.ok(chi > 1023 - 5 * 45 && chi < 1023 + 5 * 45, `chi-squared ${chi}`);
    }
  }
});

test("every input bit and every key bit changes half of the result", () => {
  const base = [3, 5, 6, 0x0a000001, 0x0b000001, 0x9c400050] as const;
  for (let word = 0; word < 6; word++) {
    for (let bit = 0; bit < 32; bit++) {
      let changed = 0;
      for (let sample = 0; sample < 64; sample++) {
        const words = base.map((value) => Math.imul(value, sample * 2 + 1));
        const before = flowHash(...(words as [number, number, number, number, number, number]));
        words[word]! ^= 1 << bit;
        let difference =
          before ^ flowHash(...(words as [number, number, number, number, number, number]));
        for (; difference !== 0; difference &= difference - 1) changed++;
      }
      assert.ok(
        Math.abs(changed / 64 - 16) < 3.5,
        `word ${word} bit ${bit}: ${changed / 64} of 32`,
      );
    }
  }
});
