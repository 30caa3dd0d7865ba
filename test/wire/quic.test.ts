import assert from "node:assert/strict";
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import path from "node:path";
import { test } from "node:test";
import { createRandom } from "../../src/base/random.ts";
import { quicServerIdAt, quicServerIdWord } from "../../src/wire/quic.ts";
import { ethernetFrame, udpPacket } from "../support/frames.ts";
import { runSync } from "../support/processes.ts";

/** Headers by RFC 9000 section 17 and RFC 8999; what Wireshark's dissector reads is the other opinion. */

const SEED = 0x5eed_0600;

function randomBytes(random: ReturnType<typeof createRandom>, count: number): number[] {
  return Array.from({ length: count }, () => random.below(256));
}

/** The slow reading of a header: null where there is no server ID. */
function slowServerId(bytes: readonly number[], rotation: number, length: number): number[] | null {
  const isLong = bytes.length > 0 && bytes[0]! >= 128;
  const rest = isLong ? bytes.slice(6, 6 + (bytes[5] ?? 0)) : bytes.slice(1);
  if (isLong && (bytes.length < 6 || rest.length < bytes[5]!) && rest.length < 5 + length)
    return null;
  if (rest.length < 1 + length + 4) return null;
  return Math.floor(rest[0]! / 32) === rotation ? rest.slice(1, 1 + length) : null;
}

test("server IDs of random headers, whole and cut, against the slow reading", (t) => {
  t.diagnostic(`seed ${SEED}`);
  const random = createRandom(SEED);
  let found = 0;
  for (let round = 0; round < 20_000; round++) {
    const length = 1 + random.below(15);
    const rotation = random.below(7);
    const dcid = randomBytes(random, random.below(21));
    if (dcid.length > 0 && random.below(2) === 0) dcid[0] = (rotation << 5) | random.below(32);
    const whole =
      random.below(2) === 0
        ? [0x80 | random.below(128), ...randomBytes(random, 4), dcid.length, ...dcid, 0]
        : [random.below(128), ...dcid, ...randomBytes(random, random.below(30))];
    const bytes = random.below(3) === 0 ? whole.slice(0, random.below(whole.length + 1)) : whole;
    const lead = random.below(8);
    // Exactly what is there: reading beyond it throws.
    const view = new DataView(Uint8Array.from([...randomBytes(random, lead), ...bytes]).buffer);
    const at = quicServerIdAt(view, lead, bytes.length, rotation, length);
    const want = slowServerId(bytes, rotation, length);
    assert.equal(at >= 0, want !== null, `round ${round}: ${bytes} rotation ${rotation} ${length}`);
    if (want === null) continue;
    found++;
    const words = [0, 1, 2, 3].map((index) => quicServerIdWord(view, at, length, index) >>> 0);
    const text = words.map((word) => word.toString(16).padStart(8, "0")).join("");
    assert.equal(text, Buffer.from(want).toString("hex").padEnd(32, "0"));
  }
  assert.ok(found > 2000, `${found} had one`);
});

test("tshark reads the same connection ID", (t) => {
  if (runSync(["sh", "-c", "command -v tshark || true"]).trim() === "") {
    t.skip("no tshark");
    return;
  }
  const folder = mkdtempSync(path.join(tmpdir(), "headgate-quic."));
  t.after(() => rmSync(folder, { recursive: true }));
  const random = createRandom(SEED + 1);
  // Initial packets (RFC 9000 17.2.2): first byte 0xc0, version 1, DCID, SCID, token, length, payload.
  const ids = Array.from({ length: 20 }, (_, index) => [
    (3 << 5) | 9,
    ...randomBytes(random, 4 + (index % 4)),
    ...randomBytes(random, 4),
  ]);
  const records = ids.map((dcid, index) => {
    const head = [0xc0, 0, 0, 0, 1, dcid.length, ...dcid, 0, 0, 0x44, 0xb0];
    const data = [...head, ...randomBytes(random, 1200)];
    const frame = ethernetFrame(
      udpPacket({
        source: "198.51.100.2",
        destination: "203.0.113.10",
        sourcePort: 4000 + index,
        destinationPort: 443,
        data,
      }),
    );
    const header = Buffer.alloc(16);
    header.writeUInt32LE(index, 0);
    header.writeUInt32LE(frame.length, 8);
    header.writeUInt32LE(frame.length, 12);
    const view = new DataView(Uint8Array.from(data).buffer);
    const idAt = quicServerIdAt(view, 0, data.length, 3, 4);
    assert.equal(idAt, 7, "behind the first byte of the connection ID");
    return Buffer.concat([header, frame]);
  });
  const file = Buffer.alloc(24);
  file.writeUInt32LE(0xa1b2c3d4, 0);
  file.writeUInt16LE(2, 4);
  file.writeUInt16LE(4, 6);
  file.writeUInt32LE(65_535, 16);
  file.writeUInt32LE(1, 20);
  const name = path.join(folder, "quic.pcap");
  writeFileSync(name, Buffer.concat([file, ...records]));
  const read = runSync(["tshark", "-r", name, "-T", "fields", "-e", "quic.dcid"]);
  const lines = read.split("\n").filter((line) => line !== "");
  assert.deepEqual(
    lines.map((line) => line.replaceAll(":", "").split(",")[0]),
    ids.map((id) => Buffer.from(id).toString("hex")),
  );
});
