import { type ChildProcess, spawn } from "node:child_process";
import { readdirSync } from "node:fs";
import { availableParallelism } from "node:os";
import path from "node:path";
import { fileURLToPath } from "node:url";

/**
 * Runs every compiled test file in a process of its own, some side by side.
 *
 *   node dist/test/run.js [--lts] [--jobs N] [PART...]
 *
 * PART: only files whose path contains it. `--jobs`: how many files at once, as many as there are
 * cores unless said; beside end-to-end files, which wait for servers most of the time, one of the
 * others runs too. `--lts`: the unit and in-memory tests, on the current long-term release of Node
 * (`npm run test:lts` brings it), with the same addon (Node-API). Files under `test/e2e` use
 * namespaces and devices, each lab with names of its own: they need root, and in CI a skip of them
 * fails.
 *
 * A file's report comes when it has ended, under a line with its name and its time.
 */
const here = path.dirname(fileURLToPath(import.meta.url));

/**
 * The files that take longest, in this order before all others, so that none of them is left to the
 * end while the other places are empty. What the list forgets only costs time.
 */
const LONGEST = [
  "survives-kill",
  "lab-scenarios",
  "http-modes",
  "bench-lab",
  "lab-checksums",
  "transfer-iperf3",
  "device-sanitizer",
  "guard",
  "reload-storm",
];

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

const running = new Set<ChildProcess>();

/** Runs one file, its report on our own output. */
function runFile(file: string): Promise<Outcome> {
  const startedMs = performance.now();
  return new Promise((resolve, reject) => {
    const argv = ["--enable-source-maps", "--test-reporter=tap", file];
    const child = spawn(process.execPath, argv, { stdio: ["ignore", "pipe", "pipe"] });
    running.add(child);
    let text = "";
    let complaints = "";
    child.stdout.setEncoding("utf8").on("data", (chunk: string) => {
      text += chunk;
    });
    child.stderr.setEncoding("utf8").on("data", (chunk: string) => {
      complaints += chunk;
    });
    child.on("error", reject);
    child.on("close", (code, signal) => {
      running.delete(child);
      const seconds = ((performance.now() - startedMs) / 1000).toFixed(1);
      const how = code === 0 ? "" : `, ended with ${code ?? signal}`;
      process.stdout.write(`# ${path.relative(here, file)}: ${seconds} s${how}\n${text}`);
      process.stderr.write(complaints);
      const count = (name: string): number => {
        const found = [...text.matchAll(new RegExp(`^# ${name} (\\d+)$`, "gm"))];
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

/** Runs the files in their order, `jobs` of them at a time. */
async function runAll(files: readonly string[], jobs: number): Promise<Outcome[]> {
  const outcomes: Outcome[] = [];
  const waiting = files.slice();
  const worker = async (): Promise<void> => {
    for (let file = waiting.shift(); file !== undefined; file = waiting.shift()) {
      const outcome = await runFile(file);
      outcomes.push(outcome);
      if (outcome.code !== 0) failedFiles.push(path.relative(here, file));
    }
  };
  await Promise.all(Array.from({ length: jobs }, worker));
  return outcomes;
}

/** Place in the order: the longest first. */
function rank(file: string): number {
  const known = LONGEST.indexOf(path.basename(file, ".test.js"));
  return known < 0 ? LONGEST.length : known;
}

const isEndToEnd = (file: string): boolean => file.includes(`${path.sep}e2e${path.sep}`);

for (const signal of ["SIGINT", "SIGTERM"] as const) {
  process.once(signal, () => {
    for (const child of running) child.kill(signal);
    process.exitCode = 1;
  });
}

const words = process.argv.slice(2);
const jobsAt = words.indexOf("--jobs");
const jobs = jobsAt < 0 ? availableParallelism() : Number(words.splice(jobsAt, 2)[1]);
const parts = words.filter((part) => !part.startsWith("--"));
const lts = words.includes("--lts");
const files = testFiles(here)
  .filter((file) => parts.length === 0 || parts.some((part) => file.includes(part)))
  .sort((one, other) => rank(one) - rank(other));
const failedFiles: string[] = [];
const startedMs = performance.now();

const endToEnd = lts ? [] : files.filter(isEndToEnd);
const inMemory = files.filter((file) => !isEndToEnd(file));
const places = Math.max(1, jobs || 1);
const outcomes = (
  await Promise.all([
    runAll(endToEnd, places),
    runAll(inMemory, endToEnd.length === 0 ? places : 1),
  ])
).flat();

const total = (pick: (outcome: Outcome) => number): number =>
  outcomes.reduce((sum, outcome) => sum + pick(outcome), 0);
const passed = total((outcome) => outcome.passed);
const failed = total((outcome) => outcome.failed);
const skipped = total((outcome) => outcome.skipped);
const seconds = Math.round((performance.now() - startedMs) / 1000);
console.log(
  `\n${passed} passed, ${failed} failed, ${skipped} skipped, ${outcomes.length} files, ${seconds} s`,
);

if (total((outcome) => outcome.tests) === 0) {
  console.error("no test ran");
  process.exitCode = 1;
}
if (failedFiles.length > 0) {
  console.error(`failed: ${failedFiles.join(" ")}`);
  process.exitCode = 1;
}
if (process.env["CI"] !== undefined && skipped > 0) {
  console.error(`${skipped} tests were skipped; in CI every test has to run (root, namespaces)`);
  process.exitCode = 1;
}
