import { writeFileSync } from "node:fs";
import path from "node:path";
import {
  createLab,
  LAB_BACKENDS,
  LAB_VIP,
  type Lab,
  type LabBalance,
  type LabDevice,
} from "../test/support/lab.ts";
import { IPERF_PORT, startIperf3 } from "../test/support/servers.ts";
import { waitFor } from "../test/support/wait.ts";
import { busySeconds, cpuSeconds, quietly, softirqThreads } from "./machine.ts";
import { isWanted, median, medianRatio, spread, table } from "./statistics.ts";
import { directBackends } from "./traffic.ts";

/**
 * TCP throughput with iperf3 from the client to a backend through the two-arm lab, all offloads on
 * (so frames are up to 64 KiB), one stream and 32 of them. Rounds are paired: in each of them every
 * contender runs once, in a lab of its own.
 */

const STREAMS = [1, 32] as const;

const BALANCE: LabBalance = {
  mode: "nat",
  services: [
    // iperf3 has a control connection beside the streams: all of them go to one backend.
    { name: "iperf", protocol: "tcp", port: IPERF_PORT, backendPort: IPERF_PORT, backends: ["b1"] },
  ],
};

function haproxyConfiguration(globals: readonly string[], options: readonly string[]): string {
  return `global
  nbthread 1
  maxconn 4000
${globals.map((line) => `  ${line}\n`).join("")}defaults
  mode tcp
${options.map((line) => `  ${line}\n`).join("")}  option tcp-smart-accept
  option tcp-smart-connect
  timeout connect 5s
  timeout client 60s
  timeout server 60s
listen iperf
  bind ${LAB_VIP}:${IPERF_PORT}
  server b1 ${LAB_BACKENDS.b1}:${IPERF_PORT}
`;
}

/**
 * HAProxy twice, as one would tune it to pass bytes on: with splice(2) and buffers that a server with
 * thousands of connections can afford; and with the buffers at which one stream was fastest here
 * (2 MiB a connection).
 */
export const HAPROXY_SPLICE = haproxyConfiguration(
  ["tune.bufsize 65536", "tune.pipesize 1048576"],
  ["option splice-auto"],
);
export const HAPROXY_BUFFERS = haproxyConfiguration(["tune.bufsize 1048576"], []);

interface Started {
  /** Where the client shall connect to. */
  readonly address: string;
  /** Its process; the kernel's work has none. */
  readonly pid?: number;
}

interface Contender {
  readonly name: string;
  readonly device: LabDevice;
  start(lab: Lab): Promise<Started>;
}

async function startHaproxy(lab: Lab, configuration: string): Promise<number> {
  const file = path.join(lab.directory, "haproxy.cfg");
  writeFileSync(file, configuration);
  lab.execSync("gateway", ["ip", "addr", "add", `${LAB_VIP}/32`, "dev", "lo"]);
  const { pid } = lab.spawn("gateway", ["haproxy", "-db", "-f", file]);
  await waitFor("HAProxy to listen", async () => {
    const { stdout } = await lab.exec("gateway", ["ss", "-Hltn", `sport = :${IPERF_PORT}`]);
    return stdout.includes(`:${IPERF_PORT}`);
  });
  return pid;
}

function haproxy(name: string, configuration: string): Contender {
  return {
    name,
    device: "nftables",
    async start(lab) {
      return { address: LAB_VIP, pid: await startHaproxy(lab, configuration) };
    },
  };
}

function headgate(device: "tun" | "packet"): Contender {
  return {
    name: `Headgate ${device}, nat`,
    device,
    async start(lab) {
      const gateway = await lab.balance(BALANCE);
      return { address: LAB_VIP, pid: gateway!.pid };
    },
  };
}

const CONTENDERS: readonly Contender[] = [
  {
    name: "kernel ip_forward, no NAT",
    device: "nftables",
    start: async () => ({ address: LAB_BACKENDS.b1 }),
  },
  {
    name: "nftables DNAT",
    device: "nftables",
    async start(lab) {
      lab.peerNftables(BALANCE);
      return { address: LAB_VIP };
    },
  },
  haproxy("HAProxy, splice", HAPROXY_SPLICE),
  haproxy("HAProxy, 1 MiB buffers", HAPROXY_BUFFERS),
  headgate("tun"),
  headgate("packet"),
];

const REFERENCES = ["HAProxy, splice", "HAProxy, 1 MiB buffers"] as const;

export interface TcpSample {
  readonly streams: number;
  readonly gigabits: number;
  readonly retransmits: number;
  /** Busy time of the whole machine, client and server included. */
  readonly busyNsPerKilobyte: number;
  /** CPUs that were busy for neither iperf3 nor the contender nor the kernel's softirqs. */
  readonly othersBusyCpus: number;
}

export interface TcpResult {
  readonly contender: string;
  readonly samples: readonly TcpSample[];
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

async function runIperf(
  lab: Lab,
  address: string,
  pids: readonly number[],
  streams: number,
  seconds: number,
): Promise<TcpSample> {
  const from = performance.now();
  const usedBefore = cpuSeconds(pids);
  const busy = busySeconds();
  const { stdout, stderr } = await lab.exec(
    "client",
    // The first half second is not counted: slow start, and the fast path's compiler.
    [
      "iperf3",
      "-J",
      "-c",
      address,
      "-p",
      String(IPERF_PORT),
      "-P",
      String(streams),
      "-O",
      "0.5",
      "-t",
      String(seconds),
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

/** Paired rounds of all contenders (or those whose name contains `only`). */
export async function measureTcp(
  rounds: number,
  seconds: number,
  only: string | undefined,
  say: (text: string) => void,
): Promise<TcpResult[]> {
  const chosen = CONTENDERS.filter(({ name }) => isWanted(name, only));
  const samples = chosen.map((): TcpSample[] => []);
  for (let round = 1; round <= rounds; round++) {
    for (const [at, contender] of chosen.entries()) {
      const lab = createLab({ device: contender.device });
      try {
        await directBackends(lab);
        const { address, pid } = await contender.start(lab);
        const server = await startIperf3(lab, "b1");
        const pids = [server.pid, ...(pid === undefined ? [] : [pid]), ...softirqThreads()];
        for (const streams of STREAMS) {
          const one = await quietly(() => runIperf(lab, address, pids, streams, seconds));
          samples[at]!.push(one);
          say(
            `round ${round}  ${contender.name.padEnd(26)} ${String(streams).padStart(2)} streams  ` +
              `${one.gigabits.toFixed(2)} Gb/s, ${one.retransmits} retransmits, ` +
              `${one.busyNsPerKilobyte.toFixed(0)} ns/KiB`,
          );
        }
      } finally {
        await lab.stop();
      }
    }
  }
  return chosen.map(({ name }, at) => ({ contender: name, samples: samples[at]! }));
}

/** The tables of it: one for each number of streams. */
export function formatTcp(results: readonly TcpResult[]): string {
  return STREAMS.map((streams) => formatStreams(results, streams)).join("\n\n");
}

function formatStreams(results: readonly TcpResult[], streams: number): string {
  const of = (result: TcpResult): TcpSample[] =>
    result.samples.filter((one) => one.streams === streams);
  const rates = (result: TcpResult): number[] => of(result).map((one) => one.gigabits);
  const references = REFERENCES.flatMap((name) => results.filter((one) => one.contender === name));
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
      ...references.map((reference) => medianRatio(rates(result), rates(reference)).toFixed(2)),
      median(of(result).map((one) => one.busyNsPerKilobyte)).toFixed(0),
      median(of(result).map((one) => one.retransmits)).toFixed(0),
    ]),
  );
}
