import { execFile } from "node:child_process";
import { createHash } from "node:crypto";
import { existsSync, mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import path from "node:path";
import { fileURLToPath } from "node:url";
import { ConfigError, type ConfigProblem, HostError } from "../../base/errors.ts";
import type { GatewayDefinition, PolicyDefinition } from "../../service/definition.ts";
import type { CompiledFile } from "./protocol.ts";

/**
 * Type check and compilation of policies, by TypeScript's own compiler in a process of its own: a copy
 * of the files as the configuration had them lies in a folder that nobody else may enter, and goes with
 * it. What comes out is kept by what went in, so that a reload that changes no policy compiles nothing.
 */

/** The module first, then what it imports. */
export interface CompiledPolicy {
  /** Of the sources: another one is another policy. */
  readonly digest: string;
  readonly files: readonly CompiledFile[];
}

/** A compiler that takes longer hangs. */
const COMPILE_TIMEOUT_MS = 60_000;
const OUTPUT_BYTES_MAX = 4 * 1024 * 1024;
const KEPT_MAX = 64;
/** More errors of one policy are no help. */
const PROBLEMS_MAX = 50;

/** dist/src/control/policy is four folders down; the types are shipped as they are written. */
const TYPES = fileURLToPath(new URL("../../../../src/control/policy/policy.d.ts", import.meta.url));

const OPTIONS = {
  target: "es2022",
  module: "commonjs",
  moduleResolution: "bundler",
  moduleDetection: "force",
  lib: ["es2023"],
  types: [],
  strict: true,
  skipLibCheck: true,
  noEmitOnError: true,
  rewriteRelativeImportExtensions: true,
  sourceMap: true,
  rootDir: ".",
  outDir: "out",
  paths: { "headgate/policy": [TYPES] },
} as const;

/** All of the host that a policy may name. */
const GLOBALS = `declare const console: Readonly<
  Record<"log" | "info" | "debug" | "warn" | "error", (...values: readonly unknown[]) => void>
>;
`;

/** The last ones used, for definitions to come. */
const kept = new Map<string, CompiledPolicy>();
/** Whoever has a definition has what was compiled for it. */
const compiled = new WeakMap<PolicyDefinition, CompiledPolicy>();

/**
 * Check and compile the policies of a definition.
 *
 * @throws ConfigError with what the compiler has against them, at their own lines
 * @throws HostError - there is no compiler, or no room for its folder
 */
export async function compilePolicies({ services }: GatewayDefinition): Promise<void> {
  const problems: ConfigProblem[] = [];
  const results = new Map<string, CompiledPolicy | ConfigProblem[]>();
  for (const [index, { policy }] of services.entries()) {
    if (policy === null) continue;
    const digest = digestOf(policy);
    const key = `services[${index}].scheduler.module`;
    const result = results.get(digest) ?? kept.get(digest) ?? (await compile(policy, digest, key));
    // What is wrong with a module is said once, for the first service that has it.
    if (!("files" in result)) {
      if (!results.has(digest)) problems.push(...result);
    } else {
      compiled.set(policy, result);
      keep(result);
    }
    results.set(digest, result);
  }
  if (problems.length > 0) throw new ConfigError(problems);
}

/** @returns the policy that `compilePolicies` has compiled; null before */
export function compiledPolicy(policy: PolicyDefinition): CompiledPolicy | null {
  return compiled.get(policy) ?? null;
}

function keep(policy: CompiledPolicy): void {
  kept.delete(policy.digest);
  kept.set(policy.digest, policy);
  const [oldest] = kept.keys();
  if (kept.size > KEPT_MAX && oldest !== undefined) kept.delete(oldest);
}

function digestOf({ sources }: PolicyDefinition): string {
  const hash = createHash("sha256");
  for (const { path: file, text } of sources) hash.update(JSON.stringify([file, text]));
  return hash.digest("base64url");
}

async function compile(
  { module, sources }: PolicyDefinition,
  digest: string,
  key: string,
): Promise<CompiledPolicy | ConfigProblem[]> {
  const folder = makeFolder();
  try {
    // The sources keep their places relative to each other.
    const inside = (file: string): string => path.join(folder, "src", file);
    for (const { path: file, text } of sources) {
      mkdirSync(path.dirname(inside(file)), { recursive: true });
      writeFileSync(inside(file), text);
    }
    writeFileSync(path.join(folder, "globals.d.ts"), GLOBALS);
    writeFileSync(path.join(folder, "check.ts"), checkOf(module));
    const project = { compilerOptions: OPTIONS, files: ["globals.d.ts", "check.ts"] };
    writeFileSync(path.join(folder, "tsconfig.json"), JSON.stringify(project));
    const { output, ok } = await runCompiler(folder);
    if (!ok) return problemsOf(output, folder, module, key);
    const out = (file: string): string =>
      path.join(folder, "out", "src", file.replace(/\.ts$/, ".js"));
    const files = sources
      // What only declares types compiles to nothing.
      .filter(({ path: file }) => existsSync(out(file)))
      .map(({ path: file }) => ({
        path: file,
        code: readFileSync(out(file), "utf8"),
        map: readFileSync(`${out(file)}.map`, "utf8"),
      }));
    return { digest, files };
  } finally {
    rmSync(folder, { recursive: true, force: true });
  }
}

/** Whether the module is a policy is a question of types, too. */
function checkOf(module: string): string {
  const specifier = JSON.stringify(`./src${module}`);
  return (
    `import type { Policy } from "headgate/policy";\nimport * as policy from ${specifier};\n` +
    "export const checked: Policy = policy;\n"
  );
}

function makeFolder(): string {
  try {
    // Mode 0700.
    return mkdtempSync(path.join(tmpdir(), "headgate-policy-"));
  } catch (error) {
    const { message } = error as NodeJS.ErrnoException;
    throw new HostError(
      `cannot make a folder in ${tmpdir()} to compile policies in (${message}); ` +
        "set TMPDIR to a folder that can be written",
      { cause: error },
    );
  }
}

function compiler(): string {
  try {
    const found = fileURLToPath(import.meta.resolve("typescript/package.json"));
    const file = path.join(path.dirname(found), "bin", "tsc");
    if (existsSync(file)) return file;
  } catch {
    // Not there.
  }
  throw new HostError(
    "a policy as scheduler needs the TypeScript compiler, which is not installed; run " +
      "`npm install --no-save typescript@7` in the folder of headgate",
  );
}

async function runCompiler(folder: string): Promise<{ output: string; ok: boolean }> {
  const argv = [compiler(), "-p", folder, "--pretty", "false"];
  return new Promise((resolve, reject) => {
    execFile(
      process.execPath,
      argv,
      { cwd: folder, env: {}, timeout: COMPILE_TIMEOUT_MS, maxBuffer: OUTPUT_BYTES_MAX },
      (error, stdout, stderr) => {
        // The compiler's own code says that it has found errors; anything else is a failure of it.
        if (error === null || typeof error.code === "number") {
          if (error === null || ERROR_LINE.test(stdout)) {
            resolve({ output: stdout, ok: error === null });
            return;
          }
        }
        const said = `${stdout}${stderr}`.trim() || error.message;
        reject(new HostError(`the TypeScript compiler failed: ${said}`, { cause: error }));
      },
    );
  });
}

/** `src/etc/policy.ts(3,7): error TS2322: Type …`, and more of it in lines that are indented. */
const ERROR_LINE = /^(?:(\S.*?)\((\d+),(\d+)\): )?error (TS\d+: .*)$/m;

function problemsOf(output: string, folder: string, module: string, key: string): ConfigProblem[] {
  const problems: ConfigProblem[] = [];
  const source = path.join(folder, "src");
  // Types are named by the place of their copy: who reads it knows the file that was copied.
  for (const line of output.replaceAll(source, "").split("\n")) {
    const found = ERROR_LINE.exec(line);
    if (found === null) {
      const last = problems.pop();
      if (last !== undefined) {
        const message = `${last.message} ${line.trim()}`.trimEnd();
        problems.push({ ...last, message });
      }
      continue;
    }
    const [, file = "", row, column, message = ""] = found;
    const place = path.resolve(folder, file);
    const isOwn = place.startsWith(source);
    problems.push({
      file: isOwn ? place.slice(source.length) : module,
      line: isOwn ? Number(row) : 1,
      column: isOwn ? Number(column) : 1,
      path: key,
      message: isOwn
        ? message
        : `expected a module that is a Policy of headgate/policy: ${message}`,
    });
  }
  return problems.slice(0, PROBLEMS_MAX);
}
