import { addressOf4 } from "../base/address.ts";
import { PROBE_SOURCE_OFFSET } from "../datapath/probes.ts";
import { PROTOCOL_TCP, PROTOCOL_UDP } from "../flow/flow-record.ts";
import type { AgentTarget } from "../health/agents.ts";
import type { CheckPlace, HealthTarget } from "../health/monitor.ts";
import { B_HEALTH, B_PROTOCOL } from "../service/backend-slots.ts";
import type { BackendDefinition, ServiceDefinition } from "../service/definition.ts";
import type { HealthDefinition, ProbeDefinition } from "../service/health-definition.ts";
import { type AssignedService, backendSlotWord } from "../service/slots.ts";
import type { RegionViews } from "../state/layout.ts";
import type { Applied } from "./reconcile.ts";

/**
 * What to check: every backend of a service with `health`, one slot a protocol. A backend that
 * takes the packet's port is checked at the service's first one.
 */
export function healthTargets(
  views: RegionViews,
  { assignment, definition: { probe } }: Applied,
): HealthTarget[] {
  return assignment.services.flatMap((assigned) => {
    const { definition: service, backends } = assigned;
    const { health } = service;
    if (health === null) return [];
    return backends.map(({ slot, definition }) => ({
      slot,
      address: definition.address.text,
      port: portOf(service, definition),
      definition: health,
      serviceName: service.name,
      health: views.i32[backendSlotWord(views, slot) + B_HEALTH]!,
      place:
        health.through === "path" && probe != null
          ? pathPlace(probe, service, probedSlot(views, assignment.services, assigned, slot))
          : ownPlace(service, definition, health),
    }));
  });
}

/** Every backend of a service with `agent`. */
export function agentTargets({ assignment }: Applied): AgentTarget[] {
  return assignment.services.flatMap(({ definition: service, backends }) => {
    const { agent } = service;
    if (agent == null) return [];
    return backends.map(({ slot, definition: { address, check } }) => ({
      slot,
      address: check?.address ?? address.text,
      port: check?.agentPort || agent.port,
      definition: agent,
      serviceName: service.name,
    }));
  });
}

function portOf(service: ServiceDefinition, { port }: BackendDefinition): number {
  return port === 0 ? (service.ports[0]?.low ?? 0) : port;
}

/** Null: the backend has no place of its own. */
function ownPlace(
  service: ServiceDefinition,
  backend: BackendDefinition,
  health: HealthDefinition,
): CheckPlace | null {
  const { address, check } = backend;
  if (check === undefined) return null;
  return {
    address: check.address ?? address.text,
    port: check.port || health.port || portOf(service, backend),
    source: health.source,
  };
}

/** The VIP, from the source that says which backend is meant. */
function pathPlace(probe: ProbeDefinition, service: ServiceDefinition, slot: number): CheckPlace {
  const vip = service.vips.find(({ family }) => family === 4)!;
  return {
    address: vip.text.replace(/\/\d+$/, ""),
    port: service.health?.port || (service.ports[0]?.low ?? 0),
    source: addressOf4((probe.ipv4.value + PROBE_SOURCE_OFFSET + slot) | 0).text,
  };
}

/**
 * The slot that a check of `slot` goes to: its own, or that of the same backend for TCP where `slot` is
 * for UDP, since every type of check that comes to a VIP is TCP.
 */
function probedSlot(
  views: RegionViews,
  services: readonly AssignedService[],
  assigned: AssignedService,
  slot: number,
): number {
  const protocolOf = (of: number) => views.i32[backendSlotWord(views, of) + B_PROTOCOL];
  if (protocolOf(slot) !== PROTOCOL_UDP) return slot;
  const index = assigned.backends.findIndex((backend) => backend.slot === slot);
  const twin = services.find(
    ({ definition, backends }) =>
      definition.name === assigned.definition.name &&
      backends[0] !== undefined &&
      protocolOf(backends[0].slot) === PROTOCOL_TCP,
  );
  return twin?.backends[index]?.slot ?? slot;
}
