import type { ReloadReport } from "../base/admin-types.ts";
import { AssertionError } from "../base/assert.ts";
import { ConfigError, type ConfigProblem, formatConfigProblem } from "../base/errors.ts";
import { type Log, reasonOf } from "../base/log.ts";
import type { GatewayDefinition } from "../service/definition.ts";
import { type DefinitionDiff, diffDefinitions } from "./definition-diff.ts";

/** Reads the configuration file again, and takes it over whole or not at all. */
export interface Reloader {
  /**
   * @param dryRun - only say what would change
   * @returns the report; `ok: false` with the problems when the old configuration stays
   */
  reload(dryRun: boolean): Promise<ReloadReport>;
  /** Configurations taken over since the state file was made. */
  generation(): number;
  last(): LastReload;
  counts(): { readonly succeeded: number; readonly failed: number };
}

export interface LastReload {
  /** ISO time, or "" before the first. */
  readonly at: string;
  readonly ok: boolean;
  /** Wall clock of the last configuration taken over: a reload's, or the start's. */
  readonly successMs: number;
}

export interface ReloadParts {
  readonly log: Log;
  readonly current: () => GatewayDefinition;
  /** @throws ConfigError */
  readonly load: () => GatewayDefinition | Promise<GatewayDefinition>;
  /** Keys that need a restart. */
  readonly restartProblems: (
    before: GatewayDefinition,
    after: GatewayDefinition,
  ) => readonly ConfigProblem[];
  /** What the host says against it. */
  readonly hostProblems: (definition: GatewayDefinition) => Promise<readonly ConfigProblem[]>;
  /** Take it over; rejected when the old definition goes on. */
  readonly apply: (definition: GatewayDefinition) => Promise<void>;
  readonly readGeneration: () => number;
  readonly writeGeneration: (generation: number) => void;
}

const NO_DIFF: DefinitionDiff = { added: [], changed: [], removed: [] };

/** Make a reloader; reloads run one after another. */
export function createReloader(parts: ReloadParts): Reloader {
  const { log } = parts;
  let last: LastReload = { at: "", ok: true, successMs: Date.now() };
  let tail: Promise<unknown> = Promise.resolve();
  let succeeded = 0;
  let failed = 0;

  async function prepare(): Promise<{ after: GatewayDefinition; diff: DefinitionDiff }> {
    const before = parts.current();
    const after = await parts.load();
    const restart = parts.restartProblems(before, after);
    if (restart.length > 0) throw new ConfigError(restart);
    const host = await parts.hostProblems(after);
    if (host.length > 0) throw new ConfigError(host);
    return { after, diff: diffDefinitions(before, after) };
  }

  async function run(dryRun: boolean): Promise<ReloadReport> {
    let diff = NO_DIFF;
    let problems: readonly string[] = [];
    try {
      const prepared = await prepare();
      diff = prepared.diff;
      if (!dryRun) {
        await parts.apply(prepared.after);
        parts.writeGeneration(parts.readGeneration() + 1);
      }
    } catch (error) {
      if (error instanceof AssertionError) throw error;
      problems =
        error instanceof ConfigError ? error.problems.map(formatConfigProblem) : [reasonOf(error)];
    }
    const ok = problems.length === 0;
    const report = { ok, dryRun, generation: parts.readGeneration(), ...diff, problems };
    if (!dryRun) note(report);
    return report;
  }

  function note(report: ReloadReport): void {
    const now = new Date();
    last = {
      at: now.toISOString(),
      ok: report.ok,
      successMs: report.ok ? now.getTime() : last.successMs,
    };
    const { generation, added, changed, removed, problems } = report;
    if (report.ok) {
      succeeded++;
      log.info("reloaded", { generation, added, changed, removed });
    } else {
      failed++;
      log.error("reload_refused", { generation, problems });
    }
  }

  return {
    reload(dryRun) {
      const result = tail.then(() => run(dryRun));
      tail = result.catch(() => {});
      return result;
    },
    generation: parts.readGeneration,
    last: () => last,
    counts: () => ({ succeeded, failed }),
  };
}
