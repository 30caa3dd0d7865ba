import assert from "node:assert/strict";
import { test } from "node:test";
import fc from "fast-check";
import { pseudoSumIpv6, sumBytes } from "../../src/wire/checksum.ts";
import { checkIcmp6, checkQuote6, fillIcmp6Checksum, ICMP6_OK } from "../../src/wire/icmpv6.ts";
import {
  checkIpv6,
  IPV6_LENGTH_WRONG,
  IPV6_OK,
  IPV6_SOURCE_INVALID,
  IPV6_TOO_SHORT,
  IPV6_VERSION_WRONG,
  ipv6FlowLabel,
  ipv6HopLimit,
  ipv6TotalBytes,
  ipv6TrafficClass,
  WALK_FRAGMENT,
  WALK_FRAGMENT_AT,
  WALK_L4_AT,
  WALK_MALFORMED,
  WALK_OK,
  WALK_PROTOCOL,
  WALK_ROUTING,
  WALK_TOO_MANY,
  WALK_WORDS,
  walkExtensions,
  writeIpv6Header,
} from "../../src/wire/ipv6.ts";
import { slowSum } from "../support/frames.ts";
import { icmp6, ipv6Packet, pseudo6, text6 } from "../support/packets6.ts";

// Goal: the views on IPv6 say what a slow reading of RFC 8200 says, for every packet.

function viewOf(bytes: Uint8Array): DataView {
  return new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
}

/** The walk as the RFC tells it, over a plain list of bytes. */
function slowWalk(
  bytes: readonly number[],
): [code: number, protocol: number, at: number, fragment: number] {
  let next = bytes[6]!;
  let at = 40;
  let fragment = 0;
  for (let count = 0; ; count++) {
    if (![0, 43, 44, 60].includes(next)) return [WALK_OK, next, at, fragment];
    if (count === 8) return [WALK_TOO_MANY, next, at, fragment];
    if (next === 0 && count > 0) return [WALK_MALFORMED, next, at, fragment];
    if (at + 8 > bytes.length) return [WALK_MALFORMED, next, at, fragment];
    const after = bytes[at]!;
    if (next === 44) {
      fragment = at;
      const offset = Math.floor((bytes[at + 2]! * 256 + bytes[at + 3]!) / 8);
      if (offset !== 0 || bytes[at + 3]! % 2 === 1) return [WALK_FRAGMENT, after, at + 8, fragment];
      next = after;
      at += 8;
      continue;
    }
    if (next === 43 && (bytes[at + 2] === 0 || bytes[at + 3] !== 0)) {
      return [WALK_ROUTING, next, at, fragment];
    }
    const length = 8 * (bytes[at + 1]! + 1);
    if (at + length > bytes.length) return [WALK_MALFORMED, next, at, fragment];
    next = after;
    at += length;
  }
}

const byte = fc.integer({ min: 0, max: 255 });
const address = fc.array(byte, { minLength: 16, maxLength: 16 }).map(text6);
/** Extension headers that are mostly right: type, and bytes of which the second is their length. */
const extension = fc
  .tuple(
    fc.constantFrom(0, 43, 44, 60, 60, 44),
    fc.integer({ min: 0, max: 2 }),
    fc.array(byte, { minLength: 24, maxLength: 24 }),
    fc.boolean(),
  )
  .map(([type, units, bytes, calm]): [number, number[]] => {
    const length = type === 44 ? 8 : 8 * (units + 1);
    const own = bytes.slice(0, length);
    own[1] = units;
    // Half of them are such that the walk goes on.
    if (calm && type === 44) own.splice(2, 2, 0, bytes[3]! & 6);
    if (calm && type === 43) own.splice(2, 2, 4, 0);
    return [type, own];
  });

test("the walk over any chain of extension headers, whole or cut anywhere", () => {
  const result = new Int32Array(WALK_WORDS);
  const codes = new Set<number>();
  fc.assert(
    fc.property(
      fc.array(extension, { maxLength: 10 }),
      byte,
      fc.nat(400),
      (extensions, protocol, cut) => {
        const packet = ipv6Packet({
          source: "2001:db8::1",
          destination: "2001:db8::2",
          protocol,
          payload: [1, 2, 3, 4, 5, 6, 7, 8],
          extensions,
        });
        const end = Math.max(40, packet.length - (cut > 200 ? 0 : cut));
        const bytes = packet.slice(0, end);
        const padded = new Uint8Array(bytes.length + 7);
        padded.set(bytes, 3);
        const code = walkExtensions(viewOf(padded), 3, 3 + end, result);
        const got = [
          code,
          result[WALK_PROTOCOL],
          result[WALK_L4_AT]! - 3,
          result[WALK_FRAGMENT_AT] === 0 ? 0 : result[WALK_FRAGMENT_AT]! - 3,
        ];
        assert.deepEqual(got, slowWalk([...bytes]));
        codes.add(code);
      },
    ),
    { numRuns: 4000 },
  );
  assert.equal(codes.size, 5, "every answer happened");
});

