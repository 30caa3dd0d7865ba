import { parseAddress } from "../../src/base/address.ts";
import type {
  Address,
  BackendDefinition,
  GatewayDefinition,
  HealthDefinition,
  ServiceDefinition,
} from "../../src/service/definition.ts";

/** Definitions for tests of the control plane: valid, small, with room to override any key. */

export function address(text: string): Address {
  const found = parseAddress(text);
  if (found === null) throw new Error(`not an address: ${text}`);
  return found;
}

/** A backend's keys at their defaults. */
const PLAIN = { priority: 0, maxConnections: null, serverId: null } as const;

/** `10.20.0.11:8080`, or without a port; weight 1 unless given. */
export function backend(endpoint: string, weight = 1): BackendDefinition {
  const [host, port] = endpoint.split(":");
  return { address: address(host!), port: Number(port ?? 0), ...PLAIN, weight };
}

export const TCP_HEALTH: HealthDefinition = {
  type: "tcp",
  intervalMs: 2000,
  fastIntervalMs: 2000,
  downIntervalMs: 2000,
  timeoutMs: 1000,
  rise: 2,
  fall: 3,
  spread: 0,
  port: 0,
  source: null,
  through: "direct",
};

export function service(
  name: string,
  overrides: Partial<ServiceDefinition> = {},
): ServiceDefinition {
  return {
    name,
    vips: [address("203.0.113.10")],
    ports: [{ low: 80, high: 80 }],
    protocols: ["tcp"],
    mode: "nat",
    policy: null,
    scheduler: "round-robin",
    maxLoad: null,
    tableSize: 251,
    affinity: null,
    timeouts: {
      tcp: {
        synSent: 30_000,
        synReceived: 60_000,
        established: 7_440_000,
        finWait: 240_000,
        closeWait: 240_000,
        lastAck: 30_000,
        timeWait: 120_000,
        close: 10_000,
      },
      udp: { oneWay: 120_000, replied: 300_000 },
    },
    mtu: { tooBig: "icmp" },
    mss: "off",
    udp: { perPacket: false, maxAgeMs: null },
    quic: null,
    outOfState: "reset",
    onIdle: "reset",
    existingFlows: {
      drained: "keep",
      removed: "drain",
      down: "keep",
      disabled: "reset",
      ejected: "keep",
      deadlineMs: 300_000,
    },
    noBackend: { action: "reset", sorry: null },
    minimumHealthy: { count: 1 },
    panicThreshold: 0,
    slowStart: null,
    ping: "healthy",
    access: {
      allow: null,
      allowFile: null,
      deny: [],
      denyFile: null,
      refuse: "drop",
      rules: null,
    },
    synProxy: {
      mode: "off",
      mss: null,
      windowScale: null,
      sack: null,
      timestamps: null,
      halfOpen: 1024,
    },
    limits: {
      connections: null,
      packetsPerSecond: null,
      newPerSource: null,
      backendConnections: null,
      refuse: "drop",
    },
    health: null,
    passive: null,
    backends: [backend("10.20.0.11:8080"), backend("10.20.0.12:8080")],
    ...overrides,
  };
}

export function gateway(
  services: readonly ServiceDefinition[],
  overrides: Partial<GatewayDefinition> = {},
): GatewayDefinition {
  return {
    file: "gw.yaml",
    device: {
      type: "tun",
      name: "hg0",
      routes: "auto",
      interfaces: [],
      workers: 1,
      guard: "process",
      announce: true,
      replies: "last-hop",
      cpus: [],
      spinUs: 0,
      xdp: { mode: "auto", zeroCopy: "auto", busyPollUs: 0 },
    },
    user: null,
    log: { level: "info" },
    flows: {
      capacity: 1024,
      stateFile: null,
      whenFull: "evict",
      ipv6: "auto",
      statelessAbove: null,
    },
    limits: {
      services: 8,
      backends: 32,
      hashSlots: 4096,
      accessPrefixes: 64,
      sources: 64,
      affinity: 64,
    },
    hash: { seed: "" },
    shutdown: { mode: "keep", timeoutMs: 30_000 },
    admin: { socket: "/run/headgate/admin.sock", http: null, tokenFile: null },
    snat: { addresses: [], ports: { low: 1024, high: 65535 } },
    tunnel: { sourceIpv4: null, sourceIpv6: null, gue: { port: 6080, checksum: null } },
    services,
    ...overrides,
  };
}
