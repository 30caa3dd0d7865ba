import { isMainThread } from "node:worker_threads";
import { tuneCompiler } from "../src/datapath/compiler.ts";
import { measureReload, type ReloadCase } from "./conns/reload.ts";
import type { MemoryCase } from "./memory/fast-path.ts";
import { measureAlone, measureMemory, measureOneWay } from "./memory/measure.ts";
import { measureNewFlows, type NewFlowsCase } from "./memory/new-flows.ts";
import { measureResident } from "./memory/resident.ts";
import { measureWorkers } from "./memory/workers.ts";
import { measureMicro } from "./micro.ts";

/**
 * One measurement that wants a process of its own; prints its result as JSON. bench/run.ts calls it.
 *
 *   node dist/bundled/bench/child.js micro NAME SECONDS
 *   node dist/bundled/bench/child.js memory CASE ROUNDS          CASE: a MemoryCase as JSON
 *   node dist/bundled/bench/child.js alone CASE ROUNDS           without the reference
 *   node dist/bundled/bench/child.js one-way CASE ROUNDS
 *   node dist/bundled/bench/child.js workers CASE ROUNDS MILLISECONDS
 *   node dist/bundled/bench/child.js resident FLOWS
 *   node dist/bundled/bench/child.js new-flows CASE               CASE: a NewFlowsCase as JSON
 *   node dist/bundled/bench/child.js reload CASE ROUNDS           CASE: a ReloadCase as JSON
 */
const [what, first = "", ...rest] = process.argv.slice(2);
const numbers = rest.map(Number);

async function measure(): Promise<unknown> {
  switch (what) {
    case "micro":
      return measureMicro(first, numbers[0]!);
    case "memory":
      return measureMemory(JSON.parse(first) as MemoryCase, numbers[0]!);
    case "alone":
      return measureAlone(JSON.parse(first) as MemoryCase, numbers[0]!);
    case "one-way":
      return measureOneWay(JSON.parse(first) as MemoryCase, numbers[0]!);
    case "workers":
      return measureWorkers(JSON.parse(first) as MemoryCase, numbers[0]!, numbers[1]!);
    case "reload":
      return measureReload(JSON.parse(first) as ReloadCase, numbers[0]!);
    case "new-flows":
      return measureNewFlows(JSON.parse(first) as NewFlowsCase);
    case "resident":
      return measureResident(Number(first));
    default:
      throw new TypeError(`no measurement ${what}`);
  }
}

// A thread that a measurement starts from this bundle has a task of its own (memory/workers.ts).
tuneCompiler();
if (isMainThread) console.log(JSON.stringify(await measure()));
