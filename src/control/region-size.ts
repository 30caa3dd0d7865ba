import { OWNER_ADDRESS_ONLY, OWNER_PORT_COUNTS, ownerHostBits } from "../flow/owner.ts";
import { type GatewayDefinition, needsIpv6 } from "../service/definition.ts";
import type { RegionSize } from "../state/layout.ts";

/** Whether flows need room for a splice. */
export function usesSynProxy({ services }: GatewayDefinition): boolean {
  return services.some(({ synProxy }) => synProxy.mode !== "off");
}

/** Whether a service remembers clients. */
export function usesAffinity({ services }: GatewayDefinition): boolean {
  return services.some(({ affinity }) => affinity !== null);
}

/** Bits of clients' addresses, of each use that a service makes of them: all its flows lie together. */
function clientPrefixes({ services }: GatewayDefinition): { ipv4: number; ipv6: number }[] {
  return services
    .flatMap(({ affinity, limits }) => [affinity, limits.newPerSource])
    .filter((it) => it !== null);
}

/**
 * Which bits of the client's port decide about the worker of a flow: all, unless a service has affinity
 * or limits by source. Then all flows of a client must lie together, and its address alone decides.
 */
export function ownerPortMask(definition: GatewayDefinition): number {
  return clientPrefixes(definition).length > 0 ? OWNER_ADDRESS_ONLY : OWNER_PORT_COUNTS;
}

/** Bits at the end of the client's address that do not decide either: the shortest prefix does. */
export function clientHostBits(definition: GatewayDefinition): number {
  const prefixes = clientPrefixes(definition);
  return ownerHostBits(
    Math.min(32, ...prefixes.map(({ ipv4 }) => ipv4)),
    Math.min(128, ...prefixes.map(({ ipv6 }) => ipv6)),
  );
}

/** What sizes the region of a gateway that starts with this definition. */
export function regionSizeOf(definition: GatewayDefinition): RegionSize {
  const { device, flows, limits } = definition;
  return {
    flowCapacity: flows.capacity,
    services: limits.services,
    backends: limits.backends,
    hashSlots: limits.hashSlots,
    workers: device.workers,
    accessPrefixes: limits.accessPrefixes,
    sources: limits.sources,
    splices: usesSynProxy(definition) ? 1 : 0,
    affinity: usesAffinity(definition) ? limits.affinity : 0,
    ipv6: needsIpv6(definition),
  };
}
