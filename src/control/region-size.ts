import { OWNER_ADDRESS_ONLY, OWNER_PORT_COUNTS } from "../flow/owner.ts";
import { type GatewayDefinition, needsIpv6 } from "../service/definition.ts";
import type { RegionSize } from "../state/layout.ts";

/** Whether flows need room for a splice. */
export function usesSynProxy({ services }: GatewayDefinition): boolean {
  return services.some(({ synProxy }) => synProxy.mode !== "off");
}

/**
 * Which bits of the client's port decide about the worker of a flow: all, unless a service has limits
 * by source. Then all flows of a client must lie together, and its address alone decides.
 */
export function ownerPortMask({ services }: GatewayDefinition): number {
  const isBySource = services.some(({ limits }) => limits.newPerSource !== null);
  return isBySource ? OWNER_ADDRESS_ONLY : OWNER_PORT_COUNTS;
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
    ipv6: needsIpv6(definition),
  };
}
