import { type GatewayDefinition, needsIpv6 } from "../service/definition.ts";
import type { RegionSize } from "../state/layout.ts";

/** Whether flows need room for a splice. */
export function usesSynProxy({ services }: GatewayDefinition): boolean {
  return services.some(({ synProxy }) => synProxy.mode !== "off");
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
    splices: usesSynProxy(definition) ? 1 : 0,
    ipv6: needsIpv6(definition),
  };
}
