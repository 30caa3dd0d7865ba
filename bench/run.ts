import { writeFileSync } from "node:fs";
import { parseArgs } from "node:util";
import { formatPps, measurePps } from "./lab-pps.ts";
import { formatTcp, HAPROXY_CONFIGURATION, measureTcp } from "./lab-tcp.ts";
import { describeMachine, machineLine } from "./machine.ts";

const options = parseArgs({
  allowPositionals: true,
  options: {
    rounds: { type: "string" },
    seconds: { type: "string" },
    only: { type: "string" },
    json: { type: "string" },
  },
});
const { rounds, seconds, only, json } = options.values;
const out: Record<string, unknown> = { machine: describeMachine() };
console.log(machineLine(describeMachine()));
const say = (text: string): void => console.log(text);
if (options.positionals[0] === "lab-tcp") {
  console.log(HAPROXY_CONFIGURATION);
  const results = await measureTcp(Number(rounds ?? 5), Number(seconds ?? 3), only, say);
  out["tcp"] = results;
  console.log(formatTcp(results));
} else {
  const results = await measurePps(Number(rounds ?? 5), Number(seconds ?? 1), only, say);
  out["pps"] = results;
  console.log(formatPps(results));
}
if (json !== undefined) writeFileSync(json, JSON.stringify(out, null, 1));
