import { execFileSync, spawnSync } from "node:child_process";
import path from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import {
  LAB_BACKENDS,
  LAB_VIP,
  type Lab,
  type LabBalance,
  type LabDevice,
} from "../../test/support/lab.ts";
import { waitFor } from "../../test/support/wait.ts";
import { compileBench } from "../compile.ts";
import {
  BACKEND_SIDE,
  forwardProgram,
  GATEWAY_CPU,
  macOf,
  type Sink,
  startSink,
  TRAFFIC_PORT,
  TRAFFIC_VIP_PORT,
  type TrafficTarget,
} from "../traffic.ts";

/** What is measured by `lab-pps`, each in the gateway's place of a lab of its own. */

export interface Started {
  /** Where the generator shall send frames. */
  readonly targets: readonly TrafficTarget[];
  /** Its process; the kernel's work has none. */
  readonly pid?: number;
  /** Where its frames end. */
  readonly sink: Sink;
}

export interface PpsContender {
  readonly name: string;
  readonly device: LabDevice;
  /** Why it cannot run here, or null. */
  missing(): string | null;
  start(lab: Lab): Promise<Started>;
}

/** Flows that the gateway has room for: more than the largest case, with what earlier cases left. */
const FLOW_CAPACITY = 524_288;

/** The balance of all cases: one UDP service, three backends, nat. */
export function ppsBalance(lab: Lab): LabBalance {
  return {
    mode: "nat",
    services: [{ name: "pps", protocol: "udp", port: TRAFFIC_VIP_PORT, backendPort: TRAFFIC_PORT }],
    more: { flows: { capacity: FLOW_CAPACITY, stateFile: path.join(lab.memory, "state") } },
  };
}

export function throughVip(lab: Lab): TrafficTarget[] {
  return [{ mac: macOf(lab, "gateway", "gw-client"), address: LAB_VIP, port: TRAFFIC_VIP_PORT }];
}

/** Targets of what changes no MAC: the gateway's, where a kernel routes, else the backends' own. */
function throughRoutes(mac: string): TrafficTarget[] {
  return Object.values(LAB_BACKENDS).map((address) => ({ mac, address, port: TRAFFIC_PORT }));
}

interface Variant {
  /** More keys of `device`. */
  readonly device?: Readonly<Record<string, unknown>>;
  /** False: the kernel's scheduler chooses the CPU. */
  readonly pinned?: boolean;
}

/** The configuration of Headgate in all cases, its worker on the gateway's CPU unless said. */
export function headgateConfig(lab: Lab, { device: more, pinned = true }: Variant = {}): string {
  const plain = JSON.parse(lab.config(ppsBalance(lab))) as { device: object };
  const cpus = pinned ? { cpus: [GATEWAY_CPU] } : {};
  return JSON.stringify({ ...plain, device: { ...plain.device, ...cpus, ...more } });
}

function headgate(
  device: "packet" | "tun" | "xdp",
  name = `Headgate ${device}, nat`,
  variant: Variant = {},
): PpsContender {
  return {
    name,
    device,
    missing: () => null,
    async start(lab) {
      const gateway = await lab.startGateway(headgateConfig(lab, variant));
      return { targets: throughVip(lab), pid: gateway.pid, sink: await startSink(lab, "xdp") };
    },
  };
}

/** One setting at a time beside the default, for docs/tuning.md. */
export const TUNING_CONTENDERS: readonly PpsContender[] = [
  headgate("xdp", "xdp, pinned (as lab-pps)"),
  headgate("xdp", "xdp, not pinned", { pinned: false }),
  headgate("xdp", "xdp, device.spin 50", { device: { spin: 50 } }),
  headgate("xdp", "xdp, device.xdp.busyPoll 20", { device: { xdp: { busyPoll: 20 } } }),
  headgate("xdp", "xdp, device.xdp.mode generic", { device: { xdp: { mode: "generic" } } }),
  headgate("packet", "packet, pinned (as lab-pps)"),
  headgate("packet", "packet, not pinned", { pinned: false }),
  headgate("packet", "packet, device.spin 50", { device: { spin: 50 } }),
];

const GENERATOR_ALONE: PpsContender = {
  name: "generator alone into XDP_DROP",
  device: "packet",
  missing: () => null,
  async start(lab) {
    const mac = macOf(lab, "gateway", "gw-client");
    const target = { mac, address: LAB_BACKENDS.b1, port: TRAFFIC_PORT };
    return { targets: [target], sink: await startSink(lab, "xdp", "gateway", "gw-client") };
  },
};

