import assert from "node:assert/strict";
import { test } from "node:test";
import { createRandom } from "../../src/base/random.ts";
import { type AgentLine, parseAgentLine } from "../../src/health/agent-line.ts";

const NOTHING: AgentLine = {
  weightPercent: null,
  maxConnections: null,
  admin: null,
  operation: null,
  operationWord: "",
  text: "",
  unknown: null,
};

/** Lines of HAProxy's manual, and of agents in the field. */
const LINES: readonly [string, Partial<AgentLine>][] = [
  ["", {}],
  ["75%", { weightPercent: 75 }],
  ["0%", { weightPercent: 0 }],
  ["up 100%", { operation: "up", operationWord: "up", weightPercent: 100 }],
  ["maxconn:30", { maxConnections: 30 }],
  ["ready", { admin: "ready" }],
  ["DRAIN", { admin: "drain" }],
  ["maint # disk", { admin: "maint", text: "disk" }],
  ["down#too hot", { operation: "down", operationWord: "down", text: "too hot" }],
  ["stopped", { operation: "down", operationWord: "stopped" }],
  [
    "fail,50%\tready",
    { operation: "down", operationWord: "fail", weightPercent: 50, admin: "ready" },
  ],
  ["failed #a#b", { operation: "down", operationWord: "failed", text: "a#b" }],
  ["drain up", { admin: "drain", operation: "up", operationWord: "up" }],
  ["drain ready", { admin: "ready" }],
  ["load 5%", { weightPercent: 5, unknown: "load" }],
  ["20000%", { unknown: "20000%" }],
  ["-5%", { unknown: "-5%" }],
  ["constructor", { unknown: "constructor" }],
  ["up\u0007 x", { unknown: "up?" }],
  ["#only words", { text: "only words" }],
];

for (const [line, want] of LINES) {
  test(`agent line ${JSON.stringify(line)}`, () => {
    assert.deepEqual(parseAgentLine(line), { ...NOTHING, ...want });
  });
}

test("lines made of known words in any order, case and with any separator are read as such", () => {
  const seed = Date.now() & 0x3fffffff;
  const random = createRandom(seed);
  const pick = <T>(list: readonly T[]): T => list[random.below(list.length)]!;
  for (let round = 0; round < 2000; round++) {
    const want = { ...NOTHING };
    const words: string[] = [];
    for (let count = random.below(6); count > 0; count--) {
      const kind = random.below(4);
      if (kind === 0) words.push(`${(want.weightPercent = random.below(10_001))}%`);
      else if (kind === 1) words.push(`maxconn:${(want.maxConnections = random.below(1e6))}`);
      else if (kind === 2) words.push((want.admin = pick(["ready", "drain", "maint"] as const)));
      else {
        want.operationWord = pick(["up", "down", "fail", "failed", "stopped"]);
        want.operation = want.operationWord === "up" ? "up" : "down";
        words.push(want.operationWord);
      }
    }
    let line = pick(["", " ", "\t"]);
    for (const word of words) {
      line += (random.below(2) === 0 ? word : word.toUpperCase()) + pick([" ", ",", "\t", ", "]);
    }
    if (random.below(2) === 0) line += `#${(want.text = pick(["busy", "load 7"]))}`;
    assert.deepEqual(parseAgentLine(line), want, `seed ${seed}, round ${round}: ${line}`);
  }
});
