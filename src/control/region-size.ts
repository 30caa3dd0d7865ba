import { type GatewayDefinition, needsIpv6 } from "../service/definition.ts";
import type { RegionSize } from "../state/layout.ts";

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
    ipv6: needsIpv6(definition),
  };
}
