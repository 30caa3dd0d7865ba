import assert from "node:assert/strict";
import { test } from "node:test";
import fc from "fast-check";
import { difference32 } from "../../src/wire/checksum.ts";
import {
  checkIpv4,
  decrementTtl,
  hasDontFragment,
  IPV4_CHECKSUM_WRONG,
  IPV4_HEADER_MALFORMED,
  IPV4_LENGTH_WRONG,
  IPV4_OK,
  IPV4_SOURCE_INVALID,
  IPV4_SOURCE_ROUTE,
  IPV4_TOO_SHORT,
  ipv4Checksum,
  ipv4Destination,
  ipv4FragmentWord,
  ipv4HeaderBytes,
  ipv4Id,
  ipv4Protocol,
  ipv4Source,
  ipv4TotalBytes,
  ipv4Ttl,
  isFragment,
  isLaterFragment,
  setIpv4Destination,
  setIpv4Source,
  updateIpv4HeaderChecksum,
  writeIpv4Header,
} from "../../src/wire/ipv4.ts";
import { addressNumber, ipv4Packet, slowSum, withHeaderChecksum } from "../support/frames.ts";

// Goal: checkIpv4() accepts exactly the headers that its getters can read and that RFC 1812 lets
// through, and every change leaves the bytes that a header built anew has.
// Method: a plain second check, and the builders of test/support.

function view(bytes: Uint8Array): DataView {
  return new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
}

function slowOptions(options: Uint8Array): number {
  let rest = [...options];
  while (rest.length > 0 && rest[0] !== 0) {
    if (rest[0] === 1) {
      rest = rest.slice(1);
      continue;
    }
    const length = rest[1];
    if (length === undefined || length < 2 || length > rest.length) return IPV4_HEADER_MALFORMED;
    if (rest[0] === 131 || rest[0] === 137) return IPV4_SOURCE_ROUTE;
    rest = rest.slice(length);
  }
  return IPV4_OK;
}

function slowCheck(packet: Uint8Array): number {
  if (packet.length < 20) return IPV4_TOO_SHORT;
  const headerBytes = (packet[0]! % 16) * 4;
  if (packet[0]! >> 4 !== 4 || headerBytes < 20) return IPV4_HEADER_MALFORMED;
  if (headerBytes > packet.length) return IPV4_HEADER_MALFORMED;
  if (slowSum(packet.slice(0, headerBytes)) !== 0xffff) return IPV4_CHECKSUM_WRONG;
  const total = packet[2]! * 256 + packet[3]!;
  if (total < headerBytes || total > packet.length) return IPV4_LENGTH_WRONG;
  const options = slowOptions(packet.slice(20, headerBytes));
  if (options !== IPV4_OK) return options;
  const first = packet[12]!;
  return first === 0 || first === 127 || first >= 224 ? IPV4_SOURCE_INVALID : IPV4_OK;
}

const unicast = fc
  .tuple(
    fc.integer({ min: 1, max: 223 }).filter((first) => first !== 127),
    fc.nat(0xff_ffff),
  )
  .map(([first, rest]) => (first << 24) | rest | 0);

const option = fc.oneof(
  fc.constant([1]),
  fc
    .tuple(
      fc.integer({ min: 2, max: 255 }).filter((type) => type !== 131 && type !== 137),
      fc.array(fc.nat(255), { maxLength: 8 }),
    )
    .map(([type, data]) => [type, data.length + 2, ...data]),
);
const options = fc.array(option, { maxLength: 4 }).map((list) => {
  const bytes = list.flat();
  while (bytes.length % 4 !== 0) bytes.push(0);
  return bytes.length <= 40 ? bytes : [];
});

const packetFields = fc.record({
  source: unicast,
  destination: fc.integer(),
  protocol: fc.nat(255),
  payload: fc.uint8Array({ maxLength: 40 }),
  ttl: fc.nat(255),
  id: fc.nat(0xffff),
  fragmentWord: fc.nat(0xffff),
  tos: fc.nat(255),
  options,
});

