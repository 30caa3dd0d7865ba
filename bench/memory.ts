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

/**
 * The whole fast path on frames in memory: nanoseconds a packet, without any device.
 *
 *   node dist/bench/run.js memory
 *
 * A round is both directions of every flow; what is printed is the median of the rounds. The memory
 * device's own copying (inject) is measured beside it and taken off.
 */
export interface MemoryResult {
  readonly mode: string;
  readonly protocol: string;
  readonly flows: number;
  readonly nsPerPacket: number;
  readonly injectNsPerPacket: number;
}

const BACKENDS = ["10.20.0.11", "10.20.0.12", "10.20.0.13"];

function yaml(mode: string): string {
  return `
version: 1
device: { type: packet, interfaces: [eth0, eth1] }
snat: { addresses: [10.20.0.100-10.20.0.103] }
services:
  - name: bench
    vip: 203.0.113.10
    port: 80
    protocol: [tcp, udp]
    mode: ${mode}
    scheduler: rr
    backends: [${BACKENDS.map((address) => `{ address: ${address}, port: 8080 }`).join(", ")}]
`;
}

function median(values: readonly number[]): number {
  const sorted = [...values].sort((a, b) => a - b);
  return sorted[sorted.length >> 1]!;
}

/** Measure one mode, protocol and number of flows. */
export function measureMemory(
  mode: string,
  protocol: "tcp" | "udp",
  flows: number,
  rounds: number,
): MemoryResult {
  const gateway = createMemoryGateway({
    yaml: yaml(mode),
    keepSent: false,
    size: { flowCapacity: Math.max(1024, flows * 2) },
  });
  const recorder = createMemoryGateway({
    yaml: yaml(mode),
    size: { flowCapacity: Math.max(1024, flows * 2) },
  });
  const frames: { frame: Uint8Array; side: number }[] = [];
  const first: { frame: Uint8Array; side: number }[] = [];
  for (let index = 0; index < flows; index++) {
    const source = `198.51.${100 + (index >>> 15)}.${2 + ((index >>> 7) & 0x7f)}`;
    const ends = {
      source,
      destination: "203.0.113.10",
      sourcePort: 1024 + index,
      destinationPort: 80,
    };
    const build = (flags: number): Uint8Array =>
      ethernetFrame(
        protocol === "tcp" ? tcpPacket({ ...ends, flags }) : udpPacket({ ...ends, data: [1] }),
        { destination: GATEWAY_MACS[0], source: CLIENT_MAC, padTo: 60 },
      );
    first.push({ frame: build(SYN), side: 0 });
    recorder.device.sent.length = 0;
    recorder.device.inject(build(SYN), 0);
    recorder.datapath.runBatch(0);
    const sent = new DataView(recorder.device.sent[0]!.bytes.buffer, 14);
    const text = (at: number): string =>
      [0, 1, 2, 3].map((byte) => sent.getUint8(at + byte)).join(".");
    const back = {
      source: text(16),
      sourcePort: sent.getUint16(22),
      destination: text(12),
      destinationPort: sent.getUint16(20),
    };
    const reply = (flags: number): Uint8Array =>
      ethernetFrame(
        protocol === "tcp" ? tcpPacket({ ...back, flags }) : udpPacket({ ...back, data: [1] }),
        { destination: GATEWAY_MACS[1], source: backendMac(addressNumber(back.source)), padTo: 60 },
      );
    first.push({ frame: reply(SYN | ACK), side: 1 });
    frames.push({ frame: build(ACK), side: 0 }, { frame: reply(ACK), side: 1 });
  }
  recorder.close();
  let now = 1;
  const run = (list: readonly { frame: Uint8Array; side: number }[], process: boolean): void => {
    for (let at = 0; at < list.length; at += 64) {
      const end = Math.min(at + 64, list.length);
      for (let index = at; index < end; index++)
        gateway.device.inject(list[index]!.frame, list[index]!.side);
      if ((at & 0x3ff) === 0) gateway.device.setTick(now++);
      if (process) gateway.datapath.runBatch(0);
      else gateway.device.receive(0);
    }
  };
  // A flow's second packet must not overtake its first: both lists are in the same order.
  run(first, true);
  const passes = Math.max(1, Math.ceil(200_000 / frames.length));
  const timed = (process: boolean): number => {
    const from = performance.now();
    for (let pass = 0; pass < passes; pass++) run(frames, process);
    return ((performance.now() - from) * 1e6) / (passes * frames.length);
  };
  timed(true);
  timed(false);
  const whole = Array.from({ length: rounds }, () => timed(true));
  const inject = Array.from({ length: rounds }, () => timed(false));
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
  };
}
