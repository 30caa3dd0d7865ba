import { parseArgs } from "node:util";
import { CANARY, fuzz, TARGETS } from "./targets.ts";

/**
 * npm run fuzz [-- --seconds N] [--seed N] [TARGET...]
 *
 * A failure prints its seed and its bytes; the bytes become a file in test/fuzz/cases, where every
 * past failure is kept as a case (test/fuzz/cases.test.ts).
 */
const { values, positionals } = parseArgs({
  allowPositionals: true,
  options: { seconds: { type: "string", default: "60" }, seed: { type: "string" } },
});
const seed = Number(values.seed ?? Date.now() & 0x3fffffff);
const targets = TARGETS.filter(
  (target) => positionals.length === 0 || positionals.includes(target.name),
);
if (targets.length === 0 || !(Number(values.seconds) > 0)) {
  console.error(
    `usage: fuzz [--seconds N] [--seed N] [${TARGETS.map((one) => one.name).join("|")}]`,
  );
  process.exit(2);
}
if (fuzz(CANARY, seed, 100_000) === null) {
  console.error("the canary was not found: the fuzzer does not look");
  process.exit(1);
}
const shareMs = (Number(values.seconds) * 1000) / targets.length;
for (const target of targets) {
  const found = fuzz(target, seed, Number.POSITIVE_INFINITY, performance.now() + shareMs);
  if (found === null) {
    console.log(`${target.name}: nothing found, seed ${seed}`);
    continue;
  }
  console.error(`${target.name}: input ${found.input} of seed ${seed}: ${found.error.stack}`);
  console.error(`bytes: ${Buffer.from(found.bytes).toString("hex")}`);
  process.exitCode = 1;
}
