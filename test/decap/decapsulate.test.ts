import assert from "node:assert/strict";
import { test } from "node:test";
import { parseAddress } from "../../src/base/address.ts";
import { parsePrefix } from "../../src/base/prefix.ts";
import { createRandom } from "../../src/base/random.ts";
import {
  createDecapsulator,
  KIND_GUE_4,
  KIND_GUE_6,
  KIND_IP4_IN_4,
  KIND_IP4_IN_6,
  KIND_IP6_IN_4,
  KIND_IP6_IN_6,
  T_AT,
  T_BYTES,
  T_CHECKSUM_OFFSET,
  T_CHECKSUM_START,
  T_KIND,
  T_SOURCE,
  T_TOS,
} from "../../src/decap/decapsulate.ts";
import { OUTCOMES } from "../../src/decap/reasons.ts";
import { CE, ECN_DROP, ECT_0, ECT_1, ecnAfterTunnel, NOT_ECT } from "../../src/wire/ecn.ts";
import { udpPacket, withHeaderChecksum } from "../support/frames.ts";

const VIP = "203.0.113.10";
const VIP6 = "2001:db8:ff::10";
const CLIENT = "198.51.100.2";
const CLIENT6 = "2001:db8:1::2";
const AT = 1024;

const memory = new Uint8Array(AT + 70_000);
const words = new Int32Array(memory.buffer, 0, 16);
const take = createDecapsulator(memory, words, {
  vips: [parseAddress(VIP)!, parseAddress(VIP6)!],
  accept: [parsePrefix("10.20.0.0/24")!.prefix, parsePrefix("2001:db8:2::/64")!.prefix],
});

interface Offer {
  readonly kind: number;
  readonly bytes: Uint8Array;
  readonly tos?: number;
  readonly from?: string;
}

/** The outcome's name. */
function offer({ kind, bytes, tos = 0, from }: Offer): string {
  const isOver4 = kind === KIND_GUE_4 || kind < KIND_IP4_IN_6;
  const source = parseAddress(from ?? (isOver4 ? "10.20.0.1" : "2001:db8:2::1"))!;
  words.fill(0);
  words[T_AT] = AT;
  words[T_BYTES] = bytes.length;
  words[T_KIND] = kind;
  words[T_TOS] = tos;
  if (source.family === 4) words[T_SOURCE] = source.value;
  else words.set(source.words, T_SOURCE);
  memory.fill(0xee, AT);
  memory.set(bytes, AT);
  return OUTCOMES[take(0)]!;
}

function delivered(): Uint8Array {
  return memory.slice(words[T_AT], words[T_AT]! + words[T_BYTES]!);
}

const INNER4 = udpPacket({
  source: CLIENT,
  destination: VIP,
  sourcePort: 4000,
  destinationPort: 7000,
  data: [1, 2, 3],
});

function inner6(source = CLIENT6, destination = VIP6): Uint8Array {
  const bytes = new Uint8Array(40 + 11);
  const view = new DataView(bytes.buffer);
  view.setUint32(0, 0x6000_0000);
  view.setUint16(4, 11);
  view.setUint8(6, 17);
  view.setUint8(7, 64);
  for (const [text, at] of [
    [source, 8],
    [destination, 24],
  ] as const) {
    for (const [index, word] of parseAddress(text)!.words.entries()) {
      view.setInt32(at + 4 * index, word);
    }
  }
  bytes.set([0x0f, 0xa0, 0x1b, 0x58, 0, 11, 0x12, 0x34, 1, 2, 3], 40);
  return bytes;
}
const INNER6 = inner6();

function outer4(inner: Uint8Array, protocol: number, tos = 0): Uint8Array {
  const bytes = new Uint8Array(20 + inner.length);
  const view = new DataView(bytes.buffer);
  bytes.set([0x45, tos, 0, 0, 0, 0, 0, 0, 64, protocol, 0, 0, 10, 20, 0, 1, 10, 20, 0, 11]);
  view.setUint16(2, bytes.length);
  bytes.set(inner, 20);
  return bytes;
}

