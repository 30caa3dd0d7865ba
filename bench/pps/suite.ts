import { createLab } from "../../test/support/lab.ts";
import { isWanted, median, medianRatio, spread, table } from "../statistics.ts";
import { directBackends } from "../traffic.ts";
import { NFTABLES, PPS_CONTENDERS, type PpsContender } from "./contenders.ts";
import {
  CLOSE_SEARCH,
  type Latency,
  type PpsCase,
  type PpsSample,
  ROUGH_SEARCH,
  sampleOf,
  type Trial,
  warmUp,
} from "./trial.ts";

/**
 * Packets a second: UDP frames, one way, through the two-arm lab.
 *
 *   client (generator, CPU 0) -- gateway (contender, CPU 1) -- backends (counted, dropped)
 *
 * Rounds are paired: in each of them every contender gets a lab of its own, is warmed up, and for each
 * case is flooded and searched for its partial drop rate (PDR): the highest rate of which at most
 * 0.5 % is lost (FD.io CSIT's definition; RFC 2544 asks for none, which a shared machine cannot
 * promise). The first case is searched closely, and latency is measured at half of its PDR.
 *
 * Kernel forwarding over veth happens in the sender's own softirq, so the generator, the kernel
 * contender and the sink share one CPU, and the generator slows down with them; a gateway in user
 * space has a CPU of its own. Both are what a user of that gateway on this machine gets; the busy
 * time of the whole machine per frame is there to compare what it costs.
 */
export interface PpsResult {
  readonly contender: string;
  readonly case: PpsCase;
  readonly samples: readonly PpsSample[];
}

export interface PpsFigures {
  readonly results: readonly PpsResult[];
  /** Contenders that could not run here, and why. */
  readonly skipped: readonly { readonly contender: string; readonly reason: string }[];
}

export const PPS_CASES: readonly PpsCase[] = [
  { bytes: 60, flows: 1000 },
  { bytes: 60, flows: 1 },
  { bytes: 60, flows: 100_000 },
  { bytes: 1514, flows: 1000 },
  { bytes: 1514, flows: 1 },
  { bytes: 1514, flows: 100_000 },
];

/** "60-byte UDP, 1,000 flows"; 1,500 bytes are those of the IP packet, 60 those of the frame. */
export function caseName({ bytes, flows }: PpsCase): string {
  const size = bytes === 1514 ? "1,500" : bytes.toLocaleString("en");
  return `${size}-byte UDP, ${flows.toLocaleString("en")} flow${flows === 1 ? "" : "s"}`;
}

interface PpsOptions {
  readonly rounds: number;
  readonly seconds: number;
  /** Contenders. */
  readonly only: string | undefined;
  readonly cases: string | undefined;
  readonly say: (text: string) => void;
}

/** One contender in a lab of its own, through all cases. */
async function runContender(
  contender: PpsContender,
  cases: readonly PpsCase[],
  { seconds }: PpsOptions,
  keep: (one: PpsCase, sample: PpsSample) => void,
): Promise<void> {
  const lab = createLab({ device: contender.device });
  try {
    await directBackends(lab);
    const started = await contender.start(lab);
    for (const one of cases) {
      const first = one === PPS_CASES[0];
      await warmUp(lab, started, one);
      const search = first ? CLOSE_SEARCH : ROUGH_SEARCH;
      keep(one, await sampleOf(lab, started, one, first ? seconds : seconds * 0.5, search));
    }
  } finally {
    await lab.stop();
  }
}

