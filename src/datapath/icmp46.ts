import { ICMP_ERROR_BYTES_MAX } from "../base/limits.ts";
import {
  F_BACKEND_ADDR,
  F_BACKEND_REPLY_PORTS,
  F_CLIENT_ADDR,
  F_CLIENT_VIP_PORTS,
  F_DELTA,
  F_REPLY_ADDR,
  F_VIP_ADDR,
  PROTOCOL_ICMP,
  PROTOCOL_TCP,
  PROTOCOL_UDP,
  X_BACKEND,
  X_CLIENT,
  X_REPLY,
  X_VIP,
} from "../flow/flow-record.ts";
import { add16, fold, sumBytes, updateChecksum } from "../wire/checksum.ts";
import { ETHERTYPE_IPV6, setEtherType } from "../wire/ethernet.ts";
import { ICMP_HEADER_BYTES, icmpCode, icmpType } from "../wire/icmp.ts";
import {
  fillIcmp6Checksum,
  ICMP6_HEADER_BYTES,
  ICMP6_PROTOCOL,
  writeIcmp6ErrorHeader,
} from "../wire/icmpv6.ts";
import {
  IPV4_HEADER_BYTES,
  ipv4HeaderBytes,
  ipv4TotalBytes,
  ipv4Ttl,
  writeIpv4Header,
} from "../wire/ipv4.ts";
import {
  IPV6_DESTINATION_AT,
  IPV6_HEADER_BYTES,
  IPV6_MTU_MIN,
  IPV6_SOURCE_AT,
  ipv6HopLimit,
  ipv6TotalBytes,
  ipv6TrafficClass,
  setIpv6Address,
  writeIpv6Header,
} from "../wire/ipv6.ts";
import {
  ERROR_CODE,
  ERROR_REST,
  ERROR_TYPE,
  ERROR_WORDS,
  errorTo4,
  errorTo6,
} from "../wire/translate46.ts";
import { type Context, R_OUT_INTERFACE, R_OUT_MAC_HIGH, R_OUT_MAC_LOW } from "./context.ts";
import { C_ICMP_ERRORS_TRANSLATED } from "./counters.ts";
import type { Output } from "./output.ts";
import type { Reply } from "./reply.ts";
import { createSplices } from "./splices.ts";
import {
  DROP_FAMILY_NOT_TRANSLATED,
  DROP_REPLY_RATE_LIMITED,
  DROPPED,
  FORWARDED,
} from "./verdict.ts";

/** Bytes of a quoted TCP header that hold its checksum. */
const TCP_BYTES_WITH_CHECKSUM = 18;

/**
 * ICMP errors about flows between the families (RFC 7915 sections 4.2, 4.3, 5.2, 5.3): written anew in
 * a spare, since quote and header change their size. A router of the one family has no address in
 * the other: the error comes from our address that its receiver knows.
 */
export interface Icmp46 {
  /**
   * An ICMP error as an ICMPv6 one, to the hop in the registers.
   *
   * @param quoteAt - quoted IPv4 header, checked
   * @param l4At - quoted transport header
   * @param endAt - first byte behind the message
   */
  toIpv6(
    rxWord: number,
    ipAt: number,
    quoteAt: number,
    l4At: number,
    endAt: number,
    flowWord: number,
    toClient: boolean,
  ): number;
  /** The other way; `protocol` is that of the quote. */
  toIpv4(
    rxWord: number,
    ipAt: number,
    quoteAt: number,
    l4At: number,
    endAt: number,
    flowWord: number,
    toClient: boolean,
    protocol: number,
  ): number;
}

