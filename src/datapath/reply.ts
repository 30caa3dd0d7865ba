import { ICMP_ERROR_BYTES_MAX } from "../base/limits.ts";
import { D_INTERFACE } from "../device/device.ts";
import { PROTOCOL_ICMP, PROTOCOL_TCP, PROTOCOL_UDP } from "../flow/flow-record.ts";
import { fold, pseudoSumIpv4, sumBytes } from "../wire/checksum.ts";
import { isGroupDestination, sourceMacHigh, sourceMacLow } from "../wire/ethernet.ts";
import {
  ICMP_CODE_FRAGMENTATION_NEEDED,
  ICMP_CODE_PORT_UNREACHABLE,
  ICMP_HEADER_BYTES,
  ICMP_TIME_EXCEEDED,
  ICMP_UNREACHABLE,
  writeIcmpErrorHeader,
} from "../wire/icmp.ts";
import {
  ICMP6_CODE_ADMIN_PROHIBITED,
  ICMP6_CODE_PORT_UNREACHABLE,
  ICMP6_PACKET_TOO_BIG,
  ICMP6_TIME_EXCEEDED,
  ICMP6_UNREACHABLE,
} from "../wire/icmpv6.ts";
import {
  IPV4_HEADER_BYTES,
  ipv4Destination,
  ipv4HeaderBytes,
  ipv4Source,
  ipv4TotalBytes,
  isLaterFragment,
  writeIpv4Header,
} from "../wire/ipv4.ts";
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
import { type Context, R_IPV4_ID } from "./context.ts";
import { C_ICMP_ERRORS_SENT, C_RST_SENT } from "./counters.ts";
import type { Output } from "./output.ts";
import { createReply6, FROM_DESTINATION, type Reply6 } from "./reply6.ts";
import type { TokenBucket } from "./token-bucket.ts";
import { DROP_REPLY_NOT_ALLOWED, DROP_REPLY_RATE_LIMITED, DROPPED, REPLIED } from "./verdict.ts";

const OWN_TTL = 64;

/**
 * Packets of our own making: RST (RFC 9293 3.10.7.1) and ICMP errors (RFC 792, RFC 1812 4.3.2).
 *
 * `answer…` is in reply to a received frame and returns its verdict: REPLIED, or the drop that says
 * why there is no answer. `write…` makes a packet in a spare and returns its bytes, or 0.
 */
export interface Reply {
  /** The same for IPv6. */
  readonly six: Reply6;
  /** Of a packet of either family; an IPv6 one has its transport header at R_L4_AT. */
  answerReset(rxWord: number, ipAt: number): number;
  /** About an IPv6 packet: the ICMPv6 error of the same meaning, from the packet's destination. */
  answerIcmpError(
    rxWord: number,
    ipAt: number,
    source: number,
    type: number,
    code: number,
    mtu: number,
  ): number;
  /** A RST from nowhere: `ports` is source << 16 | destination. */
  writeReset(
    ipAt: number,
    source: number,
    destination: number,
    ports: number,
    sequence: number,
    acknowledgement: number,
  ): number;
  /** Port unreachable about a UDP datagram that `destination` once sent to `source`. */
  writePortUnreachable(ipAt: number, source: number, destination: number, ports: number): number;
  /**
   * An ICMP error whose quote lies in place, behind the two headers. @returns bytes
   *
   * @param quoted - bytes of the quote, at most quoteBytes
   */
  writeIcmpError(
    ipAt: number,
    source: number,
    destination: number,
    type: number,
    code: number,
    mtu: number,
    quoted: number,
  ): number;
  /** Bytes that an ICMP error quotes at most. */
  readonly quoteBytes: number;
  /** The next identification for a packet that we make. */
  nextId(): number;
}

