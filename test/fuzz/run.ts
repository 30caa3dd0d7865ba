import { parseArgs } from "node:util";
import { CANARY, TARGETS } from "./targets.ts";

/**
 * npm run fuzz                         every target, a minute in all
 * npm run fuzz -- NAME [SEED]          one target until Ctrl-C
 * npm run fuzz -- --seconds N [NAME] [SEED]
 *
 * A failure prints the text of a case, made short; as `test/fuzz/cases/NAME-WHAT-IT-WAS.EXTENSION` it
 * is run by npm test from then on.
 */
const { values, positionals } = parseArgs({
  allowPositionals: true,
  options: { seconds: { type: "string" } },
});
const seedText = positionals.find((word) => /^\d+$/.test(word));
const names = positionals.filter((word) => word !== seedText);
const targets = TARGETS.filter(({ name }) => names.length === 0 || names.includes(name));
const seconds = Number(values.seconds ?? (names.length === 0 ? 60 : Number.POSITIVE_INFINITY));
if (targets.length === 0 || targets.length < names.length || !(seconds > 0)) {
  const known = TARGETS.map(({ name }) => name).join(" ");
  console.error(`usage: npm run fuzz -- [--seconds N] [NAME] [SEED]\ntargets: ${known}`);
  process.exit(2);
}
const first = Number(seedText ?? Date.now() & 0x3fffffff);
if (CANARY.fuzz(first, CANARY.smokeInputs) === null) {
  console.error("the canary was not found: the fuzzer does not look");
  process.exit(1);
}

/** Inputs of one seed; then the next seed, so that a line comes now and then. */
const ROUND_MS = 10_000;
for (const { name, fuzz } of targets) {
  const untilMs = performance.now() + (seconds * 1000) / targets.length;
  for (let seed = first; performance.now() < untilMs; seed++) {
    const roundEndsMs = Math.min(untilMs, performance.now() + ROUND_MS);
    const found = fuzz(seed, Number.POSITIVE_INFINITY, roundEndsMs);
    if (found !== null) {
      console.error(`${name}: input ${found.input} of seed ${seed}: ${found.error.stack}`);
      console.error(`test/fuzz/cases/${name}-WHAT-IT-WAS.${found.extension}:\n${found.text}`);
      process.exitCode = 1;
      break;
    }
    console.log(`${name}: nothing found, seed ${seed}`);
  }
}
