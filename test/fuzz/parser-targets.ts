import type { Random } from "../../src/base/random.ts";
import { ARP_OK, arpOperation, arpTargetAddress, checkArp } from "../../src/wire/arp.ts";
import { fold, sumBytes } from "../../src/wire/checksum.ts";
import { checkIcmp, checkQuote, ICMP_OK, icmpType, isIcmpError } from "../../src/wire/icmp.ts";
import {
  checkIcmp6,
  checkQuote6,
  ICMP6_OK,
  icmp6Type,
  isIcmp6Error,
} from "../../src/wire/icmpv6.ts";
import {
  checkIpv4,
  IPV4_OK,
  ipv4HeaderBytes,
  ipv4Protocol,
  ipv4TotalBytes,
} from "../../src/wire/ipv4.ts";
import {
  checkIpv6,
  IPV6_HEADER_BYTES,
  IPV6_OK,
  ipv6TotalBytes,
  WALK_L4_AT,
  WALK_OK,
  WALK_PROTOCOL,
  WALK_WORDS,
  walkExtensions,
} from "../../src/wire/ipv6.ts";
import { isSolicitationValid } from "../../src/wire/neighbour.ts";
import { quicServerIdAt, quicServerIdWord } from "../../src/wire/quic.ts";
import { checkTcp, TCP_OK, tcpHeaderBytes } from "../../src/wire/tcp.ts";
import { readTcpOptions, shiftTcpOptions, TCP_OPTION_WORDS } from "../../src/wire/tcp-options.ts";
import { checkUdp, UDP_OK, udpLength } from "../../src/wire/udp.ts";
import { FAMILIES, type Seed } from "./corpus.ts";
import type { ByteTarget } from "./target.ts";

/**
 * The checks of src/wire on bytes that end where the view ends: what reads past its end throws. A
 * header that was found good has to lie within the bytes that it was given.
 */

let frames: readonly Seed[] | null = null;

function frameOf(random: Random): Uint8Array {
  frames ??= FAMILIES.flatMap(([, build]) => build());
  return frames[random.below(frames.length)]!.frame;
}

function within(part: number, whole: number, what: string): void {
  if (!(part >= 0 && part <= whole)) throw new Error(`${what}: ${part} of ${whole} bytes`);
}

/** One parser of the table: bytes from `at` on, of a protocol number where one is known. */
type Parser = (view: DataView, at: number, bytes: number) => void;

function transport(view: DataView, at: number, bytes: number, protocol: number): void {
  if (protocol === 6 && checkTcp(view, at, bytes) === TCP_OK) {
    within(tcpHeaderBytes(view, at), bytes, "TCP header");
    readTcpOptions(view, at, options);
    shiftTcpOptions(view, at, 1, 1, 1);
  }
  if (protocol === 17 && checkUdp(view, at, bytes) === UDP_OK) {
    within(udpLength(view, at), bytes, "UDP length");
    const idAt = quicServerIdAt(view, at + 8, udpLength(view, at) - 8, 0, 8);
    if (idAt >= 0) for (let word = 0; word < 4; word++) quicServerIdWord(view, idAt, 8, word);
  }
  if (protocol === 1 && checkIcmp(view, at, bytes, true) === ICMP_OK) {
    if (fold(sumBytes(view, at, bytes, 0)) !== 0xffff) throw new Error("a wrong ICMP checksum");
    if (isIcmpError(icmpType(view, at))) quote(view, at + 8, bytes - 8);
  }
}

const options = new Int32Array(TCP_OPTION_WORDS);
const walk = new Int32Array(WALK_WORDS);

function ipv6(view: DataView, at: number, bytes: number): void {
  if (checkIpv6(view, at, bytes) !== IPV6_OK) return;
  const total = ipv6TotalBytes(view, at);
  within(total, bytes, "IPv6 length");
  if (walkExtensions(view, at, at + total, walk) !== WALK_OK) return;
  const l4At = walk[WALK_L4_AT]!;
  within(l4At - at, total, "IPv6 extension headers");
  if (l4At < at + IPV6_HEADER_BYTES) throw new Error("the transport begins in the header");
  const l4Bytes = at + total - l4At;
  if (walk[WALK_PROTOCOL] !== 58) {
    transport(view, l4At, l4Bytes, walk[WALK_PROTOCOL]!);
    return;
  }
  if (checkIcmp6(view, at, l4At, l4Bytes) !== ICMP6_OK) return;
  if (isIcmp6Error(icmp6Type(view, l4At))) quote6(view, l4At + 8, l4Bytes - 8);
  if (icmp6Type(view, l4At) === 135) isSolicitationValid(view, at, l4At, l4Bytes);
}

function quote6(view: DataView, at: number, bytes: number): void {
  if (checkQuote6(view, at, bytes, walk) !== ICMP6_OK) return;
  within(walk[WALK_L4_AT]! + 8 - at, bytes, "quoted headers");
}

function quote(view: DataView, at: number, bytes: number): void {
  if (checkQuote(view, at, bytes) !== ICMP_OK) return;
  within(ipv4HeaderBytes(view, at) + 8, bytes, "quoted headers");
}

function ipv4(view: DataView, at: number, bytes: number): void {
  if (checkIpv4(view, at, bytes) !== IPV4_OK) return;
  const headerBytes = ipv4HeaderBytes(view, at);
  const totalBytes = ipv4TotalBytes(view, at);
  within(headerBytes, totalBytes, "IPv4 header");
  within(totalBytes, bytes, "IPv4 total length");
  if (fold(sumBytes(view, at, headerBytes, 0)) !== 0xffff) throw new Error("a wrong checksum");
  transport(view, at + headerBytes, totalBytes - headerBytes, ipv4Protocol(view, at));
}

function arp(view: DataView, at: number, bytes: number): void {
  if (checkArp(view, at, bytes) !== ARP_OK) return;
  arpOperation(view, at);
  arpTargetAddress(view, at);
}

/** Every parser is given every input, from the Ethernet payload on and from its very beginning. */
export const PARSERS: readonly Parser[] = [
  arp,
  ipv4,
  ipv6,
  quote,
  quote6,
  ...[1, 6, 17].map(
    (protocol): Parser =>
      (view, at, bytes) =>
        transport(view, at, bytes, protocol),
  ),
];

export const parsersTarget: ByteTarget = {
  name: "parsers",
  smokeInputs: 20_000,
  seed: frameOf,
  run(bytes) {
    // A copy of its own, so that the view ends with the bytes.
    const own = bytes.slice();
    const view = new DataView(own.buffer);
    for (const at of [0, 14, 34]) {
      if (at > own.length) continue;
      for (const parse of PARSERS) parse(view, at, own.length - at);
    }
  },
};