function gue(header: readonly number[], inner: Uint8Array): Uint8Array {
  return Uint8Array.from([...header, ...inner]);
}

function changed(bytes: Uint8Array, at: number, value: number, fixSum = true): Uint8Array {
  const copy = bytes.slice();
  copy[at] = value;
  return fixSum ? withHeaderChecksum(copy) : copy;
}

test("each tunnel gives its inner packet back, byte for byte", () => {
  const ways: readonly (readonly [string, Offer, Uint8Array])[] = [
    ["4in4", { kind: KIND_IP4_IN_4, bytes: outer4(INNER4, 4) }, INNER4],
    ["6in4", { kind: KIND_IP6_IN_4, bytes: outer4(INNER6, 41) }, INNER6],
    ["4in6", { kind: KIND_IP4_IN_6, bytes: INNER4 }, INNER4],
    ["6in6", { kind: KIND_IP6_IN_6, bytes: INNER6 }, INNER6],
    ["gue 1, 4", { kind: KIND_GUE_4, bytes: INNER4 }, INNER4],
    ["gue 1, 6", { kind: KIND_GUE_6, bytes: INNER6 }, INNER6],
    ["gue 0, 4", { kind: KIND_GUE_4, bytes: gue([0, 4, 0, 0], INNER4) }, INNER4],
    ["gue 0, 6", { kind: KIND_GUE_6, bytes: gue([0, 41, 0, 0], INNER6) }, INNER6],
    ["private data", { kind: KIND_GUE_4, bytes: gue([1, 4, 0, 0, 9, 9, 9, 9], INNER4) }, INNER4],
    ["padded", { kind: KIND_GUE_4, bytes: gue([], Uint8Array.from([...INNER4, 0, 0])) }, INNER4],
  ];
  for (const [name, what, inner] of ways) {
    assert.equal(offer(what), "delivered", name);
    assert.deepEqual(delivered(), inner, name);
    assert.equal(words[T_CHECKSUM_START], 0, name);
  }
});

