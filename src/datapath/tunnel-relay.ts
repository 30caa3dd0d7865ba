import {
  F_CLIENT_ADDR,
  F_STATE,
  F_VIP_ADDR,
  isOneWay,
  ORIGINAL,
  PROTOCOL_TCP,
  PROTOCOL_UDP,
  X_CLIENT,
  X_VIP,
} from "../flow/flow-record.ts";
import {
  checkQuote,
  ICMP_CODE_FRAGMENTATION_NEEDED,
  ICMP_HEADER_BYTES,
  ICMP_OK,
  ICMP_UNREACHABLE,
} from "../wire/icmp.ts";
import { checkQuote6, ICMP6_HEADER_BYTES, ICMP6_OK, ICMP6_PACKET_TOO_BIG } from "../wire/icmpv6.ts";
import {
  IPV4_HEADER_BYTES,
  ipv4Destination,
  ipv4HeaderBytes,
  ipv4Protocol,
  ipv4Source,
  ipv4TotalBytes,
} from "../wire/ipv4.ts";
import {
  IPV6_HEADER_BYTES,
  IPV6_MTU_MIN,
  ipv6TotalBytes,
  WALK_L4_AT,
  WALK_PROTOCOL,
  WALK_WORDS,
} from "../wire/ipv6.ts";
import { tcpPorts } from "../wire/tcp.ts";
import { ipVersion } from "../wire/tunnel.ts";
import { type Context, R_OUT_INTERFACE, R_OUT_MAC_HIGH, R_OUT_MAC_LOW } from "./context.ts";
import type { Encapsulator } from "./encapsulate.ts";
import { HOP_FOUND, type Hops } from "./hops.ts";
import type { Keys6 } from "./keys6.ts";
import { ORIGINATED, type Output } from "./output.ts";
import type { Reply } from "./reply.ts";
import type { TokenBucket } from "./token-bucket.ts";

/**
 * Tells a client that a packet of its own did not fit on the way to the backend, when the error about
 * the outer packet quotes enough of it (RFC 2003 section 5, RFC 2473 section 8.1): fragmentation needed
 * or packet too big, from the VIP, with what the path leaves inside. Nobody is told of what the tunnel
 * will carry in fragments from now on.
 */
export interface TunnelRelay {
  /**
   * The flow, ORIGINAL and one-way, of the inner packet that lies in a quote.
   *
   * @param endAt - one past the quote's last byte
   * @returns its first word, or -1: the quote is too short, or of no flow of this worker
   */
  flowOf(innerAt: number, endAt: number): number;
  /**
   * Tell the client of the flow that flowOf() has just found.
   *
   * @param mtu - of the path of the outer packet
   */
  tell(innerAt: number, endAt: number, flowWord: number, mtu: number): void;
}

export function createTunnelRelay(
  context: Context,
  hops: Hops,
  output: Output,
  reply: Reply,
  bucket: TokenBucket,
  encapsulator: Encapsulator,
  keys: Keys6,
): TunnelRelay {
  const { i32, registers, table, view } = context;
  const bytes = new Uint8Array(view.buffer);
  const walked = new Int32Array(WALK_WORDS);

  function flowOf(innerAt: number, endAt: number): number {
    if (endAt <= innerAt) return -1;
    const isSix = ipVersion(view, innerAt) === 6;
    const reference = isSix ? find6(innerAt, endAt) : find4(innerAt, endAt);
    if (reference < 0 || (reference & 1) !== ORIGINAL) return -1;
    const flowWord = table.word(reference >> 1);
    return isOneWay(i32[flowWord + F_STATE]!) ? flowWord : -1;
  }

  /** @returns row << 1 | direction, or -1 */
  function find4(innerAt: number, endAt: number): number {
    if (checkQuote(view, innerAt, endAt - innerAt) !== ICMP_OK) return -1;
    const protocol = ipv4Protocol(view, innerAt);
    if (protocol !== PROTOCOL_TCP && protocol !== PROTOCOL_UDP) return -1;
    return table.find(
      protocol,
      ipv4Source(view, innerAt),
      ipv4Destination(view, innerAt),
      tcpPorts(view, innerAt + ipv4HeaderBytes(view, innerAt)),
    );
  }

  function find6(innerAt: number, endAt: number): number {
    if (checkQuote6(view, innerAt, endAt - innerAt, walked) !== ICMP6_OK) return -1;
    const protocol = walked[WALK_PROTOCOL]!;
    if (protocol !== PROTOCOL_TCP && protocol !== PROTOCOL_UDP) return -1;
    keys.load(innerAt);
    return keys.find(protocol, tcpPorts(view, walked[WALK_L4_AT]!));
  }

  function tell(innerAt: number, endAt: number, flowWord: number, mtu: number): void {
    const isSix = ipVersion(view, innerAt) === 6;
    const total = isSix ? ipv6TotalBytes(view, innerAt) : ipv4TotalBytes(view, innerAt);
    if (!encapsulator.mustRefuse(innerAt, total, flowWord)) return;
    if (hops.toClient(flowWord) !== HOP_FOUND || !bucket.take()) return;
    const spare = output.takeSpare();
    if (spare < 0) return;
    const inside = mtu - encapsulator.overhead(flowWord);
    const available = Math.min(endAt - innerAt, total);
    const length = isSix
      ? write6(spare, innerAt, available, flowWord, inside)
      : write4(spare, innerAt, available, flowWord, inside);
    const egress = registers[R_OUT_INTERFACE]!;
    output.setLink(spare, egress, registers[R_OUT_MAC_HIGH]!, registers[R_OUT_MAC_LOW]!);
    output.sendSpare(spare, length, egress, ORIGINATED);
  }

  function write4(
    spare: number,
    innerAt: number,
    available: number,
    flowWord: number,
    inside: number,
  ): number {
    const quoted = Math.min(available, reply.quoteBytes);
    bytes.copyWithin(spare + IPV4_HEADER_BYTES + ICMP_HEADER_BYTES, innerAt, innerAt + quoted);
    return reply.writeIcmpError(
      spare,
      i32[flowWord + F_VIP_ADDR]!,
      i32[flowWord + F_CLIENT_ADDR]!,
      ICMP_UNREACHABLE,
      ICMP_CODE_FRAGMENTATION_NEEDED,
      inside,
      quoted,
    );
  }

  function write6(
    spare: number,
    innerAt: number,
    available: number,
    flowWord: number,
    inside: number,
  ): number {
    const quoted = Math.min(available, reply.six.quoteBytes);
    bytes.copyWithin(spare + IPV6_HEADER_BYTES + ICMP6_HEADER_BYTES, innerAt, innerAt + quoted);
    const extension = table.extensionOf(flowWord);
    return reply.six.writeError(
      spare,
      extension + X_VIP,
      extension + X_CLIENT,
      ICMP6_PACKET_TOO_BIG,
      0,
      Math.max(inside, IPV6_MTU_MIN),
      quoted,
    );
  }

  return { flowOf, tell };
}
