import { readFileSync } from "node:fs";
import { setFlagsFromString } from "node:v8";
import { runInNewContext } from "node:vm";
import { createFastPath } from "./fast-path.ts";
import { openFlows } from "./flow-frames.ts";
import { flowCapacity } from "./measure.ts";
import type { ResidentResult } from "./suite.ts";

/** Resident bytes of this process, shared pages (the state file) included. */
function residentBytes(): number {
  const found = /^VmRSS:\s+(\d+) kB/m.exec(readFileSync("/proc/self/status", "utf8"));
  if (found === null) throw new Error("/proc/self/status has no VmRSS");
  return Number(found[1]) * 1024;
}

/** The resident set with some flows and one service. In a process of its own. */
export function measureResident(flows: number): ResidentResult {
  const beforeBytes = residentBytes();
  const one = { mode: "nat", protocol: "tcp", flows, services: 1, backends: 3 } as const;
  const fast = createFastPath(one, flowCapacity(flows));
  openFlows(fast, one);
  setFlagsFromString("--expose-gc");
  (runInNewContext("gc") as () => void)();
  const withFlowsBytes = residentBytes();
  fast.close();
  return { flows, beforeBytes, withFlowsBytes };
}
