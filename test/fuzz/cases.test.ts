import assert from "node:assert/strict";
import { readdirSync, readFileSync } from "node:fs";
import path from "node:path";
import { test } from "node:test";
import { PROJECT_ROOT } from "../support/lab.ts";
import { CANARY, TARGETS } from "./targets.ts";

const CASES = path.join(PROJECT_ROOT, "test", "fuzz", "cases");

test("the fuzzer finds its canary, and makes it short", () => {
  const found = CANARY.fuzz(1, CANARY.smokeInputs);
  assert.equal(found?.text, "ff\n");
  assert.throws(() => CANARY.replay("ff\n"), /sings/);
});

for (const target of TARGETS) {
  if (target.smokeInputs === 0) continue;
  test(`fuzz smoke: ${target.name}, ${target.smokeInputs} inputs`, () => {
    const seed = Number(process.env["HEADGATE_SEED"] ?? Date.now() & 0x3fffffff);
    const found = target.fuzz(seed, target.smokeInputs);
    if (found === null) return;
    assert.fail(`seed ${seed}, input ${found.input}: ${found.error.stack}\n${found.text}`);
  });
}

// A file is `TARGET-what-it-was.hex` (bytes) or `.run` (batches of frames): what once failed.
for (const file of readdirSync(CASES).sort()) {
  test(`past failure: ${file}`, () => {
    const target = TARGETS.find(({ name }) => file.startsWith(`${name}-`));
    assert.ok(target !== undefined, `${file} begins with the name of a target`);
    target.replay(readFileSync(path.join(CASES, file), "utf8"));
  });
}
