import type { ConfigProblem } from "../../base/errors.ts";
import { type Finding, findingsOf } from "./fields.ts";
import { isPlain, mergeService } from "./merge.ts";
import { type FileValues, fileSchema } from "./schema.ts";
import type { KeyPath, Source } from "./source.ts";

/**
 * From YAML to values: every key checked by itself, wrong ones reported and taken out, services
 * merged with what they share, defaults filled in.
 */
export interface Reading {
  readonly source: Source;
  /** The file's values without the wrong ones, services merged, before defaults. */
  readonly written: Readonly<Record<string, unknown>>;
  /** The same with defaults. */
  readonly values: FileValues;
  /** Was this key there, and right? Of a service also when `defaults` or `timeouts` gave it. */
  isWritten(path: KeyPath): boolean;
  /** Was the value at `path`, or one around it, taken out because it is wrong? */
  isGone(path: KeyPath): boolean;
  /** Is anything wrong at `path`, around it or in it, or in what `defaults` gives there? */
  isBad(path: KeyPath): boolean;
}

/** Adds what is wrong with single keys to `problems`. */
export function readValues(source: Source, problems: ConfigProblem[]): Reading {
  const first = fileSchema.safeParse(source.value ?? undefined);
  const findings = first.success ? [] : findingsOf(first.error);
  for (const { path, message, atKey } of findings) {
    // A key that is no word is a problem of the source already.
    if (atKey && !source.has(path)) continue;
    const place = atKey ? source.keyPlace(path) : source.place(path);
    problems.push({ ...source.problem(path, message), ...place });
  }

  const written = mergeServices(prune(source.value, findings));
  return {
    source,
    written,
    // Whatever was wrong is gone, and every key may be missing: this cannot fail.
    values: fileSchema.parse(written),
    isWritten: (path) => valueAt(written, path) !== undefined,
    isGone: (path) => findings.some((it) => startsWith(path, it.path)),
    isBad: (path) => {
      const shared: KeyPath = path[0] === "services" ? ["defaults", ...path.slice(2)] : path;
      return findings.some(
        (it) =>
          startsWith(it.path, path) || startsWith(path, it.path) || startsWith(it.path, shared),
      );
    },
  };
}

/** Path of an entry of a key that takes one value or a list. */
export function entryPath(reading: Reading, path: KeyPath, index: number): KeyPath {
  return index > 0 || reading.isWritten([...path, 0]) ? [...path, index] : path;
}

function startsWith(path: KeyPath, start: KeyPath): boolean {
  return start.every((step, index) => path[index] === step);
}

function valueAt(root: unknown, path: KeyPath): unknown {
  let value = root;
  for (const step of path) {
    if (value === null || typeof value !== "object" || !Object.hasOwn(value, step)) {
      return undefined;
    }
    value = (value as Record<string | number, unknown>)[step];
  }
  return value;
}

/** A copy without the values that were found wrong; list entries become undefined. */
function prune(root: unknown, findings: readonly Finding[]): Record<string, unknown> {
  if (!isPlain(root)) return {};
  const wrong = new Set(findings.map((it) => JSON.stringify(it.path)));
  if (wrong.has("[]")) return {};
  const copy = (value: unknown, path: KeyPath): unknown => {
    if (wrong.has(JSON.stringify(path))) return undefined;
    if (Array.isArray(value)) return value.map((item, index) => copy(item, [...path, index]));
    return isPlain(value) ? copyMap(value, path) : value;
  };
  const copyMap = (map: Readonly<Record<string, unknown>>, path: KeyPath) => {
    const kept: Record<string, unknown> = {};
    for (const [key, value] of Object.entries(map)) {
      const result = copy(value, [...path, key]);
      if (result !== undefined) kept[key] = result;
    }
    return kept;
  };
  return wrong.size === 0 ? { ...root } : copyMap(root, []);
}

function mergeServices(root: Readonly<Record<string, unknown>>): Record<string, unknown> {
  const services = root["services"];
  if (!Array.isArray(services)) return { ...root };
  const { timeouts, defaults } = root;
  return {
    ...root,
    services: services.map((service) => mergeService(timeouts, defaults, service)),
  };
}
