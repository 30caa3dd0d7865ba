import {
  F_ACK_ORIGINAL,
  F_ACK_REPLY,
  F_BACKEND_ADDR,
  F_BACKEND_REPLY_PORTS,
  F_CLIENT_ADDR,
  F_CLIENT_VIP_PORTS,
  F_REPLY_ADDR,
  F_STATE,
  F_VIP_ADDR,
  KEY_IPV6,
  originalKeyOf,
  PROTOCOL_TCP,
  replyKeyOf,
  X_BACKEND,
  X_CLIENT,
  X_REPLY,
  X_VIP,
} from "../flow/flow-record.ts";
import { fold, pseudoSumIpv4, pseudoSumIpv6, sumBytes } from "../wire/checksum.ts";
import { ETHERTYPE_IPV6, setEtherType } from "../wire/ethernet.ts";
import {
  IPV4_DONT_FRAGMENT,
  IPV4_HEADER_BYTES,
  ipv4Destination,
  ipv4Source,
  writeIpv4Header,
} from "../wire/ipv4.ts";
import {
  IPV6_DESTINATION_AT,
  IPV6_HEADER_BYTES,
  IPV6_SOURCE_AT,
  setIpv6Address,
  writeIpv6Header,
} from "../wire/ipv6.ts";
import { setTcpChecksum, TCP_HEADER_BYTES, tcpPorts, writeTcpHeader } from "../wire/tcp.ts";
import { TCP_OPTION_WORDS, writeTcpOptions } from "../wire/tcp-options.ts";
import { type Context, R_DESTINATION6, R_IS_IPV6, R_SOURCE6 } from "./context.ts";
import type { Reply } from "./reply.ts";

const OWN_TTL = 64;

/**
 * Segments without data that the gateway says in a connection of its own (syn-proxy.ts), of either
 * family, with the options in `options` (TO_…). Each writes a whole packet at `ipAt` and returns its
 * bytes.
 */
export interface OwnSegments {
  readonly options: Int32Array;
  /**
   * The received SYN at hand, turned round in place; its addresses are in the registers where it is
   * an IPv6 one (R_IS_IPV6).
   */
  turnRound(
    ipAt: number,
    l4At: number,
    sequence: number,
    acknowledgement: number,
    flags: number,
  ): number;
  /** From the VIP in a spare, with the numbers that the flow has noted. */
  toClient(ipAt: number, flowWord: number, flags: number, window: number): number;
  /** As the client, in a spare. */
  toBackend(
    ipAt: number,
    flowWord: number,
    sequence: number,
    acknowledgement: number,
    flags: number,
    window: number,
  ): number;
}

