import { HAPROXY_CONFIGURATION } from "./lab-tcp.ts";
import { type Machine, machineLine } from "./machine.ts";

/** Suites of bench/run.ts and the document of their tables. */

export const SUITES = ["micro", "memory", "lab-tcp", "lab-pps"] as const;
export type Suite = (typeof SUITES)[number];

/** What a suite gives: its figures, and the table of them. */
export interface SuiteResult {
  readonly suite: Suite;
  readonly figures: unknown;
  readonly table: string;
}

export const SUITE_TITLES: Readonly<Record<Suite, string>> = {
  micro: "hot functions, each beside another way to do the same",
  memory: "the whole fast path on frames in memory",
  "lab-tcp": "TCP through the lab, with iperf3",
  "lab-pps": "60-byte UDP through the lab",
};

const NOTES: Readonly<Record<Suite, string>> = {
  micro:
    "Operations a second of one function (npm package `benchmark`), both sides over the same changing inputs, each pair in a process of its own.",
  memory:
    "Frames of 60 bytes in both directions of every flow, in batches of 64, through parse, look-up, rewrite and send; the memory device's own copying is taken off. Each row is measured in a process of its own.",
  "lab-tcp": `One client, one backend, all offloads on. In each round every contender runs once, in a lab of its own; the first half second is not counted. Cells are the median (lowest-highest); a ratio is the median of the rounds' own ratios. \`busy CPU\` is that of the whole machine, iperf3 included. HAProxy ran with:

\`\`\`
${HAPROXY_CONFIGURATION}\`\`\``,
  "lab-pps":
    "One way, 1,000 flows, three backends behind a switch that count and drop. PDR: the highest rate of which at most 0.5 % is lost, searched with trials of a second or so; flood: what arrives of as much as the generator can send. The generator is pinned to CPU 0. The kernel forwards in the sender's own softirq, so kernel rows have one CPU in all, and the generator slows down with them instead of losing frames (RPS, which gives the kernel the other CPU too, makes it slower: an interrupt for every frame). `busy CPU` is that of the whole machine at PDR, generator and sink included.",
};

/** A Markdown document of some suites' tables. */
export function document(
  machine: Machine,
  rounds: number,
  results: readonly SuiteResult[],
): string {
  const parts = results.map(
    ({ suite, table }) => `## ${suite}: ${SUITE_TITLES[suite]}\n\n${NOTES[suite]}\n\n${table}\n`,
  );
  return `# Benchmarks

Written by \`npm run bench -- all --document docs/benchmarks.md\`, ${rounds} rounds, on ${machineLine(machine)}. Rates depend on the machine and on what else it does; the ratios of one run are what counts.

${parts.join("\n")}`;
}
