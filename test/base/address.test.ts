import assert from "node:assert/strict";
import { isIPv6 } from "node:net";
import { test } from "node:test";
import fc from "fast-check";
import {
  formatEndpoint,
  formatIpv4,
  formatIpv6,
  parseAddress,
  parseCidr,
  parseIpv4,
  parseIpv6,
  prefixMask,
} from "../../src/base/address.ts";

test("an address is int32 in host order", () => {
  assert.equal(parseIpv4("198.51.100.2"), 0xc6336402 | 0);
  assert.equal(parseIpv4("0.0.0.0"), 0);
  assert.equal(parseIpv4("255.255.255.255"), -1);
  assert.equal(formatIpv4(0xc6336402 | 0), "198.51.100.2");
  assert.equal(formatIpv4(0xc6336402), "198.51.100.2");
  assert.equal(formatEndpoint(0xcb00710a | 0, 443), "203.0.113.10:443");
});

test("every address survives being written and read", () => {
  fc.assert(fc.property(fc.integer(), (value) => parseIpv4(formatIpv4(value)) === value));
});

const NO_ADDRESSES = [
  "",
  "1.2.3",
  "1.2.3.4.5",
  "1.2.3.",
  ".1.2.3",
  "1..2.3",
  "256.1.1.1",
  "1.2.3.999",
  "01.2.3.4",
  "1.2.3.00",
  "0x1.2.3.4",
  "1.2.3.4 ",
  " 1.2.3.4",
  "1.2.3.+4",
  "1.2.3.-4",
  "1.2.3.4e0",
  "1.2.3.4/24",
  "١.2.3.4",
  "16909060",
];
for (const text of NO_ADDRESSES) {
  test(`${JSON.stringify(text)} is no address`, () => assert.equal(parseIpv4(text), null));
}

test("any text is an address as formatIpv4 writes it, or none", () => {
  const part = fc.oneof(fc.nat(300).map(String), fc.string({ maxLength: 3 }));
  fc.assert(
    fc.property(fc.array(part, { maxLength: 5 }), (parts) => {
      const text = parts.join(".");
      const value = parseIpv4(text);
      return value === null || formatIpv4(value) === text;
    }),
  );
});

test("a prefix is an address and a length; an address alone is a prefix of 32", () => {
  const address = 0x0a140000;
  assert.deepEqual(parseCidr("10.20.0.0/16"), { address, prefixLength: 16 });
  assert.deepEqual(parseCidr("10.20.0.0"), { address, prefixLength: 32 });
  assert.deepEqual(parseCidr("0.0.0.0/0"), { address: 0, prefixLength: 0 });
  for (const text of ["10.20.0.0/", "10.20.0.0/33", "10.20.0.0/08", "10.20/16", "/8", "a/8"]) {
    assert.equal(parseCidr(text), null, text);
  }
});

test("a mask has as many leading ones as its length says", () => {
  for (let length = 0; length <= 32; length++) {
    const bits = (prefixMask(length) >>> 0).toString(2).padStart(32, "0");
    assert.equal(bits, "1".repeat(length) + "0".repeat(32 - length));
  }
  assert.throws(() => prefixMask(33), /invariant broken/);
});

test("IPv6 is written as RFC 5952 asks", () => {
  const cases: readonly [string, string][] = [
    ["2001:db8::1", "2001:db8::1"],
    ["2001:DB8:0:0:0:0:2:1", "2001:db8::2:1"],
    ["2001:db8:0:1:1:1:1:1", "2001:db8:0:1:1:1:1:1"],
    ["2001:0:0:1:0:0:0:1", "2001:0:0:1::1"],
    ["2001:db8:0:0:1:0:0:1", "2001:db8::1:0:0:1"],
    ["::", "::"],
    ["::1", "::1"],
    ["1::", "1::"],
    ["::ffff:198.51.100.2", "::ffff:198.51.100.2"],
    ["64:ff9b::198.51.100.2", "64:ff9b::c633:6402"],
  ];
  for (const [text, canonical] of cases) {
    const words = parseIpv6(text);
    assert.ok(words !== null, text);
    assert.equal(formatIpv6(words), canonical);
  }
  const address = parseAddress("2001:db8::1");
  assert.deepEqual(address, {
    family: 6,
    text: "2001:db8::1",
    value: 0,
    words: [0x20010db8, 0, 0, 1],
  });
});

test("IPv6 texts that are none", () => {
  for (const text of [
    "",
    ":",
    ":::",
    "1",
    "1:2",
    "1::2::3",
    "1:2:3:4:5:6:7:8:9",
    "g::",
    "12345::",
  ]) {
    assert.equal(parseIpv6(text), null, text);
  }
  for (const text of ["fe80::1%eth0", "::1.2.3", "1.2.3.4::", "::01.2.3.4", "1:2:3:4:5:6:7:8::"]) {
    assert.equal(parseIpv6(text), null, text);
  }
});

test("every IPv6 address survives being written and read, as Node understands it", () => {
  fc.assert(
    fc.property(fc.tuple(fc.integer(), fc.integer(), fc.integer(), fc.integer()), (words) => {
      const text = formatIpv6(words);
      assert.ok(isIPv6(text));
      assert.deepEqual(parseIpv6(text), words);
    }),
  );
  fc.assert(fc.property(fc.ipV6(), (text) => assert.equal(parseIpv6(text) !== null, isIPv6(text))));
});
