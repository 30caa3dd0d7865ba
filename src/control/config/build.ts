import { addressOf4 } from "../../base/address.ts";
import type {
  Address,
  AffinityDefinition,
  GatewayDefinition,
  LimitsDefinition,
  PassiveDefinition,
  ServiceDefinition,
  SynProxyDefinition,
} from "../../service/definition.ts";
import { choosesAlike } from "../../service/stateless.ts";
import { buildAccess } from "./access-lists.ts";
import { buildAgent, buildCheck, buildHealth } from "./build-health.ts";
import { whole } from "./fields.ts";
import { buildPolicy, schedulerWordOf } from "./policy-sources.ts";
import type { FileValues, ServiceValues } from "./schema.ts";

/**
 * From checked values to the definition that the rest of the program reads. Only for values in
 * which no problem was found: there, lists have no holes and required keys are present.
 */
export function buildDefinition(values: FileValues, file: string): GatewayDefinition {
  const { device, flows, limits, shutdown, admin, snat, tunnel } = values;
  return {
    file,
    device: {
      type: device.type ?? "packet",
      name: device.name ?? "hg0",
      routes: device.routes ?? "auto",
      interfaces: whole(device.interfaces ?? []),
      workers: device.workers,
      cpus: whole(device.cpus),
      guard: device.guard,
      announce: device.announce,
      replies: device.replies,
      spinUs: device.spin,
      xdp: {
        mode: device.xdp.mode,
        zeroCopy: device.xdp.zeroCopy,
        busyPollUs: device.xdp.busyPoll,
      },
    },
    user: values.user ?? null,
    log: { level: values.log.level },
    flows: {
      capacity: flows.capacity,
      stateFile: flows.stateFile ?? null,
      whenFull: flows.whenFull,
      ipv6: flows.ipv6,
      statelessAbove: flows.statelessAbove === "off" ? null : flows.statelessAbove,
    },
    limits: {
      services: limits.services,
      backends: limits.backends,
      hashSlots: limits.hashSlots,
      accessPrefixes: limits.accessPrefixes,
      sources: limits.sources,
      affinity: limits.affinity,
    },
    hash: { seed: values.hash.seed },
    health: { concurrent: values.health.concurrent },
    probe: values.probe === undefined || values.probe === "off" ? null : values.probe,
    shutdown: { mode: shutdown.mode, timeoutMs: shutdown.timeout },
    admin: {
      socket: admin.socket,
      http: admin.http === "off" ? null : admin.http,
      tokenFile: admin.tokenFile ?? null,
    },
    snat: { addresses: whole(snat.addresses).flat(), ports: snat.ports },
    tunnel: {
      sourceIpv4: tunnel.source.ipv4 ?? null,
      sourceIpv6: tunnel.source.ipv6 ?? null,
      gue: { port: tunnel.gue.port, checksum: tunnel.gue.checksum ?? null },
    },
    services: values.services.map((service) => buildService(service, file)),
  };
}

function buildService(values: ServiceValues, file: string): ServiceDefinition {
  const { existingFlows, noBackend } = values;
  const ports = whole(values.port ?? []).toSorted((a, b) => a.low - b.low);
  return {
    name: values.name ?? "",
    vips: whole(values.vip ?? []),
    ports,
    protocols: whole(values.protocol ?? []),
    mode: values.mode,
    scheduler: schedulerOf(values),
    policy: buildPolicy(values, file),
    maxLoad: values.maxLoad === "off" ? null : values.maxLoad,
    tableSize: values.tableSize,
    affinity: buildAffinity(values.affinity),
    timeouts: values.timeouts,
    mtu: { tooBig: values.mtu.tooBig },
    mss: values.mss,
    udp: {
      perPacket: values.udp.perPacket,
      maxAgeMs: values.udp.maxAge === "off" ? null : values.udp.maxAge,
    },
    quic: values.quic === undefined || values.quic === "off" ? null : values.quic,
    outOfState: values.outOfState ?? (canAdopt(values) ? "adopt" : "reset"),
    onIdle: values.onIdle,
    existingFlows: {
      drained: existingFlows.drained,
      removed: existingFlows.removed,
      down: existingFlows.down,
      disabled: existingFlows.disabled,
      ejected: existingFlows.ejected,
      deadlineMs: existingFlows.deadline,
    },
    noBackend: {
      action: noBackend.action,
      sorry: sorryServer(values),
    },
    minimumHealthy: values.minimumHealthy,
    panicThreshold: values.panicThreshold,
    slowStart: buildSlowStart(values.slowStart),
    ping: values.ping,
    access: buildAccess(values),
    synProxy: buildSynProxy(values.synProxy),
    limits: buildLimits(values.limits),
    health: buildHealth(values, ports),
    passive: buildPassive(values.passive),
    agent: buildAgent(values),
    backends: values.backends.map((backend) => ({
      address: backend.address ?? NO_ADDRESS,
      port: backend.port ?? 0,
      weight: backend.weight,
      priority: backend.priority,
      maxConnections: backend.maxConnections ?? null,
      serverId: backend.serverId ?? null,
      ...buildCheck(backend.check),
    })),
  };
}

