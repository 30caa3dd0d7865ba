import { closeSync, fstatSync, openSync, readFileSync, realpathSync, statSync } from "node:fs";
import path from "node:path";
import type { SchedulerName } from "../../service/bank.ts";
import type { PolicyDefinition, PolicySource } from "../../service/definition.ts";
import type { ServiceValues } from "./schema.ts";

/**
 * The files of a policy, read with the configuration: what is type-checked, compiled and run is what
 * was there at that moment. docs/policy.md says which files are trusted, and why.
 */

const FILES_MAX = 64;
const BYTES_MAX = 1024 * 1024;

/** What is said of the files, or why they cannot be had. */
export type PolicyReading =
  | { readonly sources: readonly PolicySource[]; readonly problem: null }
  | { readonly sources: null; readonly problem: string };

/** The word of `scheduler`; a policy's fallback where the service has one. */
export function schedulerWordOf({ scheduler }: Pick<ServiceValues, "scheduler">): SchedulerName {
  return typeof scheduler === "object" ? scheduler.fallback : scheduler;
}

/** The same in messages. */
export function schedulerText({ scheduler }: Pick<ServiceValues, "scheduler">): string {
  return typeof scheduler === "object" ? "a policy" : scheduler;
}

/** Files are read once for the checks and the definition together: they must not differ. */
const readings = new WeakMap<ServiceValues, PolicyReading>();

/** The absolute path of a service's module; null where it has none. */
export function policyModule({ scheduler }: ServiceValues, file: string): string | null {
  if (typeof scheduler !== "object" || scheduler.module === undefined) return null;
  return path.resolve(path.dirname(file), scheduler.module);
}

/**
 * The module of a service, and all that it imports by relative paths.
 *
 * @param file - the configuration
 * @param isStrict - files that somebody else can write are refused
 */
export function policyReading(
  values: ServiceValues,
  file: string,
  isStrict: boolean,
): PolicyReading | null {
  const module = policyModule(values, file);
  if (module === null) return null;
  const reading = readings.get(values) ?? readSources(module, isStrict);
  readings.set(values, reading);
  return reading;
}

/** The policy of a service in which no problem was found. */
export function buildPolicy(values: ServiceValues, file: string): PolicyDefinition | null {
  const { scheduler } = values;
  const module = policyModule(values, file);
  if (module === null || typeof scheduler !== "object") return null;
  return {
    module,
    sources: policyReading(values, file, false)?.sources ?? [],
    shadow: scheduler.shadow,
    timeoutMs: scheduler.timeout,
    intervalMs: scheduler.interval,
  };
}

class Refused extends Error {}

function readSources(module: string, isStrict: boolean): PolicyReading {
  const sources = new Map<string, PolicySource>();
  const waiting = [module];
  let bytes = 0;
  try {
    for (let file = waiting.shift(); file !== undefined; file = waiting.shift()) {
      if (sources.has(file)) continue;
      const text = readSourceFile(file, isStrict, file === module);
      // The compiler says where a file is missing that another one imports.
      if (text === null) continue;
      bytes += text.length;
      if (sources.size === FILES_MAX || bytes > BYTES_MAX) {
        const most = `expected at most ${FILES_MAX} files with ${BYTES_MAX} bytes`;
        return { sources: null, problem: `${most} in ${module} and what it imports, got more` };
      }
      sources.set(file, { path: file, text });
      waiting.push(...importsOf(file, text));
    }
  } catch (error) {
    if (!(error instanceof Refused)) throw error;
    return { sources: null, problem: error.message };
  }
  return { sources: [...sources.values()], problem: null };
}

/** What could be relative imports; more than there are costs nothing. */
function importsOf(file: string, text: string): string[] {
  const found = text.matchAll(/\b(?:from|import)\s*\(?\s*["'](\.{1,2}\/[^"'\n\0]+)["']/g);
  return [...found].map(([, specifier = ""]) => {
    const named = /\.[cm]?[jt]s$/.test(specifier) ? specifier : `${specifier}.ts`;
    return path.resolve(path.dirname(file), named.replace(/\.js$/, ".ts"));
  });
}

/** @returns null for an import that is not there */
function readSourceFile(file: string, isStrict: boolean, isModule: boolean): string | null {
  let fd: number;
  try {
    fd = openSync(file, "r");
  } catch (error) {
    const code = (error as NodeJS.ErrnoException).code ?? String(error);
    if (code === "ENOENT" && !isModule) return null;
    throw new Refused(`expected a file that can be read, got ${code} for ${file}`);
  }
  try {
    const { mode, uid, size } = fstatSync(fd);
    if ((mode & 0o170000) !== 0o100000) throw new Refused(`expected a file, got ${file}`);
    if (size > BYTES_MAX) throw new Refused(`expected at most ${BYTES_MAX} bytes, got ${size}`);
    if (isStrict) requireTrusted(file, { mode, uid });
    return readFileSync(fd, "utf8");
  } finally {
    closeSync(fd);
  }
}

/** Whoever can write the file, or put another in its place, is the gateway. */
function requireTrusted(file: string, stat: { readonly uid: number; readonly mode: number }): void {
  const trusted = new Set([0, process.geteuid?.() ?? 0]);
  const advice = "it runs as the gateway";
  if (!trusted.has(stat.uid)) {
    throw new Refused(
      `expected ${file} to be root's (${advice}), got owner ${stat.uid}; run \`chown root ${file}\``,
    );
  }
  if ((stat.mode & 0o022) !== 0) {
    const mode = (stat.mode & 0o7777).toString(8).padStart(4, "0");
    throw new Refused(
      `expected ${file} to be writable by its owner alone (${advice}), got mode ${mode}; ` +
        `run \`chmod go-w ${file}\``,
    );
  }
  for (let folder = path.dirname(realpathSync(file)); ; folder = path.dirname(folder)) {
    const { mode, uid } = statSync(folder);
    const isSticky = (mode & 0o1000) !== 0;
    if (!trusted.has(uid) || ((mode & 0o002) !== 0 && !isSticky)) {
      throw new Refused(
        `expected the folder ${folder} above ${file} to be root's and not writable by everybody ` +
          `(${advice}), got owner ${uid}, mode ${(mode & 0o7777).toString(8).padStart(4, "0")}`,
      );
    }
    if (folder === path.dirname(folder)) return;
  }
}
