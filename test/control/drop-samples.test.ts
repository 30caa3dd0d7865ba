import assert from "node:assert/strict";
import { test } from "node:test";
import { DROP_SAMPLES } from "../../src/base/limits.ts";
import { readDropSamples, summarise } from "../../src/control/drop-samples.ts";
import { DROP_NO_SERVICE, DROP_TTL_EXPIRED } from "../../src/datapath/verdict.ts";
import {
  SAMPLE_CAPTURED_BYTES,
  SAMPLE_FRAME_BYTES,
  SAMPLE_INTERFACE,
  SAMPLE_LINK_BYTES,
  SAMPLE_REASON,
  SAMPLE_SEQUENCE,
  SAMPLE_TICK,
  SAMPLE_WORDS,
} from "../../src/state/drop-sample.ts";
import { planRegion, type RegionViews, viewRegion } from "../../src/state/layout.ts";

function region(): RegionViews {
  const layout = planRegion({
    flowCapacity: 8,
    services: 1,
    backends: 1,
    hashSlots: 1,
    workers: 1,
  });
  return viewRegion(new ArrayBuffer(layout.bytes), layout);
}

// An IPv4 header of 20 bytes, 198.51.100.2 > 203.0.113.10, protocol and four bytes of L4 given.
function packet(protocol: number, l4: readonly number[]): Uint8Array {
  const bytes = new Uint8Array(20 + l4.length);
  bytes.set([0x45, 0, 0, 28, 0, 0, 0, 0, 64, protocol, 0, 0, 198, 51, 100, 2, 203, 0, 113, 10]);
  bytes.set(l4, 20);
  return bytes;
}

function write(views: RegionViews, sequence: number, reason: number, frame: Uint8Array): void {
  const word = (views.layout.samples.at >> 2) + (sequence % DROP_SAMPLES) * SAMPLE_WORDS;
  views.i32[word + SAMPLE_TICK] = 1000 + sequence;
  views.i32[word + SAMPLE_REASON] = reason;
  views.i32[word + SAMPLE_INTERFACE] = 0;
  views.i32[word + SAMPLE_FRAME_BYTES] = 1500;
  views.i32[word + SAMPLE_CAPTURED_BYTES] = frame.byteLength;
  views.i32[word + SAMPLE_LINK_BYTES] = 0;
  views.u8.set(frame, word * 4 + 32);
  views.i32[word + SAMPLE_SEQUENCE] = sequence;
}

test("samples are read newest first, with time, reason, interface and a summary", () => {
  const views = region();
  const tcp = packet(6, [0x9c, 0x40, 0, 80]);
  write(views, 1, DROP_NO_SERVICE, tcp);
  write(views, 2, DROP_TTL_EXPIRED, packet(17, [0, 53, 0, 54]));
  const now = Date.parse("2026-01-02T03:04:05.000Z");
  const samples = readDropSamples(views, 2002, now, ["eth0"]);
  assert.deepEqual(
    samples.map((sample) => sample.reason),
    ["ttl_expired", "no_service"],
  );
  assert.deepEqual(samples[1], {
    at: "2026-01-02T03:04:03.999Z",
    reason: "no_service",
    interface: "eth0",
    bytes: 1500,
    header: Buffer.from(tcp).toString("hex"),
    summary: "tcp 198.51.100.2:40000 > 203.0.113.10:80",
  });
});

test("the ring keeps the last DROP_SAMPLES, in order across its end", () => {
  const views = region();
  for (let sequence = 1; sequence <= DROP_SAMPLES + 5; sequence++) {
    write(views, sequence, DROP_NO_SERVICE, packet(17, [0, 1, 0, sequence]));
  }
  const samples = readDropSamples(views, 5000, Date.now(), []);
  assert.equal(samples.length, DROP_SAMPLES);
  assert.match(samples[0]!.summary, new RegExp(`:${DROP_SAMPLES + 5}$`));
  assert.match(samples.at(-1)!.summary, /:6$/);
});

const SUMMARIES: { name: string; frame: Uint8Array; link: number; want: string }[] = [
  {
    name: "icmp echo",
    frame: packet(1, [8, 0, 0, 0]),
    link: 0,
    want: "icmp 8/0 198.51.100.2 > 203.0.113.10",
  },
  {
    name: "udp",
    frame: packet(17, [0, 53, 0x10, 0]),
    link: 0,
    want: "udp 198.51.100.2:53 > 203.0.113.10:4096",
  },
  {
    name: "other protocol",
    frame: packet(47, [0, 0, 0, 0]),
    link: 0,
    want: "protocol 47 198.51.100.2 > 203.0.113.10",
  },
  { name: "header cut", frame: packet(6, []).slice(0, 19), link: 0, want: "" },
  {
    name: "ports cut",
    frame: packet(6, [0, 1]),
    link: 0,
    want: "tcp 198.51.100.2 > 203.0.113.10",
  },
  { name: "empty", frame: new Uint8Array(0), link: 14, want: "" },
  { name: "not IPv4", frame: new Uint8Array(40).fill(0x60), link: 0, want: "" },
  {
    name: "arp",
    frame: Uint8Array.from({ length: 42 }, (_, at) => (at === 12 ? 8 : at === 13 ? 6 : 0)),
    link: 14,
    want: "arp",
  },
  {
    name: "ethernet",
    frame: Uint8Array.from([...new Uint8Array(12), 8, 0, ...packet(6, [0, 1, 0, 2])]),
    link: 14,
    want: "tcp 198.51.100.2:1 > 203.0.113.10:2",
  },
];
for (const { name, frame, link, want } of SUMMARIES) {
  test(`summary of a frame: ${name}`, () => assert.equal(summarise(frame, link), want));
}

test("a later fragment has no ports", () => {
  const fragment = packet(17, [1, 2, 3, 4]);
  fragment[7] = 5;
  assert.equal(summarise(fragment, 0), "udp 198.51.100.2 > 203.0.113.10 (fragment)");
});
