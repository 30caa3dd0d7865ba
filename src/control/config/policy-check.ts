import type { CheckedService, CrossCheck } from "./cross-check.ts";
import { policyReading } from "./policy-sources.ts";

/**
 * What is wrong about a policy as scheduler that can be said without the compiler: the file, who may
 * write it, and keys that mean something else with it.
 */
export function checkPolicy({ reading, report }: CrossCheck, service: CheckedService): void {
  const { path, values } = service;
  const at = [...path, "scheduler"];
  if (typeof values.scheduler !== "object" || reading.isBad(at)) return;
  const { module, timeout, interval } = values.scheduler;
  if (module === undefined) {
    report(at, 'expected the key "module" in the map, got none');
    return;
  }
  const { source } = reading;
  const isStrict = process.geteuid?.() === 0 || reading.values.user !== undefined;
  const files = policyReading(values, source.file, isStrict);
  if (files?.problem != null) report([...at, "module"], files.problem);
  if (timeout > interval) {
    const key = source.has([...at, "interval"]) ? [...at, "interval"] : at;
    const place = ` (${source.reference(key)})`;
    report(
      [...at, "timeout"],
      `expected at most the interval of ${interval} ms${place}, got ${timeout} ms`,
    );
  }
}
