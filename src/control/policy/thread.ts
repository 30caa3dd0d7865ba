import { SourceMap, type SourceMapPayload } from "node:module";
import path from "node:path";
import { inspect } from "node:util";
import vm from "node:vm";
import { parentPort, workerData } from "node:worker_threads";
import { assert } from "../../base/assert.ts";
import type { Policy } from "./policy.d.ts";
import type { CompiledFile, Failure, FromThread, ThreadData, ToThread } from "./protocol.ts";

/**
 * The thread of one policy: loads its compiled files, and calls `rebuild` when it is told to. It has no
 * addon, no capability and nothing of the state file; what it can do as the user that it runs as is said
 * in docs/policy.md. It is not asked to check itself: control looks at every number again.
 */

/** Lines of console output that one call may have, and characters of one. */
const LINES_MAX = 20;
const LINE_CHARACTERS_MAX = 500;

assert(parentPort !== null, "a policy runs as a thread of the nursery");
const port = parentPort;
const { files, tableSizeMax } = workerData as ThreadData;
const maps = new Map<string, SourceMap>();
let lines: string[] = [];

function write(...values: readonly unknown[]): void {
  if (lines.length === LINES_MAX) return;
  const text = values.map((it) => (typeof it === "string" ? it : inspect(it))).join(" ");
  lines.push(text.slice(0, LINE_CHARACTERS_MAX));
}

/** `policy.ts:12:9: message`: the place in the source of what was thrown. */
function describe(error: unknown): string {
  if (!(error instanceof Error)) return `threw ${inspect(error)}`.slice(0, LINE_CHARACTERS_MAX);
  const text = `${error.name}: ${error.message}`.slice(0, LINE_CHARACTERS_MAX);
  for (const [, file, line, column] of (error.stack ?? "").matchAll(
    /\(?(\/[^\s()]*):(\d+):(\d+)/g,
  )) {
    const entry = maps.get(file!)?.findEntry(Number(line) - 1, Number(column) - 1);
    if (entry === undefined || !("originalLine" in entry)) continue;
    return `${path.basename(file!)}:${entry.originalLine + 1}:${entry.originalColumn + 1}: ${text}`;
  }
  return text;
}

/** Run the module that stands first; the others when they are asked for, once each. */
function load(all: readonly CompiledFile[]): Partial<Policy> {
  const byPath = new Map(all.map((file) => [file.path, file]));
  const modules = new Map<string, { exports: object }>();
  function run(file: CompiledFile): object {
    const known = modules.get(file.path);
    if (known !== undefined) return known.exports;
    const module = { exports: {} };
    modules.set(file.path, module);
    maps.set(file.path, new SourceMap(JSON.parse(file.map) as SourceMapPayload));
    const require = (specifier: string): object => {
      const target = path.resolve(path.dirname(file.path), specifier);
      const isRelative = /^\.{1,2}\//.test(specifier);
      const found = [target.replace(/\.js$/, ".ts"), `${target}.ts`].find((it) => byPath.has(it));
      if (!isRelative || found === undefined) {
        throw new Error(
          `a policy imports its own files alone, by relative paths, not ${specifier}`,
        );
      }
      return run(byPath.get(found)!);
    };
    const names = ["exports", "require", "module"];
    vm.compileFunction(file.code, names, { filename: file.path })(module.exports, require, module);
    return module.exports;
  }
  return run(all[0]!);
}

function say(message: FromThread): void {
  port.postMessage(message);
}

function fail(call: number, failure: Failure, message: string): void {
  say({ kind: "failed", call, failure, message, lines });
}

/** A copy of the numbers of an answer, or what is wrong with its shape. */
function numbersOf(answer: unknown, count: number): FromThread | string {
  if (answer === null || typeof answer !== "object") {
    return `expected weights or a table, got ${inspect(answer, { depth: 0 })}`;
  }
  const decided = "weights" in answer ? "weights" : "table";
  const list = (answer as Readonly<Record<string, unknown>>)[decided];
  if (list === null || typeof list !== "object" || !("length" in list)) {
    return `expected a list as ${decided}, got ${inspect(list, { depth: 0 })}`;
  }
  const length = Number(list.length);
  const most = decided === "weights" ? count : tableSizeMax;
  // Longer ones are not even copied.
  if (!(length >= 1 && length <= most)) {
    const right = decided === "weights" ? `${count} weights` : `a table of 1 to ${most} entries`;
    return `expected ${right}, got ${length}`;
  }
  const numbers = new Float64Array(length);
  for (let index = 0; index < length; index++) {
    const one = (list as ArrayLike<unknown>)[index];
    numbers[index] = typeof one === "number" ? one : Number.NaN;
  }
  return { kind: "answer", call: 0, decided, numbers, durationMs: 0, lines };
}

function answer(policy: Policy, { call, backends, statistics }: ToThread): void {
  lines = [];
  const startedMs = performance.now();
  try {
    const numbers = numbersOf(policy.rebuild(backends, statistics), backends.length);
    const durationMs = performance.now() - startedMs;
    if (typeof numbers === "string") fail(call, "nonsense", numbers);
    else if (numbers.kind === "answer") say({ ...numbers, call, durationMs });
  } catch (error) {
    fail(call, "throws", describe(error));
  }
}

function start(): void {
  const console = { log: write, info: write, debug: write, warn: write, error: write };
  Object.assign(globalThis, { console });
  try {
    const policy = load(files);
    if (typeof policy.rebuild !== "function") {
      fail(0, "load", `expected the module to export a function rebuild, got ${inspect(policy)}`);
      return;
    }
    const { rebuild } = policy;
    port.on("message", (message: ToThread) => answer({ rebuild }, message));
    say({ kind: "loaded" });
  } catch (error) {
    fail(0, "load", describe(error));
  }
}

start();
