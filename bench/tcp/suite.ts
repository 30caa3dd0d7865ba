import { createLab, LAB_BACKENDS, type Lab } from "../../test/support/lab.ts";
import { IPERF_PORT } from "../../test/support/servers.ts";
import { waitFor } from "../../test/support/wait.ts";
import { quietly, softirqThreads } from "../machine.ts";
import { NFTABLES } from "../pps/contenders.ts";
import { isWanted, median, medianRatio, spread, table } from "../statistics.ts";
import { BACKEND_SIDE, directBackends } from "../traffic.ts";
import { REQUEST_PORT, SYSCTLS, TCP_CONTENDERS, type TcpContender } from "./contenders.ts";
import {
  CLIENT_ADDRESSES,
  type RequestTrial,
  requestProgram,
  runConnections,
  runRequests,
  runStreams,
  type StreamTrial,
} from "./trial.ts";

/**
 * TCP from the client to a backend through the two-arm lab, all offloads on (so frames are up to
 * 64 KiB): bytes a second with one stream and 32 of them (iperf3), new connections a second, and the
 * latency of requests on one connection. Rounds are paired: in each of them every contender runs once,
 * in a lab of its own.
 */

const STREAMS = [1, 32] as const;
const REFERENCES = [NFTABLES, "HAProxy, splice", "HAProxy, 1 MiB buffers"] as const;

export interface TcpSample {
  readonly streams: readonly StreamTrial[];
  readonly connections: RequestTrial;
  readonly requests: RequestTrial;
}

export interface TcpResult {
  readonly contender: string;
  readonly samples: readonly TcpSample[];
}

export interface TcpFigures {
  readonly results: readonly TcpResult[];
  readonly skipped: readonly { readonly contender: string; readonly reason: string }[];
}

/** Ports, queues and source addresses, and the servers behind. @returns the servers' processes */
async function prepare(lab: Lab): Promise<number[]> {
  await directBackends(lab);
  for (const node of ["client", "gateway", BACKEND_SIDE.node] as const) {
    lab.execSync(node, ["sysctl", "-qw", ...SYSCTLS]);
  }
  for (let at = 1; at < CLIENT_ADDRESSES; at++) {
    lab.execSync("client", ["ip", "addr", "add", `198.51.100.${2 + at}/24`, "dev", "eth0"]);
  }
  const { node } = BACKEND_SIDE;
  const server = [requestProgram(), "serve", LAB_BACKENDS.b1, String(REQUEST_PORT)];
  const requests = lab.spawn(node, server);
  await requests.waitLine(/^ready$/);
  const port = String(IPERF_PORT);
  const iperf = lab.spawn(node, ["iperf3", "-s", "-B", LAB_BACKENDS.b1, "-p", port]);
  await waitFor("iperf3 to listen", async () => {
    const { stdout } = await lab.exec(node, ["ss", "-Hltn", `sport = :${port}`]);
    return stdout.includes(`:${port}`);
  });
  return [requests.pid, iperf.pid];
}

async function sampleOf(contender: TcpContender, seconds: number): Promise<TcpSample> {
  const lab = createLab({ device: contender.device });
  try {
    const servers = await prepare(lab);
    const { address, pids } = await contender.start(lab);
    const all = [...servers, ...pids, ...softirqThreads()];
    const streams: StreamTrial[] = [];
    for (const count of STREAMS) {
      streams.push(await quietly(() => runStreams(lab, address, all, count, seconds)));
    }
    // Ports are used again from here on, as on a gateway that has run for a while.
    await runConnections(lab, address, all, Math.min(1, seconds));
    const connections = await quietly(() => runConnections(lab, address, all, seconds * 0.6));
    const requests = await quietly(() => runRequests(lab, address, all, seconds * 0.3));
    return { streams, connections, requests };
  } finally {
    await lab.stop();
  }
}

