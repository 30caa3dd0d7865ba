import assert from "node:assert/strict";
import { test } from "node:test";
import fc from "fast-check";
import {
  checkIcmp,
  checkQuote,
  ICMP_CHECKSUM_WRONG,
  ICMP_MALFORMED,
  ICMP_OK,
  icmpChecksum,
  icmpCode,
  icmpType,
  isIcmpError,
  setIcmpChecksum,
  writeIcmpErrorHeader,
} from "../../src/wire/icmp.ts";
import {
  icmpEcho,
  icmpError,
  ipv4Packet,
  slowChecksum,
  slowSum,
  tcpPacket,
} from "../support/frames.ts";

function view(bytes: Uint8Array): DataView {
  return new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
}

test("echo messages of any length pass, odd ones too, and one wrong bit does not", () => {
  fc.assert(
    fc.property(fc.uint8Array({ maxLength: 50 }), fc.nat(), fc.nat(7), (data, place, bit) => {
      const message = icmpEcho({ data, id: place & 0xffff });
      assert.equal(checkIcmp(view(message), 0, message.length, true), ICMP_OK);
      assert.equal(icmpType(view(message), 0), 8);
      assert.equal(icmpCode(view(message), 0), 0);
      assert.equal(icmpChecksum(view(message), 0), message[2]! * 256 + message[3]!);
      message[place % message.length]! ^= 1 << bit;
      assert.equal(checkIcmp(view(message), 0, message.length, true), ICMP_CHECKSUM_WRONG);
      assert.equal(checkIcmp(view(message), 0, message.length, false), ICMP_OK);
    }),
    { numRuns: 1000 },
  );
});

test("random bytes never throw; what passes has eight bytes and the right sum", () => {
  fc.assert(
    fc.property(fc.uint8Array({ maxLength: 40 }), (bytes) => {
      const expected =
        bytes.length < 8
          ? ICMP_MALFORMED
          : slowSum(bytes) === 0xffff
            ? ICMP_OK
            : ICMP_CHECKSUM_WRONG;
      assert.equal(checkIcmp(view(bytes), 0, bytes.length, true), expected);
    }),
    { numRuns: 3000 },
  );
  assert.equal(checkIcmp(view(new Uint8Array(8)), 0, 8, true), ICMP_CHECKSUM_WRONG, "all zeros");
});

test("errors are the types that quote a packet", () => {
  const errors = Array.from({ length: 256 }, (_, type) => type).filter(isIcmpError);
  assert.deepEqual(errors, [3, 4, 5, 11, 12]);
});

/** The plain check of a quote. */
function slowQuote(bytes: Uint8Array): number {
  if (bytes.length < 28) return ICMP_MALFORMED;
  const headerBytes = (bytes[0]! % 16) * 4;
  const isWhole = headerBytes >= 20 && bytes.length - headerBytes >= 8;
  const offset = (bytes[6]! % 32) * 256 + bytes[7]!;
  return bytes[0]! >> 4 === 4 && isWhole && offset === 0 ? ICMP_OK : ICMP_MALFORMED;
}

test("a quote has a header, eight bytes of transport and no fragment offset", () => {
  const seen = new Set<number>();
  const quoted = fc.tuple(
    fc.nat(10),
    fc.array(fc.tuple(fc.nat(12), fc.nat(255)), { maxLength: 2 }),
    fc.nat(70),
  );
  fc.assert(
    fc.property(quoted, ([words, patches, cut]) => {
      const packet = ipv4Packet({
        source: "203.0.113.10",
        destination: "198.51.100.2",
        protocol: 17,
        payload: new Uint8Array(12),
        options: new Array<number>(words * 4).fill(1),
      });
      for (const [at, value] of patches) packet[at] = value;
      const quote = packet.slice(0, cut);
      const expected = slowQuote(quote);
      seen.add(expected);
      assert.equal(checkQuote(view(quote), 0, quote.length), expected);
    }),
    { numRuns: 5000 },
  );
  assert.equal(seen.size, 2, "quotes of both kinds occurred");
});

test("a quote's checksum, total length and the data after eight bytes do not matter", () => {
  const packet = tcpPacket({
    source: "203.0.113.10",
    destination: "198.51.100.2",
    sourcePort: 80,
    destinationPort: 40_000,
  });
  const quote = packet.slice(0, 28);
  quote.set([0xff, 0xff], 2);
  quote.set([0, 0], 10);
  assert.equal(checkQuote(view(quote), 0, 28), ICMP_OK);
  assert.equal(checkQuote(view(quote), 0, 27), ICMP_MALFORMED);
  assert.equal(checkQuote(view(new Uint8Array(0)), 0, 0), ICMP_MALFORMED);
});

test("writeIcmpErrorHeader() writes the header that the builder builds", () => {
  const byte = fc.nat(255);
  fc.assert(
    fc.property(
      byte,
      byte,
      fc.nat(0xffff),
      fc.uint8Array({ maxLength: 40 }),
      (type, code, mtu, quote) => {
        const bytes = new Uint8Array(8 + quote.length).fill(0xee);
        bytes.set(quote, 8);
        writeIcmpErrorHeader(view(bytes), 0, type, code, mtu);
        setIcmpChecksum(view(bytes), 0, slowChecksum(bytes));
        assert.deepEqual(bytes, icmpError({ type, code, rest: mtu, quote }));
      },
    ),
  );
});
