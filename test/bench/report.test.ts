import assert from "node:assert/strict";
import { existsSync, mkdtempSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import path from "node:path";
import { test } from "node:test";
import { residentOnce } from "../../bench/conns/suite.ts";
import { figuresOf } from "../../bench/figures.ts";
import { describeMachine } from "../../bench/machine.ts";
import type { MemoryResult } from "../../bench/memory/measure.ts";
import { PPS_CONTENDERS } from "../../bench/pps/contenders.ts";
import { PPS_CASES } from "../../bench/pps/suite.ts";
import type { PpsSample, Trial } from "../../bench/pps/trial.ts";
import {
  documentOf,
  type Measured,
  type Results,
  type Suite,
  writeDocument,
} from "../../bench/report.ts";
import { residentSlope, watchGcLines } from "../../bench/soak.ts";
import { barChart } from "../../bench/svg.ts";
import { TCP_CONTENDERS } from "../../bench/tcp/contenders.ts";
import type { TcpSample } from "../../bench/tcp/suite.ts";
import type { RequestTrial } from "../../bench/tcp/trial.ts";

/** A run that gave these figures. */
function measured<Name extends Suite>(figures: Measured<Name>["figures"]): Measured<Name> {
  return { machine: describeMachine(), at: "2026-01-02T03:04:05.000Z", rounds: 3, figures };
}

function trial(kpps: number): Trial {
  return {
    rate: 0,
    offeredRate: kpps * 1000,
    deliveredRate: kpps * 1000,
    loss: 0,
    busyNsPerFrame: 2e6 / kpps,
    threadNsPerFrame: 2e6 / kpps,
    busyCpus: 2,
    othersBusyCpus: 0,
    latency: { p50Us: 10, p99Us: 50, p999Us: 500 },
  };
}

function ppsSample(kpps: number): PpsSample {
  const one = trial(kpps);
  return { flood: one, pdr: one, half: one, trials: [one] };
}

function tcpSample(gigabits: number): TcpSample {
  const requests: RequestTrial = {
    perSecond: gigabits * 1000,
    failed: 0,
    p50Us: 50,
    p99Us: 90,
    p999Us: 100,
    busyNsPerRequest: 1000,
    othersBusyCpus: 0,
  };
  const streams = [1, 32].map((count) => ({
    streams: count,
    gigabits,
    retransmits: 0,
    busyNsPerKilobyte: 500,
    othersBusyCpus: 0,
  }));
  return { streams, connections: requests, requests };
}

function memoryResult(
  protocol: "tcp" | "udp",
  flows: number,
  services: number,
  ns: number,
): MemoryResult {
  return {
    mode: "nat",
    protocol,
    flows,
    services,
    backends: services === 1 ? 3 : 1000,
    ns: [ns, ns + 2, ns - 2],
    referenceNs: [50, 50, 50],
    comparedFrames: 65_536,
    bytesPerPacket: 0,
    collections: 0,
    deoptimisations: 1,
    bytesPerFlow: 100,
  };
}

/** Headgate on AF_XDP is 2.5 times nftables, and everybody else is nftables. */
function results(): Results {
  const kpps = (name: string): number => (name === "Headgate xdp, nat" ? 1000 : 400);
  return {
    "lab-pps": measured<"lab-pps">({
      results: PPS_CONTENDERS.map(({ name }) => ({
        contender: name,
        case: PPS_CASES[0]!,
        samples: [ppsSample(kpps(name)), ppsSample(kpps(name) * 1.1)],
      })),
      skipped: [{ contender: "somebody", reason: "not installed" }],
    }),
    "lab-tcp": measured<"lab-tcp">({
      results: TCP_CONTENDERS.map(({ name }) => ({
        contender: name,
        samples: [tcpSample(name.startsWith("Headgate packet") ? 20 : 10)],
      })),
      skipped: [],
    }),
    memory: measured<"memory">({
      cases: [memoryResult("tcp", 64_000, 1, 60), memoryResult("tcp", 1_000_000, 1, 200)],
      ipv6: [
        {
          ...memoryResult("udp", 64_000, 1, 120),
          family: "ipv6",
          bytesPerFlow: 164,
          collections: 3,
        },
      ],
      newFlows: [
        { flows: 1, prefixes: 0, ns: 200, p99: 300, fullP99: 0 },
        { flows: 1_000_000, prefixes: 0, ns: 300, p99: 900, fullP99: 450 },
        { flows: 1_000_000, prefixes: 100_000, ns: 500, p99: 600, fullP99: 1200 },
      ],
      workers: [],
      resident: null,
    }),
    "lab-conns": measured<"lab-conns">({
      byFlows: [],
      byBackends: [],
      resident: [{ flows: 1_000_000, bytes: 190e6, programBytes: 40e6, mappedBytes: 300e6 }],
      reloads: [],
    }),
  };
}

test("figures are reached or not, with their number", () => {
  const found = new Map(figuresOf(results()).map((one) => [one.what, one]));
  const of = (what: string): [string, boolean] => {
    const one = found.get(what);
    assert.ok(one !== undefined, `${what} in ${[...found.keys()].join("; ")}`);
    return [one.got, one.reached];
  };
  assert.deepEqual(of("lab-pps, AF_XDP, 60 B, 1,000 flows, x nftables DNAT"), ["2.50", true]);
  assert.deepEqual(of("lab-pps, AF_PACKET, 60 B, 1,000 flows, x nftables DNAT"), ["1.00", false]);
  assert.deepEqual(of("whole-machine CPU a packet, AF_XDP, x nftables DNAT"), ["0.40", true]);
  assert.deepEqual(of("latency at half load, AF_XDP, p99.9"), ["500 us", true]);
  assert.deepEqual(of("lab-tcp, one stream, Headgate packet, nat, x HAProxy, splice"), [
    "2.00",
    true,
  ]);
  assert.deepEqual(of("memory, nat, tcp, 64,000 flows"), ["60 ns", true]);
  assert.deepEqual(of("memory, nat, tcp, 1,000,000 flows"), ["200 ns", false]);
  assert.deepEqual(of("memory, nat, tcp, 64,000 flows, x C++"), ["1.20", true]);
  assert.deepEqual(of("deoptimisations in steady state"), ["3", false]);
  assert.deepEqual(of("collections in steady state"), ["3", false]);
  assert.deepEqual(of("memory of a connection, IPv4"), ["100 bytes", true]);
  assert.deepEqual(of("memory of a connection, IPv6"), ["164 bytes", true]);
  const denied = "1,000,000 new flows, 100,000 denied prefixes";
  assert.deepEqual(of(`${denied}, x one flow and no prefix`), ["2.50", false]);
  assert.deepEqual(of(`${denied}: p99 of a full table, x while there is room`), ["2.00", false]);
  assert.deepEqual(
    of("1,000,000 new flows, no prefix: p99 of a full table, x while there is room"),
    ["0.50", true],
  );
  assert.deepEqual(of("resident with a million flows, one service"), ["190 MB", true]);
  assert.deepEqual(figuresOf({}), []);
});

test("the document has figures, tables and pictures, and the pictures are there", (t) => {
  const folder = mkdtempSync(path.join(tmpdir(), "headgate-bench-"));
  t.after(() => rmSync(folder, { recursive: true }));
  const file = path.join(folder, "benchmarks.md");
  writeDocument(file, results());
  const text = readFileSync(file, "utf8");
  assert.match(text, /^## Figures$/m);
  assert.match(text, /^Not measured: somebody: not installed\.$/m);
  const pictures = [...text.matchAll(/^!\[.*\]\((.*)\)$/gm)].map((found) => found[1]!);
  assert.deepEqual(pictures.sort(), [
    "benchmarks/memory.svg",
    "benchmarks/pps-60-1000.svg",
    "benchmarks/pps-cpu.svg",
    "benchmarks/tcp-1.svg",
    "benchmarks/tcp-32.svg",
    "benchmarks/tcp-connections.svg",
  ]);
  for (const picture of pictures) assert.ok(existsSync(path.join(folder, picture)), picture);
  assert.doesNotMatch(documentOf(results()), /!\[/);
});

test("a bar chart has a bar, a name and a number for each row, in light and dark", () => {
  const svg = barChart({
    title: "Rates <of> two",
    unit: "kpps",
    digits: 0,
    bars: [
      { label: "ours & more", values: [10, 30, 20], kind: "ours" },
      { label: "theirs", values: [5], kind: "peer" },
    ],
  });
  assert.equal([...svg.matchAll(/<rect /g)].length, 2);
  assert.match(svg, />20 \(10-30\)</);
  assert.match(svg, />5</);
  assert.match(svg, /ours &amp; more/);
  assert.match(svg, /Rates &lt;of&gt; two/);
  assert.match(svg, /prefers-color-scheme: dark/);
  assert.throws(() => barChart({ title: "x", unit: "", digits: 0, bars: [] }), RangeError);
});

test("collections are counted by whose heap they are of, and none before the soak", () => {
  const line = (heap: string, ms: string): string =>
    `[123:${heap}]    45 ms: Scavenge 4.6 (6.8) -> 4.1 (7.8) MB, ${ms} / 0.0 ms  (average mu = 1.000) `;
  const lines = ["{}", line("0xaaa", "0.7"), line("0xbbb", "9.9")];
  const watch = watchGcLines(lines);
  lines.push(line("0xaaa", "1.5"), line("0xbbb", "0.4"));
  watch.look();
  // Old lines go, and the place of new ones moves.
  lines.splice(0, 3);
  lines.push("something else", line("0xbbb", "2.5"));
  watch.look();
  watch.look();
  assert.deepEqual(watch.count(), { worker: 2, control: 1, workerPauseMs: 2.5 });
});

test("pages count once, also those of a file that is mapped twice", () => {
  const smaps = `7f00-7f10 rw-s 00000000 00:1c 7    /dev/shm/state
Rss:                 100 kB
7f20-7f30 rw-s 00000000 00:1c 7    /dev/shm/state
Rss:                  60 kB
Pss:                  30 kB
7f40-7f50 r-xp 00000000 fe:00 9    /usr/bin/node
Rss:                  40 kB
7f60-7f70 rw-p 00000000 00:00 0 
Rss:                   8 kB
`;
  assert.deepEqual(residentOnce(smaps, "/dev/shm/state", "/usr/bin/node"), {
    bytes: 148 * 1024,
    programBytes: 40 * 1024,
  });
});

test("the slope of the resident set is bytes an hour", () => {
  const samples = [0, 5, 10, 15].map((second) => ({
    second,
    deliveredRate: 1,
    residentBytes: 1e6 + second * 10,
    cpus: 1,
  }));
  assert.equal(Math.round(residentSlope(samples)), 36_000);
  assert.equal(residentSlope(samples.slice(0, 1)), 0);
});
