import { ConfigError } from "../../src/base/errors.ts";
import { createRandom, type Random } from "../../src/base/random.ts";
import { parseConfig } from "../../src/control/config/load.ts";
import {
  ACK,
  checksumFault,
  ethernetFrame,
  icmpEcho,
  icmpError,
  ipv4Packet,
  SYN,
  tcpPacket,
  udpPacket,
} from "../support/frames.ts";
import { MALFORMED } from "../support/malformed.ts";
import {
  CLIENT_MAC,
  createMemoryGateway,
  GATEWAY_MACS,
  type MemoryGateway,
} from "../support/memory-gateway.ts";

/**
 * Fuzz targets: each takes bytes, and throws when what it checks does not hold. The registry has a
 * canary that must fail, so that a run which finds nothing is known to have looked.
 */
export interface FuzzTarget {
  readonly name: string;
  /** A good input, to be mutated. */
  seed(random: Random): Uint8Array;
  run(bytes: Uint8Array): void;
}

const YAML = `
version: 1
device: { type: packet, interfaces: [eth0, eth1] }
snat: { addresses: [10.20.0.100], ports: 2000-2999 }
services:
  - { name: web, vip: 203.0.113.10, port: 80, protocol: tcp, scheduler: maglev, tableSize: 251,
      backends: [{ address: 10.20.0.11, port: 8080 }, { address: 10.20.0.12, port: 8080 }] }
  - { name: full, vip: 203.0.113.10, port: 443, protocol: [tcp, udp], mode: full-nat, scheduler: rr,
      backends: [{ address: 10.20.0.11, port: 8443 }] }
  - { name: dns, vip: 203.0.113.10, port: any, protocol: udp, scheduler: wrr,
      backends: [{ address: 10.20.0.11, port: 53, weight: 3 }, { address: 10.20.0.12, port: 53 }] }
`;

/** Well-formed packets of every kind that the fast path knows. */
function packet(random: Random): Uint8Array {
  const ends = {
    source: `198.51.100.${2 + random.below(4)}`,
    destination: "203.0.113.10",
    sourcePort: 1024 + random.below(16),
    destinationPort: [80, 443, 53, 9][random.below(4)]!,
  };
  const data = Uint8Array.from({ length: random.below(64) }, () => random.below(256));
  switch (random.below(5)) {
    case 0:
      return tcpPacket({ ...ends, flags: SYN });
    case 1:
      return tcpPacket({ ...ends, flags: ACK, data });
    case 2:
      return udpPacket({ ...ends, data });
    case 3:
      return ipv4Packet({ ...ends, protocol: 1, payload: icmpEcho({ data }) });
    default: {
      const quote = tcpPacket({ ...ends, source: ends.destination, destination: ends.source });
      return ipv4Packet({ ...ends, protocol: 1, payload: icmpError({ type: 3, code: 4, quote }) });
    }
  }
}

function frameTarget(name: string, link: 0 | 14): FuzzTarget {
  let gateway: MemoryGateway | null = null;
  let now = 1;
  return {
    name,
    seed(random) {
      if (link === 14 && random.below(8) === 0) {
        return MALFORMED[random.below(MALFORMED.length)]!.frame;
      }
      const bytes = packet(random);
      if (link === 0) return bytes;
      return ethernetFrame(bytes, { destination: GATEWAY_MACS[0], source: CLIENT_MAC });
    },
    run(bytes) {
      gateway ??= createMemoryGateway({
        yaml: YAML,
        linkHeaderBytes: link,
        size: { flowCapacity: 256 },
      });
      const { device, datapath } = gateway;
      device.setTick((now += 7));
      device.sent.length = 0;
      device.inject(bytes.length === 0 ? Uint8Array.of(0) : bytes.subarray(0, 2000), 0);
      datapath.runBatch(0);
      gateway.checkLaw();
      // What was right before is right after; what was wrong is nobody's promise.
      const wasRight = checksumFault(bytes, { linkHeaderBytes: link }) === null;
      for (const sent of device.sent) {
        if (sent.bytes.length > 1514) throw new Error(`${sent.bytes.length} bytes were sent`);
        const fault = checksumFault(sent.bytes, { linkHeaderBytes: link });
        if (wasRight && fault !== null) throw new Error(`sent with a wrong ${fault}`);
      }
    },
  };
}

const configTarget: FuzzTarget = {
  name: "config",
  seed: () => new TextEncoder().encode(YAML),
  run(bytes) {
    try {
      parseConfig(new TextDecoder().decode(bytes), "fuzz.yaml");
    } catch (error) {
      if (!(error instanceof ConfigError)) throw error;
    }
  },
};

/** Must fail within the smoke run. */
export const CANARY: FuzzTarget = {
  name: "canary",
  seed: () => Uint8Array.of(1, 2, 3, 4),
  run(bytes) {
    if (bytes[0] === 0xff) throw new Error("the canary sings");
  },
};

export const TARGETS: readonly FuzzTarget[] = [
  frameTarget("frame-ethernet", 14),
  frameTarget("frame-tun", 0),
  configTarget,
];

/** Change a good input: bits, bytes, lengths, and pieces of itself. */
export function mutate(bytes: Uint8Array, random: Random): Uint8Array {
  let out = bytes.slice();
  const changes = random.below(4);
  for (let change = 0; change <= changes && out.length > 0; change++) {
    const at = random.below(out.length);
    switch (random.below(6)) {
      case 0:
        out[at] = out[at]! ^ (1 << random.below(8));
        break;
      case 1:
        out[at] = random.below(256);
        break;
      case 2:
        out[at] = [0, 0xff, 0x7f, 0x80][random.below(4)]!;
        break;
      case 3:
        out = out.slice(0, at);
        break;
      case 4:
        out = Uint8Array.from([...out.subarray(0, at), ...out.subarray(random.below(out.length))]);
        break;
      default:
        out = Uint8Array.from([...out, ...out.subarray(0, at)]);
    }
  }
  return out;
}

/**
 * Run one input after the other until the count or the time is up.
 *
 * @returns the input that failed and its error, or null
 */
export function fuzz(
  target: FuzzTarget,
  seed: number,
  inputs: number,
  untilMs = Number.POSITIVE_INFINITY,
): { readonly bytes: Uint8Array; readonly error: Error; readonly input: number } | null {
  const random = createRandom(seed);
  for (let input = 0; input < inputs; input++) {
    if ((input & 0xff) === 0 && performance.now() > untilMs) return null;
    const bytes = mutate(target.seed(random), random);
    try {
      target.run(bytes);
    } catch (error) {
      return { bytes, error: error as Error, input };
    }
  }
  return null;
}
