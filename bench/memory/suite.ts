import { median, medianRatio, spread, table } from "../statistics.ts";
import type { MemoryCase } from "./fast-path.ts";
import type { MemoryResult, OneWayResult, SteadyResult } from "./measure.ts";
import type { NewFlowsCase, NewFlowsResult } from "./new-flows.ts";
import type { WorkersResult } from "./workers.ts";

/** The cases of the memory suite, and its tables. */
export interface MemoryFigures {
  readonly cases: readonly MemoryResult[];
  /** Left out of figures that were kept before there were such addresses. */
  readonly ipv6?: readonly SteadyResult[];
  /** Left out of figures that were kept before there were such modes. */
  readonly oneWay?: readonly OneWayResult[];
  readonly workers: readonly WorkersResult[];
  /** Resident set of a process with a million flows and one service, in bytes. */
  readonly resident: ResidentResult | null;
  /** Absent in results of earlier versions. */
  readonly newFlows?: readonly NewFlowsResult[];
}

export interface ResidentResult {
  readonly flows: number;
  /** The process before it has a region or a device. */
  readonly beforeBytes: number;
  readonly withFlowsBytes: number;
}

const FLOWS = [1, 64_000, 1_000_000] as const;
const TABLES = [
  { services: 1, backends: 3 },
  { services: 1000, backends: 1000 },
] as const;
const MODES = ["nat", "full-nat"] as const;
const PROTOCOLS = ["tcp", "udp"] as const;

export const MEMORY_CASES: readonly MemoryCase[] = MODES.flatMap((mode) =>
  PROTOCOLS.flatMap((protocol) =>
    TABLES.flatMap((size) => FLOWS.map((flows) => ({ mode, protocol, flows, ...size }))),
  ),
);

export const IPV6_CASES: readonly MemoryCase[] = [
  ...MODES.flatMap((mode) =>
    PROTOCOLS.flatMap((protocol) =>
      [1, 64_000].map(
        (flows) => ({ mode, protocol, family: "ipv6", flows, ...TABLES[0] }) as const,
      ),
    ),
  ),
  { mode: "full-nat", protocol: "tcp", family: "ipv6-ipv4", flows: 64_000, ...TABLES[0] },
];

export const ONE_WAY_CASES: readonly MemoryCase[] = (["dsr", "ipip", "gue"] as const).flatMap(
  (mode) => PROTOCOLS.map((protocol) => ({ mode, protocol, flows: 64_000, ...TABLES[0] })),
);

export const WORKER_CASES: readonly MemoryCase[] = PROTOCOLS.map((protocol) => ({
  mode: "nat",
  protocol,
  flows: 64_000,
  services: 1,
  backends: 3,
}));

const FAMILIES = { ipv6: "IPv6, ", "ipv6-ipv4": "IPv6 to IPv4, " } as const;

/** What `--only` looks at: "nat, tcp, IPv6, 64,000 flows, 1 service, 3 backends". */
export function memoryName(one: MemoryCase): string {
  const count = (number: number): string => number.toLocaleString("en");
  const plural = (number: number, what: string): string =>
    `${count(number)} ${what}${number === 1 ? "" : "s"}`;
  return (
    `${one.mode}, ${one.protocol}, ${one.family === undefined ? "" : FAMILIES[one.family]}` +
    `${plural(one.flows, "flow")}, ` +
    `${plural(one.services, "service")}, ${plural(one.backends, "backend")}`
  );
}

/** What `--only` looks at. */
export function newFlowsName({ flows, prefixes }: NewFlowsCase): string {
  const count = (number: number): string => number.toLocaleString("en");
  const lists = prefixes === 0 ? "no prefix" : `${count(prefixes)} denied prefixes`;
  return flows === 1
    ? `one flow opened again and again, ${lists}`
    : `${count(flows)} new flows, ${lists}`;
}

function formatNewFlows(rows: readonly NewFlowsResult[]): string {
  const base = rows.find(({ flows }) => flows === 1)?.ns;
  return table(
    ["new flows", "ns a packet", "x one flow", "p99 of batches, ns", "p99 when full, ns", "x p99"],
    rows.map((row) => [
      newFlowsName(row),
      row.ns.toFixed(0),
      base === undefined ? "-" : (row.ns / base).toFixed(2),
      row.p99.toFixed(0),
      row.fullP99 === 0 ? "-" : row.fullP99.toFixed(0),
      row.fullP99 === 0 ? "-" : (row.fullP99 / row.p99).toFixed(2),
    ]),
  );
}

/** Cases with a reference, and cases without. */
function formatCases(cases: readonly MemoryResult[], ipv6: readonly SteadyResult[]): string[] {
  const rows: readonly (SteadyResult & { readonly referenceNs?: readonly number[] })[] = [
    ...cases,
    ...ipv6,
  ];
  if (rows.length === 0) return [];
  const connection = (one: SteadyResult | undefined, what: string): string[] =>
    one === undefined ? [] : [`${what}: ${one.bytesPerFlow.toFixed(0)} bytes a connection.`];
  return [
    table(
      [
        "in memory, both directions",
        "ns a packet",
        "C++, ns",
        "x C++",
        "Mpps of one CPU",
        "bytes allocated a packet",
        "collections",
        "deoptimisations",
        "frames compared",
      ],
      rows.map((one) => [
        memoryName(one),
        spread(one.ns, 0),
        one.referenceNs === undefined ? "-" : spread(one.referenceNs, 0),
        one.referenceNs === undefined ? "-" : medianRatio(one.ns, one.referenceNs).toFixed(2),
        (1000 / median(one.ns)).toFixed(2),
        one.bytesPerPacket.toFixed(2),
        String(one.collections),
        String(one.deoptimisations),
        one.comparedFrames.toLocaleString("en"),
      ]),
    ),
    ...connection(cases.at(-1), "Flow table, index and free list"),
    ...connection(ipv6.at(-1), "With room for IPv6 (extensions too)"),
  ];
}

export function formatMemory({
  cases,
  ipv6 = [],
  oneWay = [],
  workers,
  resident,
  newFlows = [],
}: MemoryFigures): string {
  const parts = formatCases(cases, ipv6);
  if (oneWay.length > 0) {
    parts.push(
      table(
        ["one-way modes, the client's half", "ns a packet", "bytes allocated a packet", "deopts"],
        oneWay.map((one) => [
          memoryName(one),
          spread(one.ns, 0),
          one.bytesPerPacket.toFixed(2),
          String(one.deoptimisations),
        ]),
      ),
    );
  }
  if (workers.length > 0) {
    parts.push(
      table(
        ["workers, a table each", "one, Mpps", "two, Mpps", "two / one"],
        workers.map((one) => [
          memoryName(one),
          spread(one.oneMpps, 2),
          spread(one.twoMpps, 2),
          medianRatio(one.twoMpps, one.oneMpps).toFixed(2),
        ]),
      ),
    );
  }
  if (newFlows.length > 0) parts.push(formatNewFlows(newFlows));
  if (resident !== null) {
    const mebibytes = (bytes: number): string => (bytes / 2 ** 20).toFixed(0);
    parts.push(
      `Resident set with ${resident.flows.toLocaleString("en")} flows and one service: ` +
        `${mebibytes(resident.withFlowsBytes)} MiB, of which ${mebibytes(resident.beforeBytes)} MiB ` +
        "is Node with the program loaded.",
    );
  }
  return parts.join("\n\n");
}
