import assert from "node:assert/strict";
import { test } from "node:test";
import { DROP_REASONS, type DropReason } from "../../src/datapath/verdict.ts";
import { ARP_OK, checkArp } from "../../src/wire/arp.ts";
import {
  checkIcmp,
  checkQuote,
  ICMP_CHECKSUM_WRONG,
  ICMP_OK,
  icmpType,
  isIcmpError,
} from "../../src/wire/icmp.ts";
import {
  checkIpv4,
  IPV4_CHECKSUM_WRONG,
  IPV4_HEADER_MALFORMED,
  IPV4_LENGTH_WRONG,
  IPV4_OK,
  IPV4_SOURCE_INVALID,
  IPV4_SOURCE_ROUTE,
  IPV4_TOO_SHORT,
  ipv4HeaderBytes,
  ipv4Protocol,
  ipv4TotalBytes,
} from "../../src/wire/ipv4.ts";
import { checkTcp, TCP_MALFORMED, TCP_OK } from "../../src/wire/tcp.ts";
import { checkUdp, UDP_OK } from "../../src/wire/udp.ts";
import { describe } from "../support/frames.ts";
import { MALFORMED, onTun } from "../support/malformed.ts";

// Goal: the checks of src/wire find in each malformed frame what the list says is wrong with it.
// Method: the checks one after the other, by protocol, as the fast path has them.

const IPV4_REASONS: Record<number, DropReason> = {
  [IPV4_TOO_SHORT]: "frame_too_short",
  [IPV4_HEADER_MALFORMED]: "ipv4_header_malformed",
  [IPV4_CHECKSUM_WRONG]: "ipv4_checksum_wrong",
  [IPV4_LENGTH_WRONG]: "ipv4_length_wrong",
  [IPV4_SOURCE_ROUTE]: "ipv4_options_source_route",
  [IPV4_SOURCE_INVALID]: "ipv4_source_invalid",
};

function findingOfFrame(frame: Uint8Array): DropReason | "ok" {
  const view = new DataView(frame.buffer, frame.byteOffset, frame.byteLength);
  if (frame.length < 14) return "frame_too_short";
  const bytes = frame.length - 14;
  if (view.getUint16(12) === 0x0806)
    return checkArp(view, 14, bytes) === ARP_OK ? "ok" : "arp_malformed";
  return findingOfPacket(view, 14, bytes);
}

function findingOfPacket(view: DataView, at: number, bytes: number): DropReason | "ok" {
  const ipv4 = checkIpv4(view, at, bytes);
  if (ipv4 !== IPV4_OK) return IPV4_REASONS[ipv4]!;
  const l4At = at + ipv4HeaderBytes(view, at);
  const l4Bytes = ipv4TotalBytes(view, at) - ipv4HeaderBytes(view, at);
  const protocol = ipv4Protocol(view, at);
  if (protocol === 6) {
    const tcp = checkTcp(view, l4At, l4Bytes);
    if (tcp === TCP_OK) return "ok";
    return tcp === TCP_MALFORMED ? "tcp_header_malformed" : "tcp_flags_invalid";
  }
  if (protocol === 17)
    return checkUdp(view, l4At, l4Bytes) === UDP_OK ? "ok" : "udp_header_malformed";
  const icmp = checkIcmp(view, l4At, l4Bytes, true);
  if (icmp === ICMP_CHECKSUM_WRONG) return "icmp_checksum_wrong";
  if (icmp !== ICMP_OK) return "icmp_header_malformed";
  if (!isIcmpError(icmpType(view, l4At))) return "ok";
  return checkQuote(view, l4At + 8, l4Bytes - 8) === ICMP_OK ? "ok" : "icmp_quote_malformed";
}

for (const malformed of MALFORMED) {
  const { name, frame, reason } = malformed;
  test(`${name}: ${reason}`, () => {
    // A virtio header is no part of the packet: the fast path checks it, and the packet is sound.
    const expected = reason === "vnet_header_invalid" ? "ok" : reason;
    assert.equal(findingOfFrame(frame), expected, describe(frame, 14));
    if (!malformed.onTun) return;
    const packet = onTun(malformed).frame;
    const view = new DataView(packet.buffer, packet.byteOffset, packet.byteLength);
    assert.equal(findingOfPacket(view, 0, packet.length), expected, describe(packet, 0));
  });
}

test("names are unique, and every reason about a frame's own shape is there", () => {
  assert.equal(new Set(MALFORMED.map(({ name }) => name)).size, MALFORMED.length);
  const listed = new Set(MALFORMED.map(({ reason }) => reason));
  // Not a matter of shape: a frame of another protocol, which is whole and simply not taken.
  const others = ["fragment_not_supported", "ipv6_not_supported"];
  const shape = DROP_REASONS.slice(0, DROP_REASONS.indexOf("no_service"));
  for (const reason of shape) {
    assert.equal(listed.has(reason), !others.includes(reason), reason);
  }
});
