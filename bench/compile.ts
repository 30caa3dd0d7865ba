import { execFileSync } from "node:child_process";
import { mkdirSync, readdirSync, renameSync, statSync } from "node:fs";
import path from "node:path";
import { PROJECT_ROOT } from "../test/support/lab.ts";

/** Newest change of a source, and of what it may include or be linked with. */
function changedMs(source: string): number {
  const folders = [path.dirname(source), path.join(PROJECT_ROOT, "addon")];
  const others = folders.flatMap((folder) =>
    readdirSync(folder)
      .filter((name) => /\.(h|cc)$/.test(name))
      .map((name) => path.join(folder, name)),
  );
  return Math.max(...[source, ...others].map((file) => statSync(file).mtimeMs));
}

/**
 * Compiles a program of `bench/` into build/ if a source is newer; returns its path.
 *
 * @param flags - how to optimise, and what to link
 */
export function compileBench(
  source: string,
  name: string,
  flags: readonly string[] = ["-O2"],
): string {
  const from = path.join(PROJECT_ROOT, "bench", source);
  const to = path.join(PROJECT_ROOT, "build", name);
  const built = statSync(to, { throwIfNoEntry: false });
  if (built === undefined || built.mtimeMs < changedMs(from)) {
    mkdirSync(path.dirname(to), { recursive: true });
    const fresh = `${to}.${process.pid}`;
    const words = ["-std=c++20", "-D_GNU_SOURCE", ...flags, from, "-o", fresh];
    execFileSync("g++", words, { timeout: 120_000 });
    renameSync(fresh, to);
  }
  return to;
}
