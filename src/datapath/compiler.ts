import { setFlagsFromString } from "node:v8";

/**
 * How much V8 puts into one compiled function. With its defaults (460 and 920) the hash and half of the
 * fast lane stay calls, each with its arguments on the stack: 59 ns a packet instead of 48
 * (docs/decisions/0004-one-module-for-the-worker.md).
 */
const FLAGS = [
  "--max-inlined-bytecode-size=1200",
  "--max-inlined-bytecode-size-cumulative=4000",
] as const;

/** Have V8 compile the fast path as it was measured. Before any of it has run; holds for the process. */
export function tuneCompiler(): void {
  for (const flag of FLAGS) setFlagsFromString(flag);
}
