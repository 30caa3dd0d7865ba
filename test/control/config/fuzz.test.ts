import assert from "node:assert/strict";
import { test } from "node:test";
import fc from "fast-check";
import { ConfigError } from "../../../src/base/errors.ts";
import { effectiveConfig, parseConfig } from "../../../src/control/config/load.ts";

// Goal: whatever a file holds, the answer is a definition or a ConfigError whose places lie in it.
// Method: a file that uses every key, with random edits of its text.
const FILE = `# every key
version: 1
device: { type: packet, interfaces: [eth0, eth1], workers: 1, guard: process, announce: true, replies: last-hop }
log: { level: info }
flows: { capacity: 1000, stateFile: /run/headgate/state, whenFull: evict }
limits: { services: 16, backends: 64, hashSlots: 4194304 }
hash: { seed: "fleet" }
shutdown: { mode: keep, timeout: 30s }
admin: { socket: /run/headgate/admin.sock, http: 127.0.0.1:9105 }
snat: { addresses: [10.20.0.100-10.20.0.103], ports: 1024-65535 }
timeouts:
  tcp: { synSent: 30s, synReceived: 60s, established: 2h4m, finWait: 4m }
  udp: { oneWay: 2m, replied: 5m }
defaults: { protocol: tcp, ping: always }
services:
  - name: web
    vip: [203.0.113.10, 203.0.113.11]
    port: [80, "8000-8099"]
    mode: nat
    scheduler: maglev
    tableSize: 65537
    outOfState: adopt
    existingFlows: { drained: keep, removed: drain, deadline: 5m }
    noBackend: { action: sorry, address: 10.20.0.99, port: 80 }
    health: { type: http, interval: 2s, path: /, status: 200-399 }
    backends: &pool
      - { address: 10.20.0.11, port: 8080, weight: 1 }
      - { address: 10.20.0.12, port: 8080 }
  - name: dns
    vip: 203.0.113.12
    port: any
    protocol: [udp, tcp]
    mode: full-nat
    scheduler: wlc
    backends: *pool
`;

/** Pieces that mean something to YAML, to numbers or to this format. */
const PIECES = [
  ..."{}[]:,-&*!|>%@#?'\"\\\n\t \0",
  ..."0123456789aZ.",
  "  ",
  "\n  ",
  "~",
  "null",
  "true",
  ".nan",
  ".inf",
  "-1",
  "1e9",
  "0x50",
  "0o17",
  "010",
  "99999999999999999999",
  "any",
  "off",
  "none",
  "any: ",
  "__proto__: ",
  "constructor: ",
  "toString",
  "<<: ",
  "&a ",
  "*a",
  "*pool",
  "*pool: ",
  "!!set ",
  "!!binary ",
  "---\n",
  "...\n",
  "%YAML 1.1\n---\n",
  "? ",
  "- ",
  "2001:db8::1",
  "::ffff:1.2.3.4",
  "fe80::1%eth0",
  "300.1.1.1",
  "0.0.0.0/0",
  "\u2028",
  "\ud800",
  "\ufeff",
];

interface Edit {
  readonly at: number;
  readonly remove: number;
  readonly insert: string;
}

const edit: fc.Arbitrary<Edit> = fc.record({
  at: fc.integer({ min: 0, max: FILE.length }),
  remove: fc.oneof(
    fc.constant(0),
    fc.integer({ min: 1, max: 12 }),
    fc.integer({ max: 200, min: 1 }),
  ),
  insert: fc.oneof(
    fc.constantFrom(...PIECES),
    fc.string({ maxLength: 8, unit: "binary" }),
    // A piece of the file itself, somewhere else.
    fc
      .tuple(fc.integer({ min: 0, max: FILE.length }), fc.integer({ min: 0, max: 120 }))
      .map(([at, length]) => FILE.slice(at, at + length)),
  ),
});

function apply(text: string, edits: readonly Edit[]): string {
  return edits.reduce(
    (current, { at, remove, insert }) =>
      `${current.slice(0, at)}${insert}${current.slice(at + remove)}`,
    text,
  );
}

/** @returns whether the text was accepted */
function check(text: string): boolean {
  try {
    const definition = parseConfig(text, "gw.yaml");
    assert.deepEqual(
      parseConfig(JSON.stringify(effectiveConfig(definition)), "gw.yaml"),
      definition,
      "what is accepted can be written down again",
    );
    return true;
  } catch (error) {
    if (!(error instanceof ConfigError)) throw error;
    const lines = text.split("\n");
    assert.ok(error.problems.length > 0, "a refusal says why");
    let last = { line: 1, column: 1 };
    for (const { line, column, message } of error.problems) {
      assert.ok(message.length > 0 && !message.includes("\n"), message);
      assert.ok(line >= 1 && line <= lines.length, `line ${line} of ${lines.length}`);
      assert.ok(column >= 1 && column <= lines[line - 1]!.length + 1, `column ${column}`);
      const isInOrder = line > last.line || (line === last.line && column >= last.column);
      assert.ok(isInOrder, "problems stand in the order of the file");
      last = { line, column };
    }
    return false;
  }
}

test("the file that is mutated is right", () => {
  assert.ok(check(FILE));
});

test("random edits of a right file: a definition or a ConfigError, nothing else", () => {
  let accepted = 0;
  fc.assert(
    fc.property(fc.array(edit, { minLength: 1, maxLength: 4 }), (edits) => {
      if (check(apply(FILE, edits))) accepted += 1;
    }),
    { numRuns: 2000 },
  );
  assert.ok(accepted > 0, "some edits change nothing that matters");
});

test("random values in place of any value", () => {
  const value = fc.oneof(
    fc.jsonValue({ maxDepth: 2 }),
    fc.constantFrom(...PIECES),
    fc.integer(),
    fc.double(),
  );
  const places = [...FILE.matchAll(/(?<=: )[^\s,{}[\]&*][^,}\n\]]*/g)];
  fc.assert(
    fc.property(fc.nat({ max: places.length - 1 }), value, (index, replacement) => {
      const place = places[index]!;
      const text = typeof replacement === "string" ? replacement : JSON.stringify(replacement);
      check(`${FILE.slice(0, place.index)}${text}${FILE.slice(place.index + place[0].length)}`);
    }),
    { numRuns: 1000 },
  );
});

test("text of no kind at all", () => {
  fc.assert(
    fc.property(fc.string({ maxLength: 200, unit: "binary" }), (text) => {
      check(text);
    }),
    { numRuns: 500 },
  );
});