/** Paired rounds of all contenders (or those whose name contains `only`). */
export async function measureTcp(
  rounds: number,
  seconds: number,
  only: string | undefined,
  say: (text: string) => void,
): Promise<TcpFigures> {
  const wanted = TCP_CONTENDERS.filter(({ name }) => isWanted(name, only));
  const skipped = wanted.flatMap((contender) => {
    const reason = contender.missing();
    return reason === null ? [] : [{ contender: contender.name, reason }];
  });
  for (const { contender, reason } of skipped) say(`skipped: ${contender}: ${reason}`);
  const chosen = wanted.filter((one) => one.missing() === null);
  const samples = chosen.map((): TcpSample[] => []);
  for (let round = 1; round <= rounds; round++) {
    for (const [at, contender] of chosen.entries()) {
      const one = await sampleOf(contender, seconds);
      samples[at]!.push(one);
      const rates = one.streams.map(({ gigabits }) => gigabits.toFixed(2)).join(" and ");
      say(
        `round ${round}  ${contender.name.padEnd(26)} ${rates} Gb/s, ` +
          `${one.connections.perSecond.toFixed(0)} connections/s (${one.connections.failed} failed), ` +
          `request p50 ${one.requests.p50Us.toFixed(0)} us, p99 ${one.requests.p99Us.toFixed(0)} us`,
      );
    }
  }
  const results = chosen.map(({ name }, at) => ({ contender: name, samples: samples[at]! }));
  return { results, skipped };
}

/** Gb/s with so many streams, by round. */
export function gigabitsOf({ samples }: TcpResult, streams: number): number[] {
  return samples.map((one) => one.streams.find((trial) => trial.streams === streams)!.gigabits);
}

/** New connections a second, by round. */
export function connectionsOf({ samples }: TcpResult): number[] {
  return samples.map((one) => one.connections.perSecond);
}

/** The tables of it. */
export function formatTcp({ results, skipped }: TcpFigures): string {
  if (results.length === 0) return "";
  return [
    ...STREAMS.map((streams) => formatStreams(results, streams)),
    formatConnections(results),
    formatRequests(results),
    ...skipped.map(({ contender, reason }) => `Not measured: ${contender}: ${reason}.`),
  ].join("\n\n");
}

function referencesOf(results: readonly TcpResult[]): TcpResult[] {
  return REFERENCES.flatMap((name) => results.filter((one) => one.contender === name));
}

/** The table's columns of ratios to each reference. */
function ratios(
  result: TcpResult,
  references: readonly TcpResult[],
  pick: (one: TcpResult) => number[],
): string[] {
  return references.map((one) => medianRatio(pick(result), pick(one)).toFixed(2));
}

function formatStreams(results: readonly TcpResult[], streams: number): string {
  const of = (result: TcpResult): StreamTrial[] =>
    result.samples.map((one) => one.streams.find((trial) => trial.streams === streams)!);
  const rates = (result: TcpResult): number[] => gigabitsOf(result, streams);
  const references = referencesOf(results);
  return table(
    [
      streams === 1 ? "one TCP stream" : `${streams} TCP streams`,
      "Gb/s",
      ...references.map(({ contender }) => `x ${contender}`),
      "busy CPU, ns/KiB",
      "retransmits",
    ],
    results.map((result) => [
      result.contender,
      spread(rates(result), 2),
      ...ratios(result, references, rates),
      median(of(result).map((one) => one.busyNsPerKilobyte)).toFixed(0),
      median(of(result).map((one) => one.retransmits)).toFixed(0),
    ]),
  );
}

function formatConnections(results: readonly TcpResult[]): string {
  const references = referencesOf(results);
  const kilo = (result: TcpResult): number[] => connectionsOf(result).map((rate) => rate / 1000);
  return table(
    [
      "new connections, one request each",
      "k/s",
      ...references.map(({ contender }) => `x ${contender}`),
      "p50, us",
      "p99, us",
      "busy CPU, us each",
      "failed",
    ],
    results.map((result) => {
      const of = (pick: (one: RequestTrial) => number): number =>
        median(result.samples.map((one) => pick(one.connections)));
      return [
        result.contender,
        spread(kilo(result), 1),
        ...ratios(result, references, connectionsOf),
        of((one) => one.p50Us).toFixed(0),
        of((one) => one.p99Us).toFixed(0),
        of((one) => one.busyNsPerRequest / 1000).toFixed(1),
        of((one) => one.failed).toFixed(0),
      ];
    }),
  );
}

function formatRequests(results: readonly TcpResult[]): string {
  return table(
    ["requests on one connection", "p50, us", "p99, us", "p99.9, us", "k/s"],
    results.map((result) => {
      const of = (pick: (one: RequestTrial) => number): number[] =>
        result.samples.map((one) => pick(one.requests));
      return [
        result.contender,
        spread(
          of((one) => one.p50Us),
          0,
        ),
        median(of((one) => one.p99Us)).toFixed(0),
        median(of((one) => one.p999Us)).toFixed(0),
        median(of((one) => one.perSecond / 1000)).toFixed(1),
      ];
    }),
  );
}
