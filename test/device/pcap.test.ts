import assert from "node:assert/strict";
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import path from "node:path";
import { after, test } from "node:test";
import fc from "fast-check";
import { HeadgateError } from "../../src/base/errors.ts";
import {
  createPcap,
  FRAME_BYTES_MAX,
  LINK_ETHERNET,
  LINK_RAW,
  openPcap,
  readPcap,
  writePcap,
} from "../../src/device/pcap.ts";

const folder = mkdtempSync(path.join(tmpdir(), "headgate-pcap-"));
after(() => rmSync(folder, { recursive: true, force: true }));
const file = path.join(folder, "capture.pcap");

interface Written {
  readonly magic?: number;
  readonly littleEndian?: boolean;
  readonly major?: number;
  readonly link?: number;
  readonly keptBytes?: number;
  readonly wireBytes?: number;
}

/** A capture file of one record with four bytes of data, built here by hand. */
function capture(fields: Written = {}): Uint8Array {
  const { magic = 0xa1b2c3d4, littleEndian = true, major = 2, link = 1 } = fields;
  const { keptBytes = 4, wireBytes = 4 } = fields;
  const bytes = new Uint8Array(44);
  const view = new DataView(bytes.buffer);
  view.setUint32(0, magic, littleEndian);
  view.setUint16(4, major, littleEndian);
  view.setUint16(6, 4, littleEndian);
  view.setUint32(16, 65_535, littleEndian);
  view.setUint32(20, link, littleEndian);
  view.setUint32(24, 1_700_000_000, littleEndian);
  view.setUint32(28, 123_456, littleEndian);
  view.setUint32(32, keptBytes, littleEndian);
  view.setUint32(36, wireBytes, littleEndian);
  bytes.set([1, 2, 3, 4], 40);
  return bytes;
}

test("frames that are written are read again", () => {
  const frame = fc.record({
    bytes: fc.uint8Array({ maxLength: 100 }),
    timeNs: fc.bigInt({ min: 0n, max: 2n ** 32n * 1_000_000_000n - 1n }),
  });
  const link = fc.constantFrom(LINK_ETHERNET, LINK_RAW);
  fc.assert(
    fc.property(link, fc.array(frame, { maxLength: 5 }), (linkType, frames) => {
      const writer = createPcap(file, linkType);
      for (const { bytes, timeNs } of frames) writer.write(bytes, timeNs);
      assert.equal(writer.frames, frames.length);
      writer.close();
      writer.close();
      const expected = frames.map((given) => ({ ...given, wireBytes: given.bytes.length }));
      assert.deepEqual(readPcap(file), { linkType, frames: expected });
    }),
    { numRuns: 50 },
  );
});

test("writePcap() writes frames one microsecond apart", () => {
  const frames = [Uint8Array.of(1), Uint8Array.of(2, 3)];
  writePcap(file, frames, LINK_RAW);
  assert.deepEqual(readPcap(file), {
    linkType: LINK_RAW,
    frames: [
      { bytes: frames[0], timeNs: 0n, wireBytes: 1 },
      { bytes: frames[1], timeNs: 1000n, wireBytes: 2 },
    ],
  });
});

test("a file that is written is the format's, byte by byte", () => {
  const writer = createPcap(file, LINK_ETHERNET);
  writer.write(Uint8Array.from([1, 2, 3, 4]), 1_700_000_000_000_123_456n);
  writer.close();
  const expected = capture({ magic: 0xa1b23c4d });
  new DataView(expected.buffer).setUint32(16, FRAME_BYTES_MAX, true);
  assert.deepEqual(new Uint8Array(readFileSync(file)), expected);
});

for (const littleEndian of [true, false]) {
  for (const [unit, magic, timeNs] of [
    ["microseconds", 0xa1b2c3d4, 1_700_000_000_123_456_000n],
    ["nanoseconds", 0xa1b23c4d, 1_700_000_000_000_123_456n],
  ] as const) {
    test(`a file with ${unit}, ${littleEndian ? "little" : "big"}-endian, is read`, () => {
      writeFileSync(file, capture({ magic, littleEndian, wireBytes: 99, link: 0x1000_0001 }));
      const reader = openPcap(file);
      assert.equal(reader.linkType, LINK_ETHERNET);
      assert.equal(reader.snapshotBytes, 65_535);
      assert.deepEqual(reader.next(), { bytes: Uint8Array.of(1, 2, 3, 4), timeNs, wireBytes: 99 });
      assert.equal(reader.next(), null);
      reader.close();
      reader.close();
    });
  }
}

const BAD: readonly [name: string, bytes: Uint8Array, sentence: RegExp][] = [
  ["an empty file", new Uint8Array(0), /is not a pcap file: it has 0 bytes/],
  ["half a header", capture().slice(0, 23), /is not a pcap file: it has 23 bytes/],
  ["another kind of file", new Uint8Array(64).fill(0x41), /it starts with 41414141/],
  ["a pcapng file", capture({ magic: 0x0a0d0d0a }), /is a pcapng file; convert it with: editcap/],
  ["another version", capture({ major: 3 }), /has pcap version 3; only version 2 can be read/],
  ["half a record header", capture().slice(0, 39), /ends within frame 1, which starts at byte 24/],
  ["half a frame", capture().slice(0, 43), /ends within frame 1, which starts at byte 24/],
  [
    "a length that cannot be",
    capture({ keptBytes: 0xffff_ffff }),
    /is damaged: frame 1 at byte 24 says it has 4294967295 bytes/,
  ],
];
for (const [name, bytes, sentence] of BAD) {
  test(`${name} is an error that names the file and the place`, () => {
    writeFileSync(file, bytes);
    assert.throws(
      () => readPcap(file),
      (error: unknown) => {
        assert.ok(error instanceof HeadgateError);
        assert.match(error.message, sentence);
        assert.ok(error.message.includes(file));
        return true;
      },
    );
  });
}

test("random bytes are frames or an error, never anything else", () => {
  fc.assert(
    fc.property(fc.uint8Array({ maxLength: 60 }), fc.boolean(), (random, withHeader) => {
      const header = withHeader ? capture().slice(0, 24) : new Uint8Array(0);
      writeFileSync(file, Buffer.concat([header, random]));
      try {
        readPcap(file);
      } catch (error) {
        assert.ok(error instanceof HeadgateError, String(error));
      }
    }),
    { numRuns: 100 },
  );
});

test("misuse: no such file, no such folder, closed, too long", () => {
  const missing = path.join(folder, "none", "x.pcap");
  assert.throws(() => openPcap(missing), /cannot open the capture file .*ENOENT/);
  assert.throws(() => createPcap(missing, LINK_RAW), /cannot open the capture file .*ENOENT/);
  assert.throws(() => openPcap(folder), /cannot read the capture file .*EISDIR/);
  const writer = createPcap(file, LINK_RAW);
  const long = new Uint8Array(FRAME_BYTES_MAX + 1);
  assert.throws(() => writer.write(long, 0n), /takes 262144 bytes a frame, not 262145/);
  writer.close();
  assert.throws(() => writer.write(new Uint8Array(1), 0n), /it is closed/);
});