test("every valid packet passes, and every getter reads its field", () => {
  fc.assert(
    fc.property(packetFields, fc.nat(9), fc.nat(9), (fields, at, padding) => {
      const packet = ipv4Packet(fields);
      const buffer = new Uint8Array(at + packet.length + padding).fill(0xee);
      buffer.set(packet, at);
      const frame = view(buffer);
      assert.equal(checkIpv4(frame, at, packet.length + padding), IPV4_OK);
      assert.equal(ipv4HeaderBytes(frame, at), 20 + fields.options.length);
      assert.equal(ipv4TotalBytes(frame, at), packet.length);
      assert.equal(ipv4Id(frame, at), fields.id);
      assert.equal(ipv4FragmentWord(frame, at), fields.fragmentWord);
      assert.equal(ipv4Ttl(frame, at), fields.ttl);
      assert.equal(ipv4Protocol(frame, at), fields.protocol);
      assert.equal(ipv4Checksum(frame, at), packet[10]! * 256 + packet[11]!);
      assert.equal(ipv4Source(frame, at), fields.source);
      assert.equal(ipv4Destination(frame, at), fields.destination);
      const more = (fields.fragmentWord & 0x2000) !== 0;
      const later = fields.fragmentWord % 0x2000 !== 0;
      assert.equal(isFragment(frame, at), more || later);
      assert.equal(isLaterFragment(frame, at), later);
      assert.equal(hasDontFragment(frame, at), (fields.fragmentWord & 0x4000) !== 0);
    }),
    { numRuns: 1000 },
  );
});

const mutation = fc.tuple(fc.nat(), fc.nat(255));

test("a changed packet has the finding of the plain check, checksum made right or not", () => {
  const seen = new Map<number, number>();
  const cases = fc.tuple(
    packetFields,
    fc.array(mutation, { minLength: 1, maxLength: 3 }),
    fc.option(fc.nat(80)),
    fc.boolean(),
  );
  fc.assert(
    fc.property(cases, ([fields, mutations, cut, repair]) => {
      let packet = ipv4Packet(fields);
      for (const [place, value] of mutations) packet[place % Math.min(packet.length, 24)] = value;
      if (cut !== null) packet = packet.slice(0, cut);
      if (repair && packet.length >= 20) packet = withHeaderChecksum(packet);
      const expected = slowCheck(packet);
      seen.set(expected, (seen.get(expected) ?? 0) + 1);
      assert.equal(checkIpv4(view(packet), 0, packet.length), expected);
    }),
    { numRuns: 10_000 },
  );
  for (let finding = IPV4_OK; finding <= IPV4_SOURCE_INVALID; finding++) {
    if (finding !== IPV4_SOURCE_ROUTE) assert.ok(seen.has(finding), `finding ${finding} occurred`);
  }
});

test("any options have the finding of the plain check", () => {
  const seen = new Set<number>();
  const byte = fc.oneof(fc.constantFrom(0, 1, 2, 3, 4, 7, 131, 137), fc.nat(255));
  const words = fc
    .array(byte, { minLength: 4, maxLength: 40 })
    .map((bytes) => bytes.slice(0, bytes.length & ~3));
  fc.assert(
    fc.property(words, (bytes) => {
      const ends = { source: "198.51.100.2", destination: "203.0.113.10" };
      const packet = ipv4Packet({ ...ends, protocol: 6, payload: [], options: bytes });
      const expected = slowCheck(packet);
      seen.add(expected);
      assert.equal(checkIpv4(view(packet), 0, packet.length), expected);
    }),
    { numRuns: 5000 },
  );
  assert.deepEqual([...seen].sort(), [IPV4_OK, IPV4_HEADER_MALFORMED, IPV4_SOURCE_ROUTE]);
});

test("random bytes never throw, and reading stays inside", () => {
  const bytes = fc.oneof(
    fc.uint8Array({ maxLength: 80 }),
    fc.uint8Array({ minLength: 20, maxLength: 80 }).map((random) => {
      random[0] = 0x40 | (random[0]! & 0x0f);
      return withHeaderChecksum(random);
    }),
  );
  fc.assert(
    fc.property(bytes, (packet) => {
      assert.equal(checkIpv4(view(packet), 0, packet.length), slowCheck(packet));
    }),
    { numRuns: 5000 },
  );
  assert.equal(checkIpv4(new DataView(new ArrayBuffer(0)), 0, -1), IPV4_TOO_SHORT);
});

