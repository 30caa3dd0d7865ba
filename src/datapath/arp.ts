import { D_AT, D_BYTES, D_INTERFACE } from "../device/device.ts";
import {
  A_ADDRESS,
  A_FLAGS,
  A_IS_HOST,
  A_IS_SNAT,
  A_IS_TUNNEL,
  A_IS_VIP,
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
  R_BANK,
  R_HOPS,
} from "./context.ts";
import { C_ARP_REPLIES } from "./counters.ts";
import { ORIGINATED, type Output } from "./output.ts";
import { DROP_ARP_MALFORMED, DROPPED, PASSED, REPLIED } from "./verdict.ts";

/** Address entries looked at for an announcement in one batch. */
const ANNOUNCE_ENTRIES_PER_BATCH = 1024;

/** ARP for VIP and SNAT addresses (RFC 826), and gratuitous ones (RFC 5227 section 3). */
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
  countersAt: number,
): Arp {
  const { device, f64, i32, layout, registers, rx, view } = context;
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

  function announce(): void {
    const wanted = i32[H_ANNOUNCE_REQUESTED]!;
    if (registers[R_BANK] === 0 || registers[R_HOPS] === 0) return;
    if (registers[R_ANNOUNCE] !== wanted) {
      registers[R_ANNOUNCE] = wanted;
      registers[R_ANNOUNCE_NEXT] = 0;
    } else if (i32[announceDone] === wanted) return;
    const entries = registers[R_ADDRESSES_MASK]! + 1;
    let next = registers[R_ANNOUNCE_NEXT]!;
    const last = Math.min(next + ANNOUNCE_ENTRIES_PER_BATCH, entries);
    // A node that is being drained answers, since its flows still need it, but calls nobody.
    const silent = isStandby() || i32[H_NODE_DRAINED] !== 0;
    for (; next < last; next++) {
      const entry = registers[R_ADDRESSES]! + next * ADDRESS_WORDS;
      if (silent || !isAnnounced(entry)) continue;
      if (output.sparesLeft() < device.interfaces.length) break;
      for (let egress = 0; egress < device.interfaces.length; egress++) {
        sendGratuitous(i32[entry + A_ADDRESS]!, egress);
      }
    }
    registers[R_ANNOUNCE_NEXT] = next;
    if (next === entries) Atomics.store(i32, announceDone, wanted);
  }

  return { process, announce };
}
