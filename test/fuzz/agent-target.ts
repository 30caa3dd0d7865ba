import { AGENT_LINE_BYTES_MAX, parseAgentLine } from "../../src/health/agent-line.ts";
import {
  agentState,
  agentWeight,
  forgetAgent,
  recordAgent,
} from "../../src/service/agent-state.ts";
import { BACKEND_WORDS } from "../../src/service/backend-slots.ts";
import type { ByteTarget } from "./target.ts";

const LINES = [
  "up 75% # fine",
  "drain,maxconn:30\tready",
  "maint stopped#a#b",
  "0% down",
  "100000% failed",
];

/** Any line of an agent is read, and leaves a slot whose weight and state exist. */
export const agentTarget: ByteTarget = {
  name: "agent",
  smokeInputs: 300,
  seed: (random) => new TextEncoder().encode(LINES[random.below(LINES.length)]),
  run(bytes) {
    const text = Buffer.from(bytes).toString("latin1").slice(0, AGENT_LINE_BYTES_MAX);
    const line = parseAgentLine(text);
    for (const shown of [line.text, line.unknown ?? "", line.operationWord]) {
      if (!/^[\x20-\x7e]{0,120}$/.test(shown)) throw new Error(`not printable: ${shown}`);
    }
    const words = new Int32Array(BACKEND_WORDS);
    forgetAgent(words, 0);
    recordAgent(words, 0, line);
    const weight = agentWeight(words, 0, 100);
    if (!Number.isInteger(weight) || weight < 0 || weight > 65_535) throw new Error(`${weight}`);
    if (weight === 0 && agentState(words, 0) === null) throw new Error("no weight, and no drain");
    if (recordAgent(words, 0, line)) throw new Error("the same line again is a change");
  },
};