test("what is malformed, or not for us, has a name each", () => {
  const v1 = (bytes: Uint8Array): Offer => ({ kind: KIND_GUE_4, bytes });
  const cases: readonly (readonly [string, string, Offer])[] = [
    ["source", "source_not_accepted", { kind: KIND_GUE_4, bytes: INNER4, from: "10.20.1.1" }],
    ["source6", "source_not_accepted", { kind: KIND_GUE_6, bytes: INNER4, from: "2001:db8:3::1" }],
    ["outer cut", "outer_malformed", { kind: KIND_IP4_IN_4, bytes: INNER4.subarray(0, 19) }],
    [
      "outer length",
      "outer_malformed",
      { kind: KIND_IP4_IN_4, bytes: changed(outer4(INNER4, 4), 3, 9) },
    ],
    [
      "outer ihl",
      "outer_malformed",
      { kind: KIND_IP4_IN_4, bytes: changed(outer4(INNER4, 4), 0, 0x44, false) },
    ],
    [
      "nothing in ipip",
      "inner_short",
      { kind: KIND_IP4_IN_4, bytes: outer4(INNER4.slice(0, 0), 4) },
    ],
    ["nothing", "gue_short", v1(new Uint8Array(0))],
    ["cut header", "gue_short", v1(Uint8Array.from([0, 4, 0]))],
    ["cut private data", "gue_short", v1(Uint8Array.from([31, 4, 0, 0, 1, 2]))],
    ["only a header", "inner_short", v1(Uint8Array.from([0, 4, 0, 0]))],
    ["variant 2", "gue_variant", v1(gue([0x80, 4, 0, 0], INNER4))],
    ["variant 3", "gue_variant", v1(gue([0xc0, 4, 0, 0], INNER4))],
    ["control", "gue_control", v1(gue([0x20, 0, 0, 0], INNER4))],
    ["flags", "gue_flags", v1(gue([0, 4, 0x80, 0], INNER4))],
    ["protocol", "gue_protocol", v1(gue([0, 47, 0, 0], INNER4))],
    ["protocol and version", "inner_version", v1(gue([0, 41, 0, 0], INNER4))],
    ["version 5", "inner_version", v1(changed(INNER4, 0, 0x55, false))],
    ["version 7", "inner_version", v1(changed(INNER4, 0, 0x75, false))],
    ["6 where 4 should be", "inner_version", { kind: KIND_IP4_IN_6, bytes: INNER6 }],
    ["inner cut", "inner_short", v1(INNER4.subarray(0, 19))],
    ["inner cut 6", "inner_short", { kind: KIND_GUE_6, bytes: INNER6.subarray(0, 39) }],
    ["inner ihl", "inner_header", v1(changed(INNER4, 0, 0x44, false))],
    ["inner longer", "inner_length", v1(changed(INNER4, 3, INNER4.length + 1))],
    ["inner shorter than its header", "inner_length", v1(changed(INNER4, 3, 19))],
    ["inner longer 6", "inner_length", v1(changed(INNER6, 5, 12, false))],
    ["options cut", "inner_length", v1(changed(INNER4.slice(0, 24), 0, 0x4f, false))],
    ["inner checksum", "inner_checksum", v1(changed(INNER4, 8, 3, false))],
    ["other destination", "inner_destination", v1(changed(INNER4, 19, 11))],
    ["other destination 6", "inner_destination", v1(inner6(CLIENT6, "2001:db8:ff::11"))],
    ["from loopback", "inner_source", v1(changed(INNER4, 12, 127))],
    ["from a group", "inner_source", v1(changed(INNER4, 12, 224))],
    ["from nobody", "inner_source", v1(changed(INNER4, 12, 0))],
    ["from a VIP 6", "inner_source", v1(inner6(VIP6))],
    ["from a group 6", "inner_source", v1(inner6("ff02::1"))],
    ["from loopback 6", "inner_source", v1(inner6("::1"))],
    ["not ECT, outside CE", "ecn", { kind: KIND_GUE_4, bytes: INNER4, tos: CE }],
    ["not ECT, outside CE 6", "ecn", { kind: KIND_GUE_6, bytes: INNER6, tos: CE }],
    ["CE in the outer header", "ecn", { kind: KIND_IP4_IN_4, bytes: outer4(INNER4, 4, CE) }],
  ];
  for (const [name, outcome, what] of cases) {
    assert.equal(offer(what), outcome, name);
    assert.equal(words[T_BYTES], 0, name);
  }
});

test("ECN leaves a tunnel as RFC 6040 section 4.2 has it", () => {
  // Rows: inner; columns: outer Not-ECT, ECT(0), ECT(1), CE, in the order of the RFC's figure 4.
  const outers = [NOT_ECT, ECT_0, ECT_1, CE];
  const figure: readonly (readonly [number, readonly number[]])[] = [
    [NOT_ECT, [NOT_ECT, NOT_ECT, NOT_ECT, ECN_DROP]],
    [ECT_0, [ECT_0, ECT_0, ECT_1, CE]],
    [ECT_1, [ECT_1, ECT_1, ECT_1, CE]],
    [CE, [CE, CE, CE, CE]],
  ];
  for (const [inner, row] of figure) {
    for (const [column, expected] of row.entries()) {
      const outer = outers[column]!;
      assert.equal(ecnAfterTunnel(inner | 0xb8, outer | 0x28), expected, `${inner} in ${outer}`);
      for (const bytes of [changed(INNER4, 1, 0xb8 | inner), withClass(INNER6, 0xb8 | inner)]) {
        const got = offer({ kind: KIND_GUE_4, bytes, tos: outer });
        assert.equal(got, expected === ECN_DROP ? "ecn" : "delivered");
        if (expected === ECN_DROP) continue;
        const is6 = bytes.length === INNER6.length && bytes[0]! >> 4 === 6;
        const whole = 0xb8 | expected;
        // The same packet, made with that field at once: its checksum is right too.
        assert.deepEqual(delivered(), is6 ? withClass(INNER6, whole) : changed(INNER4, 1, whole));
      }
    }
  }
});

