import type { Log } from "../base/log.ts";
import { createHealthMonitor, type HealthTarget } from "../health/monitor.ts";
import { B_HEALTH, HEALTH_NAMES } from "../service/backend-slots.ts";
import { backendSlotWord, readBackendKey } from "../service/slots.ts";
import type { RegionViews } from "../state/layout.ts";
import type { Applied } from "./reconcile.ts";

/** The health monitor's results, kept where the rest of the control plane reads them. */
export interface Health {
  /** Check the backends of this definition from now on. */
  follow(applied: Applied): void;
  /** What the check found that decided the backend's health last; "" before. */
  reasonOf(slot: number): string;
  /** Failed checks since the process started. */
  failuresOf(slot: number): number;
  close(): Promise<void>;
}

/**
 * @param onChange - B_HEALTH of a slot is another one now
 * @param onCheck - a check has come to an end
 */
export function createHealth(
  views: RegionViews,
  log: Log,
  onChange: () => void,
  onCheck: (slot: number, ok: boolean, durationMs: number) => void,
): Health {
  const reasons = new Map<number, string>();
  const failures = new Map<number, number>();
  /** The counts belong to a backend, not to the number that its slot has. */
  const keys = new Map<number, string>();
  const monitor = createHealthMonitor({
    onResult({ slot, ok, durationMs, reason }) {
      onCheck(slot, ok, durationMs);
      if (!ok) failures.set(slot, (failures.get(slot) ?? 0) + 1);
      const key = readBackendKey(views, slot);
      const { service, address, port } = key ?? { service: "", address: "", port: 0 };
      log.trace("health_check", { service, backend: `${address}:${port}`, ok, durationMs, reason });
    },
    onChange({ slot, health, reason }) {
      reasons.set(slot, reason);
      views.i32[backendSlotWord(views, slot) + B_HEALTH] = health;
      const { service, address, port } = readBackendKey(views, slot)!;
      const name = HEALTH_NAMES[health];
      log.debug("backend_health", { service, backend: `${address}:${port}`, health: name, reason });
      onChange();
    },
  });

  return {
    follow(applied) {
      const targets = healthTargets(views, applied);
      for (const { slot, serviceName, address, port } of targets) {
        const key = `${serviceName} ${address}:${port}`;
        if (keys.get(slot) === key) continue;
        keys.set(slot, key);
        failures.delete(slot);
        reasons.delete(slot);
      }
      monitor.apply(targets);
    },
    reasonOf: (slot) => reasons.get(slot) ?? "",
    failuresOf: (slot) => failures.get(slot) ?? 0,
    close: () => monitor.close(),
  };
}

/**
 * What to check: every backend of a service with `health`, one slot a protocol. A backend that
 * takes the packet's port is checked at the service's first one.
 */
export function healthTargets(views: RegionViews, applied: Applied): HealthTarget[] {
  return applied.assignment.services.flatMap(({ definition: service, backends }) => {
    const { health } = service;
    if (health === null) return [];
    return backends.map(({ slot, definition }) => ({
      slot,
      address: definition.address.text,
      port: definition.port === 0 ? (service.ports[0]?.low ?? 0) : definition.port,
      definition: health,
      serviceName: service.name,
      health: views.i32[backendSlotWord(views, slot) + B_HEALTH]!,
    }));
  });
}
