import assert from "node:assert/strict";
import { test } from "node:test";
import {
  type AgentWords,
  agentState,
  agentWeight,
  forgetAgent,
  recordAgent,
} from "../../src/service/agent-state.ts";
import { B_AGENT_WEIGHT, BACKEND_WORDS } from "../../src/service/backend-slots.ts";

function slot(): Int32Array {
  const words = new Int32Array(BACKEND_WORDS);
  forgetAgent(words, 0);
  return words;
}

function say(words: Int32Array, said: Partial<AgentWords>): boolean {
  return recordAgent(words, 0, { weightPercent: null, admin: null, operation: null, ...said });
}

test("what a line does not speak of stays as it was", () => {
  const words = slot();
  assert.equal(agentState(words, 0), null);
  assert.equal(say(words, { operation: "down" }), true);
  assert.equal(agentState(words, 0), "down");
  assert.equal(say(words, { admin: "drain" }), true);
  assert.equal(agentState(words, 0), "draining", "of two words the operator's counts");
  assert.equal(say(words, { weightPercent: 50 }), true);
  assert.equal(agentState(words, 0), "draining");
  assert.equal(say(words, { admin: "ready" }), true);
  assert.equal(agentState(words, 0), "down", "it has not been said to be up");
  assert.equal(say(words, { operation: "up" }), true);
  assert.equal(agentState(words, 0), null);
  assert.equal(words[B_AGENT_WEIGHT], 50);
  assert.equal(say(words, { operation: "up", weightPercent: 50 }), false, "nothing new");
  say(words, { admin: "maint" });
  assert.equal(agentState(words, 0), "disabled");
  assert.equal(forgetAgent(words, 0), true);
  assert.equal(forgetAgent(words, 0), false);
  assert.equal(agentState(words, 0), null);
});

test("a share of the weight is never 0 unless one of them is", () => {
  const words = slot();
  assert.equal(agentWeight(words, 0, 7), 7);
  say(words, { weightPercent: 75 });
  assert.deepEqual(
    [1, 2, 10, 100, 0].map((it) => agentWeight(words, 0, it)),
    [1, 2, 8, 75, 0],
  );
  say(words, { weightPercent: 1 });
  assert.deepEqual(
    [1, 10, 1000].map((it) => agentWeight(words, 0, it)),
    [1, 1, 10],
  );
  say(words, { weightPercent: 10_000 });
  assert.equal(agentWeight(words, 0, 1000), 65_535);
  say(words, { weightPercent: 0 });
  assert.equal(agentWeight(words, 0, 1000), 0);
  assert.equal(agentState(words, 0), "draining");
});