/** Paired rounds of all contenders and cases that are wanted. */
export async function measurePps(
  options: PpsOptions,
  contenders: readonly PpsContender[] = PPS_CONTENDERS,
): Promise<PpsFigures> {
  const { rounds, only, cases, say } = options;
  const wanted = contenders.filter(({ name }) => isWanted(name, only));
  const skipped = wanted.flatMap((contender) => {
    const reason = contender.missing();
    return reason === null ? [] : [{ contender: contender.name, reason }];
  });
  for (const { contender, reason } of skipped) say(`skipped: ${contender}: ${reason}`);
  const chosen = wanted.filter((one) => !skipped.some(({ contender }) => contender === one.name));
  const chosenCases = PPS_CASES.filter((one) => isWanted(caseName(one), cases));
  const samples = new Map<string, PpsSample[]>();
  const key = (contender: PpsContender, one: PpsCase): string =>
    `${contender.name} ${caseName(one)}`;
  for (let round = 1; round <= rounds; round++) {
    for (const contender of chosen) {
      await runContender(contender, chosenCases, options, (one, sample) => {
        const list = samples.get(key(contender, one)) ?? [];
        list.push(sample);
        samples.set(key(contender, one), list);
        const { flood, pdr, half } = sample;
        say(
          `round ${round}  ${contender.name.padEnd(30)} ${caseName(one).padEnd(28)} flood ` +
            `${kilo(flood.deliveredRate)} of ${kilo(flood.offeredRate)}, PDR ` +
            `${kilo(pdr?.deliveredRate ?? 0)} kpps, ${(pdr?.busyNsPerFrame ?? 0).toFixed(0)} ns` +
            (half === null ? "" : `, p50 ${half.latency.p50Us.toFixed(0)} us`),
        );
      });
    }
  }
  const results = chosenCases.flatMap((one) =>
    chosen.map((contender) => ({
      contender: contender.name,
      case: one,
      samples: samples.get(key(contender, one)) ?? [],
    })),
  );
  return { results, skipped };
}

function kilo(rate: number): string {
  return (rate / 1000).toFixed(0);
}

/** Kilo-packets a second at PDR, by round; 0 where no trial was within the loss limit. */
export function pdrOf({ samples }: PpsResult): number[] {
  return samples.map((one) => (one.pdr?.deliveredRate ?? 0) / 1000);
}

function floodOf({ samples }: PpsResult): number[] {
  return samples.map((one) => one.flood.deliveredRate / 1000);
}

/** The median over the rounds of something of the PDR trial. */
export function atPdr({ samples }: PpsResult, pick: (one: Trial) => number): number {
  return median(samples.map((one) => (one.pdr === null ? 0 : pick(one.pdr))));
}

/** The median over the rounds of a latency at half load, microseconds; null without any. */
export function atHalf({ samples }: PpsResult, pick: (one: Latency) => number): number | null {
  const values = samples.flatMap((one) => (one.half === null ? [] : [pick(one.half.latency)]));
  return values.length === 0 ? null : median(values);
}

/** The table of it, one a case. */
export function formatPps({ results, skipped }: PpsFigures): string {
  const parts = PPS_CASES.flatMap((one) => {
    const rows = results.filter(
      (result) => result.case.bytes === one.bytes && result.case.flows === one.flows,
    );
    return rows.length === 0 ? [] : [formatCase(one, rows)];
  });
  const missing = skipped.map(({ contender, reason }) => `Not measured: ${contender}: ${reason}.`);
  return [...parts, ...missing].join("\n\n");
}

function formatCase(one: PpsCase, rows: readonly PpsResult[]): string {
  const reference = rows.find(({ contender }) => contender === NFTABLES);
  const ratio = (row: PpsResult, pick: (row: PpsResult) => number[]): string =>
    reference === undefined ? "-" : medianRatio(pick(row), pick(reference)).toFixed(2);
  const withLatency = rows.some((row) => atHalf(row, (latency) => latency.p50Us) !== null);
  const micro = (value: number | null): string => (value === null ? "-" : value.toFixed(0));
  return table(
    [
      caseName(one),
      "PDR, kpps",
      "x nftables",
      "flood, kpps",
      "x nftables",
      "busy CPU, ns a frame",
      "threads, ns a frame",
      "busy CPUs",
      ...(withLatency ? ["p50, us", "p99, us", "p99.9, us"] : []),
    ],
    rows.map((row) => [
      row.contender,
      spread(pdrOf(row), 0),
      ratio(row, pdrOf),
      spread(floodOf(row), 0),
      ratio(row, floodOf),
      atPdr(row, (trial) => trial.busyNsPerFrame).toFixed(0),
      atPdr(row, (trial) => trial.threadNsPerFrame).toFixed(0),
      atPdr(row, (trial) => trial.busyCpus).toFixed(2),
      ...(withLatency
        ? [
            micro(atHalf(row, (latency) => latency.p50Us)),
            micro(atHalf(row, (latency) => latency.p99Us)),
            micro(atHalf(row, (latency) => latency.p999Us)),
          ]
        : []),
    ]),
  );
}
