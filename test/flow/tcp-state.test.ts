import assert from "node:assert/strict";
import { test } from "node:test";
import { ORIGINAL, REPLY, STATE_NAMES } from "../../src/flow/flow-record.ts";
import {
  nextState,
  SEGMENT_ACK,
  SEGMENT_FIN,
  SEGMENT_KINDS,
  SEGMENT_NONE,
  SEGMENT_RST,
  SEGMENT_SYN,
  SEGMENT_SYN_ACK,
  segmentKind,
  TCP_IGNORE,
  TCP_INVALID,
  TCP_NEW_FLOW,
} from "../../src/flow/tcp-state.ts";

// Goal: the table says what the rules say.
// Method: the rules once more, as sentences with names instead of cells; every cell is compared.

type Answer = string; // a state's name, or IGNORE, INVALID, NEW

const KIND_NAMES = ["SYN", "SYN+ACK", "FIN", "ACK", "RST", "NONE"];
const TCP_STATES = STATE_NAMES.slice(1, 9);

function oracle(state: string, from: "client" | "backend", kind: string): Answer {
  const isClosing = ["FIN_WAIT", "CLOSE_WAIT"].includes(state);
  const isOver = ["LAST_ACK", "TIME_WAIT", "CLOSE"].includes(state);
  const isEnded = ["TIME_WAIT", "CLOSE"].includes(state);
  if (kind === "RST") return "CLOSE";
  if (kind === "NONE") return "INVALID";
  if (kind === "SYN") {
    if (from === "backend") return "INVALID";
    if (state === "SYN_SENT") return "SYN_SENT";
    return isOver ? "NEW" : "IGNORE";
  }
  if (kind === "SYN+ACK") {
    if (state !== "SYN_SENT") return "IGNORE";
    return from === "backend" ? "SYN_RECV" : "INVALID";
  }
  if (state === "SYN_SENT") {
    return from === "backend" && kind === "ACK" ? "IGNORE" : "INVALID";
  }
  if (isEnded) return state;
  if (kind === "FIN") return isClosing || state === "LAST_ACK" ? "LAST_ACK" : "FIN_WAIT";
  if (state === "SYN_RECV") return from === "client" ? "ESTABLISHED" : "SYN_RECV";
  if (isClosing) return "CLOSE_WAIT";
  return state === "LAST_ACK" ? "TIME_WAIT" : "ESTABLISHED";
}

function nameOf(next: number): Answer {
  if (next === TCP_IGNORE) return "IGNORE";
  if (next === TCP_INVALID) return "INVALID";
  return next === TCP_NEW_FLOW ? "NEW" : STATE_NAMES[next]!;
}

test("every cell: direction, kind of segment, state", () => {
  assert.equal(KIND_NAMES.length, SEGMENT_KINDS);
  for (const [direction, from] of [
    [ORIGINAL, "client"],
    [REPLY, "backend"],
  ] as const) {
    for (let kind = 0; kind < SEGMENT_KINDS; kind++) {
      for (const state of TCP_STATES) {
        const next = nextState(STATE_NAMES.indexOf(state), direction, kind);
        const where = `${from} ${KIND_NAMES[kind]} in ${state}`;
        assert.equal(nameOf(next), oracle(state, from, KIND_NAMES[kind]!), where);
      }
    }
  }
});

test("what is no TCP state has no next one", () => {
  for (const state of [0, 9, 10, 11, 15]) {
    for (let kind = 0; kind < SEGMENT_KINDS; kind++) {
      assert.equal(nextState(state, ORIGINAL, kind), TCP_INVALID);
      assert.equal(nextState(state, REPLY, kind), TCP_INVALID);
    }
  }
});

test("the kind of every flags byte: RST before SYN before FIN before ACK", () => {
  for (let flags = 0; flags < 256; flags++) {
    const has = (bit: number): boolean => (flags & bit) !== 0;
    const [fin, syn, rst, ack] = [has(1), has(2), has(4), has(16)];
    let want = ack ? SEGMENT_ACK : SEGMENT_NONE;
    if (fin) want = SEGMENT_FIN;
    if (syn) want = ack ? SEGMENT_SYN_ACK : SEGMENT_SYN;
    if (rst) want = SEGMENT_RST;
    assert.equal(segmentKind(flags), want, `flags ${flags.toString(2)}`);
  }
});

const LIVES: readonly {
  readonly name: string;
  /** C: client, B: backend; then the kind. */
  readonly segments: readonly string[];
  readonly states: readonly string[];
}[] = [
  {
    name: "open, data, close by the client",
    segments: ["B SYN+ACK", "C ACK", "C ACK", "B ACK", "C FIN", "B ACK", "B FIN", "C ACK"],
    states:
      "SYN_RECV ESTABLISHED ESTABLISHED ESTABLISHED FIN_WAIT CLOSE_WAIT LAST_ACK TIME_WAIT".split(
        " ",
      ),
  },
  {
    name: "close by the backend, both FINs at once",
    segments: ["B SYN+ACK", "C ACK", "B FIN", "C FIN", "B ACK"],
    states: "SYN_RECV ESTABLISHED FIN_WAIT LAST_ACK TIME_WAIT".split(" "),
  },
  {
    name: "refused, and tried again",
    segments: ["B RST", "C SYN"],
    states: ["CLOSE", "NEW"],
  },
  {
    name: "SYN and SYN+ACK sent again",
    segments: ["C SYN", "B SYN+ACK", "C SYN", "B SYN+ACK", "C ACK"],
    states: ["SYN_SENT", "SYN_RECV", "IGNORE", "IGNORE", "ESTABLISHED"],
  },
  {
    name: "a dead connection at the backend: challenge, reset, new",
    segments: ["B ACK", "C RST", "C SYN"],
    states: ["IGNORE", "CLOSE", "NEW"],
  },
  {
    name: "the same addresses and ports again after the close",
    segments: ["B SYN+ACK", "C ACK", "C FIN", "B FIN", "C ACK", "B FIN", "C ACK", "C SYN"],
    states: "SYN_RECV ESTABLISHED FIN_WAIT LAST_ACK TIME_WAIT TIME_WAIT TIME_WAIT NEW".split(" "),
  },
];

for (const { name, segments, states } of LIVES) {
  test(`life of a flow: ${name}`, () => {
    let state = STATE_NAMES.indexOf("SYN_SENT");
    const seen = segments.map((segment) => {
      const [side, kind] = segment.split(" ");
      const next = nextState(state, side === "C" ? ORIGINAL : REPLY, KIND_NAMES.indexOf(kind!));
      if (next >= 0) state = next;
      return nameOf(next);
    });
    assert.deepEqual(seen, states);
  });
}
