import { D_AT, D_BYTES, D_INTERFACE } from "../device/device.ts";
import {
  A_ADDRESS,
  A_ADDRESS6,
  A_FLAGS,
  A_IS_HOST,
  A_IS_IPV6,
  A_IS_SNAT,
  A_IS_TUNNEL,
  A_IS_VIP,
  A_PREFIX_LENGTH,
  ADDRESS_WORDS,
  BANK_ANNOUNCE,
} from "../service/bank.ts";
import { HT_INTERFACES } from "../state/hop-table.ts";
import { H_ANNOUNCE_REQUESTED, H_NODE_DRAINED, W_ANNOUNCE_DONE } from "../state/layout.ts";
import {
  ARP_BYTES,
  ARP_OK,
  ARP_OPERATION_REPLY,
  ARP_OPERATION_REQUEST,
  arpOperation,
  arpSenderAddress,
  arpSenderMacHigh,
  arpSenderMacLow,
  arpTargetAddress,
  checkArp,
  writeArp,
} from "../wire/arp.ts";
import {
  ETHERNET_HEADER_BYTES,
  ETHERTYPE_ARP,
  setEtherType,
  sourceMacHigh,
  sourceMacLow,
} from "../wire/ethernet.ts";
import type { Addresses } from "./addresses.ts";
import {
  type Context,
  R_ADDRESSES,
  R_ADDRESSES_MASK,
  R_ANNOUNCE,
  R_ANNOUNCE_NEXT,
  R_ANNOUNCE_WITHIN,
  R_BANK,
  R_HOPS,
} from "./context.ts";
import { C_ARP_REPLIES } from "./counters.ts";
import type { Ndp } from "./ndp.ts";
import { ORIGINATED, type Output } from "./output.ts";
import { DROP_ARP_MALFORMED, DROPPED, PASSED, REPLIED } from "./verdict.ts";

/** Address entries looked at for an announcement in one batch. */
const ANNOUNCE_ENTRIES_PER_BATCH = 1024;
/** Prefixes of more addresses than 2 to this power are not announced address by address. */
const ANNOUNCE_HOST_BITS_MAX = 8;

/**
 * ARP for VIP and SNAT addresses (RFC 826), gratuitous ones (RFC 5227 section 3), and the
 * advertisements of IPv6 addresses that go with them (ndp.ts).
 */
export interface Arp {
  /** Answer a request for an address of ours; everything else is the kernel's. */
  process(rxWord: number): number;
  /** Go on with the announcement that control asked for, as far as this batch has room. */
  announce(): void;
}

