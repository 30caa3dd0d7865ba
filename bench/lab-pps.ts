import { setTimeout as sleep } from "node:timers/promises";
import {
  createLab,
  LAB_BACKEND_NAMES,
  LAB_BACKENDS,
  LAB_VIP,
  type Lab,
  type LabBalance,
  type LabDevice,
} from "../test/support/lab.ts";
import { compileBench } from "./compile.ts";
import { cpuSeconds, quietly, softirqThreads } from "./machine.ts";
import { isWanted, median, medianRatio, spread, table } from "./statistics.ts";
import {
  generate,
  installSinks,
  macOf,
  settledArrivals,
  TRAFFIC_PORT,
  TRAFFIC_VIP_PORT,
  type TrafficTarget,
} from "./traffic.ts";

/**
 * Packets a second: UDP frames of 60 bytes, one way, through the two-arm lab.
 *
 *   client (generator, CPU 0) -- gateway (contender) -- switch -- three backends (counted, dropped)
 *
 * Rounds are paired: in each of them every contender gets a lab of its own, is warmed up, is flooded,
 * and is searched for its partial drop rate (PDR): the highest rate of which at most 0.5 % is lost
 * (FD.io CSIT's definition; RFC 2544 asks for none, which a shared machine cannot promise).
 *
 * Kernel forwarding over veth happens in the sender's own softirq, so the generator, the kernel
 * contender and the sink share one CPU, and the generator slows down with them; a gateway in user
 * space has a CPU of its own. Both are what a user of that gateway on this machine gets; the busy
 * time of the whole machine per frame is there to compare what it costs.
 */

const LOSS_MAX = 0.005;
/** The search ends when its bounds are this close. */
const PRECISION = 0.03;
const TRIALS_MAX = 12;
const FLOWS = 1000;

const BALANCE: LabBalance = {
  mode: "nat",
  services: [{ name: "pps", protocol: "udp", port: TRAFFIC_VIP_PORT, backendPort: TRAFFIC_PORT }],
};

interface Started {
  /** Where the generator shall send frames. */
  readonly targets: readonly TrafficTarget[];
  /** Its process; the kernel's work has none. */
  readonly pid?: number;
}

interface Contender {
  readonly name: string;
  readonly device: LabDevice;
  start(lab: Lab): Promise<Started>;
}

function throughVip(lab: Lab): TrafficTarget[] {
  return [{ mac: macOf(lab, "gateway", "gw-client"), address: LAB_VIP, port: TRAFFIC_VIP_PORT }];
}

function headgate(device: "packet" | "tun"): Contender {
  return {
    name: `Headgate ${device}, nat`,
    device,
    async start(lab) {
      const gateway = await lab.balance(BALANCE);
      return { targets: throughVip(lab), pid: gateway!.pid };
    },
  };
}

const CONTENDERS: readonly Contender[] = [
  {
    name: "kernel ip_forward, no NAT",
    device: "nftables",
    start: async (lab) => ({
      targets: LAB_BACKEND_NAMES.map((node) => ({
        mac: macOf(lab, "gateway", "gw-client"),
        address: LAB_BACKENDS[node],
        port: TRAFFIC_PORT,
      })),
    }),
  },
  {
    name: "nftables DNAT",
    device: "nftables",
    async start(lab) {
      lab.peerNftables(BALANCE);
      return { targets: throughVip(lab) };
    },
  },
  {
    name: "C over AF_PACKET, no NAT",
    device: "packet",
    async start(lab) {
      const program = compileBench("packet-io/forward.cc", "bench-forward");
      const { pid } = lab.spawn("gateway", [
        program,
        "forward",
        "v2",
        "ring-bypass",
        "gw-client",
        "gw-backend",
        "600",
      ]);
      await sleep(300);
      // It changes nothing in a frame, so frames have the backend's MAC from the start.
      const targets = LAB_BACKEND_NAMES.map((node) => ({
        mac: macOf(lab, node, "eth0"),
        address: LAB_BACKENDS[node],
        port: TRAFFIC_PORT,
      }));
      return { targets, pid };
    },
  },
  headgate("packet"),
  headgate("tun"),
];

const REFERENCE = "nftables DNAT";

export interface Trial {
  /** Asked for; 0: flood. */
  readonly rate: number;
  readonly offeredRate: number;
  readonly deliveredRate: number;
  /** Share of the offered frames that did not arrive. */
  readonly loss: number;
  /** Busy time of the whole machine (/proc/stat: sampled by the timer tick, so rough). */
  readonly busyNsPerFrame: number;
  /** CPU time of the generator, the contender's process and the kernel's softirq threads (exact). */
  readonly threadNsPerFrame: number;
  /** CPUs that were busy, by all together. */
  readonly busyCpus: number;
  /** CPUs that were busy for neither the generator nor the contender nor the kernel's softirqs. */
  readonly othersBusyCpus: number;
}

export interface PpsSample {
  readonly flood: Trial;
  /** The trial with the highest delivered rate among those within the loss limit. */
  readonly pdr: Trial | null;
  readonly trials: readonly Trial[];
}

export interface PpsResult {
  readonly contender: string;
  readonly samples: readonly PpsSample[];
}

