import assert from "node:assert/strict";
import { test } from "node:test";
import fc from "fast-check";
import {
  add16,
  difference16,
  difference32,
  fold,
  negate16,
  pseudoSumIpv4,
  sumBytes,
  updateChecksum,
  updatePartial,
} from "../../src/wire/checksum.ts";
import { pseudoHeader, slowChecksum, slowSum } from "../support/frames.ts";

// Goal: every fast sum equals the plain one, zero in its two forms included.
// Method: slowSum() of test/support, which counts modulo 2^16 - 1 and knows no carry.

const word16 = fc.oneof(fc.nat(0xffff), fc.constantFrom(0, 1, 0x7fff, 0x8000, 0xfffe, 0xffff));
const word32 = fc.tuple(word16, word16).map(([high, low]) => (high << 16) | low);

test("the example of RFC 1071 section 3", () => {
  const bytes = Uint8Array.from([0x00, 0x01, 0xf2, 0x03, 0xf4, 0xf5, 0xf6, 0xf7]);
  assert.equal(sumBytes(new DataView(bytes.buffer), 0, 8), 0xddf2);
});

test("the example of RFC 1624 section 4: the result is 0, not 0xffff", () => {
  assert.equal(updateChecksum(0xdd2f, difference16(0x5555, 0x3285)), 0x0000);
});

test("fold() adds the carries of any 32-bit sum", () => {
  fc.assert(
    fc.property(fc.oneof(fc.integer(), fc.nat(0x1ffff), fc.constantFrom(0, -1, 0xffff)), (sum) => {
      const unsigned = sum >>> 0;
      assert.equal(fold(sum), unsigned === 0 ? 0 : unsigned % 0xffff || 0xffff);
      assert.equal(fold(unsigned), fold(sum));
    }),
  );
});

test("sumBytes() equals the plain sum at every alignment and length, odd ones too", () => {
  const cases = fc.tuple(fc.uint8Array({ maxLength: 200 }), fc.nat(7), fc.nat(3), word16);
  fc.assert(
    fc.property(cases, ([bytes, at, after, initial]) => {
      const buffer = new Uint8Array(at + bytes.length + after).fill(0xa5);
      buffer.set(bytes, at);
      const view = new DataView(buffer.buffer);
      assert.equal(sumBytes(view, at, bytes.length), slowSum(bytes));
      const head = [initial >>> 8, initial & 0xff];
      assert.equal(sumBytes(view, at, bytes.length, initial), slowSum([...head, ...bytes]));
    }),
    { numRuns: 2000 },
  );
});

test("sumBytes() reads no byte outside its range", () => {
  for (let bytes = 0; bytes < 70; bytes++) {
    const view = new DataView(new Uint8Array(bytes).fill(0xff).buffer);
    assert.equal(sumBytes(view, 0, bytes), slowSum(new Uint8Array(bytes).fill(0xff)));
  }
});

test("sumBytes() keeps every carry of 65,536 bytes of 0xff", () => {
  for (const length of [65_535, 65_536]) {
    const bytes = new Uint8Array(length).fill(0xff);
    assert.equal(sumBytes(new DataView(bytes.buffer), 0, length), slowSum(bytes));
    const view = new DataView(bytes.buffer);
    assert.equal(sumBytes(view, 0, length, 0xffff), slowSum([0xff, 0xff, ...bytes]));
  }
});

test("pseudoSumIpv4() is the sum of the pseudo header", () => {
  fc.assert(
    fc.property(word32, word32, fc.constantFrom(6, 17), word16, (source, to, protocol, bytes) => {
      const expected = slowSum(pseudoHeader(source, to, protocol, bytes));
      assert.equal(pseudoSumIpv4(source, to, protocol, bytes), expected);
    }),
    { numRuns: 1000 },
  );
});

/** Bytes of an even number, and a 32-bit word of them that changes. */
const change = fc.record({
  bytes: fc
    .uint8Array({ minLength: 4, maxLength: 64 })
    .map((bytes) => bytes.subarray(0, bytes.length & ~1)),
  place: fc.nat(),
  after: word32,
  // Once in a while every byte is 0, or the checksum before or after comes out as 0.
  zero: fc.constantFrom("no", "before", "after"),
});

function withZero(bytes: Uint8Array, zero: string, at: number, after: number): Uint8Array {
  const whole = new Uint8Array(bytes.length + 2);
  whole.set(bytes);
  if (zero === "no") return whole;
  const view = new DataView(whole.buffer);
  const before = view.getInt32(at);
  if (zero === "after") view.setInt32(at, after);
  view.setUint16(bytes.length, slowChecksum(whole));
  view.setInt32(at, before);
  return whole;
}

test("an updated checksum equals the recomputed one", () => {
  let zeros = 0;
  fc.assert(
    fc.property(change, ({ bytes, place, after, zero }) => {
      const at = (place % (bytes.length / 2 - 1)) * 2;
      const whole = withZero(bytes, zero, at, after);
      const view = new DataView(whole.buffer);
      const before = view.getInt32(at);
      const old = slowChecksum(whole);
      view.setInt32(at, after);
      const expected = slowChecksum(whole);
      if (expected === 0) zeros++;
      const delta = difference32(before, after);
      // Of nothing but zero words there is no sum to keep: those never are a header.
      if (old === 0xffff || expected === 0xffff) return;
      assert.equal(updateChecksum(old, delta), expected);
      assert.equal(updateChecksum(expected, negate16(delta)), old, "and back");
    }),
    { numRuns: 5000 },
  );
  assert.ok(zeros > 100, `the zero result was tested (${zeros} times)`);
});

test("an updated partial sum equals the recomputed one", () => {
  fc.assert(
    fc.property(word32, word32, word32, word32, word16, (a, b, c, d, bytes) => {
      const before = pseudoSumIpv4(a, b, 6, bytes);
      const delta = add16(difference32(a, c), difference32(b, d));
      const expected = slowSum(pseudoHeader(c, d, 6, bytes));
      assert.equal(updatePartial(before, delta), expected);
      assert.equal(updatePartial(expected, negate16(delta)), before, "and back");
    }),
    { numRuns: 5000 },
  );
});

test("a checksum that was wrong stays as wrong as it was", () => {
  fc.assert(
    fc.property(word16, word32, word32, fc.integer({ min: 1, max: 0xfffe }), (sum, a, b, error) => {
      const right = updateChecksum(sum, difference32(a, b));
      const wrong = updateChecksum(add16(sum, error), difference32(a, b));
      assert.equal(wrong % 0xffff, add16(right, error) % 0xffff);
      assert.notEqual(wrong % 0xffff, right % 0xffff);
    }),
    { numRuns: 2000 },
  );
});

test("deltas of several fields add up in any order", () => {
  fc.assert(
    fc.property(word32, word32, word32, word32, (a, b, c, d) => {
      const first = add16(difference32(a, b), difference32(c, d));
      assert.equal(first % 0xffff, add16(difference32(c, d), difference32(a, b)) % 0xffff);
      assert.equal(add16(first, negate16(first)), 0xffff, "there and back is nothing");
      assert.equal(
        difference32(a & 0xffff, b & 0xffff) % 0xffff,
        difference16(a & 0xffff, b & 0xffff) % 0xffff,
      );
      assert.ok(first >= 0 && first <= 0xffff);
    }),
    { numRuns: 2000 },
  );
});
