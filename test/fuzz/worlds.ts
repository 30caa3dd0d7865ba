import { ConfigError } from "../../src/base/errors.ts";
import { parseConfig } from "../../src/control/config/load.ts";
import { createMemoryGateway, type MemoryGateway } from "../support/memory-gateway.ts";

/**
 * The gateways that the datapath's fuzzer runs frames through. Every device has one with a service
 * of each mode and protocol that it can carry; a service that a device cannot carry is left out
 * there, and `servicesOf` says which are in.
 */
export interface World {
  readonly name: string;
  readonly link: 0 | 14;
  readonly workers: number;
  readonly asXdp: boolean;
  readonly device: string;
}

export const WORLDS: readonly World[] = [
  {
    name: "packet",
    link: 14,
    workers: 1,
    asXdp: false,
    device: "{ type: packet, interfaces: [eth0, eth1] }",
  },
  { name: "tun", link: 0, workers: 1, asXdp: false, device: "{ type: tun, name: hg0 }" },
  {
    name: "xdp",
    link: 14,
    workers: 1,
    asXdp: true,
    device: "{ type: xdp, interfaces: [eth0, eth1] }",
  },
  {
    name: "workers",
    link: 14,
    workers: 3,
    asXdp: false,
    device: "{ type: packet, interfaces: [eth0, eth1], workers: 3 }",
  },
];

/** MTU to the clients and to the backends: what comes from the one may be too large for the other. */
export const MTU = [1500, 1400] as const;
export const GUE_PORT = 6080;

const TOP = [
  "snat: { addresses: [10.20.0.100-10.20.0.101], ports: 2000-2063 }",
  "timeouts: { tcp: { timeWait: 10s }, udp: { oneWay: 2m } }",
];

/** Rows of `services`, each with an address and port of its own among those that the corpus uses. */
export const SERVICES: readonly string[] = [
  "{ name: web, vip: 203.0.113.10, port: 80, protocol: tcp, scheduler: maglev, tableSize: 251, backends: [{ address: 10.20.0.11, port: 8080 }, { address: 10.20.0.12, port: 8080 }] }",
  "{ name: full, vip: 203.0.113.10, port: 443, protocol: [tcp, udp], mode: full-nat, scheduler: rr, backends: [{ address: 10.20.0.11, port: 8443 }] }",
  "{ name: dns, vip: 203.0.113.10, port: 53, protocol: udp, scheduler: wrr, backends: [{ address: 10.20.0.11, port: 53, weight: 3 }, { address: 10.20.0.12, port: 53 }] }",
  "{ name: rest, vip: 203.0.113.11, port: any, protocol: [tcp, udp], scheduler: lc, outOfState: drop, noBackend: { action: drop }, backends: [{ address: 10.20.0.12 }] }",
];

/** YAML of a world with these services. */
function yamlOf(world: World, top: readonly string[], services: readonly string[]): string {
  const rows = services.map((row) => `  - ${row}\n`).join("");
  return `version: 1\ndevice: ${world.device}\n${top.join("\n")}\nservices:\n${rows}`;
}

function isAccepted(yaml: string): boolean {
  try {
    parseConfig(yaml, "world.yaml");
    return true;
  } catch (error) {
    if (error instanceof ConfigError) return false;
    throw error;
  }
}

/** Those of SERVICES that the world's device can carry. */
export function servicesOf(world: World): string[] {
  return SERVICES.filter((row) => isAccepted(yamlOf(world, TOP, [row])));
}

const yamls = new Map<string, string>();

/** A new gateway of this world: empty tables, the same secret every time. */
export function createWorld(world: World): MemoryGateway {
  let yaml = yamls.get(world.name);
  if (yaml === undefined) {
    yaml = yamlOf(world, TOP, servicesOf(world));
    yamls.set(world.name, yaml);
  }
  return createMemoryGateway({
    yaml,
    linkHeaderBytes: world.link,
    asXdp: world.asXdp,
    mtu: MTU,
    slots: 192,
    slotBytes: 9216,
    size: {
      flowCapacity: 256,
      services: 32,
      backends: 64,
      hashSlots: 8192,
      workers: world.workers,
    },
  });
}