/** Sends for some seconds at a rate and counts what arrives. */
export async function runTrial(
  lab: Lab,
  { targets, pid }: Started,
  rate: number,
  seconds: number,
): Promise<Trial> {
  const threads = [...softirqThreads(), ...(pid === undefined ? [] : [pid])];
  const before = await settledArrivals(lab);
  const usedBefore = cpuSeconds(threads);
  const sent = await generate(lab, { targets, flows: FLOWS, rate, seconds });
  const used = sent.cpuSeconds + cpuSeconds(threads) - usedBefore;
  const after = await settledArrivals(lab);
  const arrived = after.reduce((sum, count, at) => sum + count - before[at]!, 0);
  return {
    rate,
    offeredRate: sent.offered / sent.seconds,
    deliveredRate: arrived / sent.seconds,
    loss: 1 - arrived / sent.offered,
    busyNsPerFrame: (sent.busySeconds * 1e9) / arrived,
    threadNsPerFrame: (used * 1e9) / arrived,
    busyCpus: sent.busySeconds / sent.seconds,
    othersBusyCpus: Math.max(0, (sent.busySeconds - used) / sent.seconds),
  };
}

/** The flood, and the search for the highest rate with little loss. */
async function sample(lab: Lab, started: Started, seconds: number): Promise<PpsSample> {
  // Flows are made, and the fast path is compiled.
  await runTrial(lab, started, 20_000, 0.3);
  await runTrial(lab, started, 0, 1);
  const trial = (rate: number): Promise<Trial> =>
    quietly(() => runTrial(lab, started, rate, seconds));
  const flood = await trial(0);
  const trials = [flood];
  let low = 0;
  let high = flood.offeredRate;
  let rate = flood.deliveredRate;
  if (flood.loss <= LOSS_MAX) low = high;
  while (trials.length < TRIALS_MAX && high - low > PRECISION * high) {
    let one = await trial(rate);
    trials.push(one);
    if (one.loss > LOSS_MAX && trials.length < TRIALS_MAX) {
      // A shared machine can spoil a trial without using its CPUs: it has failed when it fails twice.
      one = await trial(rate);
      trials.push(one);
    }
    if (one.loss > LOSS_MAX) {
      high = rate;
    } else {
      low = rate;
      // The generator could not keep up: more than this cannot be offered without loss.
      if (one.offeredRate < rate * (1 - PRECISION)) high = rate;
    }
    rate = low === 0 ? high * 0.8 : (low + high) / 2;
  }
  const within = trials.filter((trial) => trial.loss <= LOSS_MAX);
  within.sort((a, b) => b.deliveredRate - a.deliveredRate);
  return { flood, pdr: within[0] ?? null, trials };
}

/** Paired rounds of all contenders (or those whose name contains `only`). */
export async function measurePps(
  rounds: number,
  seconds: number,
  only: string | undefined,
  say: (text: string) => void,
): Promise<PpsResult[]> {
  const chosen = CONTENDERS.filter(({ name }) => isWanted(name, only));
  const samples = chosen.map((): PpsSample[] => []);
  for (let round = 1; round <= rounds; round++) {
    for (const [at, contender] of chosen.entries()) {
      const lab = createLab({ device: contender.device });
      try {
        installSinks(lab);
        const result = await sample(lab, await contender.start(lab), seconds);
        samples[at]!.push(result);
        say(
          `round ${round}  ${contender.name.padEnd(26)} flood ${kilo(result.flood.deliveredRate)} of ` +
            `${kilo(result.flood.offeredRate)}, PDR ${kilo(result.pdr?.deliveredRate ?? 0)} kpps, ` +
            `${(result.pdr?.busyNsPerFrame ?? 0).toFixed(0)} ns`,
        );
      } finally {
        await lab.stop();
      }
    }
  }
  return chosen.map(({ name }, at) => ({ contender: name, samples: samples[at]! }));
}

function kilo(rate: number): string {
  return (rate / 1000).toFixed(0);
}

/** The table of it. */
export function formatPps(results: readonly PpsResult[]): string {
  const pdr = (result: PpsResult): number[] =>
    result.samples.map((one) => (one.pdr?.deliveredRate ?? 0) / 1000);
  const flood = (result: PpsResult): number[] =>
    result.samples.map((one) => one.flood.deliveredRate / 1000);
  const reference = results.find(({ contender }) => contender === REFERENCE);
  return table(
    [
      "60-byte UDP, 1,000 flows",
      "PDR, kpps",
      "x nftables",
      "flood, kpps",
      "x nftables",
      "busy CPU, ns a frame",
      "threads, ns a frame",
      "busy CPUs",
    ],
    results.map((result) => {
      const ratio = (pick: (one: PpsResult) => number[]): string =>
        reference === undefined ? "-" : medianRatio(pick(result), pick(reference)).toFixed(2);
      const busy = (pick: (one: Trial) => number): number =>
        median(result.samples.map((one) => (one.pdr === null ? 0 : pick(one.pdr))));
      return [
        result.contender,
        spread(pdr(result), 0),
        ratio(pdr),
        spread(flood(result), 0),
        ratio(flood),
        busy((one) => one.busyNsPerFrame).toFixed(0),
        busy((one) => one.threadNsPerFrame).toFixed(0),
        busy((one) => one.busyCpus).toFixed(2),
      ];
    }),
  );
}
