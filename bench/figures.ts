import type { MemoryResult, SteadyResult } from "./memory/measure.ts";
import type { NewFlowsResult } from "./memory/new-flows.ts";
import { newFlowsName } from "./memory/suite.ts";
import { C_PACKET, C_XDP, NFTABLES } from "./pps/contenders.ts";
import { atHalf, atPdr, PPS_CASES, type PpsResult, pdrOf } from "./pps/suite.ts";
import type { Results } from "./report.ts";
import { median, medianRatio, table } from "./statistics.ts";
import { connectionsOf, gigabitsOf, type TcpResult } from "./tcp/suite.ts";

/** The project's figures, each with what was asked and what the latest runs gave. */
export interface Figure {
  readonly what: string;
  readonly asked: string;
  /** What was measured, with its unit. */
  readonly got: string;
  readonly reached: boolean;
}

function atLeast(what: string, least: number, value: number, unit = ""): Figure {
  const got = `${value.toFixed(2)}${unit}`;
  return { what, asked: `at least ${least}${unit}`, got, reached: value >= least };
}

function atMost(what: string, most: number, value: number, unit = "", digits = 2): Figure {
  const got = `${value.toFixed(digits)}${unit}`;
  return { what, asked: `at most ${most}${unit}`, got, reached: value <= most };
}

/** Of the rows that are there, by name. */
function byName<T extends { readonly contender: string }>(
  rows: readonly T[],
): (name: string) => T | undefined {
  return (name) => rows.find(({ contender }) => contender === name);
}

const XDP = "Headgate xdp, nat";
const PACKET = "Headgate packet, nat";

function ppsFigures(results: readonly PpsResult[]): Figure[] {
  const [first] = PPS_CASES;
  const named = byName(
    results.filter((one) => one.case.bytes === first!.bytes && one.case.flows === first!.flows),
  );
  const figures: Figure[] = [];
  for (const [own, device, pairs] of [
    [
      XDP,
      "AF_XDP",
      [
        [NFTABLES, 2.3],
        [C_XDP, 1.1],
        ["generator alone into XDP_DROP", 0.85],
      ],
    ],
    [
      PACKET,
      "AF_PACKET",
      [
        [NFTABLES, 1.35],
        [C_PACKET, 0.9],
      ],
    ],
  ] as const) {
    const ours = named(own);
    for (const [peer, least] of pairs) {
      const theirs = named(peer);
      if (ours === undefined || theirs === undefined) continue;
      const ratio = medianRatio(pdrOf(ours), pdrOf(theirs));
      figures.push(atLeast(`lab-pps, ${device}, 60 B, 1,000 flows, x ${peer}`, least, ratio));
    }
  }
  const [ours, nftables] = [named(XDP), named(NFTABLES)];
  if (ours === undefined || nftables === undefined) return figures;
  const cpu = (one: PpsResult): number => atPdr(one, (trial) => trial.busyNsPerFrame);
  figures.push(
    atMost("whole-machine CPU a packet, AF_XDP, x nftables DNAT", 1, cpu(ours) / cpu(nftables)),
  );
  const p50 = [ours, nftables].map((one) => atHalf(one, (latency) => latency.p50Us));
  const p999 = atHalf(ours, (latency) => latency.p999Us);
  if (p50[0] != null && p50[1] != null && p999 !== null) {
    figures.push(
      atMost("latency at half load, AF_XDP, p50 beyond nftables'", 20, p50[0] - p50[1], " us", 0),
      atMost("latency at half load, AF_XDP, p99.9", 1000, p999, " us", 0),
    );
  }
  return figures;
}

/** The row with the best median. */
function best(rows: readonly TcpResult[], pick: (one: TcpResult) => number[]): TcpResult {
  return rows.reduce((a, b) => (median(pick(b)) > median(pick(a)) ? b : a));
}

function tcpFigures(results: readonly TcpResult[]): Figure[] {
  const rows = results.filter(({ samples }) => samples.length > 0);
  const named = byName(rows);
  const ours = rows.filter(({ contender }) => contender.startsWith("Headgate"));
  const proxies = rows.filter(({ contender }) => contender.startsWith("HAProxy"));
  const nftables = named(NFTABLES);
  if (ours.length === 0 || proxies.length === 0) return [];
  const stream = (one: TcpResult): number[] => gigabitsOf(one, 1);
  const own = best(ours, stream);
  const proxy = best(proxies, stream);
  const figures = [
    atLeast(
      `lab-tcp, one stream, ${own.contender}, x ${proxy.contender}`,
      1.5,
      medianRatio(stream(own), stream(proxy)),
    ),
  ];
  const floor = named(own.contender === PACKET ? C_PACKET : C_XDP);
  if (floor !== undefined && own.contender !== "Headgate tun, nat") {
    figures.push(
      atLeast(
        `lab-tcp, one stream, ${own.contender}, x ${floor.contender}`,
        0.95,
        medianRatio(stream(own), stream(floor)),
      ),
    );
  }
  const opener = best(ours, connectionsOf);
  for (const [peer, least] of [
    [nftables, 0.9],
    [best(proxies, connectionsOf), 1.2],
  ] as const) {
    if (peer === undefined) continue;
    const ratio = medianRatio(connectionsOf(opener), connectionsOf(peer));
    const what = `new connections a second, ${opener.contender}, x ${peer.contender}`;
    figures.push(atLeast(what, least, ratio));
  }
  return figures;
}