export function createArp(
  context: Context,
  addresses: Addresses,
  output: Output,
  ndp: Ndp,
  countersAt: number,
): Arp {
  const { device, f64, i32, layout, registers, rx, view } = context;
  /** The address that is announced. */
  const address6 = new Int32Array(4);
  const announceDone = layout.workerWord + W_ANNOUNCE_DONE;

  /** An address that we answer for: not one of the host's, which the kernel answers itself. */
  function isAnnounced(entry: number): boolean {
    const flags = i32[entry + A_FLAGS]!;
    return (flags & (A_IS_VIP | A_IS_SNAT | A_IS_TUNNEL)) !== 0 && (flags & A_IS_HOST) === 0;
  }

  /** A standby (`announce: false`) says nothing of the addresses. */
  function isStandby(): boolean {
    return i32[registers[R_BANK]! + BANK_ANNOUNCE] === 0;
  }

  function process(rxWord: number): number {
    const at = rx[rxWord + D_AT]!;
    const arpAt = at + ETHERNET_HEADER_BYTES;
    if (checkArp(view, arpAt, rx[rxWord + D_BYTES]! - ETHERNET_HEADER_BYTES) !== ARP_OK) {
      return DROPPED | (DROP_ARP_MALFORMED << 8);
    }
    if (registers[R_BANK] === 0 || arpOperation(view, arpAt) !== ARP_OPERATION_REQUEST)
      return PASSED;
    const target = arpTargetAddress(view, arpAt);
    const sender = arpSenderAddress(view, arpAt);
    const entry = addresses.find(target);
    // Who asks for its own address announces it (RFC 5227): nothing to answer.
    if (entry < 0 || !isAnnounced(entry) || isStandby() || sender === target) return PASSED;
    const ingress = rx[rxWord + D_INTERFACE]!;
    const senderMacHigh = arpSenderMacHigh(view, arpAt);
    const senderMacLow = arpSenderMacLow(view, arpAt);
    const own = registers[R_HOPS]! + HT_INTERFACES + 4 * ingress;
    output.setLink(arpAt, ingress, sourceMacHigh(view, at), sourceMacLow(view, at));
    writeArp(
      view,
      arpAt,
      ARP_OPERATION_REPLY,
      i32[own + 1]!,
      i32[own + 2]!,
      target,
      senderMacHigh,
      senderMacLow,
      sender,
    );
    rx[rxWord + D_BYTES] = ETHERNET_HEADER_BYTES + ARP_BYTES;
    output.sendReceived(rxWord, ingress);
    f64[countersAt + C_ARP_REPLIES] = f64[countersAt + C_ARP_REPLIES]! + 1;
    return REPLIED;
  }

  /** A request for the address itself, to everybody: the form that all hosts update from. */
  function sendGratuitous(address: number, egress: number): boolean {
    const arpAt = output.takeSpare();
    if (arpAt < 0) return false;
    const own = registers[R_HOPS]! + HT_INTERFACES + 4 * egress;
    output.setLink(arpAt, egress, -1, 0xffff);
    setEtherType(view, arpAt - ETHERNET_HEADER_BYTES, ETHERTYPE_ARP);
    writeArp(
      view,
      arpAt,
      ARP_OPERATION_REQUEST,
      i32[own + 1]!,
      i32[own + 2]!,
      address,
      0,
      0,
      address,
    );
    output.sendSpare(arpAt, ARP_BYTES, egress, ORIGINATED);
    return true;
  }

  /** @returns false when spares have run out: the entry goes on in the next batch */
  function announceEntry(entry: number): boolean {
    const flags = i32[entry + A_FLAGS]!;
    const bits = (flags & A_IS_IPV6) !== 0 ? 128 : 32;
    const hostBits = bits - i32[entry + A_PREFIX_LENGTH]!;
    // A large prefix is routed to the gateway: nobody asks a link for its addresses.
    const count = hostBits > ANNOUNCE_HOST_BITS_MAX ? 0 : 1 << hostBits;
    for (let within = registers[R_ANNOUNCE_WITHIN]!; within < count; within++) {
      registers[R_ANNOUNCE_WITHIN] = within;
      if (output.sparesLeft() < device.interfaces.length) return false;
      for (let egress = 0; egress < device.interfaces.length; egress++) {
        if ((flags & A_IS_IPV6) === 0) sendGratuitous(i32[entry + A_ADDRESS]! | within, egress);
        else {
          for (let word = 0; word < 4; word++) address6[word] = i32[entry + A_ADDRESS6 + word]!;
          address6[3] = address6[3]! | within;
          ndp.announce(address6, 0, egress);
        }
      }
    }
    registers[R_ANNOUNCE_WITHIN] = 0;
    return true;
  }

  function announce(): void {
    const wanted = i32[H_ANNOUNCE_REQUESTED]!;
    if (registers[R_BANK] === 0 || registers[R_HOPS] === 0) return;
    if (registers[R_ANNOUNCE] !== wanted) {
      registers[R_ANNOUNCE] = wanted;
      registers[R_ANNOUNCE_NEXT] = 0;
      registers[R_ANNOUNCE_WITHIN] = 0;
    } else if (i32[announceDone] === wanted) return;
    const entries = registers[R_ADDRESSES_MASK]! + 1;
    let next = registers[R_ANNOUNCE_NEXT]!;
    const last = Math.min(next + ANNOUNCE_ENTRIES_PER_BATCH, entries);
    // A node that is being drained answers, since its flows still need it, but calls nobody.
    const silent = isStandby() || i32[H_NODE_DRAINED] !== 0;
    for (; next < last; next++) {
      const entry = registers[R_ADDRESSES]! + next * ADDRESS_WORDS;
      if (!silent && isAnnounced(entry) && !announceEntry(entry)) break;
    }
    registers[R_ANNOUNCE_NEXT] = next;
    if (next === entries) Atomics.store(i32, announceDone, wanted);
  }

  return { process, announce };
}