export function createReply(
  context: Context,
  output: Output,
  bucket: TokenBucket,
  countersAt: number,
): Reply {
  const { view, rx, f64, layout, link, registers } = context;
  // A part of the numbers for each worker: two never give out one at the same time.
  const ids = Math.floor(0x10000 / layout.workers);
  const firstId = layout.worker * ids;
  const quoteBytes = ICMP_ERROR_BYTES_MAX - IPV4_HEADER_BYTES - ICMP_HEADER_BYTES;
  const six = createReply6(context, output, bucket, countersAt);

  function nextId(): number {
    const id = registers[R_IPV4_ID]!;
    registers[R_IPV4_ID] = id + 1 >= ids ? 0 : id + 1;
    return firstId + id;
  }

  /** RFC 1122 3.2.2: no error and no reset about group addresses and later fragments. */
  function mayAnswer(ipAt: number): boolean {
    if (link !== 0 && isGroupDestination(view, ipAt - link)) return false;
    const destination = ipv4Destination(view, ipAt);
    if ((destination & 0xf0000000) === (0xe0000000 | 0) || destination === -1) return false;
    return !isLaterFragment(view, ipAt);
  }

  function sendBack(rxWord: number, frameIpAt: number, ipAt: number, bytes: number): void {
    const ingress = rx[rxWord + D_INTERFACE]!;
    if (link !== 0) {
      const ethernet = frameIpAt - link;
      output.setLink(ipAt, ingress, sourceMacHigh(view, ethernet), sourceMacLow(view, ethernet));
    }
    output.sendSpare(ipAt, bytes, ingress, rxWord);
  }

  function isIpv6(ipAt: number): boolean {
    return view.getUint8(ipAt) >>> 4 === 6;
  }

  function answerReset(rxWord: number, frameIpAt: number): number {
    if (isIpv6(frameIpAt)) return six.answerReset(rxWord, frameIpAt);
    if (!mayAnswer(frameIpAt)) return DROPPED | (DROP_REPLY_NOT_ALLOWED << 8);
    const frameTcpAt = frameIpAt + ipv4HeaderBytes(view, frameIpAt);
    const flags = tcpFlags(view, frameTcpAt);
    if ((flags & TCP_RST) !== 0) return DROPPED | (DROP_REPLY_NOT_ALLOWED << 8);
    if (!bucket.take()) return DROPPED | (DROP_REPLY_RATE_LIMITED << 8);
    const ipAt = output.takeSpare();
    if (ipAt < 0) return DROPPED | (DROP_REPLY_RATE_LIMITED << 8);
    const ports = tcpPorts(view, frameTcpAt);
    const back = (ports << 16) | (ports >>> 16);
    const source = ipv4Destination(view, frameIpAt);
    const destination = ipv4Source(view, frameIpAt);
    let bytes = 0;
    if ((flags & TCP_ACK) !== 0) {
      const sequence = tcpAcknowledgement(view, frameTcpAt);
      bytes = writeTcp(ipAt, source, destination, back, sequence, 0, TCP_RST);
    } else {
      const payload =
        ipv4TotalBytes(view, frameIpAt) -
        (frameTcpAt - frameIpAt) -
        tcpHeaderBytes(view, frameTcpAt);
      const length =
        payload + ((flags & TCP_SYN) !== 0 ? 1 : 0) + ((flags & TCP_FIN) !== 0 ? 1 : 0);
      const acknowledgement = (tcpSequence(view, frameTcpAt) + length) | 0;
      bytes = writeTcp(ipAt, source, destination, back, 0, acknowledgement, TCP_RST | TCP_ACK);
    }
    sendBack(rxWord, frameIpAt, ipAt, bytes);
    return REPLIED;
  }

  function writeTcp(
    ipAt: number,
    source: number,
    destination: number,
    ports: number,
    sequence: number,
    acknowledgement: number,
    flags: number,
  ): number {
    const bytes = IPV4_HEADER_BYTES + TCP_HEADER_BYTES;
    writeIpv4Header(
      view,
      ipAt,
      bytes,
      nextId(),
      0x4000,
      OWN_TTL,
      PROTOCOL_TCP,
      source,
      destination,
    );
    const tcpAt = ipAt + IPV4_HEADER_BYTES;
    writeTcpRst(view, tcpAt, ports, sequence, acknowledgement, flags);
    setTcpChecksum(view, tcpAt, 0);
    const pseudo = pseudoSumIpv4(source, destination, PROTOCOL_TCP, TCP_HEADER_BYTES);
    setTcpChecksum(view, tcpAt, ~fold(sumBytes(view, tcpAt, TCP_HEADER_BYTES, pseudo)) & 0xffff);
    f64[countersAt + C_RST_SENT] = f64[countersAt + C_RST_SENT]! + 1;
    return bytes;
  }

  function writeReset(
    ipAt: number,
    source: number,
    destination: number,
    ports: number,
    sequence: number,
    acknowledgement: number,
  ): number {
    const flags = TCP_RST | TCP_ACK;
    return writeTcp(ipAt, source, destination, ports, sequence, acknowledgement, flags);
  }

  function answerIcmpError(
    rxWord: number,
    frameIpAt: number,
    source: number,
    type: number,
    code: number,
    mtu: number,
  ): number {
    if (isIpv6(frameIpAt)) return answerError6(rxWord, frameIpAt, type, code, mtu);
    if (!mayAnswer(frameIpAt)) return DROPPED | (DROP_REPLY_NOT_ALLOWED << 8);
    if (!bucket.take()) return DROPPED | (DROP_REPLY_RATE_LIMITED << 8);
    const ipAt = output.takeSpare();
    if (ipAt < 0) return DROPPED | (DROP_REPLY_RATE_LIMITED << 8);
    const total = ipv4TotalBytes(view, frameIpAt);
    const quoted = Math.min(total, quoteBytes);
    const quoteAt = ipAt + IPV4_HEADER_BYTES + ICMP_HEADER_BYTES;
    for (let index = 0; index < quoted; index++) {
      view.setUint8(quoteAt + index, view.getUint8(frameIpAt + index));
    }
    const bytes = writeIcmpError(
      ipAt,
      source,
      ipv4Source(view, frameIpAt),
      type,
      code,
      mtu,
      quoted,
    );
    sendBack(rxWord, frameIpAt, ipAt, bytes);
    return REPLIED;
  }

  function answerError6(
    rxWord: number,
    frameIpAt: number,
    type: number,
    code: number,
    mtu: number,
  ): number {
    let type6 = ICMP6_UNREACHABLE;
    let code6 = ICMP6_CODE_ADMIN_PROHIBITED;
    if (type === ICMP_TIME_EXCEEDED) {
      type6 = ICMP6_TIME_EXCEEDED;
      code6 = code;
    } else if (code === ICMP_CODE_FRAGMENTATION_NEEDED) {
      type6 = ICMP6_PACKET_TOO_BIG;
      code6 = 0;
    } else if (code === ICMP_CODE_PORT_UNREACHABLE) code6 = ICMP6_CODE_PORT_UNREACHABLE;
    return six.answerError(rxWord, frameIpAt, FROM_DESTINATION, type6, code6, mtu);
  }

  function writeIcmpError(
    ipAt: number,
    source: number,
    destination: number,
    type: number,
    code: number,
    mtu: number,
    quoted: number,
  ): number {
    const icmpBytes = ICMP_HEADER_BYTES + quoted;
    const bytes = IPV4_HEADER_BYTES + icmpBytes;
    writeIpv4Header(view, ipAt, bytes, nextId(), 0, OWN_TTL, PROTOCOL_ICMP, source, destination);
    const icmpAt = ipAt + IPV4_HEADER_BYTES;
    writeIcmpErrorHeader(view, icmpAt, type, code, mtu);
    view.setUint16(icmpAt + 2, 0);
    view.setUint16(icmpAt + 2, ~fold(sumBytes(view, icmpAt, icmpBytes, 0)) & 0xffff);
    f64[countersAt + C_ICMP_ERRORS_SENT] = f64[countersAt + C_ICMP_ERRORS_SENT]! + 1;
    return bytes;
  }

  function writePortUnreachable(
    ipAt: number,
    source: number,
    destination: number,
    ports: number,
  ): number {
    const quoteAt = ipAt + IPV4_HEADER_BYTES + ICMP_HEADER_BYTES;
    const quotedBytes = IPV4_HEADER_BYTES + UDP_HEADER_BYTES;
    // What is quoted went the other way: from `destination` to `source`.
    writeIpv4Header(view, quoteAt, quotedBytes, 0, 0, OWN_TTL, PROTOCOL_UDP, destination, source);
    const udpAt = quoteAt + IPV4_HEADER_BYTES;
    view.setUint16(udpAt, ports & 0xffff);
    view.setUint16(udpAt + 2, ports >>> 16);
    view.setUint16(udpAt + 4, UDP_HEADER_BYTES);
    view.setUint16(udpAt + 6, 0);
    return writeIcmpError(
      ipAt,
      source,
      destination,
      ICMP_UNREACHABLE,
      ICMP_CODE_PORT_UNREACHABLE,
      0,
      quotedBytes,
    );
  }

  return {
    six,
    answerReset,
    answerIcmpError,
    writeReset,
    writePortUnreachable,
    writeIcmpError,
    quoteBytes,
    nextId,
  };
}
