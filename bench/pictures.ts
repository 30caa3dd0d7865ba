import { memoryName } from "./memory/suite.ts";
import { C_PACKET, C_XDP } from "./pps/contenders.ts";
import { caseName, PPS_CASES, type PpsResult, pdrOf } from "./pps/suite.ts";
import type { Results } from "./report.ts";
import { type Bar, barChart, type Chart } from "./svg.ts";
import { connectionsOf, gigabitsOf, type TcpResult } from "./tcp/suite.ts";

/** The pictures of a document: file name, and the chart. */

/** Rows that do less than a load balancer, and so are no peers. */
function kindOf(contender: string): Bar["kind"] {
  if (contender.startsWith("Headgate")) return "ours";
  const floors = [C_PACKET, C_XDP];
  if (floors.includes(contender) || /no NAT|generator alone/.test(contender)) return "floor";
  return "peer";
}

function bars<T extends { readonly contender: string; readonly samples: readonly unknown[] }>(
  results: readonly T[],
  pick: (one: T) => number[],
): Bar[] {
  return results.flatMap((one) =>
    one.samples.length === 0
      ? []
      : [{ label: one.contender, values: pick(one), kind: kindOf(one.contender) }],
  );
}

function ppsCharts(results: readonly PpsResult[]): [string, Chart][] {
  return PPS_CASES.flatMap((one): [string, Chart][] => {
    const rows = results.filter(
      (result) => result.case.bytes === one.bytes && result.case.flows === one.flows,
    );
    const name = `pps-${one.bytes}-${one.flows}`;
    const pdr: Chart = {
      title: `${caseName(one)}: delivered at 0.5 % loss`,
      unit: "kpps",
      digits: 0,
      bars: bars(rows, pdrOf),
    };
    if (one !== PPS_CASES[0]) return [[name, pdr]];
    const cost: Chart = {
      title: `${caseName(one)}: busy CPU of the whole machine`,
      unit: "ns a frame",
      digits: 0,
      bars: bars(rows, ({ samples }) => samples.map((sample) => sample.pdr?.busyNsPerFrame ?? 0)),
    };
    return [
      [name, pdr],
      ["pps-cpu", cost],
    ];
  });
}

function tcpCharts(results: readonly TcpResult[]): [string, Chart][] {
  return [
    [
      "tcp-1",
      {
        title: "One TCP stream",
        unit: "Gb/s",
        digits: 1,
        bars: bars(results, (one) => gigabitsOf(one, 1)),
      },
    ],
    [
      "tcp-32",
      {
        title: "32 TCP streams",
        unit: "Gb/s",
        digits: 1,
        bars: bars(results, (one) => gigabitsOf(one, 32)),
      },
    ],
    [
      "tcp-connections",
      {
        title: "New connections, one request each",
        unit: "thousand a second",
        digits: 1,
        bars: bars(results, (one) => connectionsOf(one).map((rate) => rate / 1000)),
      },
    ],
  ];
}

/** Every picture that the results have figures for, by the suite it belongs to. */
export function picturesOf(results: Results): Map<string, { suite: string; svg: string }> {
  const charts: [suite: string, name: string, chart: Chart][] = [];
  const memory = results.memory?.figures.cases ?? [];
  charts.push([
    "memory",
    "memory",
    {
      title: "The fast path on frames in memory, and C++",
      unit: "ns a packet",
      digits: 0,
      bars: memory
        .filter(({ mode }) => mode === "nat")
        .flatMap((one): Bar[] => [
          { label: memoryName(one).replace("nat, ", ""), values: one.ns, kind: "ours" },
          { label: "the same in C++", values: one.referenceNs, kind: "floor" },
        ]),
    },
  ]);
  for (const [name, chart] of ppsCharts(results["lab-pps"]?.figures.results ?? [])) {
    charts.push(["lab-pps", name, chart]);
  }
  for (const [name, chart] of tcpCharts(results["lab-tcp"]?.figures.results ?? [])) {
    charts.push(["lab-tcp", name, chart]);
  }
  const drawn = charts.filter(([, , chart]) => chart.bars.length > 0);
  return new Map(drawn.map(([suite, name, chart]) => [name, { suite, svg: barChart(chart) }]));
}