export function createOwnSegments(context: Context, reply: Reply): OwnSegments {
  const { i32, link, registers, table, view } = context;
  const options = new Int32Array(TCP_OPTION_WORDS);

  function write4(
    ipAt: number,
    source: number,
    destination: number,
    ports: number,
    sequence: number,
    acknowledgement: number,
    flags: number,
    window: number,
  ): number {
    const tcpAt = ipAt + IPV4_HEADER_BYTES;
    const tcpBytes = writeTcp(tcpAt, ports, sequence, acknowledgement, flags, window);
    const bytes = IPV4_HEADER_BYTES + tcpBytes;
    writeIpv4Header(
      view,
      ipAt,
      bytes,
      reply.nextId(),
      IPV4_DONT_FRAGMENT,
      OWN_TTL,
      PROTOCOL_TCP,
      source,
      destination,
    );
    const pseudo = pseudoSumIpv4(source, destination, PROTOCOL_TCP, tcpBytes);
    setTcpChecksum(view, tcpAt, ~fold(sumBytes(view, tcpAt, tcpBytes, pseudo)) & 0xffff);
    return bytes;
  }

  /** @param words - with the addresses at `source` and `destination` */
  function write6(
    ipAt: number,
    words: Int32Array,
    source: number,
    destination: number,
    ports: number,
    sequence: number,
    acknowledgement: number,
    flags: number,
    window: number,
  ): number {
    // The type that a spare has is IPv4's.
    if (link !== 0) setEtherType(view, ipAt - link, ETHERTYPE_IPV6);
    const tcpAt = ipAt + IPV6_HEADER_BYTES;
    const tcpBytes = writeTcp(tcpAt, ports, sequence, acknowledgement, flags, window);
    writeIpv6Header(view, ipAt, tcpBytes, PROTOCOL_TCP, OWN_TTL, 0);
    setIpv6Address(view, ipAt + IPV6_SOURCE_AT, words, source);
    setIpv6Address(view, ipAt + IPV6_DESTINATION_AT, words, destination);
    const pseudo = pseudoSumIpv6(view, ipAt, PROTOCOL_TCP, tcpBytes);
    setTcpChecksum(view, tcpAt, ~fold(sumBytes(view, tcpAt, tcpBytes, pseudo)) & 0xffff);
    return IPV6_HEADER_BYTES + tcpBytes;
  }

  /** Header and options, the checksum 0. @returns their bytes */
  function writeTcp(
    tcpAt: number,
    ports: number,
    sequence: number,
    acknowledgement: number,
    flags: number,
    window: number,
  ): number {
    const bytes = TCP_HEADER_BYTES + writeTcpOptions(view, tcpAt + TCP_HEADER_BYTES, options);
    writeTcpHeader(view, tcpAt, ports, sequence, acknowledgement, bytes, flags, window);
    return bytes;
  }

  function turnRound(
    ipAt: number,
    l4At: number,
    sequence: number,
    acknowledgement: number,
    flags: number,
  ): number {
    const ports = tcpPorts(view, l4At);
    const back = (ports << 16) | (ports >>> 16);
    if (registers[R_IS_IPV6] === 0) {
      const client = ipv4Source(view, ipAt);
      const vip = ipv4Destination(view, ipAt);
      return write4(ipAt, vip, client, back, sequence, acknowledgement, flags, 0);
    }
    return write6(
      ipAt,
      registers,
      R_DESTINATION6,
      R_SOURCE6,
      back,
      sequence,
      acknowledgement,
      flags,
      0,
    );
  }

  function toClient(ipAt: number, flowWord: number, flags: number, window: number): number {
    const ports = i32[flowWord + F_CLIENT_VIP_PORTS]!;
    const back = (ports << 16) | (ports >>> 16);
    const sequence = i32[flowWord + F_ACK_ORIGINAL]!;
    const acknowledgement = i32[flowWord + F_ACK_REPLY]!;
    if ((originalKeyOf(i32[flowWord + F_STATE]!) & KEY_IPV6) === 0) {
      const vip = i32[flowWord + F_VIP_ADDR]!;
      const client = i32[flowWord + F_CLIENT_ADDR]!;
      return write4(ipAt, vip, client, back, sequence, acknowledgement, flags, window);
    }
    const extension = table.extensionOf(flowWord);
    const vip = extension + X_VIP;
    const client = extension + X_CLIENT;
    return write6(ipAt, i32, vip, client, back, sequence, acknowledgement, flags, window);
  }

  function toBackend(
    ipAt: number,
    flowWord: number,
    sequence: number,
    acknowledgement: number,
    flags: number,
    window: number,
  ): number {
    const ports = i32[flowWord + F_BACKEND_REPLY_PORTS]!;
    const there = (ports << 16) | (ports >>> 16);
    if ((replyKeyOf(i32[flowWord + F_STATE]!) & KEY_IPV6) === 0) {
      const source = i32[flowWord + F_REPLY_ADDR]!;
      const backend = i32[flowWord + F_BACKEND_ADDR]!;
      return write4(ipAt, source, backend, there, sequence, acknowledgement, flags, window);
    }
    const extension = table.extensionOf(flowWord);
    const source = extension + X_REPLY;
    const backend = extension + X_BACKEND;
    return write6(ipAt, i32, source, backend, there, sequence, acknowledgement, flags, window);
  }

  return { options, turnRound, toClient, toBackend };
}