test("any bytes: the walk ends within them", () => {
  const result = new Int32Array(WALK_WORDS);
  fc.assert(
    fc.property(fc.uint8Array({ minLength: 40, maxLength: 200 }), (bytes) => {
      const code = walkExtensions(viewOf(bytes), 0, bytes.length, result);
      assert.deepEqual(
        [code, result[WALK_PROTOCOL], result[WALK_L4_AT]],
        slowWalk([...bytes]).slice(0, 3),
      );
      assert.ok(result[WALK_L4_AT]! <= bytes.length);
    }),
    { numRuns: 2000 },
  );
});

test("the header: what is right, and what is wrong with the others", () => {
  const good = ipv6Packet({
    source: "2001:db8::1",
    destination: "2001:db8::2",
    protocol: 17,
    payload: [1, 2, 3],
  });
  const changed = (at: number, value: number): number => {
    const bytes = good.slice();
    bytes[at] = value;
    return checkIpv6(viewOf(bytes), 0, bytes.length);
  };
  assert.equal(checkIpv6(viewOf(good), 0, good.length), IPV6_OK);
  assert.equal(checkIpv6(viewOf(good), 0, 39), IPV6_TOO_SHORT);
  assert.equal(changed(0, 0x45), IPV6_VERSION_WRONG);
  assert.equal(changed(5, 4), IPV6_LENGTH_WRONG);
  assert.equal(changed(5, 2), IPV6_OK, "padding behind the packet");
  assert.equal(changed(8, 0xff), IPV6_SOURCE_INVALID);
  const loopback = ipv6Packet({
    source: "::1",
    destination: "2001:db8::2",
    protocol: 17,
    payload: [],
  });
  assert.equal(checkIpv6(viewOf(loopback), 0, 40), IPV6_SOURCE_INVALID);
  const probe = ipv6Packet({ source: "::", destination: "2001:db8::2", protocol: 58, payload: [] });
  assert.equal(checkIpv6(viewOf(probe), 0, 40), IPV6_OK, "who looks for its own address has none");
});

test("fields are read as they were written", () => {
  fc.assert(
    fc.property(
      byte,
      fc.nat(0xfffff),
      byte,
      fc.nat(65_535),
      byte,
      (trafficClass, flowLabel, hopLimit, length, next) => {
        const packet = ipv6Packet({
          source: "::2",
          destination: "::3",
          protocol: next,
          payload: [],
          trafficClass,
          flowLabel,
          hopLimit,
        });
        const view = viewOf(packet);
        assert.deepEqual(
          [ipv6TrafficClass(view, 0), ipv6FlowLabel(view, 0), ipv6HopLimit(view, 0)],
          [trafficClass, flowLabel, hopLimit],
        );
        writeIpv6Header(view, 0, length, next, hopLimit, trafficClass);
        assert.deepEqual(
          [...packet.subarray(0, 8)],
          [
            0x60 | (trafficClass >>> 4),
            (trafficClass & 15) << 4,
            0,
            0,
            length >>> 8,
            length & 0xff,
            next,
            hopLimit,
          ],
        );
        assert.equal(ipv6TotalBytes(view, 0), 40 + length);
      },
    ),
  );
});

test("pseudo header and ICMPv6 checksums are those of a slow sum", () => {
  fc.assert(
    fc.property(
      address,
      address,
      fc.array(byte, { maxLength: 50 }),
      byte,
      (source, destination, data, type) => {
        const packet = icmp6({ source, destination, type, data });
        const view = viewOf(packet);
        const bytes = packet.length - 40;
        assert.equal(
          pseudoSumIpv6(view, 0, 58, bytes) % 0xffff,
          slowSum(pseudo6(source, destination, 58, bytes)) % 0xffff,
        );
        assert.equal(checkIcmp6(view, 0, 40, bytes), ICMP6_OK);
        const sum = packet.slice(42, 44);
        packet.set([0x12, 0x34], 42);
        fillIcmp6Checksum(view, 0, 40, bytes);
        assert.equal(sumBytes(view, 40, bytes, pseudoSumIpv6(view, 0, 58, bytes)), 0xffff);
        assert.deepEqual([...packet.subarray(42, 44)], [...sum]);
      },
    ),
    { numRuns: 300 },
  );
});

test("a quote needs its ports and four bytes behind them", () => {
  const quote = ipv6Packet({
    source: "::2",
    destination: "::3",
    protocol: 6,
    payload: new Array<number>(20).fill(1),
    extensions: [[60, [0, 0, 1, 4, 0, 0, 0, 0]]],
  });
  const result = new Int32Array(WALK_WORDS);
  for (let bytes = 0; bytes <= quote.length; bytes++) {
    const isGood = checkQuote6(viewOf(quote), 0, bytes, result) === ICMP6_OK;
    assert.equal(isGood, bytes >= 56, `${bytes} bytes`);
  }
  assert.deepEqual([result[WALK_PROTOCOL], result[WALK_L4_AT]], [6, 48]);
});
