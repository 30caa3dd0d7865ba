import { isDeepStrictEqual } from "node:util";
import type { ConfigProblem } from "../../base/errors.ts";
import type { GatewayDefinition } from "../../service/definition.ts";
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

function text(value: unknown): string {
  return value === undefined ? "the default" : (JSON.stringify(value) ?? "the default");
}
