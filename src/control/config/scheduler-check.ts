import { tableWords } from "../../service/hash-tables.ts";
import { canAdopt, schedulerOf } from "./build.ts";
import type { CheckedService, CrossCheck } from "./cross-check.ts";
import { schedulerText, schedulerWordOf } from "./policy-sources.ts";

/** Positions in a scheduler's table have 16 bits. */
const TABLE_BACKENDS_MAX = 65_536;

/** What is wrong between a service's scheduler and its other keys. */
export function checkScheduler({ reading, report }: CrossCheck, service: CheckedService): void {
  const { path, values } = service;
  const at = (key: string): string => {
    const place = [...path, key];
    return reading.source.has(place) ? ` (${reading.source.reference(place)})` : "";
  };
  const scheduler = schedulerText(values);
  if (values.maxLoad !== "off" && schedulerWordOf(values) !== "maglev") {
    const message = `expected off with scheduler ${scheduler}${at("scheduler")}, got ${values.maxLoad} (only for maglev)`;
    report([...path, "maxLoad"], message);
  } else if (values.outOfState === "adopt" && !canAdopt(values)) {
    const bounded = `scheduler maglev and maxLoad${at("maxLoad")}`;
    const plain = `scheduler ${scheduler}${at("scheduler")}`;
    const isPlain = values.maxLoad === "off" || typeof values.scheduler === "object";
    const chosen = isPlain ? plain : bounded;
    const why = values.mode === "full-nat" ? `mode full-nat${at("mode")}` : chosen;
    const message = `expected reset or drop with ${why}, got "adopt" (only source-hash, maglev without maxLoad, rendezvous and failover, outside full-nat)`;
    report([...path, "outOfState"], message);
  }
  const count = values.backends.length;
  if (count <= TABLE_BACKENDS_MAX || tableWords(schedulerOf(values), [1], 1) === 0) return;
  const message = `expected at most ${TABLE_BACKENDS_MAX} with scheduler ${scheduler}${at("scheduler")}, got ${count}`;
  report([...path, "backends"], message);
}
