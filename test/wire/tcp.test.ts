import assert from "node:assert/strict";
import { test } from "node:test";
import fc from "fast-check";
import {
  checkTcp,
  setTcpChecksum,
  setTcpPorts,
  TCP_ACK,
  TCP_FIN,
  TCP_FLAGS_INVALID,
  TCP_MALFORMED,
  TCP_OK,
  TCP_PSH,
  TCP_RST,
  TCP_SYN,
  TCP_URG,
  tcpAcknowledgement,
  tcpChecksum,
  tcpFlags,
  tcpHeaderBytes,
  tcpPorts,
  tcpSequence,
  writeTcpRst,
} from "../../src/wire/tcp.ts";
import { tcpSegment } from "../support/frames.ts";

const ENDS = { source: "198.51.100.2", destination: "203.0.113.10" } as const;

function view(bytes: Uint8Array): DataView {
  return new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
}

const fields = fc.record({
  sourcePort: fc.nat(0xffff),
  destinationPort: fc.nat(0xffff),
  sequence: fc.integer(),
  acknowledgement: fc.integer(),
  flags: fc.constantFrom(
    TCP_SYN,
    TCP_SYN | TCP_ACK,
    TCP_ACK,
    TCP_ACK | TCP_PSH,
    TCP_FIN | TCP_ACK,
    TCP_RST,
    TCP_RST | TCP_ACK,
  ),
  options: fc.nat(10).map((words) => new Array<number>(words * 4).fill(1)),
  data: fc.uint8Array({ maxLength: 30 }),
});

test("every valid segment passes, and every getter reads its field", () => {
  fc.assert(
    fc.property(fields, fc.nat(5), (given, at) => {
      const segment = tcpSegment({ ...ENDS, ...given });
      const buffer = new Uint8Array(at + segment.length);
      buffer.set(segment, at);
      const frame = view(buffer);
      assert.equal(checkTcp(frame, at, segment.length), TCP_OK);
      assert.equal(tcpPorts(frame, at), (given.sourcePort << 16) | given.destinationPort);
      assert.equal(tcpSequence(frame, at), given.sequence);
      assert.equal(tcpAcknowledgement(frame, at), given.acknowledgement);
      assert.equal(tcpFlags(frame, at), given.flags);
      assert.equal(tcpHeaderBytes(frame, at), 20 + given.options.length);
      assert.equal(tcpChecksum(frame, at), segment[16]! * 256 + segment[17]!);
    }),
  );
});

test("of all 256 flag bytes, those of tcp_valid_flags pass, whatever PSH, ECE and CWR say", () => {
  const valid = ["S", "SU", "SA", "R", "RA", "FA", "FAU", "A", "AU"];
  for (let flags = 0; flags < 256; flags++) {
    const letters = [..."FSRPAUEC"].filter((_, index) => ((flags >> index) & 1) === 1);
    const name = letters.filter((letter) => !"PEC".includes(letter)).join("");
    const expected = valid.includes(name) ? TCP_OK : TCP_FLAGS_INVALID;
    const segment = tcpSegment({ ...ENDS, sourcePort: 1, destinationPort: 2, flags });
    assert.equal(checkTcp(view(segment), 0, 20), expected, letters.join(""));
    assert.equal(tcpFlags(view(segment), 0), flags % 64);
  }
});

test("the data offset is at least 5 and within the segment, at every value and length", () => {
  for (let words = 0; words < 16; words++) {
    for (let bytes = 0; bytes <= 64; bytes++) {
      const segment = new Uint8Array(bytes);
      if (bytes > 13) {
        segment[12] = (words << 4) | 0x0f;
        segment[13] = TCP_ACK;
      }
      const fits = bytes >= 20 && words >= 5 && words * 4 <= bytes;
      assert.equal(checkTcp(view(segment), 0, bytes), fits ? TCP_OK : TCP_MALFORMED);
    }
  }
});

test("random bytes never throw; what passes can be read", () => {
  fc.assert(
    fc.property(fc.uint8Array({ maxLength: 64 }), (bytes) => {
      const frame = view(bytes);
      if (checkTcp(frame, 0, bytes.length) !== TCP_OK) return;
      assert.ok(tcpHeaderBytes(frame, 0) <= bytes.length);
      tcpChecksum(frame, 0);
    }),
    { numRuns: 5000 },
  );
});

test("setters write their own field and nothing else", () => {
  fc.assert(
    fc.property(fc.uint8Array({ minLength: 20, maxLength: 20 }), fc.integer(), (bytes, ports) => {
      const changed = bytes.slice();
      setTcpPorts(view(changed), 0, ports);
      setTcpChecksum(view(changed), 0, ports & 0xffff);
      assert.equal(tcpPorts(view(changed), 0), ports);
      assert.equal(tcpChecksum(view(changed), 0), ports & 0xffff);
      assert.deepEqual(changed.slice(4, 16), bytes.slice(4, 16));
      assert.deepEqual(changed.slice(18), bytes.slice(18));
    }),
  );
});

test("writeTcpRst() writes a header without window, checksum and options", () => {
  fc.assert(
    fc.property(fields, fc.constantFrom(TCP_RST, TCP_RST | TCP_ACK), (given, flags) => {
      const { sourcePort, destinationPort, sequence, acknowledgement } = given;
      const ports = (sourcePort << 16) | destinationPort;
      const bytes = new Uint8Array(21).fill(0xee);
      writeTcpRst(view(bytes), 0, ports, sequence, acknowledgement, flags);
      const numbers = { sourcePort, destinationPort, sequence, acknowledgement };
      const expected = tcpSegment({ ...ENDS, ...numbers, flags, window: 0, checksum: "none" });
      assert.deepEqual(bytes.slice(0, 20), expected);
      assert.equal(bytes[20], 0xee);
      assert.equal(checkTcp(view(bytes), 0, 20), TCP_OK);
    }),
  );
  assert.equal(TCP_URG, 32);
});
