import assert from "node:assert/strict";
import { test } from "node:test";
import fc from "fast-check";
import {
  arpRequest,
  checksumFault,
  checksumsOk,
  describe,
  ethernetFrame,
  icmpEcho,
  icmpError,
  ipv4Packet,
  SYN,
  slowChecksum,
  tcpPacket,
  udpPacket,
} from "../support/frames.ts";

// Goal: the builders and the verifier that the other tests rest on are right themselves.
// Method: a published header, and every single bit of valid frames turned.

const ENDS = {
  source: "198.51.100.2",
  destination: "203.0.113.10",
  sourcePort: 40_000,
  destinationPort: 80,
} as const;
const TCP = tcpPacket({
  ...ENDS,
  flags: SYN,
  sequence: 7,
  options: [2, 4, 5, 180],
  data: [1, 2, 3],
});
const UDP = udpPacket({ ...ENDS, data: [1, 2, 3] });
const CUT = tcpPacket({ ...ENDS }).slice(0, 28);

function icmp(payload: Uint8Array): Uint8Array {
  return ipv4Packet({ ...ENDS, protocol: 1, payload });
}

test("the header of the example in 'IPv4 header checksum' has the checksum b861", () => {
  const header = Buffer.from("450000730000400040110000c0a80001c0a800c7", "hex");
  assert.equal(slowChecksum(header), 0xb861);
});

const FRAMES: readonly [name: string, packet: Uint8Array][] = [
  ["TCP", TCP],
  ["UDP", UDP],
  ["ICMP echo", icmp(icmpEcho())],
  ["ICMP error", icmp(icmpError({ type: 3, code: 4, rest: 1400, quote: CUT }))],
];
for (const [name, packet] of FRAMES) {
  test(`${name}: a frame that is built is right, and no bit of its packet may turn`, () => {
    const frame = ethernetFrame(packet);
    assert.equal(checksumFault(frame, { linkHeaderBytes: 14 }), null);
    assert.equal(checksumFault(packet, { linkHeaderBytes: 0 }), null);
    for (let bit = 0; bit < packet.length * 8; bit++) {
      const turned = packet.slice();
      turned[bit >> 3]! ^= 1 << (bit & 7);
      assert.ok(!checksumsOk(turned, { linkHeaderBytes: 0 }), `bit ${bit}`);
    }
  });
}

test("the quoted header of an ICMP error is verified too", () => {
  const quote = CUT.slice();
  quote[8]! -= 1;
  const packet = icmp(icmpError({ type: 11, code: 0, quote }));
  assert.equal(checksumFault(packet, { linkHeaderBytes: 0 }), "quoted IPv4 header checksum");
});

test("a partial checksum is the pseudo header's sum and nothing else", () => {
  const kind = { linkHeaderBytes: 0, partial: true };
  for (const build of [tcpPacket, udpPacket]) {
    const partial = build({ ...ENDS, data: [1, 2, 3], checksum: "partial" });
    assert.equal(checksumFault(partial, kind), null);
    assert.ok(!checksumsOk(partial, { linkHeaderBytes: 0 }));
    assert.ok(!checksumsOk(build({ ...ENDS, data: [1, 2, 3] }), kind));
  }
});

test("UDP without a checksum is right, TCP without one is not", () => {
  const none = { ...ENDS, checksum: "none" } as const;
  assert.ok(checksumsOk(udpPacket(none), { linkHeaderBytes: 0 }));
  assert.ok(!checksumsOk(tcpPacket(none), { linkHeaderBytes: 0 }));
});

test("frames without an IPv4 packet have nothing to verify", () => {
  const request = arpRequest({ senderAddress: "198.51.100.2", targetAddress: "203.0.113.10" });
  assert.equal(request.length, 60);
  assert.ok(checksumsOk(request, { linkHeaderBytes: 14 }));
  assert.match(describe(request, 14), /arp 1 from 198\.51\.100\.2 at .* for 203\.0\.113\.10/);
});

test("a frame is described in one line", () => {
  assert.match(
    describe(TCP, 0),
    /^198\.51\.100\.2:40000 > 203\.0\.113\.10:80 tcp S seq 7 ack 0 data 3 checksum \w{4} ttl 64 id 4660 total 47$/,
  );
  assert.match(describe(ethernetFrame(UDP), 14), /40000 > 203\.0\.113\.10:80 udp length 11/);
});

test("any bytes can be described and verified", () => {
  fc.assert(
    fc.property(
      fc.uint8Array({ maxLength: 80 }),
      fc.constantFrom(0, 14),
      fc.boolean(),
      (bytes, link, ip) => {
        if (ip && bytes.length > link) {
          bytes[link] = 0x45;
          if (link === 14) bytes.set([8, 0], 12);
        }
        assert.ok(!describe(bytes, link).includes("\n"));
        checksumFault(bytes, { linkHeaderBytes: link });
        checksumFault(bytes, { linkHeaderBytes: link, partial: true });
      },
    ),
    { numRuns: 2000 },
  );
});