function memoryFigures(cases: readonly MemoryResult[], ipv6: readonly SteadyResult[]): Figure[] {
  const figures: Figure[] = [];
  const find = (protocol: string, flows: number, services: number): MemoryResult | undefined =>
    cases.find(
      (one) =>
        one.mode === "nat" &&
        one.protocol === protocol &&
        one.flows === flows &&
        one.services === services,
    );
  for (const protocol of ["tcp", "udp"]) {
    for (const [flows, most] of [
      [64_000, 70],
      [1_000_000, 180],
    ] as const) {
      const one = find(protocol, flows, 1);
      if (one === undefined) continue;
      const name = `memory, nat, ${protocol}, ${flows.toLocaleString("en")} flows`;
      figures.push(
        atMost(name, most, median(one.ns), " ns", 0),
        atMost(`${name}, x C++`, 1.3, medianRatio(one.ns, one.referenceNs)),
      );
    }
    const [small, large] = [find(protocol, 1, 1), find(protocol, 1_000_000, 1000)];
    if (small === undefined || large === undefined) continue;
    figures.push(
      atMost(
        `memory, nat, ${protocol}: 1 M flows, 1,000 services, 1,000 backends x 1 flow, 1 service, 3 backends`,
        3,
        median(large.ns) / median(small.ns),
      ),
    );
  }
  for (const [family, most, one] of [
    ["IPv4", 128, cases[0]],
    ["IPv6", 192, ipv6[0]],
  ] as const) {
    if (one === undefined) continue;
    figures.push(atMost(`memory of a connection, ${family}`, most, one.bytesPerFlow, " bytes", 0));
  }
  const all: readonly SteadyResult[] = [...cases, ...ipv6];
  if (all.length === 0) return figures;
  const sum = (what: string, pick: (one: SteadyResult) => number): void => {
    const total = all.reduce((before, one) => before + pick(one), 0);
    figures.push(atMost(`${what} in steady state`, 0, total, "", 0));
  };
  sum("deoptimisations", (one) => one.deoptimisations);
  sum("collections", (one) => one.collections);
  const bytes = Math.max(...all.map((one) => one.bytesPerPacket));
  figures.push({
    what: "bytes allocated a packet, most of all rows",
    asked: "0.0",
    got: bytes.toFixed(2),
    // What counts the bytes allocates a little itself.
    reached: bytes < 0.05,
  });
  return figures;
}

/** What opening a flow costs, beside one that is opened again and again. */
function newFlowsFigures(rows: readonly NewFlowsResult[]): Figure[] {
  const one = rows.find(({ flows, prefixes }) => flows === 1 && prefixes === 0);
  const many = rows.filter(({ flows }) => flows > 1);
  const figures = many
    .filter(({ prefixes }) => one !== undefined && prefixes > 0)
    .map((row) => atMost(`${newFlowsName(row)}, x one flow and no prefix`, 2, row.ns / one!.ns));
  const full = many.map((row) => {
    const ratio = row.fullP99 / row.p99;
    const figure = atMost(
      `${newFlowsName(row)}: p99 of a full table, x while there is room`,
      2,
      ratio,
    );
    return { ...figure, asked: "under 2", reached: ratio < 2 };
  });
  return [...figures, ...full];
}

/** Every figure for which there is a run. */
export function figuresOf(results: Results): Figure[] {
  const memory = results.memory?.figures;
  const figures = [
    ...ppsFigures(results["lab-pps"]?.figures.results ?? []),
    ...tcpFigures(results["lab-tcp"]?.figures.results ?? []),
    ...memoryFigures(memory?.cases ?? [], memory?.ipv6 ?? []),
    ...newFlowsFigures(memory?.newFlows ?? []),
  ];
  for (const one of memory?.workers ?? []) {
    const ratio = medianRatio(one.twoMpps, one.oneMpps);
    figures.push(atLeast(`two workers on memory, nat, ${one.protocol}, x one`, 1.8, ratio));
  }
  const resident = results["lab-conns"]?.figures.resident.find(({ flows }) => flows === 1_000_000);
  if (resident !== undefined) {
    const megabytes = resident.bytes / 1e6;
    figures.push(atMost("resident with a million flows, one service", 200, megabytes, " MB", 0));
  }
  for (const one of results["lab-conns"]?.figures.reloads ?? []) {
    const stall = median(one.reloadBatchUs);
    const beside = median(one.busyBatchUs);
    const what = `longest batch during a reload of 1,000 services, ${one.scheduler}`;
    const figure = atMost(what, 1000, stall, " us", 0);
    // The machine's own share: see bench/conns/reload.ts.
    const got = `${figure.got} (${beside.toFixed(0)} us beside a thread that only counts)`;
    figures.push({ ...figure, got });
  }
  for (const one of results.soak?.figures ?? []) {
    const pauses = one.workerCollections + one.deoptimisations;
    const minutes = (one.seconds / 60).toFixed(0);
    const what = `soak of ${minutes} minutes, ${one.device}: collections and deoptimisations`;
    figures.push(atMost(what, 0, pauses, "", 0));
  }
  for (const one of results.health?.figures ?? []) {
    if (one.type === "none") continue;
    const what = `${one.backends} backends checked every second, ${one.type}`;
    figures.push(atMost(`${what}: of a CPU`, 15, 100 * median(one.cpus), " %", 1));
    figures.push(atMost(`${what}: checks late by over 10 %`, 0, one.late, "", 0));
  }
  return figures;
}

export function formatFiguresTable(figures: readonly Figure[]): string {
  return table(
    ["figure", "asked", "got", ""],
    figures.map(({ what, asked, got, reached }) => [
      what,
      asked,
      got,
      reached ? "reached" : "not reached",
    ]),
  );
}
