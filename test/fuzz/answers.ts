import type { Random } from "../../src/base/random.ts";
import type { SentFrame } from "../../src/device/memory.ts";
import { macBytes } from "../support/frames.ts";
import { GATEWAY_MACS } from "../support/memory-gateway.ts";
import { repairChecksums } from "../support/wire-check.ts";
import type { Seed } from "./corpus.ts";

/**
 * What the receiver of a frame would say to it: the other end of a connection, or a router on the
 * way that cannot pass it on. So a fuzzer gets into the middle of flows whose ports it cannot guess.
 */

const ROUTER_4 = [192, 0, 2, 1];
const ROUTER_6 = [0x20, 1, 0xd, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 9];
const SYN_ACK = 0x12;
const ACK = 0x10;

/** @returns the answer as a seed (with an Ethernet header on TUN too), or null: there is none */
export function answerTo(sent: SentFrame, link: number, random: Random): Seed | null {
  const packet = sent.bytes.slice(link);
  const version = packet[0]! >> 4;
  const isIpv4 = version === 4 && packet.length >= 28;
  const isIpv6 = version === 6 && packet.length >= 48;
  if (!isIpv4 && !isIpv6) return null;
  const answer = random.below(5) === 0 ? complaint(packet, random) : reflected(packet, random);
  if (answer === null) return null;
  repairChecksums(answer, { link: 0 });
  const from = sent.interface as 0 | 1;
  const frame = new Uint8Array(14 + answer.length);
  frame.set(macBytes(GATEWAY_MACS[from]!));
  // The receiver's own MAC, as it was addressed.
  if (link !== 0) frame.set(sent.bytes.subarray(0, 6), 6);
  frame.set(isIpv4 ? [8, 0] : [0x86, 0xdd], 12);
  frame.set(answer, 14);
  return { frame, interface: from, vnet: 0, csum: 0 };
}

function swap(bytes: Uint8Array, at: number, length: number): void {
  const first = bytes.slice(at, at + length);
  bytes.copyWithin(at, at + length, at + 2 * length);
  bytes.set(first, at + length);
}

/** Addresses and ports change places; a TCP segment is acknowledged, a datagram comes back. */
function reflected(sent: Uint8Array, random: Random): Uint8Array | null {
  const packet = sent.slice(0, 1400);
  const isIpv4 = packet[0]! >> 4 === 4;
  const protocol = isIpv4 ? packet[9] : packet[6];
  const l4At = isIpv4 ? (packet[0]! & 15) * 4 : 40;
  // A tunnel's far end answers the packet inside, and not through us.
  if (protocol === 4 || protocol === 41) return null;
  if (packet.length < l4At + 8 || l4At < 20) return null;
  swap(packet, isIpv4 ? 12 : 8, isIpv4 ? 4 : 16);
  packet[isIpv4 ? 8 : 7] = 64;
  if (protocol === 6 || protocol === 17) swap(packet, l4At, 2);
  if (protocol !== 6 || packet.length < l4At + 20) {
    const length = packet.length;
    if (isIpv4) packet.set([length >> 8, length & 0xff], 2);
    else packet.set([(length - 40) >> 8, (length - 40) & 0xff], 4);
    return packet;
  }
  return acknowledged(packet, isIpv4, l4At, random);
}

function acknowledged(
  packet: Uint8Array,
  isIpv4: boolean,
  l4At: number,
  random: Random,
): Uint8Array {
  const view = new DataView(packet.buffer);
  const flags = packet[l4At + 13]!;
  const headerBytes = Math.max(20, (packet[l4At + 12]! >> 4) * 4);
  const data = Math.max(0, packet.length - l4At - headerBytes);
  const next = (view.getUint32(l4At + 4) + data + ((flags & 3) !== 0 ? 1 : 0)) >>> 0;
  const sequence = view.getUint32(l4At + 8);
  const isSyn = (flags & SYN_ACK) === 2;
  view.setUint32(l4At + 4, isSyn ? random.below(0x7fffffff) : sequence);
  view.setUint32(l4At + 8, next);
  packet[l4At + 13] = isSyn ? SYN_ACK : [ACK, ACK, ACK | 8, ACK | 1, ACK | 4][random.below(5)]!;
  // Options stay; data only now and then.
  const end = Math.min(packet.length, l4At + headerBytes + (random.below(2) === 0 ? 0 : data));
  const answer = packet.slice(0, end);
  const length = isIpv4 ? end : end - 40;
  answer.set([length >> 8, length & 0xff], isIpv4 ? 2 : 4);
  return answer;
}

/** An ICMP or ICMPv6 error about the packet, from its receiver or from a router. */
function complaint(sent: Uint8Array, random: Random): Uint8Array {
  const isIpv4 = sent[0]! >> 4 === 4;
  const quote = sent.subarray(0, isIpv4 ? 28 + random.below(600) : 1000);
  const byRouter = random.below(2) === 0;
  const [type, code, mtu] = isIpv4
    ? [
        [3, 4, 1280],
        [3, 3, 0],
        [11, 0, 0],
      ][random.below(3)]!
    : [
        [2, 0, 1280],
        [1, 4, 0],
        [3, 0, 0],
      ][random.below(3)]!;
  const message = [type!, code!, 0, 0, 0, 0, mtu! >> 8, mtu! & 0xff];
  if (isIpv4) {
    const total = 28 + quote.length;
    const source = byRouter ? ROUTER_4 : sent.subarray(16, 20);
    const head = [0x45, 0, total >> 8, total & 0xff, 0, 1, 0, 0, 64, 1, 0, 0];
    return Uint8Array.from([...head, ...source, ...sent.subarray(12, 16), ...message, ...quote]);
  }
  const length = 8 + quote.length;
  const source = byRouter ? ROUTER_6 : sent.subarray(24, 40);
  const head = [0x60, 0, 0, 0, length >> 8, length & 0xff, 58, 64];
  return Uint8Array.from([...head, ...source, ...sent.subarray(8, 24), ...message, ...quote]);
}
