import assert from "node:assert/strict";
import { spawnSync } from "node:child_process";
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import path from "node:path";
import { test } from "node:test";
import { fileURLToPath } from "node:url";
import { describeMachine } from "../../bench/machine.ts";
import { checkMicro, MICRO_NAMES, measureMicro } from "../../bench/micro.ts";
import { documentOf, type Results, readResults, writeResults } from "../../bench/report.ts";
import { isWanted, median, medianRatio, spread, table } from "../../bench/statistics.ts";

const PROGRAM = fileURLToPath(new URL("../../bench/run.js", import.meta.url));

function bench(...args: string[]): { code: number | null; stdout: string; stderr: string } {
  const { status, stdout, stderr } = spawnSync(process.execPath, [PROGRAM, ...args], {
    encoding: "utf8",
    timeout: 120_000,
  });
  return { code: status, stdout, stderr };
}

test("medians, paired ratios and spreads", () => {
  assert.equal(median([3, 1, 2]), 2);
  assert.equal(median([4, 1, 3, 2]), 2.5);
  assert.throws(() => median([]), TypeError);
  // The second round was disturbed for both: its ratio is as good as the others'.
  assert.equal(medianRatio([20, 2, 22], [10, 1, 10]), 2);
  assert.equal(spread([3, 1, 2], 1), "2.0 (1.0-3.0)");
});

test("--only takes texts between bars", () => {
  assert.equal(isWanted("HAProxy, splice", undefined), true);
  assert.equal(isWanted("HAProxy, splice", "Headgate|splice"), true);
  assert.equal(isWanted("nftables DNAT", "Headgate|splice"), false);
});

test("a table is Markdown with aligned columns", () => {
  assert.equal(
    table(
      ["what", "n"],
      [
        ["one", "1"],
        ["twelve", "12"],
      ],
    ),
    ["| what   |   n |", "| ------ | --: |", "| one    |   1 |", "| twelve |  12 |"].join("\n"),
  );
});

test("both sides of every micro benchmark agree, and a pair has rates", () => {
  for (const name of MICRO_NAMES) checkMicro(name);
  const result = measureMicro("state", 0.02);
  assert.ok(result.operationsPerSecond > 0 && result.alternativePerSecond > 0);
});

test("wrong arguments are one sentence, the usage and exit code 2", () => {
  for (const [args, sentence] of [
    [["nosuch"], /no suite nosuch/],
    [["micro", "memory"], /one suite at a time/],
    [["micro", "--rounds", "0"], /--rounds takes/],
    [["micro", "--seconds", "x"], /--seconds takes/],
    [["micro", "--nosuch"], /--nosuch/],
  ] as const) {
    const { code, stderr } = bench(...args);
    assert.equal(code, 2, stderr);
    assert.match(stderr, sentence);
    assert.match(stderr, /micro\|memory\|lab-pps\|lab-tcp\|lab-conns\|tuning\|soak\|health\|all/);
  }
});

test("a run writes its figures as JSON and its tables as a document", (t) => {
  const folder = mkdtempSync(path.join(tmpdir(), "headgate-bench-"));
  t.after(() => rmSync(folder, { recursive: true }));
  const json = path.join(folder, "figures.json");
  const document = path.join(folder, "figures.md");
  const { code, stdout, stderr } = bench(
    "micro",
    "--only",
    "maglev",
    "--seconds",
    "0.02",
    "--json",
    json,
    "--document",
    document,
  );
  assert.equal(code, 0, stderr);
  assert.match(stdout, /maglev pick/);
  const { micro } = JSON.parse(readFileSync(json, "utf8")) as Results;
  assert.equal(micro?.machine.node, process.version);
  assert.equal(micro?.rounds, 5);
  assert.deepEqual(
    micro?.figures.map(({ name }) => name),
    ["maglev pick, 10 backends"],
  );
  const text = readFileSync(document, "utf8");
  assert.match(text, /^# Benchmarks\n/);
  assert.match(text, /^## micro: /m);
  assert.match(text, /^\| maglev pick/m);
});

test("figures of other suites stay in the file, and a file that is none is left alone", (t) => {
  const folder = mkdtempSync(path.join(tmpdir(), "headgate-bench-"));
  t.after(() => rmSync(folder, { recursive: true }));
  const json = path.join(folder, "figures.json");
  const memory = {
    machine: describeMachine(),
    at: "2026-01-02T03:04:05.000Z",
    rounds: 1,
    figures: { cases: [], workers: [], resident: null },
  };
  writeResults(json, { memory });
  const args = ["micro", "--only", "state", "--seconds", "0.02", "--json", json];
  assert.equal(bench(...args).code, 0);
  const both = readResults(json);
  assert.deepEqual(both.memory, memory);
  assert.equal(both.micro?.figures.length, 1);
  assert.match(documentOf(both), /^2026-01-02, 1 rounds, /m);

  writeFileSync(json, "not JSON");
  const { code, stderr } = bench(...args);
  assert.equal(code, 2);
  assert.match(stderr, /figures\.json: .*not overwritten/);
  assert.equal(readFileSync(json, "utf8"), "not JSON");
});
