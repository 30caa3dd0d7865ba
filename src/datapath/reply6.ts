import { D_INTERFACE } from "../device/device.ts";
import { PROTOCOL_TCP, PROTOCOL_UDP } from "../flow/flow-record.ts";
import { fold, pseudoSumIpv6, sumBytes } from "../wire/checksum.ts";
import {
  ETHERTYPE_IPV6,
  isGroupDestination,
  setEtherType,
  sourceMacHigh,
  sourceMacLow,
} from "../wire/ethernet.ts";
import {
  fillIcmp6Checksum,
  ICMP6_CODE_PORT_UNREACHABLE,
  ICMP6_HEADER_BYTES,
  ICMP6_PACKET_TOO_BIG,
  ICMP6_PROTOCOL,
  ICMP6_UNREACHABLE,
  writeIcmp6ErrorHeader,
} from "../wire/icmpv6.ts";
import {
  copyIpv6Address,
  IPV6_DESTINATION_AT,
  IPV6_HEADER_BYTES,
  IPV6_MTU_MIN,
  IPV6_SOURCE_AT,
  ipv6TotalBytes,
  isIpv6Group,
  isIpv6Unspecified,
  setIpv6Address,
  writeIpv6Header,
} from "../wire/ipv6.ts";
import {
  setTcpChecksum,
  TCP_ACK,
  TCP_FIN,
  TCP_HEADER_BYTES,
  TCP_RST,
  TCP_SYN,
  tcpAcknowledgement,
  tcpFlags,
  tcpHeaderBytes,
  tcpPorts,
  tcpSequence,
  writeTcpRst,
} from "../wire/tcp.ts";
import { UDP_HEADER_BYTES } from "../wire/udp.ts";
import { type Context, R_L4_AT } from "./context.ts";
import { C_ICMP_ERRORS_SENT, C_RST_SENT } from "./counters.ts";
import type { Output } from "./output.ts";
import type { TokenBucket } from "./token-bucket.ts";
import { DROP_REPLY_NOT_ALLOWED, DROP_REPLY_RATE_LIMITED, DROPPED, REPLIED } from "./verdict.ts";

const OWN_HOP_LIMIT = 64;

/** The source of an answer is the packet's own destination. */
export const FROM_DESTINATION = -1;

/**
 * IPv6 packets of our own making: RST, and ICMPv6 errors (RFC 4443 section 2.4). `answer…` is in reply
 * to a received frame whose transport header is at R_L4_AT; `write…` makes a packet in a spare and
 * returns its bytes. Addresses are named by the index of their four words in the region.
 */
export interface Reply6 {
  answerReset(rxWord: number, ipAt: number): number;
  /**
   * @param sourceWord - address that the error comes from, or FROM_DESTINATION
   * @param parameter - MTU of a packet too big, else 0
   */
  answerError(
    rxWord: number,
    ipAt: number,
    sourceWord: number,
    type: number,
    code: number,
    parameter: number,
  ): number;
  writeReset(
    ipAt: number,
    sourceWord: number,
    destinationWord: number,
    ports: number,
    sequence: number,
    acknowledgement: number,
  ): number;
  /** An error whose quote lies behind its place for both headers already; quotes have `quoteBytes` at most. */
  writeError(
    ipAt: number,
    sourceWord: number,
    destinationWord: number,
    type: number,
    code: number,
    parameter: number,
    quoted: number,
  ): number;
  readonly quoteBytes: number;
  /** Port unreachable about a datagram that `destination` once sent to `source`. */
  writePortUnreachable(
    ipAt: number,
    sourceWord: number,
    destinationWord: number,
    ports: number,
  ): number;
}