const IP_FORWARD: PpsContender = {
  name: "kernel ip_forward, no NAT",
  device: "nftables",
  missing: () => null,
  start: async (lab) => ({
    targets: throughRoutes(macOf(lab, "gateway", "gw-client")),
    sink: await startSink(lab, "xdp"),
  }),
};

export const NFTABLES = "nftables DNAT";

const NFTABLES_DNAT: PpsContender = {
  name: NFTABLES,
  device: "nftables",
  missing: () => null,
  async start(lab) {
    lab.peerNftables(ppsBalance(lab));
    return { targets: throughVip(lab), sink: await startSink(lab, "xdp") };
  },
};

export const C_PACKET = "C over AF_PACKET, no NAT";
export const C_XDP = "C over AF_XDP, no NAT";

const FORWARD_SECONDS = "900";

/** The frames have the backends' MAC from the start: these change nothing in them. */
const C_OVER_PACKET: PpsContender = {
  name: C_PACKET,
  device: "packet",
  missing: () => null,
  async start(lab) {
    const program = compileBench("packet-io/forward.cc", "bench-forward");
    const words = ["forward", "v2", "ring-bypass", "gw-client", "gw-backend", FORWARD_SECONDS];
    const pin = ["taskset", "-c", String(GATEWAY_CPU)];
    const { pid } = lab.spawn("gateway", [...pin, program, ...words]);
    await sleep(300);
    const mac = macOf(lab, BACKEND_SIDE.node, BACKEND_SIDE.interface);
    return { targets: throughRoutes(mac), pid, sink: await startSink(lab, "xdp") };
  },
};

const C_OVER_XDP: PpsContender = {
  name: C_XDP,
  device: "packet",
  missing: () => null,
  async start(lab) {
    const words = ["gw-client", "gw-backend", String(GATEWAY_CPU), FORWARD_SECONDS];
    const forwarder = lab.spawn("gateway", [forwardProgram(), ...words]);
    await forwarder.waitLine(/^ready$/);
    const mac = macOf(lab, BACKEND_SIDE.node, BACKEND_SIDE.interface);
    const { pid } = forwarder;
    return { targets: throughRoutes(mac), pid, sink: await startSink(lab, "xdp") };
  },
};

/** DPDK's forwarder, polling: its CPU is always busy. */
const TESTPMD: PpsContender = {
  name: "DPDK testpmd over net_af_packet, no NAT",
  device: "packet",
  missing: () =>
    spawnSync("dpdk-testpmd", ["--version"]).error === undefined
      ? null
      : "dpdk-testpmd is not installed; `--install` installs Debian's dpdk-dev",
  async start(lab) {
    const ports = ["gw-client", "gw-backend"].map(
      (name, at) => `--vdev=net_af_packet${at},iface=${name},framesz=2048,framecnt=1024`,
    );
    // It ends when its input does.
    const command = [
      "sleep 900 | exec dpdk-testpmd --no-huge -m 512 --no-pci --no-telemetry --no-shconf --file-prefix headgate-bench",
      `-l 0,${GATEWAY_CPU} --main-lcore 0`,
      ...ports,
      "-- --forward-mode=io --auto-start --nb-cores=1 --total-num-mbufs=16384 --no-lsc-interrupt",
    ].join(" ");
    const program = lab.spawn("gateway", ["sh", "-c", command]);
    // It says nothing while its output is a pipe: its sockets show that it has come so far.
    await waitFor("testpmd to open its sockets", async () => {
      const { stdout } = await lab.exec("gateway", ["cat", "/proc/net/packet"]);
      return stdout.trimEnd().split("\n").length > ports.length || !program.alive;
    });
    await sleep(1000);
    if (!program.alive) throw new Error(`testpmd ended\n${program.lines.join("\n")}`);
    const pid = Number(
      execFileSync("pgrep", ["-P", String(program.pid), "dpdk-testpmd"], {
        encoding: "utf8",
      }).trim(),
    );
    const mac = macOf(lab, BACKEND_SIDE.node, BACKEND_SIDE.interface);
    return { targets: throughRoutes(mac), pid, sink: await startSink(lab, "xdp") };
  },
};

export const PPS_CONTENDERS: readonly PpsContender[] = [
  GENERATOR_ALONE,
  IP_FORWARD,
  NFTABLES_DNAT,
  C_OVER_PACKET,
  C_OVER_XDP,
  TESTPMD,
  headgate("xdp"),
  headgate("packet"),
  headgate("tun"),
];
