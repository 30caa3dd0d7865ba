import { sharedAddresses } from "../../service/affinity-words.ts";
import type { GatewayDefinition } from "../../service/definition.ts";
import type { CheckedService, CrossCheck } from "./cross-check.ts";
import { formatDuration } from "./duration.ts";
import type { KeyPath } from "./source.ts";

/**
 * What is wrong about `affinity`: services of one group that do not agree what a client is or how long
 * it keeps its backend, and one that schedules every datagram by itself.
 */
export function checkAffinity({ reading, services, report }: CrossCheck): void {
  const placeOf = (path: KeyPath): string =>
    reading.source.has(path) ? ` (${reading.source.reference(path)})` : "";
  const first = new Map<string, CheckedService>();
  for (const service of services) {
    const { affinity, protocol, udp } = service.values;
    const path = [...service.path, "affinity"];
    if (affinity === undefined || affinity === "off" || reading.isBad(path)) continue;
    if (udp.perPacket && protocol?.includes("udp") === true) {
      const where = placeOf([...service.path, "udp", "perPacket"]);
      report(path, `expected off with udp.perPacket${where}, which keeps no client together`);
    }
    if (affinity.group === undefined) continue;
    const leader = first.get(affinity.group);
    if (leader === undefined) {
      first.set(affinity.group, service);
      continue;
    }
    const { affinity: other } = leader.values;
    if (other === undefined || other === "off") continue;
    const rows = [
      ["prefix.ipv4", affinity.prefix.ipv4, other.prefix.ipv4],
      ["prefix.ipv6", affinity.prefix.ipv6, other.prefix.ipv6],
      ["timeout", formatDuration(affinity.timeout), formatDuration(other.timeout)],
    ] as const;
    for (const [key, got, expected] of rows) {
      if (got === expected) continue;
      const where = placeOf([...leader.path, "affinity"]);
      const message = `expected ${expected}, as in ${leader.title} of the same group${where}, got ${got}`;
      report([...path, ...key.split(".")], message);
    }
  }
}

/** Groups that share less than they seem to. */
export function affinityNotes({
  services,
}: GatewayDefinition): { readonly path: KeyPath; readonly message: string }[] {
  const shared = sharedAddresses(services);
  return services.flatMap((service, index) => {
    const group = service.affinity?.group ?? null;
    if (group === null) return [];
    const path = ["services", index, "affinity", "group"];
    if (services.every((other) => other === service || other.affinity?.group !== group)) {
      return [{ path, message: `service "${service.name}" is the only one of group "${group}"` }];
    }
    const lacking = service.backends.find(({ address }) => !shared.get(group)!.has(address.text));
    if (lacking === undefined) return [];
    const message = `not every service of group "${group}" has a backend at ${lacking.address.text}: clients that get it keep it in service "${service.name}" alone`;
    return [{ path, message }];
  });
}
