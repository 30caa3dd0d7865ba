import type { Random } from "../../src/base/random.ts";
import { ARP_OK, arpOperation, arpTargetAddress, checkArp } from "../../src/wire/arp.ts";
import { fold, sumBytes } from "../../src/wire/checksum.ts";
import { checkIcmp, checkQuote, ICMP_OK, icmpType, isIcmpError } from "../../src/wire/icmp.ts";
import {
  checkIpv4,
  IPV4_OK,
  ipv4HeaderBytes,
  ipv4Protocol,
  ipv4TotalBytes,
} from "../../src/wire/ipv4.ts";
import { checkTcp, TCP_OK, tcpHeaderBytes } from "../../src/wire/tcp.ts";
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
  }
  if (protocol === 17 && checkUdp(view, at, bytes) === UDP_OK) {
    within(udpLength(view, at), bytes, "UDP length");
  }
  if (protocol === 1 && checkIcmp(view, at, bytes, true) === ICMP_OK) {
    if (fold(sumBytes(view, at, bytes, 0)) !== 0xffff) throw new Error("a wrong ICMP checksum");
    if (isIcmpError(icmpType(view, at))) quote(view, at + 8, bytes - 8);
  }
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
  quote,
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
