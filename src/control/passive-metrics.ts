import type { BackendRow } from "../base/admin-types.ts";
import type { Declarations, Labels } from "./metrics.ts";

/** What the backends' traffic says of them. */
export function addPassive(
  { counter, gauge }: Declarations,
  labelNames: readonly string[],
  rows: () => readonly BackendRow[],
  labelsOf: (row: BackendRow) => Labels,
): void {
  gauge(
    "backend_connect_latency_seconds",
    "Mean time from SYN to SYN-ACK, exponentially weighted.",
    labelNames,
    (add) => {
      for (const row of rows()) {
        const { latencyUs } = row.passive;
        if (latencyUs !== null) add(latencyUs / 1e6, labelsOf(row));
      }
    },
  );
  counter(
    "backend_passive_failures_total",
    "New flows that the backend did not take, by what was seen.",
    [...labelNames, "kind"],
    (add) => {
      for (const row of rows()) {
        for (const [kind, count] of Object.entries(row.passive.failures)) {
          add(count, { ...labelsOf(row), kind });
        }
      }
    },
  );
  counter("backend_ejections_total", "Times the backend was ejected.", labelNames, (add) => {
    for (const row of rows()) add(row.passive.ejections, labelsOf(row));
  });
}
