import assert from "node:assert/strict";
import { test } from "node:test";
import { AssertionError } from "../../src/base/assert.ts";
import { ConfigError, HostError } from "../../src/base/errors.ts";
import { createLog } from "../../src/base/log.ts";
import { createReloader, type ReloadParts } from "../../src/control/reload.ts";
import { backend, gateway, service } from "./definitions.ts";

const BEFORE = gateway([service("web")]);
const AFTER = gateway([service("web", { backends: [backend("10.20.0.11:8080", 5)] })]);

function problem(message: string) {
  return { file: "gw.yaml", line: 3, column: 5, path: "device.name", message };
}

function bench(overrides: Partial<ReloadParts> = {}) {
  const lines: Record<string, unknown>[] = [];
  let current = BEFORE;
  let generation = 1;
  const reloader = createReloader({
    log: createLog("info", { write: (line) => lines.push(JSON.parse(line)) }),
    current: () => current,
    load: () => AFTER,
    restartProblems: () => [],
    hostProblems: async () => [],
    apply: async (definition) => {
      current = definition;
    },
    readGeneration: () => generation,
    writeGeneration: (next) => {
      generation = next;
    },
    ...overrides,
  });
  return { reloader, lines, current: () => current };
}

test("a reload is taken over, reported, logged and counted", async () => {
  const { reloader, lines, current } = bench();
  assert.equal(reloader.last().at, "");
  const report = await reloader.reload(false);
  assert.deepEqual(report, {
    ok: true,
    dryRun: false,
    generation: 2,
    added: [],
    changed: ["backend web/10.20.0.11:8080: weight 1 -> 5"],
    removed: ["backend web/10.20.0.12:8080"],
    problems: [],
  });
  assert.equal(current(), AFTER);
  assert.deepEqual(
    lines.map((line) => line["event"]),
    ["reloaded"],
  );
  assert.equal(reloader.last().ok, true);
  assert.equal(new Date(reloader.last().at).getTime(), reloader.last().successMs);
  assert.deepEqual(reloader.counts(), { succeeded: 1, failed: 0 });
});

test("a dry run reports the same and changes nothing", async () => {
  const { reloader, lines, current } = bench();
  const report = await reloader.reload(true);
  assert.equal(report.ok, true);
  assert.equal(report.generation, 1);
  assert.deepEqual(report.removed, ["backend web/10.20.0.12:8080"]);
  assert.equal(current(), BEFORE);
  assert.deepEqual(lines, []);
  assert.equal(reloader.last().at, "");
});

const REFUSALS: { name: string; parts: Partial<ReloadParts>; want: string }[] = [
  {
    name: "the file is bad",
    parts: {
      load: () => {
        throw new ConfigError([problem("expected a name, got 0")]);
      },
    },
    want: "gw.yaml:3:5: device.name: expected a name, got 0",
  },
  {
    name: "a key needs a restart",
    parts: { restartProblems: () => [problem("a restart is needed")] },
    want: "gw.yaml:3:5: device.name: a restart is needed",
  },
  {
    name: "the host speaks against it",
    parts: { hostProblems: async () => [problem("is the host's")] },
    want: "gw.yaml:3:5: device.name: is the host's",
  },
  {
    name: "it cannot be taken over",
    parts: { apply: () => Promise.reject(new HostError("`ip rule add` failed")) },
    want: "`ip rule add` failed",
  },
];
for (const { name, parts, want } of REFUSALS) {
  test(`a refused reload keeps the old configuration: ${name}`, async () => {
    const { reloader, lines, current } = bench(parts);
    const startedMs = reloader.last().successMs;
    const report = await reloader.reload(false);
    assert.equal(report.ok, false);
    assert.equal(report.generation, 1);
    assert.deepEqual(report.problems, [want]);
    assert.equal(current(), BEFORE);
    assert.equal(lines[0]!["event"], "reload_refused");
    assert.deepEqual(lines[0]!["problems"], [want]);
    assert.equal(reloader.last().ok, false);
    assert.equal(reloader.last().successMs, startedMs);
    assert.deepEqual(reloader.counts(), { succeeded: 0, failed: 1 });
  });
}

test("a broken invariant is not a refusal", async () => {
  const { reloader } = bench({
    apply: () => Promise.reject(new AssertionError("banks alternate")),
  });
  await assert.rejects(reloader.reload(false), AssertionError);
});

test("reloads run one after another, each against what runs then", async () => {
  const order: string[] = [];
  let running = 0;
  const { reloader } = bench({
    apply: async () => {
      running++;
      assert.equal(running, 1);
      await new Promise((resolve) => setTimeout(resolve, 5));
      running--;
      order.push("applied");
    },
  });
  const reports = await Promise.all([reloader.reload(false), reloader.reload(false)]);
  assert.deepEqual(order, ["applied", "applied"]);
  assert.deepEqual(
    reports.map(({ generation }) => generation),
    [2, 3],
  );
});
