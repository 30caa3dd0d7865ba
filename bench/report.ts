import { existsSync, mkdirSync, readFileSync, writeFileSync } from "node:fs";
import path from "node:path";
import { type ConnsFigures, formatConns } from "./conns/suite.ts";
import { figuresOf, formatFiguresTable } from "./figures.ts";
import { formatHealth, type HealthCost } from "./health.ts";
import { type Machine, machineLine } from "./machine.ts";
import { formatMemory, type MemoryFigures } from "./memory/suite.ts";
import { formatMicro, type MicroResult } from "./micro.ts";
import { picturesOf } from "./pictures.ts";
import { formatPps, type PpsFigures } from "./pps/suite.ts";
import { formatSoak, type SoakResult } from "./soak.ts";
import { HAPROXY_SPLICE, nginxConfiguration, SYSCTLS } from "./tcp/contenders.ts";
import { formatTcp, type TcpFigures } from "./tcp/suite.ts";

/** The suites of bench/run.ts, the file of their figures and the document of their tables. */

export const SUITES = [
  "micro",
  "memory",
  "lab-pps",
  "lab-tcp",
  "lab-conns",
  "tuning",
  "soak",
  "health",
] as const;
export type Suite = (typeof SUITES)[number];

export interface Figures {
  readonly micro: readonly MicroResult[];
  readonly memory: MemoryFigures;
  readonly "lab-tcp": TcpFigures;
  readonly "lab-pps": PpsFigures;
  readonly "lab-conns": ConnsFigures;
  readonly tuning: PpsFigures;
  readonly soak: readonly SoakResult[];
  readonly health: readonly HealthCost[];
}

/** One run of a suite. */
export interface Measured<Name extends Suite> {
  readonly machine: Machine;
  /** ISO 8601, UTC. */
  readonly at: string;
  readonly rounds: number;
  readonly figures: Figures[Name];
}

/** The latest run of each suite that has been run. */
export type Results = { readonly [Name in Suite]?: Measured<Name> };

export const SUITE_TITLES: Readonly<Record<Suite, string>> = {
  micro: "hot functions, each beside another way to do the same",
  memory: "the whole fast path on frames in memory",
  "lab-tcp": "TCP through the lab: streams, new connections, requests",
  "lab-pps": "small and large UDP through the lab",
  "lab-conns": "how cost and memory grow, and what a reload costs",
  tuning: "one setting changed at a time",
  soak: "a gateway at half load",
  health: "what health checks cost",
};

const NOTES: Readonly<Record<Suite, string>> = {
  micro: `Operations a second of one function (npm package \`benchmark\`), both sides over the same changing
inputs, each pair in a process of its own.`,
  memory: `Frames of 60 bytes in both directions of every flow, in an order without order, in batches of 64,
through the whole fast path: parse and check, look-up, TCP state and timer, rewrite, counters, verdict,
expiry sweep. Frames lie in the device's memory when the clock starts (bench/memory/ready-device.ts).
\`C++\` is the same work over the same frames (bench/reference/nat.cc, g++ -O3); every frame that either
side sent was compared, byte by byte, before the rounds. IPv6 frames have no data (74 bytes of TCP, 62 of
UDP) and no C++ beside them; what was sent for each was checked against a slow NAT (bench/memory/slow-nat.ts). With 1,000 services each has three of 1,000
backends. Each row is a process of its own; cells are the median (lowest-highest) of paired rounds.`,
  "lab-tcp": `One client, one backend, all offloads on. In each round every contender runs once, in a lab of its
own. Streams are iperf3's; the first half second is not counted. New connections: 32 at once from eight
addresses, each with one request of 64 bytes, closed by the server first (bench/tcp/request.cc); the
latency is from the SYN to the answer's end. Cells are the median (lowest-highest); a ratio is the
median of the rounds' own ratios. \`busy CPU\` is that of the whole machine, client and server included.
Headgate has \`device.spin: 50\` (docs/tuning.md). The forwarders in C change nothing; over AF_XDP client and server have \`ethtool -K … tx off\`. Every host
has

\`\`\`
${SYSCTLS.join("\n")}
\`\`\`

HAProxy runs twice: as below, and without splice(2) but with \`tune.bufsize 1048576\`, the fastest found for
one stream, which takes 2 MiB a connection.

\`\`\`
${HAPROXY_SPLICE}\`\`\`

nginx:

\`\`\`
${nginxConfiguration("FOLDER")}\`\`\``,
  "lab-pps": `One way, three backends at one port, where an XDP program counts and drops. PDR: the highest rate of
which at most 0.5 % is lost; flood: what arrives of as much as the generator (AF_XDP, copies, CPU 0) can
send. What is measured has CPU 1 (Headgate: \`device.cpus: [1]\`); the kernel forwards in the sender's own softirq, so kernel rows have
one CPU in all, and the generator slows down with them instead of losing frames. \`busy CPU\` is that of
the whole machine at PDR, generator and sink included (/proc/stat, sampled by the timer tick);
\`threads\` is the exact CPU time of generator, contender and softirq threads, in whose context the
kernel's part runs. Latency is one way at half of PDR, in bursts of four, from before the generator's
kick to the sink's BPF program. A trial in which others used more than 0.2 CPU is done again.`,
  "lab-conns": `Costs are those of suite memory: frames in memory, both directions, nat, UDP. The resident set is that of
a whole gateway process (control thread included) with room for 1,048,576 flows, which is taken at
start; each page counts once, VmRSS has the state file twice, because two threads map it. A reload changes one weight in every service, so that every table is built again; the worker
forwards meanwhile on a CPU of its own and times each batch (bench/conns/reload.ts), also while the other
thread only counts: a virtual machine can take a busy CPU away for many milliseconds. A slot number has 16 bits, so 65
backends a service are the most that 1,000 services can have.`,
  tuning: `As lab-pps, first case. tuning.md says what the settings are.`,
  soak: `One gateway, 1,000 flows, half of the rate at which 0.5 % is lost. Collections and deoptimisations are V8's
own traces, from the soak's begin on.`,
  health: `One gateway (AF_PACKET, nat) with 1,000 backends that are addresses of one node. What counts is all CPU
time of the control thread (/proc/PID/task/PID/schedstat), beside that of the same gateway without checks; a
check is late when it begins more than a tenth of its interval after it was planned.`,
};

