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
import { busySeconds, waitQuiet } from "./machine.ts";
import { median, medianRatio, spread, table } from "./statistics.ts";
import { plainSwitch } from "./traffic.ts";

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

/** HAProxy as one would tune it to pass bytes on: nothing but splice(2), on one thread. */
export const HAPROXY_CONFIGURATION = `global
  nbthread 1
  maxconn 4000
  tune.pipesize 1048576
  tune.bufsize 65536
defaults
  mode tcp
  option splice-auto
  option tcp-smart-accept
  option tcp-smart-connect
  timeout connect 5s
  timeout client 60s
  timeout server 60s
listen iperf
  bind ${LAB_VIP}:${IPERF_PORT}
  server b1 ${LAB_BACKENDS.b1}:${IPERF_PORT}
`;

interface Contender {
  readonly name: string;
  readonly device: LabDevice;
  /** Starts it; the address that the client shall connect to. */
  start(lab: Lab): Promise<string>;
}

async function startHaproxy(lab: Lab): Promise<void> {
  const file = path.join(lab.directory, "haproxy.cfg");
  writeFileSync(file, HAPROXY_CONFIGURATION);
  lab.execSync("gateway", ["ip", "addr", "add", `${LAB_VIP}/32`, "dev", "lo"]);
  lab.spawn("gateway", ["haproxy", "-db", "-f", file]);
  await waitFor("HAProxy to listen", async () => {
    const { stdout } = await lab.exec("gateway", ["ss", "-Hltn", `sport = :${IPERF_PORT}`]);
    return stdout.includes(`:${IPERF_PORT}`);
  });
}

function headgate(device: "tun" | "packet"): Contender {
  return {
    name: `Headgate ${device}, nat`,
    device,
    async start(lab) {
      await lab.balance(BALANCE);
      return LAB_VIP;
    },
  };
}

const CONTENDERS: readonly Contender[] = [
  { name: "kernel ip_forward, no NAT", device: "nftables", start: async () => LAB_BACKENDS.b1 },
  {
    name: "nftables DNAT",
    device: "nftables",
    async start(lab) {
      lab.peerNftables(BALANCE);
      return LAB_VIP;
    },
  },
  {
    name: "HAProxy, TCP",
    device: "nftables",
    async start(lab) {
      await startHaproxy(lab);
      return LAB_VIP;
    },
  },
  headgate("tun"),
  headgate("packet"),
];

const REFERENCE = "HAProxy, TCP";

export interface TcpSample {
  readonly streams: number;
  readonly gigabits: number;
  readonly retransmits: number;
  /** Busy time of the whole machine, client and server included. */
  readonly busyNsPerKilobyte: number;
  /** What the machine did just before, for others. */
  readonly othersBusyCpus: number;
}

export interface TcpResult {
  readonly contender: string;
  readonly samples: readonly TcpSample[];
}

interface IperfAnswer {
  readonly error?: string;
  readonly end: {
    readonly sum_sent: { readonly retransmits?: number };
    readonly sum_received: { readonly bytes: number; readonly bits_per_second: number };
  };
}

async function runIperf(
  lab: Lab,
  address: string,
  streams: number,
  seconds: number,
  othersBusyCpus: number,
): Promise<TcpSample> {
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
  if (stdout === "") throw new Error(`iperf3: ${stderr}`);
  const answer = JSON.parse(stdout) as IperfAnswer;
  if (answer.error !== undefined) throw new Error(`iperf3: ${answer.error}`);
  const { bytes, bits_per_second } = answer.end.sum_received;
  return {
    streams,
    gigabits: bits_per_second / 1e9,
    retransmits: answer.end.sum_sent.retransmits ?? 0,
    busyNsPerKilobyte: (used * 1e9) / (bytes / 1024),
    othersBusyCpus,
  };
}

/** Paired rounds of all contenders (or those whose name contains `only`). */
export async function measureTcp(
  rounds: number,
  seconds: number,
  only: string | undefined,
  say: (text: string) => void,
): Promise<TcpResult[]> {
  const chosen = CONTENDERS.filter((one) => only === undefined || one.name.includes(only));
  const samples = chosen.map((): TcpSample[] => []);
  for (let round = 1; round <= rounds; round++) {
    for (const [at, contender] of chosen.entries()) {
      const lab = createLab({ device: contender.device });
      try {
        plainSwitch(lab);
        const address = await contender.start(lab);
        await startIperf3(lab, "b1");
        for (const streams of STREAMS) {
          const others = await waitQuiet();
          const one = await runIperf(lab, address, streams, seconds, others);
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

/** The table of it. */
export function formatTcp(results: readonly TcpResult[]): string {
  const of = (result: TcpResult, streams: number): TcpSample[] =>
    result.samples.filter((one) => one.streams === streams);
  const reference = results.find(({ contender }) => contender === REFERENCE);
  return table(
    [
      "TCP, offloads on",
      ...STREAMS.flatMap((streams) => [
        streams === 1 ? "1 stream, Gb/s" : `${streams} streams, Gb/s`,
        "x HAProxy",
        "busy CPU, ns/KiB",
        "retransmits",
      ]),
    ],
    results.map((result) => [
      result.contender,
      ...STREAMS.flatMap((streams) => {
        const rates = of(result, streams).map((one) => one.gigabits);
        return [
          spread(rates, 2),
          reference === undefined
            ? "-"
            : medianRatio(
                rates,
                of(reference, streams).map((one) => one.gigabits),
              ).toFixed(2),
          median(of(result, streams).map((one) => one.busyNsPerKilobyte)).toFixed(0),
          median(of(result, streams).map((one) => one.retransmits)).toFixed(0),
        ];
      }),
    ]),
  );
}
