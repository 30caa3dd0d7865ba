import path from "node:path";
import {
  LAB_BACKENDS,
  LAB_CLIENT,
  type Lab,
  type LabNode,
  PROJECT_ROOT,
} from "../test/support/lab.ts";
import { waitFor } from "../test/support/wait.ts";
import { compileBench } from "./compile.ts";

/**
 * UDP frames at a rate, and what arrives of them: bench/traffic/traffic.cc in the client's namespace,
 * and bench/traffic/sink.cc where the frames end.
 */

export const TRAFFIC_PORT = 9000;
/** The service's port on the VIP: another one, so that ports are rewritten too. */
export const TRAFFIC_VIP_PORT = 9;

/** CPU of the generator, and of what is measured where that has a thread. */
export const GENERATOR_CPU = 0;
export const GATEWAY_CPU = 1;

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
  /** Bytes of a frame, without its checksum; 60 unless said. */
  readonly bytes?: number;
  /** Frames sent at once; 32 unless said. */
  readonly burst?: number;
  /** Ends after so many frames; 0: only `seconds` ends it. */
  readonly count?: number;
}

export interface TrafficSent {
  readonly offered: number;
  readonly seconds: number;
  /** CPU time of the generator, with what the kernel did in its context. */
  readonly cpuSeconds: number;
  /** Busy time of all CPUs of the machine meanwhile. */
  readonly busySeconds: number;
}

/** What a sink has seen; latencies in nanoseconds, since they were last forgotten. */
export interface SinkReading {
  readonly reading: number;
  readonly frames: number;
  readonly timed: number;
  readonly p50: number;
  readonly p99: number;
  readonly p999: number;
  readonly max: number;
}

export interface Sink {
  read(): Promise<SinkReading>;
  /** `read` once nothing is under way any more: two equal counts 20 ms apart. */
  settled(): Promise<SinkReading>;
  /** Forget the latencies. */
  forget(): void;
}

const XSK = path.join(PROJECT_ROOT, "addon", "xsk.cc");

/** The generator, and the receiver that looks at every frame. */
export function trafficProgram(): string {
  return compileBench("traffic/traffic.cc", "bench-traffic", ["-O2", XSK]);
}

export function sinkProgram(): string {
  return compileBench("traffic/sink.cc", "bench-sink");
}

/** The forwarder over AF_XDP. */
export function forwardProgram(): string {
  return compileBench("traffic/forward.cc", "bench-forward-xsk", ["-O2", XSK]);
}

/** The MAC of an interface. */
export function macOf(lab: Lab, node: LabNode, name: string): string {
  const [link] = JSON.parse(lab.execSync(node, ["ip", "-j", "link", "show", "dev", name])) as [
    { address: string },
  ];
  return link.address;
}

/** Sends frames from the client, for a bounded time. */
export async function generate(lab: Lab, load: TrafficLoad): Promise<TrafficSent> {
  const { stdout } = await lab.exec(
    "client",
    [
      trafficProgram(),
      "generate",
      "eth0",
      String(GENERATOR_CPU),
      load.rate.toFixed(0),
      String(load.burst ?? 32),
      String(load.seconds),
      String(load.count ?? 0),
      String(load.bytes ?? 60),
      String(load.flows),
      macOf(lab, "client", "eth0"),
      LAB_CLIENT,
      ...load.targets.map(({ mac, address, port }) => `${mac}/${address}/${port}`),
    ],
    { timeoutMs: load.seconds * 1000 + 10_000 },
  );
  return JSON.parse(stdout) as TrafficSent;
}

/** The interface at which frames leave the gateway's wire, and its node. */
export const BACKEND_SIDE = { node: "switch", interface: "to-gateway" } as const;

/**
 * Makes the other end of the gateway's wire to the backends all three backends at once: their
 * addresses lie on it, and the switch between is gone. A tester has two ports, and the device under
 * test is all that lies between them (RFC 2544 section 6); a bridge would cost as much as a gateway.
 */
export async function directBackends(lab: Lab): Promise<void> {
  const { node, interface: name } = BACKEND_SIDE;
  lab.execSync(node, ["ip", "link", "set", name, "nomaster"]);
  for (const address of Object.values(LAB_BACKENDS)) {
    lab.execSync(node, ["ip", "addr", "add", `${address}/24`, "dev", name]);
  }
  lab.execSync(node, ["ip", "route", "add", "default", "via", "10.20.0.1"]);
  // Every kernel learns where everybody is before frames flow.
  for (const address of Object.values(LAB_BACKENDS)) {
    await lab.exec("gateway", ["ping", "-q", "-c", "1", "-W", "2", address]);
  }
  await lab.exec("client", ["ping", "-q", "-c", "1", "-W", "2", "198.51.100.1"]);
}

/**
 * Ends the generator's frames at an interface: a BPF program counts and drops them.
 *
 * @param kind - tc: behind a gateway. xdp: the driver's own hook, where nothing cheaper can be
 */
export async function startSink(
  lab: Lab,
  kind: "tc" | "xdp",
  node: LabNode = BACKEND_SIDE.node,
  name: string = BACKEND_SIDE.interface,
): Promise<Sink> {
  const program = lab.spawn(node, [sinkProgram(), kind, name, String(TRAFFIC_PORT)]);
  await program.waitLine(/^ready$/);
  let readings = 0;
  const read = async (): Promise<SinkReading> => {
    readings += 1;
    program.kill("SIGUSR2");
    const line = await program.waitLine(new RegExp(`^\\{"reading":${readings},`));
    return JSON.parse(line) as SinkReading;
  };
  return {
    read,
    async settled() {
      let last = -1;
      return waitFor(
        "the last frames to arrive",
        async () => {
          const now = await read();
          const same = now.frames === last;
          last = now.frames;
          return same ? now : undefined;
        },
        { everyMs: 20 },
      );
    },
    forget: () => program.kill("SIGUSR1"),
  };
}