export function createIcmp46(
  context: Context,
  output: Output,
  reply: Reply,
  countersAt: number,
): Icmp46 {
  const { f64, i32, link, registers, table, view } = context;
  const splices = createSplices(context);
  const error = new Int32Array(ERROR_WORDS);

  /** The first bytes of the quoted transport, as its receiver once sent them. @returns how many */
  function quoteTransport(
    fromAt: number,
    toAt: number,
    bytes: number,
    protocol: number,
    flowWord: number,
    toClient: boolean,
  ): void {
    for (let index = 0; index < bytes; index++) {
      view.setUint8(toAt + index, view.getUint8(fromAt + index));
    }
    view.setInt32(toAt, i32[flowWord + (toClient ? F_CLIENT_VIP_PORTS : F_BACKEND_REPLY_PORTS)]!);
    // What went to the backend had the flow's difference added, what went to the client taken away.
    let delta = (i32[flowWord + F_DELTA]! & 0xffff) ^ (toClient ? 0xffff : 0);
    if (!toClient && protocol === PROTOCOL_TCP) {
      delta = add16(delta, splices.restoreQuote(toAt, flowWord));
    }
    if (protocol === PROTOCOL_UDP) {
      const checksum = view.getUint16(toAt + 6);
      if (checksum === 0) return;
      const updated = updateChecksum(checksum, delta);
      view.setUint16(toAt + 6, updated === 0 ? 0xffff : updated);
    } else if (bytes >= TCP_BYTES_WITH_CHECKSUM) {
      view.setUint16(toAt + 16, updateChecksum(view.getUint16(toAt + 16), delta));
    }
  }

  function send(rxWord: number, ipAt: number, bytes: number): number {
    const egress = registers[R_OUT_INTERFACE]!;
    output.setLink(ipAt, egress, registers[R_OUT_MAC_HIGH]!, registers[R_OUT_MAC_LOW]!);
    output.sendSpare(ipAt, bytes, egress, rxWord);
    f64[countersAt + C_ICMP_ERRORS_TRANSLATED] = f64[countersAt + C_ICMP_ERRORS_TRANSLATED]! + 1;
    return FORWARDED;
  }

  function toIpv6(
    rxWord: number,
    ipAt: number,
    quoteAt: number,
    l4At: number,
    endAt: number,
    flowWord: number,
    toClient: boolean,
  ): number {
    const icmpAt = quoteAt - ICMP_HEADER_BYTES;
    const rest = view.getInt32(icmpAt + 4);
    if (!errorTo6(icmpType(view, icmpAt), icmpCode(view, icmpAt), rest, error)) {
      return DROPPED | (DROP_FAMILY_NOT_TRANSLATED << 8);
    }
    const at = output.takeSpare();
    if (at < 0) return DROPPED | (DROP_REPLY_RATE_LIMITED << 8);
    if (link !== 0) setEtherType(view, at - link, ETHERTYPE_IPV6);
    const room = IPV6_MTU_MIN - 2 * IPV6_HEADER_BYTES - ICMP6_HEADER_BYTES;
    const bytes = Math.min(endAt - l4At, room);
    const newQuoteAt = at + IPV6_HEADER_BYTES + ICMP6_HEADER_BYTES;
    const extension = table.extensionOf(flowWord);
    const protocol = view.getUint8(quoteAt + 9);
    const quotedBytes = ipv4TotalBytes(view, quoteAt) - ipv4HeaderBytes(view, quoteAt);
    const payload = Math.max(0, quotedBytes);
    const ttl = ipv4Ttl(view, quoteAt);
    writeIpv6Header(view, newQuoteAt, payload, protocol, ttl, view.getUint8(quoteAt + 1));
    const quoted = toClient ? X_CLIENT : X_BACKEND;
    setIpv6Address(view, newQuoteAt + IPV6_SOURCE_AT, i32, extension + quoted);
    const quotedTo = toClient ? X_VIP : X_REPLY;
    setIpv6Address(view, newQuoteAt + IPV6_DESTINATION_AT, i32, extension + quotedTo);
    const newL4At = newQuoteAt + IPV6_HEADER_BYTES;
    quoteTransport(l4At, newL4At, bytes, protocol, flowWord, toClient);
    const icmpBytes = ICMP6_HEADER_BYTES + IPV6_HEADER_BYTES + bytes;
    const hopLimit = link === 0 ? ipv4Ttl(view, ipAt) : ipv4Ttl(view, ipAt) - 1;
    writeIpv6Header(view, at, icmpBytes, ICMP6_PROTOCOL, hopLimit, view.getUint8(ipAt + 1));
    setIpv6Address(view, at + IPV6_SOURCE_AT, i32, extension + quotedTo);
    setIpv6Address(view, at + IPV6_DESTINATION_AT, i32, extension + quoted);
    const newIcmpAt = at + IPV6_HEADER_BYTES;
    writeIcmp6ErrorHeader(
      view,
      newIcmpAt,
      error[ERROR_TYPE]!,
      error[ERROR_CODE]!,
      error[ERROR_REST]!,
    );
    fillIcmp6Checksum(view, at, newIcmpAt, icmpBytes);
    return send(rxWord, at, IPV6_HEADER_BYTES + icmpBytes);
  }

  function toIpv4(
    rxWord: number,
    ipAt: number,
    quoteAt: number,
    l4At: number,
    endAt: number,
    flowWord: number,
    toClient: boolean,
    protocol: number,
  ): number {
    const icmpAt = quoteAt - ICMP6_HEADER_BYTES;
    const rest = view.getInt32(icmpAt + 4);
    if (!errorTo4(icmpType(view, icmpAt), icmpCode(view, icmpAt), rest, error)) {
      return DROPPED | (DROP_FAMILY_NOT_TRANSLATED << 8);
    }
    const at = output.takeSpare();
    if (at < 0) return DROPPED | (DROP_REPLY_RATE_LIMITED << 8);
    const room = ICMP_ERROR_BYTES_MAX - 2 * IPV4_HEADER_BYTES - ICMP_HEADER_BYTES;
    const bytes = Math.min(endAt - l4At, room);
    const newQuoteAt = at + IPV4_HEADER_BYTES + ICMP_HEADER_BYTES;
    const quoted = i32[flowWord + (toClient ? F_CLIENT_ADDR : F_BACKEND_ADDR)]!;
    const quotedTo = i32[flowWord + (toClient ? F_VIP_ADDR : F_REPLY_ADDR)]!;
    // What a quote says of its length is anybody's word: an IPv4 header may have no room for it.
    const quotedBytes = ipv6TotalBytes(view, quoteAt) - (l4At - quoteAt);
    const payload = Math.min(Math.max(0, quotedBytes), 0xffff - IPV4_HEADER_BYTES);
    writeIpv4Header(
      view,
      newQuoteAt,
      IPV4_HEADER_BYTES + payload,
      0,
      0x4000,
      ipv6HopLimit(view, quoteAt),
      protocol,
      quoted,
      quotedTo,
    );
    setTos(newQuoteAt, ipv6TrafficClass(view, quoteAt));
    const newL4At = newQuoteAt + IPV4_HEADER_BYTES;
    quoteTransport(l4At, newL4At, bytes, protocol, flowWord, toClient);
    const icmpBytes = ICMP_HEADER_BYTES + IPV4_HEADER_BYTES + bytes;
    const ttl = link === 0 ? ipv6HopLimit(view, ipAt) : ipv6HopLimit(view, ipAt) - 1;
    const total = IPV4_HEADER_BYTES + icmpBytes;
    writeIpv4Header(view, at, total, reply.nextId(), 0, ttl, PROTOCOL_ICMP, quotedTo, quoted);
    const newIcmpAt = at + IPV4_HEADER_BYTES;
    view.setInt32(newIcmpAt, (error[ERROR_TYPE]! << 24) | (error[ERROR_CODE]! << 16));
    view.setInt32(newIcmpAt + 4, error[ERROR_REST]!);
    view.setUint16(newIcmpAt + 2, ~fold(sumBytes(view, newIcmpAt, icmpBytes, 0)) & 0xffff);
    return send(rxWord, at, total);
  }

  /** Type of service of a header that was written with 0. */
  function setTos(ipAt: number, tos: number): void {
    view.setUint8(ipAt + 1, tos);
    view.setUint16(ipAt + 10, updateChecksum(view.getUint16(ipAt + 10), tos));
  }

  return { toIpv6, toIpv4 };
}
