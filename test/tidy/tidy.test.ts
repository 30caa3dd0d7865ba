import assert from "node:assert/strict";
import { execFileSync } from "node:child_process";
import { test } from "node:test";
import { PROJECT_ROOT } from "../support/lab.ts";
import { tidy } from "./tidy.ts";

test("the rules of the project hold", () => {
  assert.deepEqual(
    tidy().map(({ file, line, message }) => `${file}:${line}: ${message}`),
    [],
  );
});

test("format and lint find nothing", () => {
  execFileSync("node_modules/.bin/biome", ["check", "."], { cwd: PROJECT_ROOT, stdio: "pipe" });
});
