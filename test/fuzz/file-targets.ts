import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import path from "node:path";
import { ConfigError, HeadgateError } from "../../src/base/errors.ts";
import { parsePrefix } from "../../src/base/prefix.ts";
import { readPrefixFile } from "../../src/control/config/access-lists.ts";
import { parseConfig } from "../../src/control/config/load.ts";
import { FRAME_BYTES_MAX, readPcap } from "../../src/device/pcap.ts";
import type { ByteTarget } from "./target.ts";
import { createWorldYaml, WORLDS } from "./worlds.ts";

/** Files that a user gives us: each is read, or refused in an error of ours. */

let folder: string | null = null;

/** The bytes as a file, over the one before; the folder goes with the process. */
function fileOf(name: string, bytes: Uint8Array): string {
  if (folder === null) {
    const made = mkdtempSync(path.join(tmpdir(), "headgate-fuzz-"));
    process.on("exit", () => rmSync(made, { recursive: true, force: true }));
    folder = made;
  }
  const file = path.join(folder, name);
  writeFileSync(file, bytes);
  return file;
}

export const configTarget: ByteTarget = {
  name: "config",
  smokeInputs: 100,
  seed: (random) => new TextEncoder().encode(createWorldYaml(WORLDS[random.below(WORLDS.length)]!)),
  run(bytes) {
    try {
      parseConfig(new TextDecoder().decode(bytes), "fuzz.yaml");
    } catch (error) {
      if (!(error instanceof ConfigError)) throw error;
    }
  },
};

/** A capture file of a few records, in each of the four kinds (byte order, unit of the fraction). */
function capture(kind: number, records: readonly number[]): Uint8Array {
  const little = (kind & 1) === 0;
  const total = 24 + records.reduce((sum, bytes) => sum + 16 + bytes, 0);
  const out = new Uint8Array(total);
  const view = new DataView(out.buffer);
  view.setUint32(0, (kind & 2) === 0 ? 0xa1b2c3d4 : 0xa1b23c4d, little);
  view.setUint16(4, 2, little);
  view.setUint16(6, 4, little);
  view.setUint32(16, 65_535, little);
  view.setUint32(20, 1, little);
  let at = 24;
  for (const bytes of records) {
    view.setUint32(at, at, little);
    view.setUint32(at + 4, at * 1000, little);
    view.setUint32(at + 8, bytes, little);
    view.setUint32(at + 12, bytes + 7, little);
    at += 16 + bytes;
  }
  return out;
}

export const pcapTarget: ByteTarget = {
  name: "pcap",
  smokeInputs: 300,
  seed: (random) =>
    capture(
      random.below(4),
      Array.from({ length: random.below(5) }, () => random.below(80)),
    ),
  run(bytes) {
    try {
      const { frames } = readPcap(fileOf("fuzz.pcap", bytes));
      const kept = frames.reduce((sum, frame) => sum + 16 + frame.bytes.length, 24);
      if (kept > bytes.length) throw new Error(`${kept} bytes from a file of ${bytes.length}`);
      for (const frame of frames) {
        if (frame.bytes.length > FRAME_BYTES_MAX) throw new Error("a frame over the limit");
        if (frame.timeNs < 0n) throw new Error("a time before 1970");
      }
    } catch (error) {
      if (!(error instanceof HeadgateError)) throw error;
    }
  },
};

const PREFIXES = `
198.51.100.0/24
10.0.0.0/8 # ours
0.0.0.0/0
203.0.113.77
2001:db8::/32
::/0
2001:db8:1:2:3:4:5:6/128
`;

export const accessTarget: ByteTarget = {
  name: "access-list",
  smokeInputs: 1000,
  seed: () => new TextEncoder().encode(PREFIXES),
  run(bytes) {
    const { prefixes, problem } = readPrefixFile(fileOf("list", bytes));
    if (prefixes === null) {
      // A sentence that says where.
      if (!/list:\d+: /.test(problem)) throw new Error(`where is it? ${problem}`);
      return;
    }
    for (const prefix of prefixes) {
      const again = parsePrefix(prefix.text);
      if (again?.isExact !== true || again.prefix.text !== prefix.text) {
        throw new Error(`${prefix.text} is not read as it is written`);
      }
    }
  },
};
