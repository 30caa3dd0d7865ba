import { numberOf } from "../../base/address.ts";
import {
  type AccessDefinition,
  type Address,
  type AffinityDefinition,
  CHECKS_AT_ONCE,
  type GatewayDefinition,
  type LimitsDefinition,
  type MinimumHealthy,
  type PassiveDefinition,
  type PortRange,
  type ServiceDefinition,
  type SynProxyDefinition,
} from "../../service/definition.ts";
import { formatDuration } from "./duration.ts";
import { effectiveAgent, effectiveCheck, effectiveHealth } from "./effective-health.ts";
import { formatPorts } from "./overlap-check.ts";

/**
 * A definition as a configuration file would say it, with every default written out. Parsed again
 * it gives the same definition.
 *
 * @returns a plain object, for YAML or JSON
 */
export function effectiveConfig(definition: GatewayDefinition): Record<string, unknown> {
  const { flows, limits, shutdown, admin, snat } = definition;
  return {
    version: 1,
    device: effectiveDevice(definition.device),
    ...(definition.user === null ? {} : { user: definition.user }),
    log: { ...definition.log },
    flows: {
      capacity: flows.capacity,
      ...(flows.stateFile === null ? {} : { stateFile: flows.stateFile }),
      whenFull: flows.whenFull,
      ipv6: flows.ipv6,
      statelessAbove: flows.statelessAbove ?? "off",
    },
    limits: { ...limits },
    hash: { ...definition.hash },
    health: { concurrent: definition.health?.concurrent ?? CHECKS_AT_ONCE },
    probe: effectiveProbe(definition.probe),
    shutdown: { mode: shutdown.mode, timeout: formatDuration(shutdown.timeoutMs) },
    admin: {
      socket: admin.socket,
      http: admin.http === null ? "off" : formatHttp(admin.http),
      ...(admin.tokenFile === null ? {} : { tokenFile: admin.tokenFile }),
    },
    snat: { addresses: formatPool(snat.addresses), ports: `${snat.ports.low}-${snat.ports.high}` },
    tunnel: effectiveTunnel(definition.tunnel),
    services: definition.services.map(effectiveService),
  };
}

function effectiveProbe(probe: GatewayDefinition["probe"]): Record<string, unknown> | "off" {
  if (probe == null) return "off";
  return { interface: probe.interface, ipv4: `${probe.ipv4.text}/16` };
}

function effectiveTunnel(tunnel: GatewayDefinition["tunnel"]): Record<string, unknown> {
  const { sourceIpv4, sourceIpv6, gue } = tunnel;
  return {
    source: {
      ...(sourceIpv4 === null ? {} : { ipv4: sourceIpv4.text }),
      ...(sourceIpv6 === null ? {} : { ipv6: sourceIpv6.text }),
    },
    gue: { port: gue.port, ...(gue.checksum === null ? {} : { checksum: gue.checksum }) },
  };
}

function effectiveDevice(device: GatewayDefinition["device"]): Record<string, unknown> {
  const { type, name, routes, interfaces, cpus, spinUs, xdp, ...rest } = device;
  const common = { ...rest, cpus: [...cpus], spin: spinUs };
  if (type === "tun") return { type, name, routes, ...common };
  const { busyPollUs, ...drive } = xdp;
  return {
    type,
    interfaces: [...interfaces],
    ...common,
    ...(type === "xdp" ? { xdp: { ...drive, busyPoll: busyPollUs } } : {}),
  };
}

function formatHttp({ address, port }: { address: string; port: number }): string {
  return address.includes(":") ? `[${address}]:${port}` : `${address}:${port}`;
}

/** Neighbouring addresses in rising order become one range. */
function formatPool(addresses: readonly Address[]): string[] {
  const runs: { first: Address; last: Address }[] = [];
  for (const address of addresses) {
    const run = runs.at(-1);
    if (run !== undefined && follows(run.last, address)) run.last = address;
    else runs.push({ first: address, last: address });
  }
  return runs.map(({ first, last }) =>
    first === last ? first.text : `${first.text}-${last.text}`,
  );
}

function follows(a: Address, b: Address): boolean {
  return a.family === b.family && numberOf(a) + 1n === numberOf(b);
}

function formatDurations(record: Readonly<Record<string, number>>): Record<string, string> {
  return Object.fromEntries(
    Object.entries(record).map(([key, durationMs]) => [key, formatDuration(durationMs)]),
  );
}

/** A port as a number, where it is one. */
function effectivePort(ports: PortRange): number | string {
  return ports.low === ports.high ? ports.low : formatPorts(ports);
}

