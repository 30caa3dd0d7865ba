import { setFlagsFromString } from "node:v8";
import { runInNewContext } from "node:vm";
import { formatIpv4 } from "../src/base/address.ts";
import { listFlows } from "../src/flow/read-flows.ts";
import {
  ACK,
  addressNumber,
  ethernetFrame,
  SYN,
  tcpPacket,
  udpPacket,
} from "../test/support/frames.ts";
import {
  backendMac,
  CLIENT_MAC,
  createMemoryGateway,
  GATEWAY_MACS,
} from "../test/support/memory-gateway.ts";
import { median, table } from "./statistics.ts";

/**
 * The whole fast path on frames in memory, without any device: nanoseconds and bytes allocated a
 * packet.
 *
 * A pass is both directions of every flow, in batches of 64. What is printed is the median of the
 * rounds; the memory device's own copying (inject) is measured beside it and taken off. Measure each
 * combination in a process of its own: the gateway makes one data path an isolate, and a second one
 * would have V8 compile code that serves both.
 */
export interface MemoryResult {
  readonly mode: MemoryMode;
  readonly protocol: MemoryProtocol;
  readonly flows: number;
  readonly nsPerPacket: number;
  readonly injectNsPerPacket: number;
  readonly bytesPerPacket: number;
}

export const MEMORY_MODES = ["nat", "full-nat"] as const;
export const MEMORY_PROTOCOLS = ["tcp", "udp"] as const;
export const MEMORY_FLOWS = [1000, 64_000] as const;
export type MemoryMode = (typeof MEMORY_MODES)[number];
export type MemoryProtocol = (typeof MEMORY_PROTOCOLS)[number];

const BATCH = 64;
/** Frames of one timed round, at least. */
const FRAMES_MIN = 400_000;
const VIP = "203.0.113.10";
const BACKENDS = ["10.20.0.11", "10.20.0.12", "10.20.0.13"];

interface Injection {
  readonly frame: Uint8Array;
  /** 0: from the client's side. 1: from the backends'. */
  readonly side: number;
}

interface Ends {
  readonly source: string;
  readonly sourcePort: number;
  readonly destination: string;
  readonly destinationPort: number;
}

function yaml(mode: MemoryMode): string {
  return `
version: 1
device: { type: packet, interfaces: [eth0, eth1] }
snat: { addresses: [10.20.0.100-10.20.0.103] }
services:
  - name: bench
    vip: ${VIP}
    port: 80
    protocol: [tcp, udp]
    mode: ${mode}
    scheduler: rr
    backends: [${BACKENDS.map((address) => `{ address: ${address}, port: 8080 }`).join(", ")}]
`;
}

/** Measure one mode, protocol and number of flows (at most 65,536). */
export function measureMemory(
  mode: MemoryMode,
  protocol: MemoryProtocol,
  flows: number,
  rounds: number,
): MemoryResult {
  const gateway = createMemoryGateway({
    yaml: yaml(mode),
    keepSent: false,
    size: { flowCapacity: Math.max(1024, flows * 2) },
  });
  const build = (ends: Ends, flags: number, side: number): Injection => ({
    frame: ethernetFrame(
      protocol === "tcp" ? tcpPacket({ ...ends, flags }) : udpPacket({ ...ends, data: [1] }),
      side === 0
        ? { destination: GATEWAY_MACS[0], source: CLIENT_MAC, padTo: 60 }
        : {
            destination: GATEWAY_MACS[1],
            source: backendMac(addressNumber(ends.source)),
            padTo: 60,
          },
    ),
    side,
  });
  let now = 1;
  const run = (list: readonly Injection[], process: boolean): void => {
    for (let at = 0; at < list.length; at += BATCH) {
      const end = Math.min(at + BATCH, list.length);
      for (let index = at; index < end; index++) {
        gateway.device.inject(list[index]!.frame, list[index]!.side);
      }
      if ((at & 0x3ff) === 0) gateway.device.setTick(now++);
      if (process) gateway.datapath.runBatch(0);
      else gateway.device.receive(0);
    }
  };

  const clients = Array.from({ length: flows }, (_, index): Ends => {
    const source = `198.51.${100 + (index >>> 15)}.${2 + ((index >>> 7) & 0x7f)}`;
    const sourcePort = 1024 + (index & 0x7fff);
    return { source, sourcePort, destination: VIP, destinationPort: 80 };
  });
  run(
    clients.map((ends) => build(ends, SYN, 0)),
    true,
  );
  // Which backend a client got, and from which port it is served, stands in the flow table.
  const replies = new Map<string, Ends>();
  for (const flow of listFlows(gateway.views, {}, flows).flows) {
    replies.set(`${formatIpv4(flow.client)}:${flow.clientPort}`, {
      source: formatIpv4(flow.backend),
      sourcePort: flow.backendPort,
      destination: formatIpv4(flow.replyAddress),
      destinationPort: flow.replyPort,
    });
  }
  const reply = (ends: Ends): Ends => {
    const found = replies.get(`${ends.source}:${ends.sourcePort}`);
    if (found === undefined) throw new Error(`no flow of ${ends.source}:${ends.sourcePort}`);
    return found;
  };
  run(
    clients.map((ends) => build(reply(ends), SYN | ACK, 1)),
    true,
  );
  const frames = clients.flatMap((ends) => [build(ends, ACK, 0), build(reply(ends), ACK, 1)]);

  const passes = Math.ceil(FRAMES_MIN / frames.length);
  const timed = (process: boolean): number => {
    const from = performance.now();
    for (let pass = 0; pass < passes; pass++) run(frames, process);
    return ((performance.now() - from) * 1e6) / (passes * frames.length);
  };
  setFlagsFromString("--expose-gc");
  const collect = runInNewContext("gc") as () => void;
  const allocated = (): number => {
    collect();
    const before = process.memoryUsage().heapUsed;
    for (let pass = 0; pass < passes; pass++) run(frames, true);
    return (process.memoryUsage().heapUsed - before) / (passes * frames.length);
  };
  timed(true);
  timed(false);
  const whole = Array.from({ length: rounds }, () => timed(true));
  const inject = Array.from({ length: rounds }, () => timed(false));
  // The least of three: now and then the compiler or the collector work meanwhile.
  const bytes = Math.min(allocated(), allocated(), allocated());
  const counters = gateway.counters();
  if (counters["dropped"] !== 0)
    throw new Error(`frames were dropped: ${JSON.stringify(counters)}`);
  gateway.close();
  return {
    mode,
    protocol,
    flows,
    nsPerPacket: median(whole) - median(inject),
    injectNsPerPacket: median(inject),
    bytesPerPacket: Math.max(0, bytes),
  };
}

/** The table of it. */
export function formatMemory(results: readonly MemoryResult[]): string {
  return table(
    ["in memory", "flows", "ns a packet", "Mpps of one CPU", "bytes allocated a packet"],
    results.map((one) => [
      `${one.mode}, ${one.protocol}`,
      one.flows.toLocaleString("en"),
      one.nsPerPacket.toFixed(0),
      (1000 / one.nsPerPacket).toFixed(2),
      one.bytesPerPacket.toFixed(2),
    ]),
  );
}
