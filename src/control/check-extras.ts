import type { Log } from "../base/log.ts";
import type { CheckExtras } from "../health/check.ts";
import type { HealthTarget } from "../health/monitor.ts";
import { expiresSoon } from "../health/tls.ts";
import { B_AGENT_WEIGHT } from "../service/backend-slots.ts";
import type { TlsQuestion } from "../service/health-definition.ts";
import { backendSlotWord, readBackendKey } from "../service/slots.ts";
import type { RegionViews } from "../state/layout.ts";

/** What checks say beside up and down: weights, kept in the slots of their backends, and certificates. */
export interface CheckExtrasKeeper {
  /**
   * These are checked from now on. Weights of a process before this one are taken over, those that
   * nobody says any more are forgotten. To be called before agents forget what is in the slots.
   */
  follow(targets: readonly HealthTarget[]): void;
  /** Write the weights into the slots again, where agents have forgotten them. */
  restore(): void;
  record(slot: number, reason: string, extras: CheckExtras): void;
  /** End of the certificate that the backend showed last, in ms since 1970; null: none was seen. */
  certificateExpiresMsOf(slot: number): number | null;
  /** Share of its weight in percent that a check said last; null: none did. */
  weightOf(slot: number): number | null;
}

interface Certificate {
  readonly expiresMs: number;
  readonly isWarned: boolean;
}

/** @param onChange - B_AGENT_WEIGHT of a slot is another one now */
export function createCheckExtras(
  views: RegionViews,
  log: Log,
  onChange: () => void,
): CheckExtrasKeeper {
  const weights = new Map<number, number>();
  const certificates = new Map<number, Certificate>();
  let questions = new Map<number, TlsQuestion>();
  /** What is kept belongs to a backend, not to the number that its slot has. */
  let owners = new Map<number, string>();

  const nameOf = (slot: number): { service: string; backend: string } => {
    const key = readBackendKey(views, slot);
    const { service, address, port } = key ?? { service: "", address: "", port: 0 };
    return { service, backend: `${address}:${port}` };
  };

  function recordCertificate(slot: number, expiresMs: number): void {
    const known = certificates.get(slot);
    const question = questions.get(slot);
    const nowMs = Date.now();
    const isSoon = question !== undefined && expiresSoon(expiresMs, question, nowMs);
    if (known?.expiresMs === expiresMs && known.isWarned === isSoon) return;
    certificates.set(slot, { expiresMs, isWarned: isSoon });
    const expires = new Date(expiresMs).toISOString();
    if (isSoon) log.warn("certificate_expires", { ...nameOf(slot), expires });
    else if (known?.isWarned === true) {
      log.info("certificate_renewed", { ...nameOf(slot), expires });
    }
  }

  function recordWeight(slot: number, reason: string, percent: number): void {
    weights.set(slot, percent);
    const at = backendSlotWord(views, slot) + B_AGENT_WEIGHT;
    if (views.i32[at] === percent) return;
    views.i32[at] = percent;
    log.info("backend_check_weight", { ...nameOf(slot), weight_percent: percent, reason });
    onChange();
  }

  return {
    follow(targets) {
      const before = owners;
      questions = new Map();
      owners = new Map();
      const weighed = new Set<number>();
      for (const { slot, definition, serviceName, address, port } of targets) {
        const owner = `${serviceName} ${address}:${port}`;
        owners.set(slot, owner);
        const isWeighed = definition.type === "exec" && definition.dynamicWeight;
        if (isWeighed) weighed.add(slot);
        if ("tls" in definition && definition.tls !== null) questions.set(slot, definition.tls);
        if (before.get(slot) === owner) continue;
        certificates.delete(slot);
        weights.delete(slot);
        const said = views.i32[backendSlotWord(views, slot) + B_AGENT_WEIGHT]!;
        if (isWeighed && said >= 0 && !before.has(slot)) weights.set(slot, said);
      }
      for (const slot of certificates.keys()) {
        if (!questions.has(slot)) certificates.delete(slot);
      }
      for (const slot of weights.keys()) {
        if (!weighed.has(slot)) weights.delete(slot);
      }
    },
    restore() {
      for (const [slot, percent] of weights) {
        views.i32[backendSlotWord(views, slot) + B_AGENT_WEIGHT] = percent;
      }
    },
    record(slot, reason, { weight, certificateExpiresMs }) {
      if (certificateExpiresMs !== undefined) recordCertificate(slot, certificateExpiresMs);
      if (weight !== undefined) recordWeight(slot, reason, weight);
    },
    certificateExpiresMsOf: (slot) => certificates.get(slot)?.expiresMs ?? null,
    weightOf: (slot) => weights.get(slot) ?? null,
  };
}
