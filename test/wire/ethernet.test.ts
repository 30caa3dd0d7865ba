import assert from "node:assert/strict";
import { test } from "node:test";
import fc from "fast-check";
import {
  destinationMacHigh,
  destinationMacLow,
  ETHERNET_HEADER_BYTES,
  etherType,
  isGroupDestination,
  MAC_BROADCAST_HIGH,
  MAC_BROADCAST_LOW,
  setEthernetAddresses,
  setEtherType,
  sourceMacHigh,
  sourceMacLow,
} from "../../src/wire/ethernet.ts";
import { ethernetFrame, macWords } from "../support/frames.ts";

const mac = fc
  .uint8Array({ minLength: 6, maxLength: 6 })
  .map((bytes) => [...bytes].map((byte) => byte.toString(16).padStart(2, "0")).join(":"));

test("getters read the fields of any header, setters write them", () => {
  fc.assert(
    fc.property(mac, mac, fc.nat(0xffff), fc.nat(5), (destination, source, type, at) => {
      const frame = ethernetFrame([0xee], { destination, source, type });
      const to = macWords(destination);
      const from = macWords(source);
      const buffer = new Uint8Array(at + frame.length);
      buffer.set(frame, at);
      const view = new DataView(buffer.buffer);
      assert.equal(etherType(view, at), type);
      assert.equal(destinationMacHigh(view, at), to.high);
      assert.equal(destinationMacLow(view, at), to.low);
      assert.equal(sourceMacHigh(view, at), from.high);
      assert.equal(sourceMacLow(view, at), from.low);
      assert.equal(isGroupDestination(view, at), (to.high >>> 24) % 2 === 1);

      const written = new Uint8Array(at + ETHERNET_HEADER_BYTES + 1).fill(0xee);
      const writtenView = new DataView(written.buffer);
      setEthernetAddresses(writtenView, at, to.high, to.low, from.high, from.low);
      assert.equal(etherType(writtenView, at), 0xeeee, "the type is left alone");
      setEtherType(writtenView, at, type);
      assert.deepEqual(written.slice(at), buffer.slice(at));
    }),
  );
});

test("the broadcast address is a group", () => {
  const view = new DataView(new ArrayBuffer(14));
  setEthernetAddresses(view, 0, MAC_BROADCAST_HIGH, MAC_BROADCAST_LOW, 0x02000000, 1);
  const words = macWords("ff:ff:ff:ff:ff:ff");
  assert.deepEqual([MAC_BROADCAST_HIGH, MAC_BROADCAST_LOW], [words.high, words.low]);
  assert.ok(isGroupDestination(view, 0));
});
