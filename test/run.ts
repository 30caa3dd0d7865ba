import { spawn } from "node:child_process";
import { readdirSync } from "node:fs";
import path from "node:path";
import { fileURLToPath } from "node:url";

/**
 * Runs every compiled test file with Node's own runner, a few at a time.
 *
 *   node dist/test/run.js [--lts] [PART...]
 *
 * PART: only files whose path contains it. `--lts`: the unit and in-memory tests, on the current
 * long-term release of Node (`npm run test:lts` brings it), with the same addon (Node-API). Files
 * under `test/e2e` use namespaces and devices: they need root, and in CI a skip of them fails.
 */
const here = path.dirname(fileURLToPath(import.meta.url));

function testFiles(folder: string): string[] {
  return readdirSync(folder, { withFileTypes: true })
    .flatMap((entry) => {
      const full = path.join(folder, entry.name);
      if (entry.isDirectory()) return testFiles(full);
      return entry.name.endsWith(".test.js") ? [full] : [];
    })
    .sort();
}

interface Outcome {
  readonly code: number;
  readonly tests: number;
  readonly passed: number;
  readonly failed: number;
  readonly skipped: number;
}

/** Runs files under one `node --test`, its report on our own output. */
function runFiles(node: string, files: readonly string[], concurrency: number): Promise<Outcome> {
  return new Promise((resolve, reject) => {
    const child = spawn(
      node,
      ["--enable-source-maps", "--test", `--test-concurrency=${concurrency}`, ...files],
      { stdio: ["ignore", "pipe", "inherit"] },
    );
    let text = "";
    child.stdout.on("data", (chunk: Buffer) => {
      text += chunk.toString("utf8");
      process.stdout.write(chunk);
    });
    child.on("error", reject);
    child.on("close", (code) => {
      const count = (name: string): number => {
        const found = [...text.matchAll(new RegExp(`^(?:# |ℹ )${name} (\\d+)$`, "gm"))];
        return found.length === 0 ? 0 : Number(found[found.length - 1]?.[1]);
      };
      resolve({
        code: code ?? 1,
        tests: count("tests"),
        passed: count("pass"),
        failed: count("fail") + count("cancelled"),
        skipped: count("skipped"),
      });
    });
  });
}

const parts = process.argv.slice(2).filter((part) => !part.startsWith("--"));
const lts = process.argv.includes("--lts");
const files = testFiles(here).filter(
  (file) => parts.length === 0 || parts.some((part) => file.includes(part)),
);
const isEndToEnd = (file: string): boolean => file.includes(`${path.sep}e2e${path.sep}`);
const inMemory = files.filter((file) => !isEndToEnd(file));
const endToEnd = lts ? [] : files.filter(isEndToEnd);

const outcomes: Outcome[] = [];
if (inMemory.length > 0) outcomes.push(await runFiles(process.execPath, inMemory, 2));
// One at a time: they share the machine's two cores with the servers that they start.
if (endToEnd.length > 0) outcomes.push(await runFiles(process.execPath, endToEnd, 1));

const total = (pick: (outcome: Outcome) => number): number =>
  outcomes.reduce((sum, outcome) => sum + pick(outcome), 0);
const passed = total((outcome) => outcome.passed);
const failed = total((outcome) => outcome.failed);
const skipped = total((outcome) => outcome.skipped);
console.log(`\n${passed} passed, ${failed} failed, ${skipped} skipped, ${files.length} files`);

if (total((outcome) => outcome.tests) === 0) {
  console.error("no test ran");
  process.exitCode = 1;
}
if (outcomes.some((outcome) => outcome.code !== 0)) process.exitCode = 1;
if (process.env["CI"] !== undefined && skipped > 0) {
  console.error(`${skipped} tests were skipped; in CI every test has to run (root, namespaces)`);
  process.exitCode = 1;
}