export function createReply6(
  context: Context,
  output: Output,
  bucket: TokenBucket,
  countersAt: number,
): Reply6 {
  const { view, rx, i32, f64, link, registers } = context;
  const quoteRoom =
    Math.min(IPV6_MTU_MIN, output.spareBytes) - IPV6_HEADER_BYTES - ICMP6_HEADER_BYTES;

  /** RFC 4443 section 2.4 (e): a group is answered only about its size; nobody is, at no address. */
  function mayAnswer(ipAt: number, aboutSize: boolean): boolean {
    if (isIpv6Unspecified(view, ipAt)) return false;
    if (aboutSize) return true;
    if (link !== 0 && isGroupDestination(view, ipAt - link)) return false;
    return !isIpv6Group(view, ipAt);
  }

  /** A spare whose frame is IPv6, or -1. */
  function takeSpare(): number {
    const ipAt = output.takeSpare();
    if (ipAt >= 0) setType(ipAt);
    return ipAt;
  }

  function setType(ipAt: number): void {
    if (link !== 0) setEtherType(view, ipAt - link, ETHERTYPE_IPV6);
  }

  function sendBack(rxWord: number, frameIpAt: number, ipAt: number, bytes: number): void {
    const ingress = rx[rxWord + D_INTERFACE]!;
    if (link !== 0) {
      const ethernet = frameIpAt - link;
      output.setLink(ipAt, ingress, sourceMacHigh(view, ethernet), sourceMacLow(view, ethernet));
    }
    output.sendSpare(ipAt, bytes, ingress, rxWord);
  }

  /** The addresses of the received packet at `frameIpAt`, turned round. */
  function turnAddresses(frameIpAt: number, ipAt: number): void {
    copyIpv6Address(view, frameIpAt + IPV6_DESTINATION_AT, ipAt + IPV6_SOURCE_AT);
    copyIpv6Address(view, frameIpAt + IPV6_SOURCE_AT, ipAt + IPV6_DESTINATION_AT);
  }

  function answerReset(rxWord: number, frameIpAt: number): number {
    const frameTcpAt = registers[R_L4_AT]!;
    const flags = tcpFlags(view, frameTcpAt);
    if ((flags & TCP_RST) !== 0 || !mayAnswer(frameIpAt, false)) {
      return DROPPED | (DROP_REPLY_NOT_ALLOWED << 8);
    }
    if (!bucket.take()) return DROPPED | (DROP_REPLY_RATE_LIMITED << 8);
    const ipAt = takeSpare();
    if (ipAt < 0) return DROPPED | (DROP_REPLY_RATE_LIMITED << 8);
    const ports = tcpPorts(view, frameTcpAt);
    const back = (ports << 16) | (ports >>> 16);
    turnAddresses(frameIpAt, ipAt);
    let bytes = 0;
    if ((flags & TCP_ACK) !== 0) {
      bytes = writeTcp(ipAt, back, tcpAcknowledgement(view, frameTcpAt), 0, TCP_RST);
    } else {
      const payload =
        frameIpAt + ipv6TotalBytes(view, frameIpAt) - frameTcpAt - tcpHeaderBytes(view, frameTcpAt);
      const length =
        payload + ((flags & TCP_SYN) !== 0 ? 1 : 0) + ((flags & TCP_FIN) !== 0 ? 1 : 0);
      const acknowledgement = (tcpSequence(view, frameTcpAt) + length) | 0;
      bytes = writeTcp(ipAt, back, 0, acknowledgement, TCP_RST | TCP_ACK);
    }
    sendBack(rxWord, frameIpAt, ipAt, bytes);
    return REPLIED;
  }

  /** The addresses are written already. */
  function writeTcp(
    ipAt: number,
    ports: number,
    sequence: number,
    acknowledgement: number,
    flags: number,
  ): number {
    writeIpv6Header(view, ipAt, TCP_HEADER_BYTES, PROTOCOL_TCP, OWN_HOP_LIMIT, 0);
    const tcpAt = ipAt + IPV6_HEADER_BYTES;
    writeTcpRst(view, tcpAt, ports, sequence, acknowledgement, flags);
    setTcpChecksum(view, tcpAt, 0);
    const pseudo = pseudoSumIpv6(view, ipAt, PROTOCOL_TCP, TCP_HEADER_BYTES);
    setTcpChecksum(view, tcpAt, ~fold(sumBytes(view, tcpAt, TCP_HEADER_BYTES, pseudo)) & 0xffff);
    f64[countersAt + C_RST_SENT] = f64[countersAt + C_RST_SENT]! + 1;
    return IPV6_HEADER_BYTES + TCP_HEADER_BYTES;
  }

  function writeReset(
    ipAt: number,
    sourceWord: number,
    destinationWord: number,
    ports: number,
    sequence: number,
    acknowledgement: number,
  ): number {
    setType(ipAt);
    setIpv6Address(view, ipAt + IPV6_SOURCE_AT, i32, sourceWord);
    setIpv6Address(view, ipAt + IPV6_DESTINATION_AT, i32, destinationWord);
    return writeTcp(ipAt, ports, sequence, acknowledgement, TCP_RST | TCP_ACK);
  }

  function answerError(
    rxWord: number,
    frameIpAt: number,
    sourceWord: number,
    type: number,
    code: number,
    parameter: number,
  ): number {
    if (!mayAnswer(frameIpAt, type === ICMP6_PACKET_TOO_BIG)) {
      return DROPPED | (DROP_REPLY_NOT_ALLOWED << 8);
    }
    if (!bucket.take()) return DROPPED | (DROP_REPLY_RATE_LIMITED << 8);
    const ipAt = takeSpare();
    if (ipAt < 0) return DROPPED | (DROP_REPLY_RATE_LIMITED << 8);
    const quoted = Math.min(ipv6TotalBytes(view, frameIpAt), quoteRoom);
    const quoteAt = ipAt + IPV6_HEADER_BYTES + ICMP6_HEADER_BYTES;
    for (let index = 0; index < quoted; index++) {
      view.setUint8(quoteAt + index, view.getUint8(frameIpAt + index));
    }
    turnAddresses(frameIpAt, ipAt);
    if (sourceWord !== FROM_DESTINATION) {
      setIpv6Address(view, ipAt + IPV6_SOURCE_AT, i32, sourceWord);
    }
    sendBack(rxWord, frameIpAt, ipAt, writeIcmp(ipAt, type, code, parameter, quoted));
    return REPLIED;
  }

  function writeError(
    ipAt: number,
    sourceWord: number,
    destinationWord: number,
    type: number,
    code: number,
    parameter: number,
    quoted: number,
  ): number {
    setType(ipAt);
    setIpv6Address(view, ipAt + IPV6_SOURCE_AT, i32, sourceWord);
    setIpv6Address(view, ipAt + IPV6_DESTINATION_AT, i32, destinationWord);
    return writeIcmp(ipAt, type, code, parameter, quoted);
  }

  /** Addresses and quote lie in place already. */
  function writeIcmp(
    ipAt: number,
    type: number,
    code: number,
    parameter: number,
    quoted: number,
  ): number {
    const icmpBytes = ICMP6_HEADER_BYTES + quoted;
    writeIpv6Header(view, ipAt, icmpBytes, ICMP6_PROTOCOL, OWN_HOP_LIMIT, 0);
    const icmpAt = ipAt + IPV6_HEADER_BYTES;
    writeIcmp6ErrorHeader(view, icmpAt, type, code, parameter);
    fillIcmp6Checksum(view, ipAt, icmpAt, icmpBytes);
    f64[countersAt + C_ICMP_ERRORS_SENT] = f64[countersAt + C_ICMP_ERRORS_SENT]! + 1;
    return IPV6_HEADER_BYTES + icmpBytes;
  }

  function writePortUnreachable(
    ipAt: number,
    sourceWord: number,
    destinationWord: number,
    ports: number,
  ): number {
    setType(ipAt);
    const quoteAt = ipAt + IPV6_HEADER_BYTES + ICMP6_HEADER_BYTES;
    // What is quoted went the other way: from `destination` to `source`.
    writeIpv6Header(view, quoteAt, UDP_HEADER_BYTES, PROTOCOL_UDP, OWN_HOP_LIMIT, 0);
    setIpv6Address(view, quoteAt + IPV6_SOURCE_AT, i32, destinationWord);
    setIpv6Address(view, quoteAt + IPV6_DESTINATION_AT, i32, sourceWord);
    const udpAt = quoteAt + IPV6_HEADER_BYTES;
    view.setUint16(udpAt, ports & 0xffff);
    view.setUint16(udpAt + 2, ports >>> 16);
    view.setUint16(udpAt + 4, UDP_HEADER_BYTES);
    // The sum of a datagram without data: what was in it is not known any more.
    view.setUint16(udpAt + 6, 0);
    const pseudo = pseudoSumIpv6(view, quoteAt, PROTOCOL_UDP, UDP_HEADER_BYTES);
    const sum = ~fold(sumBytes(view, udpAt, UDP_HEADER_BYTES, pseudo)) & 0xffff;
    view.setUint16(udpAt + 6, sum === 0 ? 0xffff : sum);
    setIpv6Address(view, ipAt + IPV6_SOURCE_AT, i32, sourceWord);
    setIpv6Address(view, ipAt + IPV6_DESTINATION_AT, i32, destinationWord);
    const quoted = IPV6_HEADER_BYTES + UDP_HEADER_BYTES;
    return writeIcmp(ipAt, ICMP6_UNREACHABLE, ICMP6_CODE_PORT_UNREACHABLE, 0, quoted);
  }

  return {
    answerReset,
    answerError,
    writeReset,
    writeError,
    writePortUnreachable,
    quoteBytes: quoteRoom,
  };
}
