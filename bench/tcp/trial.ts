import { LAB_CLIENT, type Lab } from "../../test/support/lab.ts";
import { IPERF_PORT } from "../../test/support/servers.ts";
import { compileBench } from "../compile.ts";
import { busySeconds, cpuSeconds } from "../machine.ts";
import { REQUEST_PORT } from "./contenders.ts";

/** One measurement each: bytes a second, new connections a second, latency of requests. */

/** Source addresses of new connections, so that ports last. */
export const CLIENT_ADDRESSES = 8;
/** Connections that are open at once while new ones are counted. */
const AT_ONCE = 32;

export interface StreamTrial {
  readonly streams: number;
  readonly gigabits: number;
  readonly retransmits: number;
  /** Busy time of the whole machine, client and server included. */
  readonly busyNsPerKilobyte: number;
  /** CPUs that were busy for neither iperf3 nor the contender nor the kernel's softirqs. */
  readonly othersBusyCpus: number;
}

export interface RequestTrial {
  readonly perSecond: number;
  readonly failed: number;
  readonly p50Us: number;
  readonly p99Us: number;
  readonly p999Us: number;
  /** Busy time of the whole machine, client and server included. */
  readonly busyNsPerRequest: number;
  readonly othersBusyCpus: number;
}

interface IperfAnswer {
  readonly error?: string;
  readonly end: {
    /** Percent of one CPU, over the whole run. */
    readonly cpu_utilization_percent: { readonly host_total: number };
    readonly sum_sent: { readonly retransmits?: number };
    readonly sum_received: { readonly bytes: number; readonly bits_per_second: number };
  };
}

export async function runStreams(
  lab: Lab,
  address: string,
  pids: readonly number[],
  streams: number,
  seconds: number,
): Promise<StreamTrial> {
  const from = performance.now();
  const usedBefore = cpuSeconds(pids);
  const busy = busySeconds();
  // The first half second is not counted: slow start, and the fast path's compiler.
  const words = ["-J", "-c", address, "-p", String(IPERF_PORT), "-P", String(streams), "-O", "0.5"];
  const { stdout, stderr } = await lab.exec(
    "client",
    // It takes whole seconds, and 0 as for ever.
    [
      "iperf3",
      ...words,
      "-t",
      String(Math.max(1, Math.round(seconds))),
      "--connect-timeout",
      "5000",
    ],
    { check: false, timeoutMs: seconds * 1000 + 30_000 },
  );
  const used = busySeconds() - busy;
  const wall = (performance.now() - from) / 1000;
  if (stdout === "") throw new Error(`iperf3: ${stderr}`);
  const answer = JSON.parse(stdout) as IperfAnswer;
  if (answer.error !== undefined) throw new Error(`iperf3: ${answer.error}`);
  const { bytes, bits_per_second } = answer.end.sum_received;
  const client = (answer.end.cpu_utilization_percent.host_total / 100) * wall;
  const known = cpuSeconds(pids) - usedBefore + client;
  return {
    streams,
    gigabits: bits_per_second / 1e9,
    retransmits: answer.end.sum_sent.retransmits ?? 0,
    busyNsPerKilobyte: (used * 1e9) / (bytes / 1024),
    othersBusyCpus: Math.max(0, (used - known) / wall),
  };
}

export function requestProgram(): string {
  return compileBench("tcp/request.cc", "bench-request");
}

interface RequestAnswer {
  readonly connections: number;
  readonly failed: number;
  readonly seconds: number;
  readonly p50: number;
  readonly p99: number;
  readonly p999: number;
  readonly cpuSeconds: number;
  readonly busySeconds: number;
}

async function runRequest(
  lab: Lab,
  pids: readonly number[],
  seconds: number,
  words: readonly string[],
): Promise<RequestTrial> {
  const usedBefore = cpuSeconds(pids);
  const { stdout } = await lab.exec("client", [requestProgram(), ...words], {
    timeoutMs: seconds * 1000 + 15_000,
  });
  const answer = JSON.parse(stdout) as RequestAnswer;
  const used = cpuSeconds(pids) - usedBefore + answer.cpuSeconds;
  return {
    perSecond: answer.connections / answer.seconds,
    failed: answer.failed,
    p50Us: answer.p50,
    p99Us: answer.p99,
    p999Us: answer.p999,
    busyNsPerRequest: (answer.busySeconds * 1e9) / answer.connections,
    othersBusyCpus: Math.max(0, (answer.busySeconds - used) / answer.seconds),
  };
}

/** New connections, each with one request, as many as go. */
export function runConnections(
  lab: Lab,
  address: string,
  pids: readonly number[],
  seconds: number,
): Promise<RequestTrial> {
  const load = [LAB_CLIENT, String(CLIENT_ADDRESSES), String(AT_ONCE), String(seconds)];
  const words = ["connect", address, String(REQUEST_PORT), ...load];
  return runRequest(lab, pids, seconds, words);
}

/** One request after the other on one connection. */
export function runRequests(
  lab: Lab,
  address: string,
  pids: readonly number[],
  seconds: number,
): Promise<RequestTrial> {
  const words = ["ask", address, String(REQUEST_PORT), String(seconds)];
  return runRequest(lab, pids, seconds, words);
}