function buildAffinity(values: ServiceValues["affinity"]): AffinityDefinition | null {
  if (values === undefined || values === "off") return null;
  const { prefix, timeout, group } = values;
  return { ipv4: prefix.ipv4, ipv6: prefix.ipv6, timeoutMs: timeout, group: group ?? null };
}

function buildSlowStart(slowStart: ServiceValues["slowStart"]): ServiceDefinition["slowStart"] {
  if (slowStart === undefined || slowStart === "off") return null;
  return { windowMs: slowStart.window, minimumWeight: slowStart.minimumWeight };
}

function buildLimits(values: ServiceValues["limits"]): LimitsDefinition {
  const { connections, packetsPerSecond, newPerSource, perBackend, refuse } = values;
  return {
    connections: connections ?? null,
    packetsPerSecond: packetsPerSecond ?? null,
    newPerSource:
      newPerSource === undefined || newPerSource === "off"
        ? null
        : {
            rate: newPerSource.rate,
            burst: newPerSource.burst ?? newPerSource.rate,
            ipv4: newPerSource.prefix.ipv4,
            ipv6: newPerSource.prefix.ipv6,
          },
    backendConnections: perBackend.connections ?? null,
    refuse,
  };
}

function buildSynProxy(values: ServiceValues["synProxy"]): SynProxyDefinition {
  const { mode, mss, windowScale, sack, timestamps, halfOpen } = values;
  return {
    mode,
    mss: mss ?? null,
    windowScale: windowScale === "off" ? -1 : (windowScale ?? null),
    sack: sack ?? null,
    timestamps: timestamps ?? null,
    halfOpen,
  };
}

const NO_ADDRESS: Address = addressOf4(0);

function sorryServer(values: ServiceValues): ServiceDefinition["noBackend"]["sorry"] {
  const { action, address, port } = values.noBackend;
  return action === "sorry" && address !== undefined ? { address, port: port ?? 0 } : null;
}

/** The scheduler that `scheduler` and `maxLoad` together name. */
export function schedulerOf(
  values: Pick<ServiceValues, "scheduler" | "maxLoad">,
): ServiceDefinition["scheduler"] {
  const scheduler = schedulerWordOf(values);
  const isBounded = scheduler === "maglev" && values.maxLoad !== "off";
  return isBounded ? "bounded-maglev" : scheduler;
}

/**
 * A segment without a flow can be adopted only where any node picks the same backend for it, and not
 * where a SNAT port was chosen for the flow.
 */
export function canAdopt(values: Pick<ServiceValues, "scheduler" | "maxLoad" | "mode">): boolean {
  // A policy goes by what its node has seen.
  if (typeof values.scheduler === "object") return false;
  return choosesAlike({ scheduler: schedulerOf(values) }) && values.mode !== "full-nat";
}

function buildPassive(values: ServiceValues["passive"]): PassiveDefinition | null {
  if (values === undefined || values === "off") return null;
  const { silence, ejection, maximum, interval, ...rest } = values;
  return {
    ...rest,
    silenceMs: silence,
    ejectionMs: ejection,
    maximumMs: maximum,
    intervalMs: interval,
  };
}