/** The table of a suite's figures. */
export function formatFigures<Name extends Suite>(suite: Name, figures: Figures[Name]): string {
  const format: { readonly [Key in Suite]: (figures: Figures[Key]) => string } = {
    micro: formatMicro,
    memory: formatMemory,
    "lab-tcp": formatTcp,
    "lab-pps": formatPps,
    "lab-conns": formatConns,
    tuning: formatPps,
    soak: formatSoak,
    health: formatHealth,
  };
  return format[suite](figures);
}

/**
 * What an earlier run has left in a file; nothing when there is none.
 *
 * @throws SyntaxError when it is not JSON
 */
export function readResults(file: string): Results {
  return existsSync(file) ? (JSON.parse(readFileSync(file, "utf8")) as Results) : {};
}

/** Write the figures; a suite that was not run this time keeps its earlier ones. */
export function writeResults(file: string, results: Results): void {
  writeFileSync(file, `${JSON.stringify(results, null, 2)}\n`);
}

/**
 * A Markdown document of the tables.
 *
 * @param folder - where the pictures lie, relative to the document; without it there are none
 */
export function documentOf(results: Results, folder?: string): string {
  const pictures = folder === undefined ? [] : [...picturesOf(results)];
  const part = <Name extends Suite>(suite: Name): string[] => {
    const measured: Measured<Name> | undefined = results[suite];
    if (measured === undefined) return [];
    const { machine, at, rounds, figures } = measured;
    const images = pictures
      .filter(([, picture]) => picture.suite === suite)
      .map(([name]) => `![${name}](${folder}/${name}.svg)`);
    const times = suite === "micro" || suite === "soak" ? "" : `${rounds} rounds, `;
    const run = `${at.slice(0, 10)}, ${times}${machineLine(machine)}.`;
    const body = [NOTES[suite], run, ...images, formatFigures(suite, figures)].join("\n\n");
    return [`## ${suite}: ${SUITE_TITLES[suite]}\n\n${body}\n`];
  };
  const asked = figuresOf(results);
  const figures =
    asked.length === 0
      ? []
      : [
          `## Figures\n\nWhat the project asks of itself, and what the runs below gave: medians of the rounds' own ratios.\n\n${formatFiguresTable(asked)}\n`,
        ];
  return `# Benchmarks

Written by \`npm run bench -- all --json FILE --document docs/benchmarks.md\`. Rates depend on the machine
and on what else it does; the ratios of one run are what counts. [tuning.md](tuning.md) says what to set.

${[...figures, ...SUITES.flatMap((suite) => part(suite))].join("\n")}`;
}

/** Write the document, and its pictures into a folder of its name beside it. */
export function writeDocument(file: string, results: Results): void {
  const folder = path.basename(file, path.extname(file));
  const pictures = picturesOf(results);
  const beside = path.join(path.dirname(file), folder);
  if (pictures.size > 0) mkdirSync(beside, { recursive: true });
  for (const [name, { svg }] of pictures) writeFileSync(path.join(beside, `${name}.svg`), svg);
  writeFileSync(file, documentOf(results, folder));
}