function withClass(bytes: Uint8Array, trafficClass: number): Uint8Array {
  const copy = bytes.slice();
  copy[0] = 0x60 | (trafficClass >> 4);
  copy[1] = (trafficClass & 15) << 4;
  return copy;
}

test("a partial transport checksum is left to the kernel, a complete one is not", () => {
  const view = new DataView(INNER4.buffer.slice(0));
  const sumOf = (at: number, bytes: number): number => {
    let sum = 0;
    for (let each = at; each < at + bytes; each += 2) sum += view.getUint16(each);
    while (sum > 0xffff) sum = (sum & 0xffff) + (sum >>> 16);
    return sum;
  };
  let pseudo = sumOf(12, 8) + 17 + 11;
  while (pseudo > 0xffff) pseudo = (pseudo & 0xffff) + (pseudo >>> 16);
  const partial = INNER4.slice();
  partial[26] = pseudo >> 8;
  partial[27] = pseudo & 255;
  assert.equal(offer({ kind: KIND_GUE_4, bytes: partial }), "delivered");
  assert.equal(words[T_CHECKSUM_START], 20);
  assert.equal(words[T_CHECKSUM_OFFSET], 6);
  // A later fragment has no transport header.
  const fragment = changed(partial, 6, 0x20);
  assert.equal(offer({ kind: KIND_GUE_4, bytes: fragment }), "delivered");
  assert.equal(words[T_CHECKSUM_START], 0);
});

test("60,000 mutated packets: bounds, a VIP inside, one outcome each", () => {
  const seed = Number(process.env["HEADGATE_SEED"] ?? Date.now() & 0x3fffffff);
  const random = createRandom(seed);
  const seeds: readonly Offer[] = [
    { kind: KIND_IP4_IN_4, bytes: outer4(INNER4, 4) },
    { kind: KIND_IP6_IN_4, bytes: outer4(INNER6, 41) },
    { kind: KIND_IP4_IN_6, bytes: INNER4 },
    { kind: KIND_IP6_IN_6, bytes: INNER6 },
    { kind: KIND_GUE_4, bytes: gue([0, 4, 0, 0], INNER4) },
    { kind: KIND_GUE_6, bytes: gue([2, 41, 0, 0, 1, 2, 3, 4, 5, 6, 7, 8], INNER6) },
    { kind: KIND_GUE_6, bytes: INNER4 },
  ];
  const vips = new Set([VIP, VIP6]);
  const seen = new Set<string>();
  for (let round = 0; round < 60_000; round++) {
    const { kind, bytes: start } = seeds[random.below(seeds.length)]!;
    const bytes = start.slice(
      0,
      random.below(4) === 0 ? random.below(start.length + 1) : undefined,
    );
    for (let count = random.below(4); count > 0 && bytes.length > 0; count--) {
      bytes[random.below(bytes.length)] = random.below(256);
    }
    const outcome = offer({ kind, bytes, tos: random.below(256) });
    const about = `seed ${seed}, round ${round}: ${Buffer.from(bytes).toString("hex")}`;
    seen.add(outcome);
    if (outcome !== "delivered") continue;
    const at = words[T_AT]!;
    assert.ok(at >= AT && at + words[T_BYTES]! <= AT + bytes.length, about);
    const inner = delivered();
    const view = new DataView(inner.buffer);
    const is4 = inner[0]! >> 4 === 4;
    const destination = is4
      ? inner.slice(16, 20).join(".")
      : Array.from({ length: 8 }, (_, i) => view.getUint16(24 + 2 * i).toString(16)).join(":");
    assert.ok(is4 ? vips.has(destination) : destination === "2001:db8:ff:0:0:0:0:10", about);
    assert.equal(is4 ? view.getUint16(2) : 40 + view.getUint16(4), inner.length, about);
    if (is4) assert.deepEqual(withHeaderChecksum(inner.slice()), inner, about);
  }
  assert.ok(seen.size >= 14, `outcomes seen: ${[...seen].join(", ")}`);
});
