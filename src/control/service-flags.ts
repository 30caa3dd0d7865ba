import { formatIpv4 } from "../base/address.ts";
import { maskWord } from "../base/prefix.ts";
import type { ServiceDefinition } from "../service/definition.ts";

/**
 * What `ipvsadm -L` prints in its column Flags, for a service of ours: `persistent` with its seconds
 * and `mask` where the service has affinity, `ops` (one-packet scheduling) where every datagram is
 * scheduled by itself.
 */
export function serviceFlags({ affinity, udp, protocols, vips }: ServiceDefinition): string[] {
  const flags: string[] = [];
  if (affinity !== null) {
    flags.push(`persistent ${Math.ceil(affinity.timeoutMs / 1000)}`);
    const families = new Set(vips.map(({ family }) => family));
    // As there: a whole address is not said.
    if (families.has(4) && affinity.ipv4 !== 32) {
      flags.push(`mask ${formatIpv4(maskWord(affinity.ipv4, 0))}`);
    }
    if (families.has(6) && affinity.ipv6 !== 128) flags.push(`mask ${affinity.ipv6}`);
  }
  if (udp.perPacket && protocols.includes("udp")) flags.push("ops");
  return flags;
}
