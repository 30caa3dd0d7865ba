import assert from "node:assert/strict";
import { test } from "node:test";
import fc from "fast-check";
import { recordIsSound } from "../../src/flow/check-record.ts";
import {
  F_BACKEND_ADDR,
  F_BACKEND_REPLY_PORTS,
  F_CLIENT_ADDR,
  F_CLIENT_VIP_PORTS,
  F_DELTA,
  F_REPLY_ADDR,
  F_STATE,
  F_VERSION,
  F_VIP_ADDR,
  FLAG_ACTIVE,
  FLAG_REPLIED,
  FLOW_WORDS,
  KEY_SLOW,
  MODE_DSR,
  MODE_GUE,
  MODE_IPIP,
  PROTOCOL_ICMP,
  PROTOCOL_TCP,
  PROTOCOL_UDP,
  STATE_CLOSE,
  STATE_UDP_ONE_WAY,
} from "../../src/flow/flow-record.ts";
import { type SampleFlow, SNAT, sampleFlow, writeSample } from "./sample-flows.ts";

// Goal: what insert() writes is sound; what it cannot have written is not.
// Method: one valid record; every row breaks one thing in it.

const FULL_NAT = { snat: { address: SNAT, port: 1024 } };

function words(flow: Partial<SampleFlow> = {}): Int32Array {
  const record = new Int32Array(FLOW_WORDS);
  writeSample(record, 0, sampleFlow(flow));
  record[F_VERSION] = 2;
  return record;
}

const CASES: readonly {
  readonly name: string;
  readonly flow?: Partial<SampleFlow>;
  readonly patch?: readonly (readonly [word: number, value: number])[];
  readonly want: boolean;
}[] = [
  { name: "nat", want: true },
  { name: "full-nat", flow: FULL_NAT, want: true },
  { name: "known flags", flow: { flags: FLAG_ACTIVE | FLAG_REPLIED }, want: true },
  { name: "TCP, last state", flow: { state: STATE_CLOSE }, want: true },
  { name: "UDP", flow: { protocol: PROTOCOL_UDP, state: STATE_UDP_ONE_WAY }, want: true },
  { name: "a client that sends from port 0", flow: { clientPort: 0 }, want: true },
  { name: "versions may be negative", patch: [[F_VERSION, -2]], want: true },
  { name: "never used", patch: [[F_VERSION, 0]], want: false },
  { name: "half-written", patch: [[F_VERSION, 3]], want: false },
  { name: "free", patch: [[F_STATE, 0]], want: false },
  { name: "TCP in a UDP state", flow: { state: STATE_UDP_ONE_WAY }, want: false },
  { name: "UDP in a TCP state", flow: { protocol: PROTOCOL_UDP }, want: false },
  { name: "a state that is none", flow: { state: 11 }, want: false },
  { name: "another protocol", flow: { protocol: PROTOCOL_ICMP }, want: false },
  {
    name: "one-way, but for the fast lane",
    patch: [[F_STATE, 3 | (PROTOCOL_TCP << 8) | (MODE_DSR << 16)]],
    want: false,
  },
  ...[MODE_DSR, MODE_IPIP, MODE_GUE].map((mode) => ({
    name: `one-way, mode ${mode}`,
    patch: [[F_STATE, 3 | ((PROTOCOL_TCP | KEY_SLOW) << 8) | (mode << 16)]] as const,
    want: true,
  })),
  {
    name: "a mode that is none",
    patch: [[F_STATE, 3 | ((PROTOCOL_TCP | KEY_SLOW) << 8) | (5 << 16)]],
    want: false,
  },
  { name: "client 0.0.0.0", flow: { client: 0 }, want: false },
  { name: "VIP 0.0.0.0", flow: { vip: 0 }, want: false },
  { name: "backend 0.0.0.0", flow: { backend: 0 }, want: false },
  { name: "SNAT 0.0.0.0", flow: { snat: { address: 0, port: 1024 } }, want: false },
  { name: "VIP port 0", flow: { vipPort: 0 }, want: false },
  { name: "backend port 0", flow: { backendPort: 0 }, want: false },
  { name: "SNAT port 0", flow: { snat: { address: SNAT, port: 0 } }, want: false },
  {
    name: "nat with a foreign reply address",
    flow: FULL_NAT,
    patch: [[F_STATE, 3 | (6 << 8)]],
    want: false,
  },
  {
    name: "all zero but for the version",
    patch: Array.from({ length: 15 }, (_, word) => [word + 1, 0] as const),
    want: false,
  },
  {
    name: "all ones but for the version",
    patch: Array.from({ length: 15 }, (_, word) => [word + 1, -1] as const),
    want: false,
  },
];

for (const { name, flow, patch = [], want } of CASES) {
  test(`recordIsSound: ${name}`, () => {
    const record = words(flow);
    for (const [word, value] of patch) record[word] = value;
    assert.equal(recordIsSound(record, 0), want);
  });
}

test("any one bit of key or delta that flips is found", () => {
  const keys = [
    F_CLIENT_ADDR,
    F_VIP_ADDR,
    F_CLIENT_VIP_PORTS,
    F_BACKEND_ADDR,
    F_REPLY_ADDR,
    F_BACKEND_REPLY_PORTS,
    F_DELTA,
  ];
  for (const flow of [{}, FULL_NAT]) {
    for (const word of keys) {
      for (let bit = 0; bit < 32; bit++) {
        const record = words(flow);
        record[word]! ^= 1 << bit;
        assert.equal(recordIsSound(record, 0), false, `word ${word} bit ${bit}`);
      }
    }
  }
});

test("both forms of a ones' complement zero are the same difference", () => {
  // Backend and port are those of the VIP: nothing changes, so the difference is 0 or 0xffff.
  const flow = { backend: sampleFlow().vip, backendPort: 80 };
  for (const delta of [0, -1, 0xffff, -0x10000]) {
    const record = words(flow);
    record[F_DELTA] = delta;
    assert.equal(recordIsSound(record, 0), true);
  }
});

test("every flow that there can be is sound, wherever its record lies", () => {
  const address = fc.integer({ min: 1, max: 0xffffffff }).map((value) => value | 0);
  const port = fc.integer({ min: 1, max: 0xffff });
  fc.assert(
    fc.property(
      address,
      address,
      address,
      address,
      port,
      port,
      port,
      port,
      (a, b, c, d, w, x, y, z) => {
        const flow = { client: a, vip: b, backend: c, clientPort: w, vipPort: x, backendPort: y };
        for (const snat of [undefined, { address: d, port: z }]) {
          const record = new Int32Array(3 + FLOW_WORDS);
          writeSample(record, 3, sampleFlow(snat === undefined ? flow : { ...flow, snat }));
          record[3] = 4;
          assert.equal(recordIsSound(record, 3), true);
        }
      },
    ),
    { numRuns: 500 },
  );
});
