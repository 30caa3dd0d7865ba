import type { GatewayDefinition } from "../../service/definition.ts";
import { choosesAlike, isOneWayMode, needsFlows } from "../../service/stateless.ts";
import type { CrossCheck } from "./cross-check.ts";
import type { KeyPath } from "./source.ts";

/** A worker without a share of the rate would never make a flow. */
export function checkStateless({ reading, report }: CrossCheck): void {
  const { device, flows } = reading.values;
  const path = ["flows", "statelessAbove"];
  if (flows.statelessAbove === "off" || reading.isBad(path)) return;
  if (reading.isBad(["device", "workers"]) || flows.statelessAbove >= device.workers) return;
  const at = ["device", "workers"];
  const place = reading.source.has(at) ? ` (${reading.source.reference(at)})` : "";
  const message = `expected at least one for each of ${device.workers} workers${place}, got ${flows.statelessAbove}`;
  report(path, message);
}

/** Services that look as if they went on without flows and do not, and a rate that nobody heeds. */
export function statelessNotes(
  definition: GatewayDefinition,
): { readonly path: KeyPath; readonly message: string }[] {
  if (definition.flows.statelessAbove === null) return [];
  let served = 0;
  const notes: { readonly path: KeyPath; readonly message: string }[] = [];
  for (const [index, service] of definition.services.entries()) {
    for (const protocol of service.protocols) {
      const why = needsFlows(service, protocol);
      if (why === null) served++;
      else if (choosesAlike(service) && isOneWayMode(service)) {
        const message = `service "${service.name}" has flows for ${protocol} above flows.statelessAbove too: ${why}`;
        notes.push({ path: ["services", index], message });
      }
    }
  }
  if (served === 0) {
    const message =
      "no service goes on without flows: that takes scheduler maglev, rendezvous, source-hash or failover and mode dsr, ipip or gue";
    notes.unshift({ path: ["flows", "statelessAbove"], message });
  }
  return notes;
}
