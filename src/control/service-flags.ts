import type { ServiceDefinition } from "../service/definition.ts";

/**
 * What `ipvsadm -L` prints in its column Flags, for a service of ours.
 *
 * @returns `ops` (one-packet scheduling) where every datagram is scheduled by itself
 */
export function serviceFlags({ udp, protocols }: ServiceDefinition): string[] {
  return udp.perPacket && protocols.includes("udp") ? ["ops"] : [];
}
