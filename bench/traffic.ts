import { LAB_BACKEND_NAMES, LAB_CLIENT, type Lab, type LabNode } from "../test/support/lab.ts";
import { waitFor } from "../test/support/wait.ts";
import { compileBench } from "./compile.ts";

/**
 * Small UDP frames at a rate, and what arrives of them: bench/traffic/traffic.cc in the client's
 * namespace, and a counter of the kernel in each backend's, where the frames end.
 */

export const TRAFFIC_PORT = 9000;
/** The service's port on the VIP: another one, so that ports are rewritten too. */
export const TRAFFIC_VIP_PORT = 9;

/** Where frames are sent: the MAC that takes them from the wire, and the address they are for. */
export interface TrafficTarget {
  readonly mac: string;
  readonly address: string;
  readonly port: number;
}

export interface TrafficLoad {
  readonly targets: readonly TrafficTarget[];
  readonly flows: number;
  /** Frames a second; 0: as fast as it goes. */
  readonly rate: number;
  readonly seconds: number;
  /** Ends after so many frames; 0: only `seconds` ends it. */
  readonly count?: number;
}

export interface TrafficSent {
  readonly offered: number;
  /** Of the offered: refused by the next hop's queue, so lost at once. */
  readonly refused: number;
  readonly seconds: number;
  /** CPU time of the generator, with what the kernel did in its context. */
  readonly cpuSeconds: number;
  /** Busy time of all CPUs of the machine meanwhile. */
  readonly busySeconds: number;
}

export function trafficProgram(): string {
  return compileBench("traffic/traffic.cc", "bench-traffic");
}

/** The MAC of an interface. */
export function macOf(lab: Lab, node: LabNode, name: string): string {
  const [link] = JSON.parse(lab.execSync(node, ["ip", "-j", "link", "show", "dev", name])) as [
    { address: string },
  ];
  return link.address;
}

/** Sends frames from the client; at most 60 s of them. */
export async function generate(lab: Lab, load: TrafficLoad): Promise<TrafficSent> {
  const { stdout } = await lab.exec(
    "client",
    [
      trafficProgram(),
      "generate",
      "eth0",
      "0",
      load.rate.toFixed(0),
      String(load.seconds),
      String(load.count ?? 0),
      String(load.flows),
      macOf(lab, "client", "eth0"),
      LAB_CLIENT,
      ...load.targets.map(({ mac, address, port }) => `${mac}/${address}/${port}`),
    ],
    { timeoutMs: load.seconds * 1000 + 10_000 },
  );
  return JSON.parse(stdout) as TrafficSent;
}

/**
 * Takes the firewall out of the lab's switch: where br_netfilter is loaded, a bridge shows every frame
 * to the IP hooks, which no switch does and which costs as much as a gateway.
 */
export function plainSwitch(lab: Lab): void {
  const hooks = ["iptables", "ip6tables", "arptables"].map(
    (name) => `/proc/sys/net/bridge/bridge-nf-call-${name}`,
  );
  const off = `for f in ${hooks.join(" ")}; do if [ -e $f ]; then echo 0 >$f; fi; done`;
  lab.execSync("switch", ["sh", "-c", off]);
}

/**
 * Ends the frames in each backend: nftables counts and drops them as they come from the interface
 * (the cheapest place there is). Also has every switch and kernel learn where everybody is.
 */
export function installSinks(lab: Lab): void {
  plainSwitch(lab);
  for (const node of LAB_BACKEND_NAMES) {
    lab.execSync(node, [
      "nft",
      `add table netdev sink; add counter netdev sink hits; ` +
        `add chain netdev sink in { type filter hook ingress device eth0 priority 0; }; ` +
        `add rule netdev sink in udp dport ${TRAFFIC_PORT} counter name hits drop`,
    ]);
    lab.execSync(node, ["ping", "-q", "-c", "1", "-W", "2", "10.20.0.1"]);
  }
}

/** Frames that have arrived at the backends so far, in order b1, b2, b3. */
export async function arrivals(lab: Lab): Promise<number[]> {
  return Promise.all(
    LAB_BACKEND_NAMES.map(async (node) => {
      const { stdout } = await lab.exec(node, [
        "nft",
        "-j",
        "list",
        "counter",
        "netdev",
        "sink",
        "hits",
      ]);
      const answer = JSON.parse(stdout) as { nftables: { counter?: { packets: number } }[] };
      const counter = answer.nftables.find((one) => one.counter !== undefined)?.counter;
      if (counter === undefined) throw new Error(`${node}: no counter in ${stdout}`);
      return counter.packets;
    }),
  );
}

/** `arrivals` once nothing is under way any more: two equal answers 50 ms apart. */
export async function settledArrivals(lab: Lab): Promise<number[]> {
  let last: number[] = [];
  return waitFor(
    "the last frames to arrive",
    async () => {
      const now = await arrivals(lab);
      const same = last.length > 0 && now.every((count, at) => count === last[at]);
      last = now;
      return same ? now : undefined;
    },
    { everyMs: 50 },
  );
}
