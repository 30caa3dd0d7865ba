import { type Document, isAlias, isMap, isScalar, isSeq, parseDocument } from "yaml";
import type { ConfigProblem } from "../../base/errors.ts";

/** Where a value stands: keys and list indexes from the top of the document. */
export type KeyPath = readonly (string | number)[];

/** Lines and columns count from 1; a column is a UTF-16 unit. */
export interface Place {
  readonly line: number;
  readonly column: number;
}

/** A YAML document with the position of every node in it. */
export interface Source {
  readonly file: string;
  /** Plain JavaScript value of the document; null when it is empty or cannot be read. */
  readonly value: unknown;
  /** What YAML itself has to say: syntax, duplicate keys. */
  readonly problems: readonly ConfigProblem[];
  /** False when the text is not YAML, so that its value means nothing. */
  readonly isReadable: boolean;
  /** Place of the value at `path`, or of the nearest thing around it that the file has. */
  place(path: KeyPath): Place;
  /** Place of the key itself. */
  keyPlace(path: KeyPath): Place;
  /** Does the file have this key or list entry? */
  has(path: KeyPath): boolean;
  /** A finding about the value at `path`. */
  problem(path: KeyPath, message: string): ConfigProblem;
  /** `gw.yaml:12:5`, for messages that name a second place. */
  reference(path: KeyPath): string;
}

/** `services[0].port[1]`; keys that are no plain words stand in brackets and quotes. */
export function formatPath(path: KeyPath): string {
  let text = "";
  for (const step of path) {
    if (typeof step === "number") text += `[${step}]`;
    else if (/^[A-Za-z_<][A-Za-z0-9_<-]*$/.test(step)) text += text === "" ? step : `.${step}`;
    else text += `[${JSON.stringify(step)}]`;
  }
  return text;
}

/** Aliases that one document may resolve: more is an attack, not a configuration. */
const ALIASES_MAX = 1000;

/**
 * Parse YAML 1.2 (core schema: no timestamps, no merge keys, no octal surprises).
 *
 * Never throws: whatever is wrong with the text is in `problems`.
 */
export function readSource(text: string, file: string): Source {
  try {
    const document = parseDocument(text, {
      prettyErrors: false,
      schema: "core",
      merge: false,
      resolveKnownTags: false,
      uniqueKeys: false,
      logLevel: "error",
    });
    return sourceOf(document, lineStarts(text), file);
  } catch (error) {
    // The parser's own limits: nesting deeper than the stack, an alias that expands for ever.
    const reason = error instanceof Error ? error.message : String(error);
    return unreadable(file, [problemAt(file, { line: 1, column: 1 }, [], notYaml(reason))]);
  }
}

function notYaml(reason: string): string {
  return `expected valid YAML, got an error: ${reason}`;
}

function problemAt(file: string, place: Place, path: KeyPath, message: string): ConfigProblem {
  return { file, line: place.line, column: place.column, path: formatPath(path), message };
}

function unreadable(file: string, problems: readonly ConfigProblem[]): Source {
  const start: Place = { line: 1, column: 1 };
  return {
    file,
    value: null,
    problems,
    isReadable: false,
    place: () => start,
    keyPlace: () => start,
    has: () => false,
    problem: (path, message) => problemAt(file, start, path, message),
    reference: () => `${file}:1:1`,
  };
}

/**
 * Offset of the first character of every line. The parser's own line counter misses lines after
 * some syntax errors.
 */
function lineStarts(text: string): number[] {
  const starts = [0];
  for (let at = text.indexOf("\n"); at >= 0; at = text.indexOf("\n", at + 1)) starts.push(at + 1);
  return starts;
}

/** Number of the last line that starts at or before an offset, by bisection. */
function lineOf(starts: readonly number[], offset: number): number {
  let low = 0;
  let high = starts.length;
  while (high - low > 1) {
    const middle = (low + high) >> 1;
    if (starts[middle]! <= offset) low = middle;
    else high = middle;
  }
  return low;
}

