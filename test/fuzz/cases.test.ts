import assert from "node:assert/strict";
import { readdirSync, readFileSync } from "node:fs";
import path from "node:path";
import { test } from "node:test";
import { PROJECT_ROOT } from "../support/lab.ts";
import { CANARY, fuzz, TARGETS } from "./targets.ts";

const CASES = path.join(PROJECT_ROOT, "test", "fuzz", "cases");

test("the fuzzer finds its canary", () => {
  assert.notEqual(fuzz(CANARY, 1, 100_000), null);
});

for (const target of TARGETS) {
  test(`fuzz smoke: ${target.name}`, () => {
    const seed = Number(process.env["HEADGATE_SEED"] ?? Date.now() & 0x3fffffff);
    const inputs = target.name === "config" ? 300 : 20_000;
    const found = fuzz(target, seed, inputs);
    if (found === null) return;
    const hex = Buffer.from(found.bytes).toString("hex");
    assert.fail(`seed ${seed}, input ${found.input}: ${found.error.message}; bytes ${hex}`);
  });
}

// A file is `TARGET-what-it-was.hex`: the bytes that once failed.
for (const file of readdirSync(CASES).filter((name) => name.endsWith(".hex"))) {
  test(`past failure: ${file}`, () => {
    const target = TARGETS.find((one) => file.startsWith(`${one.name}-`));
    assert.ok(target !== undefined, `${file} begins with the name of a target`);
    target.run(
      Buffer.from(readFileSync(path.join(CASES, file), "utf8").replaceAll(/\s/g, ""), "hex"),
    );
  });
}
