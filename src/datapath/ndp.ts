import { D_INTERFACE } from "../device/device.ts";
import {
  A_FLAGS,
  A_IS_HOST,
  A_IS_SNAT,
  A_IS_TUNNEL,
  A_IS_VIP,
  BANK_ANNOUNCE,
} from "../service/bank.ts";
import { HT_INTERFACES } from "../state/hop-table.ts";
import { ETHERTYPE_IPV6, setEtherType, sourceMacHigh, sourceMacLow } from "../wire/ethernet.ts";
import { fillIcmp6Checksum, ICMP6_PROTOCOL } from "../wire/icmpv6.ts";
import {
  copyIpv6Address,
  IPV6_DESTINATION_AT,
  IPV6_HEADER_BYTES,
  IPV6_SOURCE_AT,
  isIpv6Unspecified,
  setIpv6Address,
  writeIpv6Header,
} from "../wire/ipv6.ts";
import {
  ADVERTISEMENT_BYTES,
  ADVERTISEMENT_OVERRIDE,
  ADVERTISEMENT_SOLICITED,
  ALL_NODES_MAC_HIGH,
  ALL_NODES_MAC_LOW,
  isSolicitationValid,
  NEIGHBOUR_TARGET_AT,
  SOLICITATION_BYTES_MIN,
  writeAdvertisement,
  writeAllNodes,
} from "../wire/neighbour.ts";
import type { Addresses } from "./addresses.ts";
import { type Context, R_BANK, R_HOPS } from "./context.ts";
import { C_ARP_REPLIES } from "./counters.ts";
import { ORIGINATED, type Output } from "./output.ts";
import {
  DROP_NEIGHBOUR_MALFORMED,
  DROP_REPLY_RATE_LIMITED,
  DROPPED,
  PASSED,
  REPLIED,
} from "./verdict.ts";

/** Neighbour discovery for VIP and SNAT addresses (RFC 4861 section 7.2), as arp.ts is for IPv4. */
export interface Ndp {
  /**
   * Answer a solicitation for an address of ours; everything else is the kernel's.
   *
   * @param icmpAt - the solicitation; its checksum is right
   * @param bytes - of it
   */
  answer(rxWord: number, ipAt: number, icmpAt: number, bytes: number): number;
  /**
   * Tell everybody on a link of an address of ours (RFC 4861 section 7.2.6).
   *
   * @param words - with the address at `word`, host order
   * @returns false when no spare was left
   */
  announce(words: Int32Array, word: number, egress: number): boolean;
}

export function createNdp(
  context: Context,
  addresses: Addresses,
  output: Output,
  countersAt: number,
): Ndp {
  const { f64, i32, link, registers, rx, view } = context;

  function isAnnounced(entry: number): boolean {
    const flags = entry < 0 ? 0 : i32[entry + A_FLAGS]!;
    return (flags & (A_IS_VIP | A_IS_SNAT | A_IS_TUNNEL)) !== 0 && (flags & A_IS_HOST) === 0;
  }

  function answer(rxWord: number, ipAt: number, icmpAt: number, bytes: number): number {
    if (registers[R_BANK] === 0 || bytes < SOLICITATION_BYTES_MIN) return PASSED;
    const targetAt = icmpAt + NEIGHBOUR_TARGET_AT;
    const entry = addresses.find6(
      view.getInt32(targetAt),
      view.getInt32(targetAt + 4),
      view.getInt32(targetAt + 8),
      view.getInt32(targetAt + 12),
    );
    if (!isAnnounced(entry) || i32[registers[R_BANK]! + BANK_ANNOUNCE] === 0) return PASSED;
    if (!isSolicitationValid(view, ipAt, icmpAt, bytes)) {
      return DROPPED | (DROP_NEIGHBOUR_MALFORMED << 8);
    }
    const replyAt = output.takeSpare();
    if (replyAt < 0) return DROPPED | (DROP_REPLY_RATE_LIMITED << 8);
    const ingress = rx[rxWord + D_INTERFACE]!;
    copyIpv6Address(view, targetAt, replyAt + IPV6_HEADER_BYTES + NEIGHBOUR_TARGET_AT);
    copyIpv6Address(view, targetAt, replyAt + IPV6_SOURCE_AT);
    // Who looks whether the address is free has none to be answered at: all nodes hear of it.
    if (isIpv6Unspecified(view, ipAt)) {
      writeAllNodes(view, replyAt + IPV6_DESTINATION_AT);
      output.setLink(replyAt, ingress, ALL_NODES_MAC_HIGH, ALL_NODES_MAC_LOW);
      finish(replyAt, ADVERTISEMENT_OVERRIDE, ingress);
    } else {
      copyIpv6Address(view, ipAt + IPV6_SOURCE_AT, replyAt + IPV6_DESTINATION_AT);
      const ethernet = ipAt - link;
      output.setLink(replyAt, ingress, sourceMacHigh(view, ethernet), sourceMacLow(view, ethernet));
      finish(replyAt, ADVERTISEMENT_OVERRIDE | ADVERTISEMENT_SOLICITED, ingress);
    }
    output.sendSpare(replyAt, IPV6_HEADER_BYTES + ADVERTISEMENT_BYTES, ingress, rxWord);
    f64[countersAt + C_ARP_REPLIES] = f64[countersAt + C_ARP_REPLIES]! + 1;
    return REPLIED;
  }

  /** Addresses and target are written already. */
  function finish(ipAt: number, flags: number, egress: number): void {
    setEtherType(view, ipAt - link, ETHERTYPE_IPV6);
    writeIpv6Header(view, ipAt, ADVERTISEMENT_BYTES, ICMP6_PROTOCOL, 255, 0);
    const own = registers[R_HOPS]! + HT_INTERFACES + 4 * egress;
    const at = ipAt + IPV6_HEADER_BYTES;
    writeAdvertisement(view, at, flags, i32[own + 1]!, i32[own + 2]!);
    fillIcmp6Checksum(view, ipAt, at, ADVERTISEMENT_BYTES);
  }

  function announce(words: Int32Array, word: number, egress: number): boolean {
    const ipAt = output.takeSpare();
    if (ipAt < 0) return false;
    setIpv6Address(view, ipAt + IPV6_HEADER_BYTES + NEIGHBOUR_TARGET_AT, words, word);
    setIpv6Address(view, ipAt + IPV6_SOURCE_AT, words, word);
    writeAllNodes(view, ipAt + IPV6_DESTINATION_AT);
    output.setLink(ipAt, egress, ALL_NODES_MAC_HIGH, ALL_NODES_MAC_LOW);
    finish(ipAt, ADVERTISEMENT_OVERRIDE, egress);
    output.sendSpare(ipAt, IPV6_HEADER_BYTES + ADVERTISEMENT_BYTES, egress, ORIGINATED);
    return true;
  }

  return { answer, announce };
}
