import assert from "node:assert/strict";
import { test } from "node:test";
import {
  STATE_CLOSE,
  STATE_COUNT,
  STATE_ESTABLISHED,
  STATE_FIN_WAIT,
  STATE_FREE,
  STATE_SYN_RECV,
} from "../../src/flow/flow-record.ts";
import { nextOneWayState, ONE_WAY_FIRST_STATE } from "../../src/flow/tcp-one-way.ts";
import {
  SEGMENT_ACK,
  SEGMENT_FIN,
  SEGMENT_KINDS,
  SEGMENT_NONE,
  SEGMENT_RST,
  SEGMENT_SYN,
  SEGMENT_SYN_ACK,
  TCP_IGNORE,
  TCP_INVALID,
  TCP_NEW_FLOW,
} from "../../src/flow/tcp-state.ts";

/**
 * Goal: the states of a connection of which the client's segments alone are seen.
 * Method: whole lives, segment by segment; then every cell for what holds in all of them.
 */

const LIVES: readonly {
  readonly name: string;
  readonly steps: readonly (readonly [kind: number, next: number])[];
}[] = [
  {
    name: "open, send, close",
    steps: [
      [SEGMENT_ACK, STATE_ESTABLISHED],
      [SEGMENT_ACK, STATE_ESTABLISHED],
      [SEGMENT_FIN, STATE_FIN_WAIT],
      [SEGMENT_ACK, STATE_FIN_WAIT],
      [SEGMENT_SYN, TCP_NEW_FLOW],
    ],
  },
  {
    name: "the SYN again, then a reset, then anew",
    steps: [
      [SEGMENT_SYN, STATE_SYN_RECV],
      [SEGMENT_RST, STATE_CLOSE],
      [SEGMENT_ACK, STATE_CLOSE],
      [SEGMENT_SYN, TCP_NEW_FLOW],
    ],
  },
  {
    name: "a SYN to an open connection is the backend's to answer",
    steps: [
      [SEGMENT_ACK, STATE_ESTABLISHED],
      [SEGMENT_SYN, TCP_IGNORE],
      [SEGMENT_RST, STATE_CLOSE],
    ],
  },
  {
    name: "closed with the handshake's last segment, and the FIN again",
    steps: [
      [SEGMENT_FIN, STATE_FIN_WAIT],
      [SEGMENT_FIN, STATE_FIN_WAIT],
    ],
  },
];

for (const { name, steps } of LIVES) {
  test(`one-way TCP: ${name}`, () => {
    let state = ONE_WAY_FIRST_STATE;
    for (const [kind, want] of steps) {
      const next = nextOneWayState(state, kind);
      assert.equal(next, want);
      if (next >= 0) state = next;
    }
  });
}

test("one-way TCP: no cell leads to a state that only the backend's segments prove", () => {
  const reached = new Set([STATE_SYN_RECV, STATE_ESTABLISHED, STATE_FIN_WAIT, STATE_CLOSE]);
  for (let state = STATE_FREE; state < STATE_COUNT; state++) {
    for (let kind = 0; kind < SEGMENT_KINDS; kind++) {
      const next = nextOneWayState(state, kind);
      if (!reached.has(state)) assert.equal(next, TCP_INVALID);
      else if (next >= 0) assert.ok(reached.has(next), `${state} ${kind} -> ${next}`);
      if (kind === SEGMENT_NONE) assert.equal(next, TCP_INVALID);
      if (kind === SEGMENT_SYN_ACK && reached.has(state)) assert.equal(next, TCP_IGNORE);
    }
  }
});
