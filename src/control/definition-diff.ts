import { endpointOf } from "../base/address.ts";
import type {
  BackendDefinition,
  GatewayDefinition,
  ServiceDefinition,
} from "../service/definition.ts";

/**
 * What a reload changes, for people: one line an entity, in the order of the configuration.
 *
 *   added    `service web`, `backend web/10.20.0.11:8080`, `address 203.0.113.10`
 *   changed  `service web: scheduler, timeouts`, `backend web/10.20.0.11:8080: weight 1 -> 5`,
 *            `log`, `snat`
 */
export interface DefinitionDiff {
  readonly added: readonly string[];
  readonly changed: readonly string[];
  readonly removed: readonly string[];
}

/** Keys of a service that are compared as wholes; backends are compared one by one. */
const SERVICE_KEYS = [
  "vips",
  "ports",
  "protocols",
  "mode",
  "scheduler",
  "policy",
  "maxLoad",
  "tableSize",
  "affinity",
  "timeouts",
  "mtu",
  "mss",
  "udp",
  "quic",
  "outOfState",
  "onIdle",
  "existingFlows",
  "noBackend",
  "minimumHealthy",
  "panicThreshold",
  "slowStart",
  "ping",
  "access",
  "synProxy",
  "limits",
  "health",
  "passive",
] as const satisfies readonly (keyof ServiceDefinition)[];

/** Keys of the gateway that a reload takes over; the others are refused before this is asked. */
const GATEWAY_KEYS = [
  "log",
  "hash",
  "shutdown",
  "snat",
  "tunnel",
] as const satisfies readonly (keyof GatewayDefinition)[];

/** Compare two definitions; neither is changed. */
export function diffDefinitions(
  before: GatewayDefinition,
  after: GatewayDefinition,
): DefinitionDiff {
  const added: string[] = [];
  const changed: string[] = [];
  const removed: string[] = [];
  for (const key of GATEWAY_KEYS) if (differs(before[key], after[key])) changed.push(key);

  const oldServices = new Map(before.services.map((service) => [service.name, service]));
  const newNames = new Set(after.services.map((service) => service.name));
  for (const service of after.services) {
    const old = oldServices.get(service.name);
    if (old === undefined) {
      added.push(`service ${service.name}`);
      for (const backend of service.backends) added.push(backendText(service, backend));
      continue;
    }
    const keys = SERVICE_KEYS.filter((key) => differs(old[key], service[key]));
    if (keys.length > 0) changed.push(`service ${service.name}: ${keys.join(", ")}`);
    diffBackends(old, service, { added, changed, removed });
  }
  for (const old of before.services) {
    if (newNames.has(old.name)) continue;
    removed.push(`service ${old.name}`);
    for (const backend of old.backends) removed.push(backendText(old, backend));
  }
  const oldAddresses = addressesOf(before);
  const newAddresses = addressesOf(after);
  for (const address of newAddresses) {
    if (!oldAddresses.has(address)) added.push(`address ${address}`);
  }
  for (const address of oldAddresses) {
    if (!newAddresses.has(address)) removed.push(`address ${address}`);
  }
  return { added, changed, removed };
}

function diffBackends(
  before: ServiceDefinition,
  after: ServiceDefinition,
  into: { added: string[]; changed: string[]; removed: string[] },
): void {
  const old = new Map(before.backends.map((backend) => [backendText(before, backend), backend]));
  const now = new Set<string>();
  for (const backend of after.backends) {
    const text = backendText(after, backend);
    now.add(text);
    const was = old.get(text);
    if (was === undefined) into.added.push(text);
    if (was !== undefined && was.weight !== backend.weight) {
      into.changed.push(`${text}: weight ${was.weight} -> ${backend.weight}`);
    }
    for (const key of ["priority", "maxConnections", "serverId"] as const) {
      if (was === undefined || was[key] === backend[key]) continue;
      into.changed.push(`${text}: ${key} ${was[key] ?? "none"} -> ${backend[key] ?? "none"}`);
    }
  }
  for (const text of old.keys()) if (!now.has(text)) into.removed.push(text);
}

function backendText(service: ServiceDefinition, backend: BackendDefinition): string {
  return `backend ${service.name}/${endpointOf(backend.address, backend.port)}`;
}

function addressesOf(definition: GatewayDefinition): Set<string> {
  const addresses = new Set<string>();
  for (const service of definition.services)
    for (const vip of service.vips) addresses.add(vip.text);
  for (const address of definition.snat.addresses) addresses.add(address.text);
  return addresses;
}

/** Definitions are plain data with a fixed order of keys. */
function differs(a: unknown, b: unknown): boolean {
  return JSON.stringify(a) !== JSON.stringify(b);
}
