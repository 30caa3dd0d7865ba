import { type MemoryMode, type MemoryProtocol, measureMemory } from "./memory.ts";
import { measureMicro } from "./micro.ts";

/**
 * One measurement that wants a process of its own; prints its result as JSON. bench/run.ts calls it.
 *
 *   node dist/bench/child.js micro NAME SECONDS
 *   node dist/bench/child.js memory MODE PROTOCOL FLOWS ROUNDS
 */
const [what, ...rest] = process.argv.slice(2);
const result =
  what === "micro"
    ? measureMicro(rest[0]!, Number(rest[1]))
    : measureMemory(
        rest[0] as MemoryMode,
        rest[1] as MemoryProtocol,
        Number(rest[2]),
        Number(rest[3]),
      );
console.log(JSON.stringify(result));
