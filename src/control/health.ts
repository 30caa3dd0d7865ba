import type { Log } from "../base/log.ts";
import type { CheckTools } from "../health/checkers.ts";
import { createHealthMonitor } from "../health/monitor.ts";
import { createRounds } from "../health/rounds.ts";
import { B_HEALTH, HEALTH_NAMES } from "../service/backend-slots.ts";
import { CHECKS_AT_ONCE } from "../service/definition.ts";
import { backendSlotWord, readBackendKey } from "../service/slots.ts";
import type { RegionViews } from "../state/layout.ts";
import { createBackendAgents } from "./agents.ts";
import { createCheckExtras } from "./check-extras.ts";
import { healthTargets } from "./health-targets.ts";
import type { Applied } from "./reconcile.ts";

/** What health checks and agents say, kept where the rest of the control plane reads it. */
export interface Health {
  /** Check the backends of this definition from now on. */
  follow(applied: Applied): void;
  /**
   * What the agent said, where that decides; else what the check found that decided the backend's
   * health last; "" before.
   */
  reasonOf(slot: number): string;
  /** Failed checks since the process started. */
  failuresOf(slot: number): number;
  /** Questions to the backend's agent without an answer, likewise. */
  agentFailuresOf(slot: number): number;
  /** End of the certificate that the backend showed last, in ms since 1970; null: none was seen. */
  certificateExpiresMsOf(slot: number): number | null;
  /** Checks since the process started, and those that began late by more than a tenth. */
  counts(): { readonly checks: number; readonly late: number };
  close(): Promise<void>;
}

/** A check that begins so much of its interval after the planned time is late. */
const LATE_SHARE = 0.1;

/**
 * @param tools - what some types of checks need of the host
 * @param onChange - B_HEALTH of a slot is another one now
 * @param onCheck - a check has come to an end
 */
export function createHealth(
  views: RegionViews,
  log: Log,
  tools: CheckTools,
  onChange: () => void,
  onCheck: (slot: number, ok: boolean, durationMs: number) => void,
): Health {
  const reasons = new Map<number, string>();
  const failures = new Map<number, number>();
  /** The counts belong to a backend, not to the number that its slot has. */
  const keys = new Map<number, string>();
  /** For the log, which would read them from the region a thousand times a second. */
  const names = new Map<number, { service: string; backend: string }>();
  const rounds = createRounds(CHECKS_AT_ONCE);
  const agents = createBackendAgents(views, log, rounds, onChange);
  const extras = createCheckExtras(views, log, onChange);
  const counts = { checks: 0, late: 0 };
  const monitor = createHealthMonitor({
    tools,
    rounds,
    onStart(_slot, lateMs, intervalMs) {
      counts.checks++;
      if (lateMs > LATE_SHARE * intervalMs) counts.late++;
    },
    onResult(result) {
      const { slot, ok, durationMs, reason } = result;
      onCheck(slot, ok, durationMs);
      if (!ok) failures.set(slot, (failures.get(slot) ?? 0) + 1);
      log.trace("health_check", { ...names.get(slot), ok, durationMs, reason });
      extras.record(slot, reason, result);
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
        names.set(slot, { service: serviceName, backend: `${address}:${port}` });
        if (keys.get(slot) === key) continue;
        keys.set(slot, key);
        failures.delete(slot);
        reasons.delete(slot);
      }
      rounds.setConcurrent(applied.definition.health?.concurrent ?? CHECKS_AT_ONCE);
      monitor.apply(targets);
      extras.follow(targets);
      const isChanged = agents.follow(applied);
      extras.restore();
      if (isChanged) onChange();
    },
    reasonOf(slot) {
      if (extras.weightOf(slot) === 0) return "the check says weight 0";
      return agents.reasonOf(slot) || (reasons.get(slot) ?? "");
    },
    failuresOf: (slot) => failures.get(slot) ?? 0,
    agentFailuresOf: agents.failuresOf,
    certificateExpiresMsOf: extras.certificateExpiresMsOf,
    counts: () => ({ ...counts }),
    close: () => monitor.close(),
  };
}
