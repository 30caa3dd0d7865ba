import { isDeepStrictEqual } from "node:util";
import type { ConfigProblem } from "../../base/errors.ts";
import { type Address, type GatewayDefinition, needsIpv6 } from "../../service/definition.ts";
import { effectiveConfig } from "./effective.ts";
import { problemOf } from "./load.ts";
import { isPlain } from "./merge.ts";
import { RESTART_KEYS } from "./schema.ts";
import type { KeyPath } from "./source.ts";

/**
 * What a reload from one configuration to another may not change: keys that need a restart.
 *
 * @returns a problem for each key that differs, at its place in the new file; empty when the reload
 *   may go on
 */
export function restartProblems(
  before: GatewayDefinition,
  after: GatewayDefinition,
): ConfigProblem[] {
  const old = effectiveConfig(before);
  const next = effectiveConfig(after);
  const problems: ConfigProblem[] = [];
  const compare = (path: KeyPath, was: unknown, is: unknown): void => {
    if (isDeepStrictEqual(was, is)) return;
    if (isPlain(was) && isPlain(is)) {
      for (const key of new Set([...Object.keys(was), ...Object.keys(is)])) {
        compare([...path, key], was[key], is[key]);
      }
      return;
    }
    const message = `expected ${text(was)}, as it is running, got ${text(is)}: a restart is needed to change it`;
    problems.push(problemOf(after, path, message));
  };
  for (const key of RESTART_KEYS) compare([key], old[key], next[key]);
  return problems;
}

/**
 * A region without room for IPv6 flows stays so until a restart.
 *
 * @param hasRoom - of the region in use
 */
export function ipv6Problems(after: GatewayDefinition, hasRoom: boolean): ConfigProblem[] {
  if (hasRoom || !needsIpv6(after)) return [];
  const message =
    "expected no IPv6 address, since the gateway was started without one and has no room for IPv6 flows, got one: a restart is needed, or flows.ipv6: true at the next";
  const { services, snat } = after;
  const isSix = ({ family }: Address): boolean => family === 6;
  if (snat.addresses.some(isSix)) return [problemOf(after, ["snat", "addresses"], message)];
  const index = services.findIndex((service) => needsIpv6({ ...after, services: [service] }));
  const key = services[index]?.vips.some(isSix) === true ? "vip" : "backends";
  return [problemOf(after, ["services", index, key], message)];
}

function text(value: unknown): string {
  return value === undefined ? "the default" : (JSON.stringify(value) ?? "the default");
}
