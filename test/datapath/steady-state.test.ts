import assert from "node:assert/strict";
import { execFileSync } from "node:child_process";
import { test } from "node:test";
import { fileURLToPath } from "node:url";

// Goal: once it is warm, V8 compiles nothing anew and collects nothing while frames move.
// Method: the data plane runs in a process of its own, bundled as the worker is, with V8's own traces
// on; between its two marks there must be no line of them.

const PROGRAM = fileURLToPath(
  new URL("../../bundled/test/support/steady-state-main.js", import.meta.url),
);

function trace(...flags: string[]): string[] {
  const text = execFileSync(process.execPath, [...flags, PROGRAM], {
    encoding: "utf8",
    maxBuffer: 1 << 28,
  });
  return text.split("\n");
}

/** Lines between the marks that V8 wrote. */
function during(lines: readonly string[], pattern: RegExp): string[] {
  const from = lines.findIndex((line) => line.endsWith("steady"));
  const to = lines.findIndex((line) => line.endsWith("done"));
  assert.ok(from >= 0 && to > from, "both marks are there");
  return lines.slice(from + 1, to).filter((line) => pattern.test(line));
}

test("in steady state V8 deoptimises nothing and collects no garbage", () => {
  const lines = trace("--trace-deopt", "--trace-gc");
  // The traces are on: start and warm-up have such lines.
  assert.ok(
    lines.some((line) => line.includes("Scavenge")),
    "V8 tells of collections",
  );
  assert.ok(
    lines.some((line) => line.includes("bailout")),
    "V8 tells of deoptimisations",
  );
  assert.deepEqual(during(lines, /bailout|Scavenge|Mark-Compact|Mark-sweep/), []);
  const counters = JSON.parse(lines.findLast((line) => line.startsWith("{"))!) as {
    received: number;
    forwarded: number;
    passed: number;
    dropped: number;
  };
  assert.ok(counters.forwarded > counters.received / 2 && counters.passed > 0);
  assert.ok(counters.dropped > 0, "and drops are among what is watched");
});

test("nothing in the data plane invalidates V8's protector of array buffers", () => {
  // Once a buffer of the isolate was detached, every access to every array checks for it
  // (v8/src/execution/protectors.h, ArrayBufferDetaching).
  const told = /protector cell ArrayBufferDetaching/;
  const detach = "const b = new ArrayBuffer(8); structuredClone(b, { transfer: [b] });";
  const flag = "--trace-protector-invalidation";
  assert.match(execFileSync(process.execPath, [flag, "-e", detach], { encoding: "utf8" }), told);
  assert.doesNotMatch(trace(flag).join("\n"), told);
});
