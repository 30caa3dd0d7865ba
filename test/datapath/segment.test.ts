import assert from "node:assert/strict";
import { test } from "node:test";
import { createRandom } from "../../src/base/random.ts";
import { createSegmenter } from "../../src/datapath/segment.ts";
import {
  ACK,
  CWR,
  checksumFault,
  FIN,
  PSH,
  pseudoHeader,
  slowChecksum,
  slowSum,
  tcpPacket,
  udpPacket,
} from "../support/frames.ts";

/**
 * Goal: the segments of a GSO packet are those that the kernel makes (segment.ts says which file).
 * Method: random packets of TCP and UDP over IPv4 and IPv6 are segmented, and compared with packets
 * that the tests' own builders make of each piece; headers before and after stay as they were.
 */

const SEED = Number(process.env["SEED"] ?? 20_261_125);
const MEMORY = 300_000;
const PACKET_AT = 64;
const TO_AT = 100_000;
const TCP = 6;
const UDP = 17;

const FIELDS = {
  source: "198.51.100.2",
  destination: "203.0.113.10",
  sourcePort: 40_000,
  destinationPort: 80,
} as const;

interface Given {
  readonly protocol: typeof TCP | typeof UDP;
  readonly data: Uint8Array;
  readonly flags: number;
  readonly sequence: number;
  readonly options: readonly number[];
  readonly id: number;
  readonly checksum: "complete" | "partial" | "none";
}

function build(given: Given, data: Uint8Array, change: Partial<Given> = {}): Uint8Array {
  const { protocol, flags, sequence, options, id, checksum } = { ...given, ...change };
  const ip = { id, tos: 0x2a, ttl: 63 };
  if (protocol === TCP) {
    const kind = checksum === "none" ? "complete" : checksum;
    return tcpPacket({
      ...FIELDS,
      data,
      flags,
      sequence,
      options,
      acknowledgement: 7,
      ip,
      checksum: kind,
    });
  }
  return udpPacket({ ...FIELDS, data, ip, checksum });
}

/** The same packet under an IPv6 header, checksum included. */
function overIpv6(packet: Uint8Array): Uint8Array {
  const l4 = packet.slice((packet[0]! & 15) * 4);
  const addresses = Uint8Array.from({ length: 32 }, (_, index) => index * 7 + 1);
  const protocol = packet[9]!;
  const out = new Uint8Array(40 + l4.length);
  out.set([0x62, 0xa1, 0x23, 0x45, l4.length >>> 8, l4.length & 0xff, protocol, 63]);
  out.set(addresses, 8);
  const field = protocol === TCP ? 16 : 6;
  l4.set([0, 0], field);
  const pseudo = [...addresses, 0, 0, l4.length >>> 8, l4.length & 0xff, 0, 0, 0, protocol];
  const sum = slowChecksum(Uint8Array.from([...pseudo, ...l4])) || (protocol === UDP ? 0xffff : 0);
  l4.set([sum >>> 8, sum & 0xff], field);
  out.set(l4, 40);
  return out;
}

function segmentsOf(packet: Uint8Array, l4Offset: number, protocol: number, size: number) {
  const memory = new Uint8Array(MEMORY).fill(0xee);
  memory.set(packet, PACKET_AT);
  const before = memory.slice(0, TO_AT);
  const segmenter = createSegmenter({ view: new DataView(memory.buffer) });
  const l4At = PACKET_AT + l4Offset;
  const count = segmenter.begin(PACKET_AT, l4At, PACKET_AT + packet.length, protocol, size);
  const found: Uint8Array[] = [];
  for (let index = 0; index < count; index++) {
    const bytes = segmenter.write(index, TO_AT);
    assert.ok(bytes <= segmenter.largest());
    found.push(memory.slice(TO_AT, TO_AT + bytes));
    assert.equal(memory[TO_AT - 1], 0xee, "nothing before the segment");
    assert.equal(memory[TO_AT + segmenter.largest()], 0xee, "nothing behind the largest");
  }
  assert.deepEqual(memory.slice(0, TO_AT), before, "the packet stays as it is");
  return found;
}

test("random packets: every segment is what a sender of it would have sent", () => {
  const random = createRandom(SEED);
  for (let round = 0; round < 400; round++) {
    const below = (bound: number): number => random.below(bound);
    const given: Given = {
      protocol: below(2) === 0 ? TCP : UDP,
      data: Uint8Array.from({ length: 1 + below(round < 4 ? 60_000 : 4000) }, () => below(256)),
      flags:
        ACK | (below(2) === 0 ? PSH : 0) | (below(4) === 0 ? FIN : 0) | (below(3) === 0 ? CWR : 0),
      sequence: below(2 ** 32),
      options: below(2) === 0 ? [] : [1, 1, 8, 10, 1, 2, 3, 4, 5, 6, 7, 8],
      id: below(65_536),
      checksum: (["complete", "partial", "none"] as const)[below(3)]!,
    };
    const size = 1 + below(1460);
    const ipv6 = below(2) === 0 && given.checksum !== "none";
    const whole = build(given, given.data);
    const packet = ipv6 ? overIpv6(whole) : whole;
    const found = segmentsOf(packet, ipv6 ? 40 : 20, given.protocol, size);
    const count = Math.ceil(given.data.length / size);
    assert.equal(found.length, count, `seed ${SEED}, round ${round}`);
    for (const [index, segment] of found.entries()) {
      const data = given.data.slice(index * size, (index + 1) * size);
      const isLast = index === count - 1;
      const wanted = build(given, data, {
        checksum: given.checksum === "none" ? "none" : "complete",
        id: (given.id + index) & 0xffff,
        sequence: (given.sequence + index * size) >>> 0,
        flags: given.flags & ~(isLast ? 0 : FIN | PSH) & ~(index === 0 ? 0 : CWR),
      });
      const text = `seed ${SEED}, round ${round}, segment ${index} of ${count}`;
      assert.deepEqual(segment, ipv6 ? overIpv6(wanted) : wanted, text);
      if (!ipv6) assert.equal(checksumFault(segment, { linkHeaderBytes: 0 }), null, text);
    }
  }
});

test("a UDP checksum that is computed to 0 is sent as all ones", () => {
  // Data chosen so that the datagram's sum is 0xffff: its last word makes up for all the others.
  const data = new Uint8Array(4);
  const sum = (): number => {
    const udp = [0x9c, 0x40, 0, 80, 0, 12, 0, 0, ...data];
    return slowSum(
      Uint8Array.from([...pseudoHeader(FIELDS.source, FIELDS.destination, 17, 12), ...udp]),
    );
  };
  const missing = 0xffff - sum();
  data.set([missing >>> 8, missing & 0xff], 2);
  assert.equal(sum(), 0xffff);
  const packet = udpPacket({ ...FIELDS, data: [...data, ...data], checksum: "partial" });
  const [first] = segmentsOf(packet, 20, UDP, 4);
  assert.deepEqual([...first!.subarray(26, 28)], [0xff, 0xff]);
});
