import assert from "node:assert/strict";
import { test } from "node:test";
import fc from "fast-check";
import {
  ARP_BYTES,
  ARP_MALFORMED,
  ARP_OK,
  ARP_OPERATION_REPLY,
  ARP_OPERATION_REQUEST,
  arpOperation,
  arpSenderAddress,
  arpSenderMacHigh,
  arpSenderMacLow,
  arpTargetAddress,
  checkArp,
  writeArp,
} from "../../src/wire/arp.ts";
import { arpPacket, macWords } from "../support/frames.ts";

function view(bytes: Uint8Array): DataView {
  return new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
}

const mac = fc
  .uint8Array({ minLength: 6, maxLength: 6 })
  .map((bytes) => [...bytes].map((byte) => byte.toString(16).padStart(2, "0")).join(":"));
const stationMac = mac.filter((text) => Number.parseInt(text.slice(0, 2), 16) % 2 === 0);
const fields = fc.record({
  operation: fc.constantFrom(ARP_OPERATION_REQUEST, ARP_OPERATION_REPLY, 8, 0xffff),
  senderMac: stationMac,
  senderAddress: fc.integer(),
  targetMac: mac,
  targetAddress: fc.integer(),
});

test("every valid packet passes, every getter reads its field, and writeArp() writes it", () => {
  fc.assert(
    fc.property(fields, fc.nat(5), (given, at) => {
      const packet = arpPacket(given);
      const buffer = new Uint8Array(at + ARP_BYTES + 1).fill(0xee);
      buffer.set(packet, at);
      const frame = view(buffer);
      const sender = macWords(given.senderMac);
      const target = macWords(given.targetMac);
      assert.equal(checkArp(frame, at, ARP_BYTES), ARP_OK);
      assert.equal(arpOperation(frame, at), given.operation);
      assert.equal(arpSenderAddress(frame, at), given.senderAddress);
      assert.equal(arpTargetAddress(frame, at), given.targetAddress);
      assert.equal(arpSenderMacHigh(frame, at), sender.high);
      assert.equal(arpSenderMacLow(frame, at), sender.low);

      const written = new Uint8Array(at + ARP_BYTES + 1).fill(0xee);
      writeArp(
        view(written),
        at,
        given.operation,
        sender.high,
        sender.low,
        given.senderAddress,
        target.high,
        target.low,
        given.targetAddress,
      );
      assert.deepEqual(written.slice(at), buffer.slice(at));
    }),
  );
});

test("each byte before the operation is fixed, and the sender is one station", () => {
  const packet = arpPacket({ senderAddress: "198.51.100.2", targetAddress: "203.0.113.10" });
  for (let at = 0; at < 6; at++) {
    const changed = packet.slice();
    changed[at]! ^= 1;
    assert.equal(checkArp(view(changed), 0, ARP_BYTES), ARP_MALFORMED, `byte ${at}`);
  }
  const group = packet.slice();
  group[8]! |= 1;
  assert.equal(checkArp(view(group), 0, ARP_BYTES), ARP_MALFORMED);
});

test("random bytes and short packets never throw", () => {
  const packet = arpPacket({ senderAddress: "198.51.100.2", targetAddress: "203.0.113.10" });
  for (let bytes = 0; bytes <= 46; bytes++) {
    const cut = new Uint8Array(bytes);
    cut.set(packet.subarray(0, bytes));
    const expected = bytes < ARP_BYTES ? ARP_MALFORMED : ARP_OK;
    assert.equal(checkArp(view(cut), 0, bytes), expected);
  }
  fc.assert(
    fc.property(fc.uint8Array({ maxLength: 40 }), (bytes) => {
      const finding = checkArp(view(bytes), 0, bytes.length);
      assert.ok(finding === ARP_OK || finding === ARP_MALFORMED);
    }),
  );
});
