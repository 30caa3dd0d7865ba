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

/**
 * Top-level keys. Of each group the first is taken that the gateway accepts: a device or a version that
 * cannot do it all does what it can.
 */
const TOP: readonly (readonly string[])[] = [
  [
    'snat: { addresses: [10.20.0.100-10.20.0.101, "2001:db8:2::100-2001:db8:2::101"], ports: 2000-2063 }',
    "snat: { addresses: [10.20.0.100-10.20.0.101], ports: 2000-2063 }",
  ],
  [
    'tunnel: { source: { ipv4: 10.20.0.99, ipv6: "2001:db8:2::99" }, gue: { checksum: computed } }',
    "tunnel: { source: { ipv4: 10.20.0.99 }, gue: { checksum: computed } }",
  ],
  ["timeouts: { tcp: { timeWait: 10s }, udp: { oneWay: 2m } }"],
];

const TWO = "backends: [{ address: 10.20.0.11 }, { address: 10.20.0.12 }]";
const TWO_6 = 'backends: [{ address: "2001:db8:2::11" }, { address: "2001:db8:2::12" }]';
const BOTH = "protocol: [tcp, udp], scheduler: sh, tableSize: 251";
const PRESSED = "synProxy: { mode: auto, halfOpen: 2 }";
const V6 = 'vip: "2001:db8:ff::10"';

/**
 * Rows of `services`, each with an address and port of its own among those that the corpus uses
 * (VIP_ADDRESSES, VIP_6, PORTS).
 */
export const SERVICES: readonly string[] = [
  "{ name: web, vip: 203.0.113.10, port: 80, protocol: tcp, scheduler: maglev, tableSize: 251, backends: [{ address: 10.20.0.11, port: 8080 }, { address: 10.20.0.12, port: 8080 }] }",
  "{ name: full, vip: 203.0.113.10, port: 443, protocol: [tcp, udp], mode: full-nat, scheduler: rr, backends: [{ address: 10.20.0.11, port: 8443 }] }",
  "{ name: dns, vip: 203.0.113.10, port: 53, protocol: udp, scheduler: wrr, backends: [{ address: 10.20.0.11, port: 53, weight: 3 }, { address: 10.20.0.12, port: 53 }] }",
  "{ name: rest, vip: 203.0.113.11, port: any, protocol: [tcp, udp], scheduler: lc, outOfState: drop, noBackend: { action: drop }, backends: [{ address: 10.20.0.12 }] }",
  `{ name: closed, vip: 203.0.113.12, port: 443, ${BOTH}, access: { allow: [198.51.100.0/25], deny: [198.51.100.3/32], refuse: reset }, ${TWO} }`,
  `{ name: limited, vip: 203.0.113.12, port: 9, protocol: [tcp, udp], scheduler: rr, limits: { connections: 3, packetsPerSecond: 500, newPerSource: { rate: 5 }, perBackend: { connections: 3 }, refuse: reset }, ${TWO} }`,
  `{ name: pressed, vip: 203.0.113.12, port: 6080, protocol: tcp, scheduler: rr, ${PRESSED}, ${TWO} }`,
  `{ name: dsr, vip: 203.0.113.10, port: 8000, ${BOTH}, mode: dsr, ${TWO} }`,
  `{ name: ipip, vip: 203.0.113.10, port: 8001, ${BOTH}, mode: ipip, mss: auto, ${TWO} }`,
  `{ name: gue, vip: 203.0.113.10, port: 8002, ${BOTH}, mode: gue, mtu: { tooBig: fragment }, ${TWO} }`,
  `{ name: clamped, vip: 203.0.113.12, port: 8000, protocol: tcp, scheduler: rr, mss: 1200, ${TWO} }`,
  `{ name: proxied, vip: 203.0.113.10, port: 8003, protocol: tcp, scheduler: rr, synProxy: { mode: on }, ${TWO} }`,
  `{ name: proxied-full, vip: 203.0.113.12, port: 80, protocol: tcp, scheduler: rr, mode: full-nat, synProxy: { mode: on, mss: 1200, windowScale: 7, sack: true, timestamps: true }, ${TWO} }`,
  `{ name: each, vip: 203.0.113.12, port: 53, protocol: udp, scheduler: rr, udp: { perPacket: true }, ${TWO} }`,
  '{ name: quic, vip: 203.0.113.12, port: 4433, protocol: udp, scheduler: maglev, tableSize: 251, quic: { serverIdBytes: 2 }, backends: [{ address: 10.20.0.11, serverId: "0102" }, { address: 10.20.0.12, serverId: "0304" }] }',
  `{ name: prefix, vip: 203.0.113.64/28, port: any, ${BOTH}, ${TWO} }`,
  `{ name: web6, ${V6}, port: 80, protocol: tcp, scheduler: maglev, tableSize: 251, ${TWO_6} }`,
  `{ name: dns6, ${V6}, port: 53, protocol: udp, scheduler: rr, ${TWO_6} }`,
  `{ name: full6, ${V6}, port: 443, ${BOTH}, mode: full-nat, ${TWO_6} }`,
  `{ name: six-to-four, ${V6}, port: 8003, ${BOTH}, mode: full-nat, ${PRESSED}, ${TWO} }`,
  `{ name: four-to-six, vip: 203.0.113.12, port: 8003, ${BOTH}, mode: full-nat, ${PRESSED}, ${TWO_6} }`,
  `{ name: dsr6, ${V6}, port: 8000, ${BOTH}, mode: dsr, ${TWO_6} }`,
  `{ name: ipip6, ${V6}, port: 8001, ${BOTH}, mode: ipip, ${TWO_6} }`,
  `{ name: gue6, ${V6}, port: 8002, ${BOTH}, mode: gue, ${TWO_6} }`,
  `{ name: ipip64, ${V6}, port: 9, ${BOTH}, mode: ipip, ${TWO} }`,
  `{ name: gue46, vip: 203.0.113.12, port: 8002, ${BOTH}, mode: gue, ${TWO_6} }`,
  `{ name: ipip46, vip: 203.0.113.12, port: 8001, ${BOTH}, mode: ipip, ${TWO_6} }`,
  `{ name: limited6, ${V6}, port: 4433, ${BOTH}, limits: { connections: 60, packetsPerSecond: 5000, newPerSource: { rate: 20 }, perBackend: { connections: 40 }, refuse: reset }, access: { deny: ["2001:db8:1::/124"] }, ${TWO_6} }`,
  `{ name: proxied6, ${V6}, port: 6080, protocol: tcp, scheduler: rr, synProxy: { mode: on }, ${TWO_6} }`,
];

