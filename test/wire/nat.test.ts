import assert from "node:assert/strict";
import { test } from "node:test";
import fc from "fast-check";
import {
  add16,
  difference32,
  negate16,
  updateChecksum,
  updatePartial,
} from "../../src/wire/checksum.ts";
import {
  decrementTtl,
  setIpv4Destination,
  setIpv4Source,
  updateIpv4HeaderChecksum,
} from "../../src/wire/ipv4.ts";
import { setTcpChecksum, setTcpPorts, tcpChecksum } from "../../src/wire/tcp.ts";
import { setUdpChecksum, setUdpPorts, udpChecksum } from "../../src/wire/udp.ts";
import {
  type ChecksumKind,
  checksumFault,
  pseudoHeader,
  slowChecksum,
  tcpPacket,
  udpPacket,
} from "../support/frames.ts";

// Goal: one delta a flow, added to a packet, gives the very bytes of the packet built for the new
// addresses and ports, and the negated one gives the old bytes back.
// Method: all of it at once, as the fast path does, for complete and partial checksums.

interface Ends {
  readonly source: number;
  readonly destination: number;
  readonly sourcePort: number;
  readonly destinationPort: number;
}

const port = fc.oneof(fc.nat(0xffff), fc.constantFrom(0, 1, 80, 0xffff));
const address = fc.oneof(fc.integer(), fc.constantFrom(1, -1, 0x0a140001, 0xcb00710a | 0));
const ends: fc.Arbitrary<Ends> = fc.record({
  source: address,
  destination: address,
  sourcePort: port,
  destinationPort: port,
});

function build(protocol: number, given: Ends, data: Uint8Array, checksum: ChecksumKind, ttl = 64) {
  const fields = { ...given, data, checksum, ip: { ttl } };
  return protocol === 6 ? tcpPacket(fields) : udpPacket(fields);
}

function ports(given: Ends): number {
  return (given.sourcePort << 16) | given.destinationPort;
}

/** The fast path's change of one packet with a header of 20 bytes. */
function rewrite(
  packet: Uint8Array,
  protocol: number,
  to: Ends,
  addresses: number,
  all: number,
  partial: boolean,
): void {
  const frame = new DataView(packet.buffer);
  setIpv4Source(frame, 0, to.source);
  setIpv4Destination(frame, 0, to.destination);
  updateIpv4HeaderChecksum(frame, 0, addresses);
  if (protocol === 6) {
    setTcpPorts(frame, 20, ports(to));
    const old = tcpChecksum(frame, 20);
    setTcpChecksum(frame, 20, partial ? updatePartial(old, addresses) : updateChecksum(old, all));
    return;
  }
  setUdpPorts(frame, 20, ports(to));
  const old = udpChecksum(frame, 20);
  if (partial) setUdpChecksum(frame, 20, updatePartial(old, addresses));
  else if (old !== 0) setUdpChecksum(frame, 20, updateChecksum(old, all) || 0xffff);
}

/** The data with its first word such that the transport checksum for `given` comes out as 0. */
function dataForZero(protocol: number, given: Ends, data: Uint8Array): Uint8Array {
  const fixed = data.slice();
  fixed.set([0, 0]);
  const l4 = build(protocol, given, fixed, "none").slice(20);
  const pseudo = pseudoHeader(given.source, given.destination, protocol, l4.length);
  const word = slowChecksum([...pseudo, ...l4]);
  fixed.set([word >> 8, word & 0xff]);
  return fixed;
}

for (const [protocol, name] of [
  [6, "TCP"],
  [17, "UDP"],
] as const) {
  for (const checksum of ["complete", "partial", "none"] as const) {
    if (protocol === 6 && checksum === "none") continue;
    test(`${name}, ${checksum} checksum: there and back equals the packets built anew`, () => {
      let zeros = 0;
      const data = fc.uint8Array({ minLength: 2, maxLength: 33 });
      const zero = fc.constantFrom("no", "before", "after");
      fc.assert(
        fc.property(ends, ends, data, zero, (before, after, random, where) => {
          const chosen =
            where === "no"
              ? random
              : dataForZero(protocol, where === "before" ? before : after, random);
          const addresses = add16(
            difference32(before.source, after.source),
            difference32(before.destination, after.destination),
          );
          const all = add16(addresses, difference32(ports(before), ports(after)));
          const partial = checksum === "partial";
          const packet = build(protocol, before, chosen, checksum);
          const original = packet.slice();

          rewrite(packet, protocol, after, addresses, all, partial);
          assert.deepEqual(packet, build(protocol, after, chosen, checksum));
          assert.equal(checksumFault(packet, { linkHeaderBytes: 0, partial }), null);

          rewrite(packet, protocol, before, negate16(addresses), negate16(all), partial);
          assert.deepEqual(packet, original);
          if (where !== "no") zeros++;
        }),
        { numRuns: 3000 },
      );
      assert.ok(zeros > 500, `results of zero were tested (${zeros} times)`);
    });
  }
}

test("a UDP checksum of 0xffff is a checksum, one of 0 is none", () => {
  const before = { source: 1, destination: 2, sourcePort: 3, destinationPort: 4 };
  const data = dataForZero(17, before, new Uint8Array(4));
  const packet = build(17, before, data, "complete");
  assert.deepEqual([...packet.slice(26, 28)], [0xff, 0xff]);
  rewrite(packet, 17, before, difference32(1, 1), difference32(1, 1), false);
  assert.deepEqual([...packet.slice(26, 28)], [0xff, 0xff], "nothing changes: still not none");
});

test("TTL and addresses together", () => {
  fc.assert(
    fc.property(ends, ends, fc.integer({ min: 1, max: 255 }), (before, after, ttl) => {
      const data = new Uint8Array(5);
      const addresses = add16(
        difference32(before.source, after.source),
        difference32(before.destination, after.destination),
      );
      const all = add16(addresses, difference32(ports(before), ports(after)));
      const packet = build(6, before, data, "complete", ttl);
      rewrite(packet, 6, after, addresses, all, false);
      decrementTtl(new DataView(packet.buffer), 0);
      assert.deepEqual(packet, build(6, after, data, "complete", ttl - 1));
    }),
    { numRuns: 2000 },
  );
});
