import assert from "node:assert/strict";
import { test } from "node:test";
import fc from "fast-check";
import {
  checkUdp,
  setUdpChecksum,
  setUdpPorts,
  UDP_MALFORMED,
  UDP_OK,
  udpChecksum,
  udpLength,
  udpPorts,
} from "../../src/wire/udp.ts";
import { udpDatagram } from "../support/frames.ts";

function view(bytes: Uint8Array): DataView {
  return new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
}

test("every valid datagram passes, and every getter reads its field", () => {
  const port = fc.nat(0xffff);
  fc.assert(
    fc.property(port, port, fc.uint8Array({ maxLength: 40 }), fc.nat(5), (from, to, data, at) => {
      const ends = { source: "198.51.100.2", destination: "203.0.113.10" };
      const datagram = udpDatagram({ ...ends, sourcePort: from, destinationPort: to, data });
      const buffer = new Uint8Array(at + datagram.length);
      buffer.set(datagram, at);
      const frame = view(buffer);
      assert.equal(checkUdp(frame, at, datagram.length), UDP_OK);
      assert.equal(udpPorts(frame, at), (from << 16) | to);
      assert.equal(udpLength(frame, at), datagram.length);
      assert.equal(udpChecksum(frame, at), datagram[6]! * 256 + datagram[7]!);
      setUdpPorts(frame, at, (to << 16) | from);
      setUdpChecksum(frame, at, 0xabcd);
      assert.equal(udpPorts(frame, at), (to << 16) | from);
      assert.equal(udpChecksum(frame, at), 0xabcd);
      assert.equal(udpLength(frame, at), datagram.length);
      assert.deepEqual(buffer.slice(at + 8), datagram.slice(8));
    }),
  );
});

test("the length is at least 8 and within the payload, at every value and length", () => {
  for (let bytes = 0; bytes <= 40; bytes++) {
    for (const length of [0, 1, 7, 8, 9, bytes - 1, bytes, bytes + 1, 0xffff]) {
      const datagram = new Uint8Array(bytes);
      if (bytes >= 6) view(datagram).setUint16(4, length);
      const fits = bytes >= 8 && length >= 8 && length <= bytes;
      assert.equal(checkUdp(view(datagram), 0, bytes), fits ? UDP_OK : UDP_MALFORMED);
    }
  }
});
