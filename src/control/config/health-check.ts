import type { HealthType } from "../../service/health-definition.ts";
import { checkedPort, checkTimeout } from "./build-health.ts";
import { type CheckedService, type CrossCheck, placeOf } from "./cross-check.ts";
import { formatDuration } from "./duration.ts";
import type { ServiceValues } from "./schema.ts";
import type { KeyPath } from "./source.ts";

type HealthValues = Exclude<ServiceValues["health"], undefined | "none">;

interface TimingValues {
  readonly timeout?: number | undefined;
  readonly interval: number;
  readonly fastInterval?: number | undefined;
  readonly downInterval?: number | undefined;
}

/** Keys of `health` that only some types have. */
const TYPES_OF_KEY: { readonly [key in keyof HealthValues]?: readonly HealthType[] } = {
  path: ["http"],
  host: ["http"],
  status: ["http"],
};

/** What is wrong between the keys of a service's `health`, and between them and its backends. */
export function checkHealth(check: CrossCheck, service: CheckedService): void {
  const { health } = service.values;
  if (health === undefined || health === "none") return;
  const path = [...service.path, "health"];
  checkKeys(check, path, health);
  checkTiming(check, path, health);
  if (health.through === "direct") checkPort(check, service, path);
}

function checkKeys({ reading, report }: CrossCheck, path: KeyPath, health: HealthValues): void {
  if (reading.isBad([...path, "type"])) return;
  for (const [key, only] of Object.entries(TYPES_OF_KEY)) {
    if (health[key as keyof HealthValues] === undefined || only.includes(health.type)) continue;
    const at = placeOf(reading, [...path, "type"]);
    report(
      [...path, key],
      `expected no ${JSON.stringify(key)} for type ${health.type}${at}, got one (only for ${only.join(", ")})`,
    );
  }
}

/** A check that may take longer than its interval would be late by its own rule. */
export function checkTiming(
  { reading, report }: Pick<CrossCheck, "reading" | "report">,
  path: KeyPath,
  health: TimingValues,
): void {
  const timeoutMs = checkTimeout(health);
  for (const key of ["interval", "fastInterval", "downInterval"] as const) {
    const intervalMs = health[key];
    if (intervalMs === undefined || timeoutMs <= intervalMs) continue;
    if (reading.isBad([...path, key]) || reading.isBad([...path, "timeout"])) return;
    const at = placeOf(reading, [...path, key]);
    const message = `expected at most the ${key} of ${formatDuration(intervalMs)}${at}, got ${formatDuration(timeoutMs)}`;
    report([...path, "timeout"], message);
  }
}

function checkPort({ reading, report }: CrossCheck, service: CheckedService, path: KeyPath): void {
  const { values } = service;
  const portless = values.backends.findIndex(
    (it) => it.port === undefined && it.check.port === undefined,
  );
  if (portless < 0 || reading.isBad([...service.path, "backends"])) return;
  if (reading.isBad([...service.path, "port"]) || values.port === undefined) return;
  if (checkedPort(values, values.port) !== 0) return;
  const at = placeOf(reading, [...service.path, "backends", portless]);
  const message = `expected a port to check for backends[${portless}]${at}, got none: give health or the backend a port`;
  report(path, message);
}