/** YAML of a world with these services. */
function yamlOf(world: World, top: readonly string[], services: readonly string[]): string {
  const rows = services.map((row) => `  - ${row}\n`).join("");
  return `version: 1\ndevice: ${world.device}\n${top.join("\n")}\nservices:\n${rows}`;
}

/** What the gateway has against a configuration; "" is nothing. */
function refusal(yaml: string): string {
  try {
    parseConfig(yaml, "world.yaml");
    return "";
  } catch (error) {
    if (error instanceof ConfigError) return error.message;
    throw error;
  }
}

/** Services that a world's device cannot carry, and why. */
export function refusalsOf(world: World): { row: string; why: string }[] {
  const top = topOf(world);
  return SERVICES.map((row) => ({ row, why: refusal(yamlOf(world, top, [row])) })).filter(
    ({ why }) => why !== "",
  );
}

/** The top-level keys of a world. */
function topOf(world: World): string[] {
  const [plain] = SERVICES;
  return TOP.flatMap(
    (group) => group.find((line) => refusal(yamlOf(world, [line], [plain!])) === "") ?? [],
  );
}

/** Those of SERVICES that the world's device can carry. */
export function servicesOf(world: World): string[] {
  const refused = new Set(refusalsOf(world).map(({ row }) => row));
  return SERVICES.filter((row) => !refused.has(row));
}

const yamls = new Map<string, string>();

/** The configuration of a world: every service that its device can carry. */
export function createWorldYaml(world: World): string {
  let yaml = yamls.get(world.name);
  if (yaml === undefined) {
    yaml = yamlOf(world, topOf(world), servicesOf(world));
    yamls.set(world.name, yaml);
  }
  return yaml;
}

/** A new gateway of this world: empty tables, the same secret every time. */
export function createWorld(world: World): MemoryGateway {
  return createMemoryGateway({
    yaml: createWorldYaml(world),
    linkHeaderBytes: world.link,
    asXdp: world.asXdp,
    mtu: MTU,
    slots: 192,
    // As every device has it; without it tunnels are copied into spares, which is the way on tun here.
    headroomBytes: world.link === 0 ? 0 : 48,
    slotBytes: 9216,
    size: {
      flowCapacity: 256,
      services: 64,
      backends: 128,
      hashSlots: 32_768,
      workers: world.workers,
    },
  });
}
