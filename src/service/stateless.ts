import type { ServiceDefinition } from "./definition.ts";

/**
 * Why packets of a service may not go on without flows above `flows.statelessAbove`; null: they may.
 *
 * Without a flow every packet is scheduled by itself, so the same choice must come of it each time; no
 * reply may come this way, for the reverse of a translation is not unique; and nothing may be counted
 * by flow.
 */
export function needsFlows(service: ServiceDefinition, protocol: "tcp" | "udp"): string | null {
  const { affinity, limits, mode, outOfState, scheduler } = service;
  if (service.policy !== null) return "a policy as scheduler";
  if (!choosesAlike(service)) return `scheduler ${scheduler}`;
  if (!isOneWayMode(service)) return `mode ${mode}`;
  // The second segment of a connection that has no flow must not be refused.
  if (protocol === "tcp" && outOfState !== "adopt") return `outOfState: ${outOfState}`;
  // An entry is made with a flow.
  if (affinity !== null) return "affinity";
  if (limits.connections !== null) return "limits.connections";
  if (limits.newPerSource !== null) return "limits.newPerSource";
  if (limits.backendConnections !== null) return "limits.perBackend";
  return null;
}

/**
 * Whether every worker and node with the same configuration chooses the same backend for a flow, each
 * time (design section 3). A bound on loads depends on the flows that are there.
 */
export function choosesAlike({ scheduler }: Pick<ServiceDefinition, "scheduler">): boolean {
  return (
    scheduler === "source-hash" ||
    scheduler === "maglev" ||
    scheduler === "rendezvous" ||
    scheduler === "failover"
  );
}

export function isOneWayMode({ mode }: ServiceDefinition): boolean {
  return mode !== "nat" && mode !== "full-nat";
}
