import path from "node:path";
import { fileURLToPath } from "node:url";
import { rolldown } from "rolldown";

/**
 * Makes one module of the data plane's many, with their constants as literals:
 *
 *   src/worker.ts  -> dist/bundled/src/worker.js   the worker thread that the gateway starts
 *   bench/child.ts -> dist/bundled/bench/child.js  measurements of the fast path in memory
 *   test/support/steady-state-main.ts             what test/datapath/steady-state.test.ts watches
 *
 * V8 reads an imported constant from its cell each time, and checks that it is there and is a small
 * integer: some eight instructions for each offset of each field, a third of the fast path's time
 * (docs/decisions/0004-one-module-for-the-worker.md). Within one module it is part of the instruction.
 *
 *   node dist/lab/setup/bundle.js
 */
const ROOT = path.resolve(path.dirname(fileURLToPath(import.meta.url)), "..", "..", "..");

for (const entry of ["src/worker", "bench/child", "test/support/steady-state-main"]) {
  const bundle = await rolldown({
    input: path.join(ROOT, `${entry}.ts`),
    platform: "node",
    // Packages stay packages.
    external: /^[^./]/,
    optimization: { inlineConst: { mode: "all", pass: 3 } },
  });
  await bundle.write({
    file: path.join(ROOT, "dist", "bundled", `${entry}.js`),
    format: "esm",
    sourcemap: true,
    codeSplitting: false,
  });
  await bundle.close();
}