function sourceOf(document: Document.Parsed, starts: readonly number[], file: string): Source {
  const placeAt = (offset: number): Place => {
    const line = lineOf(starts, offset);
    return { line: line + 1, column: offset - starts[line]! + 1 };
  };
  const complaints = [...document.errors, ...document.warnings];
  if (complaints.length > 0) {
    return unreadable(
      file,
      complaints.map((it) => {
        const isMany = it.code === "MULTIPLE_DOCS";
        const message = isMany ? "expected one YAML document, got several" : notYaml(it.message);
        return problemAt(file, placeAt(it.pos[0]), [], message);
      }),
    );
  }

  const startOf = (node: unknown): number | null => {
    const range = (node as { range?: readonly number[] | null } | null)?.range;
    // An empty value (`key:`) has no text of its own.
    return range == null || range[0] === range[1] ? null : range[0]!;
  };

  /** Offsets of value and key of the deepest part of `path` that is there. */
  const find = (path: KeyPath): { depth: number; value: number; key: number } => {
    let node: unknown = document.contents;
    let value = startOf(node) ?? 0;
    let key = value;
    for (const [depth, step] of path.entries()) {
      if (isAlias(node)) node = node.resolve(document);
      let next: unknown;
      if (isMap(node)) {
        // The last of duplicate keys is the one whose value counts.
        const pair = node.items.findLast((item) => keyText(item.key) === String(step));
        if (pair === undefined) return { depth, value, key };
        next = pair.value;
        key = startOf(pair.key) ?? value;
      } else if (isSeq(node) && typeof step === "number" && step < node.items.length) {
        next = node.items[step];
        key = startOf(next) ?? value;
      } else {
        return { depth, value, key };
      }
      value = startOf(next) ?? key;
      node = next;
    }
    return { depth: path.length, value, key };
  };
  const place = (path: KeyPath): Place => placeAt(find(path).value);
  return {
    file,
    value: document.toJS({ maxAliasCount: ALIASES_MAX }) as unknown,
    problems: keyProblems(document, file, placeAt, startOf),
    isReadable: true,
    place,
    keyPlace: (path) => placeAt(find(path).key),
    has: (path) => find(path).depth === path.length,
    problem: (path, message) => problemAt(file, place(path), path, message),
    reference: (path) => {
      const { line, column } = place(path);
      return `${file}:${line}:${column}`;
    },
  };
}

/** A key as `toJS` spells it, or null for a key that is a list or a map. */
function keyText(key: unknown): string | null {
  return isScalar(key) ? String(key.value ?? "") : null;
}

/** Duplicate keys and keys that are no words. */
function keyProblems(
  document: Document.Parsed,
  file: string,
  placeAt: (offset: number) => Place,
  startOf: (node: unknown) => number | null,
): ConfigProblem[] {
  const problems: ConfigProblem[] = [];
  const visit = (node: unknown, path: KeyPath): void => {
    if (isSeq(node)) {
      for (const [index, item] of node.items.entries()) visit(item, [...path, index]);
    } else if (isMap(node)) {
      const first = new Map<string, Place>();
      for (const pair of node.items) {
        const at = placeAt(startOf(pair.key) ?? startOf(node) ?? 0);
        const key = keyText(pair.key);
        if (key === null) {
          problems.push(problemAt(file, at, path, "expected a word as key, got a list or a map"));
          continue;
        }
        const earlier = first.get(key);
        if (earlier === undefined) first.set(key, at);
        else {
          const before = `${file}:${earlier.line}:${earlier.column}`;
          const message = `expected each key once, got ${JSON.stringify(key)} again (first at ${before})`;
          problems.push(problemAt(file, at, [...path, key], message));
        }
        visit(pair.value, [...path, key]);
      }
    }
  };
  visit(document.contents, []);
  return problems;
}