function effectiveService(service: ServiceDefinition): Record<string, unknown> {
  const { deadlineMs, ...rules } = service.existingFlows;
  const { action, sorry } = service.noBackend;
  return {
    name: service.name,
    vip: service.vips.map((it) => it.text),
    port: service.ports.map(effectivePort),
    protocol: [...service.protocols],
    mode: service.mode,
    scheduler: effectiveScheduler(service),
    maxLoad: service.maxLoad ?? "off",
    tableSize: service.tableSize,
    affinity: service.affinity === null ? "off" : effectiveAffinity(service.affinity),
    timeouts: {
      tcp: formatDurations({ ...service.timeouts.tcp }),
      udp: formatDurations({ ...service.timeouts.udp }),
    },
    mtu: { ...service.mtu },
    mss: service.mss,
    udp: {
      perPacket: service.udp.perPacket,
      maxAge: service.udp.maxAgeMs === null ? "off" : formatDuration(service.udp.maxAgeMs),
    },
    quic: service.quic === null ? "off" : { ...service.quic },
    outOfState: service.outOfState,
    onIdle: service.onIdle,
    existingFlows: { ...rules, deadline: formatDuration(deadlineMs) },
    noBackend: sorry === null ? { action } : { action, ...effectiveTarget(sorry) },
    minimumHealthy: effectiveMinimum(service.minimumHealthy),
    panicThreshold: `${service.panicThreshold}%`,
    slowStart: effectiveSlowStart(service.slowStart),
    ping: service.ping,
    access: effectiveAccess(service.access),
    synProxy: effectiveSynProxy(service.synProxy),
    limits: effectiveLimits(service.limits),
    passive: service.passive === null ? "off" : effectivePassive(service.passive),
    health: service.health === null ? "none" : effectiveHealth(service.health),
    agent: effectiveAgent(service.agent),
    backends: service.backends.map((it) => ({
      ...effectiveTarget(it),
      weight: it.weight,
      priority: it.priority,
      ...(it.maxConnections === null ? {} : { maxConnections: it.maxConnections }),
      ...(it.serverId === null ? {} : { serverId: it.serverId }),
      ...effectiveCheck(it.check),
    })),
  };
}

function effectiveScheduler({ policy, scheduler }: ServiceDefinition): unknown {
  const word = scheduler === "bounded-maglev" ? "maglev" : scheduler;
  if (policy === null) return word;
  return {
    module: policy.module,
    fallback: word,
    shadow: policy.shadow,
    timeout: formatDuration(policy.timeoutMs),
    interval: formatDuration(policy.intervalMs),
  };
}

function effectiveAffinity(affinity: AffinityDefinition): Record<string, unknown> {
  const { ipv4, ipv6, timeoutMs, group } = affinity;
  return {
    key: "client-address",
    prefix: { ipv4, ipv6 },
    timeout: formatDuration(timeoutMs),
    ...(group === null ? {} : { group }),
  };
}

function effectiveMinimum(minimum: MinimumHealthy): number | string {
  return "count" in minimum ? minimum.count : `${minimum.percent}%`;
}

function effectiveSlowStart(slowStart: ServiceDefinition["slowStart"]): unknown {
  if (slowStart === null) return "off";
  const { windowMs, minimumWeight } = slowStart;
  return { window: formatDuration(windowMs), minimumWeight: `${minimumWeight}%` };
}

function effectiveAccess(access: AccessDefinition): Record<string, unknown> {
  const { allow, allowFile, deny, denyFile, refuse } = access;
  return {
    ...(allow === null ? {} : { allow: [...allow] }),
    ...(allowFile === null ? {} : { allowFile }),
    deny: [...deny],
    ...(denyFile === null ? {} : { denyFile }),
    refuse,
  };
}

function effectiveLimits(limits: LimitsDefinition): Record<string, unknown> {
  const { connections, packetsPerSecond, newPerSource, backendConnections, refuse } = limits;
  const source = newPerSource;
  return {
    ...(connections === null ? {} : { connections }),
    ...(packetsPerSecond === null ? {} : { packetsPerSecond }),
    newPerSource:
      source === null
        ? "off"
        : {
            rate: source.rate,
            burst: source.burst,
            prefix: { ipv4: source.ipv4, ipv6: source.ipv6 },
          },
    perBackend: backendConnections === null ? {} : { connections: backendConnections },
    refuse,
  };
}

function effectivePassive(passive: PassiveDefinition): Record<string, unknown> {
  const { silenceMs, ejectionMs, maximumMs, intervalMs, ...rest } = passive;
  return {
    ...rest,
    ...formatDurations({
      silence: silenceMs,
      ejection: ejectionMs,
      maximum: maximumMs,
      interval: intervalMs,
    }),
  };
}

function effectiveSynProxy(synProxy: SynProxyDefinition): Record<string, unknown> {
  const { mode, mss, windowScale, sack, timestamps, halfOpen } = synProxy;
  return {
    mode,
    ...(mss === null ? {} : { mss }),
    ...(windowScale === null ? {} : { windowScale: windowScale < 0 ? "off" : windowScale }),
    ...(sack === null ? {} : { sack }),
    ...(timestamps === null ? {} : { timestamps }),
    halfOpen,
  };
}

function effectiveTarget(target: { address: Address; port: number }): Record<string, unknown> {
  const { address, port } = target;
  return port === 0 ? { address: address.text } : { address: address.text, port };
}
