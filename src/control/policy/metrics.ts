import type { PolicyRow, ServiceRow } from "../../base/admin-types.ts";
import type { Declarations } from "../metrics.ts";
import { POLICY_STATES } from "./runner.ts";

/** The metrics of policies in TypeScript; nothing where no service has one. */
export function addPolicies(
  { counter, gauge }: Declarations,
  services: () => readonly ServiceRow[],
): void {
  const labelNames = ["service", "protocol"] as const;
  const each = (
    look: (row: PolicyRow, labels: { readonly service: string; readonly protocol: string }) => void,
  ): void => {
    for (const { name, policies } of services()) {
      for (const row of policies) look(row, { service: name, protocol: row.protocol });
    }
  };
  gauge("policy_state", "1 for the state that the policy is in.", [...labelNames, "state"], (add) =>
    each((row, labels) => {
      for (const state of POLICY_STATES) add(row.state === state ? 1 : 0, { ...labels, state });
    }),
  );
  counter("policy_failures_total", "Failures by reason.", [...labelNames, "reason"], (add) =>
    each((row, labels) => {
      for (const [reason, count] of Object.entries(row.failures)) add(count, { ...labels, reason });
    }),
  );
  gauge("policy_duration_seconds", "Time that the last answer took.", labelNames, (add) =>
    each((row, labels) => add(row.durationMs / 1000, labels)),
  );
  gauge(
    "policy_shadow_difference_ratio",
    "Share of new flows that the policy would send elsewhere; only in shadow mode.",
    labelNames,
    (add) =>
      each((row, labels) => {
        if (row.differenceRatio !== null) add(row.differenceRatio, labels);
      }),
  );
}