test("the TTL falls by one at every value, and the header is as built anew", () => {
  fc.assert(
    fc.property(packetFields, (fields) => {
      for (let ttl = 1; ttl <= 255; ttl++) {
        const packet = ipv4Packet({ ...fields, ttl, payload: [] });
        decrementTtl(view(packet), 0);
        assert.deepEqual(packet, ipv4Packet({ ...fields, ttl: ttl - 1, payload: [] }));
      }
    }),
    { numRuns: 20 },
  );
});

test("the TTL's checksum is that of ip_decrease_ttl() for every checksum", () => {
  const packet = new Uint8Array(20);
  const frame = view(packet);
  for (const ttl of [1, 2, 64, 128, 255]) {
    for (let checksum = 0; checksum <= 0xffff; checksum++) {
      packet[8] = ttl;
      packet[9] = 6;
      frame.setUint16(10, checksum);
      decrementTtl(frame, 0);
      // include/net/ip.h: check += htons(0x0100); iph->check = check + (check >= 0xFFFF)
      const raised = checksum + 0x0100;
      const expected = (raised + (raised >= 0xffff ? 1 : 0)) & 0xffff;
      if (frame.getUint16(10) !== expected || packet[8] !== ttl - 1 || packet[9] !== 6) {
        assert.fail(`ttl ${ttl}, checksum ${checksum}: ${frame.getUint16(10)}, not ${expected}`);
      }
    }
  }
});

test("changed addresses and the updated checksum are the header built anew", () => {
  fc.assert(
    fc.property(packetFields, fc.integer(), fc.integer(), (fields, source, destination) => {
      const packet = ipv4Packet(fields);
      const frame = view(packet);
      setIpv4Source(frame, 0, source);
      updateIpv4HeaderChecksum(frame, 0, difference32(fields.source, source));
      setIpv4Destination(frame, 0, destination);
      updateIpv4HeaderChecksum(frame, 0, difference32(fields.destination, destination));
      assert.deepEqual(packet, ipv4Packet({ ...fields, source, destination }));
    }),
    { numRuns: 2000 },
  );
});

test("writeIpv4Header() writes the header that the builder builds", () => {
  fc.assert(
    fc.property(packetFields, fc.nat(5), (fields, at) => {
      const expected = ipv4Packet({ ...fields, options: [], tos: 0 });
      const bytes = new Uint8Array(at + 21).fill(0xee);
      writeIpv4Header(
        view(bytes),
        at,
        expected.length,
        fields.id,
        fields.fragmentWord,
        fields.ttl,
        fields.protocol,
        fields.source,
        fields.destination,
      );
      assert.deepEqual(bytes.slice(at, at + 20), expected.slice(0, 20));
      assert.equal(bytes[at + 20], 0xee, "the byte after it is left alone");
    }),
    { numRuns: 1000 },
  );
});

const BORDERS: readonly [source: string, finding: number][] = [
  ["0.255.255.255", IPV4_SOURCE_INVALID],
  ["1.0.0.0", IPV4_OK],
  ["126.255.255.255", IPV4_OK],
  ["127.0.0.0", IPV4_SOURCE_INVALID],
  ["127.255.255.255", IPV4_SOURCE_INVALID],
  ["128.0.0.0", IPV4_OK],
  ["223.255.255.255", IPV4_OK],
  ["224.0.0.0", IPV4_SOURCE_INVALID],
];
for (const [source, finding] of BORDERS) {
  test(`source ${source}: finding ${finding}`, () => {
    const packet = ipv4Packet({ source, destination: "203.0.113.10", protocol: 6, payload: [] });
    assert.equal(checkIpv4(view(packet), 0, packet.length), finding);
    assert.equal(ipv4Source(view(packet), 0), addressNumber(source));
  });
}
