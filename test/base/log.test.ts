import assert from "node:assert/strict";
import { spawnSync } from "node:child_process";
import { test } from "node:test";
import { createLog, type LogDestination } from "../../src/base/log.ts";

// Goal: a line is one JSON object with time, level and event, and none is lost at exit.

function collect(): LogDestination & { lines: Record<string, unknown>[] } {
  const lines: Record<string, unknown>[] = [];
  return { lines, write: (line) => lines.push(JSON.parse(line) as Record<string, unknown>) };
}

test("a log line has ISO time, level as text, event, and the event's fields", () => {
  const destination = collect();
  createLog("info", destination).warn("backend_down", { service: "web", reason: "refused" });
  assert.equal(destination.lines.length, 1);
  const { time, ...rest } = destination.lines[0]!;
  assert.match(String(time), /^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z$/);
  assert.deepEqual(rest, {
    level: "warn",
    event: "backend_down",
    service: "web",
    reason: "refused",
  });
});

test("lines below the level are not written; the level can change", () => {
  const destination = collect();
  const log = createLog("info", destination);
  log.debug("hidden");
  log.setLevel("debug");
  log.debug("shown");
  log.setLevel("error");
  log.warn("hidden");
  assert.deepEqual(
    destination.lines.map((line) => line["event"]),
    ["shown"],
  );
});

test("the last line before an exit is on standard error", () => {
  const module = new URL("../../src/base/log.js", import.meta.url).href;
  const script = `const { createLog } = await import(${JSON.stringify(module)});
    const log = createLog("info");
    for (let n = 0; n < 500; n++) log.info("line", { n });
    process.exit(3);`;
  const child = spawnSync(process.execPath, ["--input-type=module", "-e", script], {
    encoding: "utf8",
  });
  assert.equal(child.status, 3);
  assert.equal(child.stdout, "");
  const lines = child.stderr.trimEnd().split("\n");
  assert.equal(lines.length, 500);
  assert.equal((JSON.parse(lines[499]!) as { n: number }).n, 499);
});
