import {
  D_AT,
  D_BYTES,
  D_CSUM,
  D_VNET,
  VNET_F_NEEDS_CSUM,
  VNET_GSO_ECN,
  VNET_GSO_NONE,
} from "../device/device.ts";
import { PROTOCOL_TCP } from "../flow/flow-record.ts";
import { fold, sumBytes } from "../wire/checksum.ts";
import { ICMP_CODE_FRAGMENTATION_NEEDED, ICMP_UNREACHABLE } from "../wire/icmp.ts";
import {
  hasDontFragment,
  IPV4_MORE_FRAGMENTS,
  IPV4_OFFSET_MASK,
  ipv4FragmentWord,
  ipv4HeaderBytes,
  ipv4TotalBytes,
} from "../wire/ipv4.ts";
import type { Context } from "./context.ts";
import { ORIGINATED, type Output } from "./output.ts";
import type { Reply } from "./reply.ts";
import { DROP_TOO_BIG, DROPPED, FORWARDED } from "./verdict.ts";

/** Packets that are larger than the egress MTU (RFC 791, RFC 1191). */
export interface Fragmenter {
  /** True: it must not be split (DF), or cannot be (a UDP GSO packet is many datagrams). */
  mustRefuse(ipAt: number, vnet: number, protocol: number): boolean;
  /** ICMP fragmentation needed with the MTU (RFC 1191 section 4); the packet is not changed yet. */
  refuse(rxWord: number, ipAt: number, source: number, mtu: number): number;
  /**
   * Send the translated packet in pieces that fit; the verdict hangs on the first, the further
   * ones are originated. A TCP GSO packet goes whole with a smaller segment size instead.
   */
  send(rxWord: number, ipAt: number, egress: number, mtu: number): number;
}

export function createFragmenter(context: Context, output: Output, reply: Reply): Fragmenter {
  const { link, rx, view } = context;

  function isGso(vnet: number): boolean {
    return ((vnet >>> 8) & 0xff & ~VNET_GSO_ECN) !== VNET_GSO_NONE;
  }

  function mustRefuse(ipAt: number, vnet: number, protocol: number): boolean {
    if (hasDontFragment(view, ipAt)) return true;
    return isGso(vnet) && protocol !== PROTOCOL_TCP;
  }

  function refuse(rxWord: number, ipAt: number, source: number, mtu: number): number {
    if (!hasDontFragment(view, ipAt)) return DROPPED | (DROP_TOO_BIG << 8);
    const code = ICMP_CODE_FRAGMENTATION_NEEDED;
    return reply.answerIcmpError(rxWord, ipAt, source, ICMP_UNREACHABLE, code, mtu);
  }

  /** A fragment has no virtio header that could ask for a checksum: finish it in software. */
  function completeChecksum(rxWord: number, ipAt: number, total: number): void {
    if ((rx[rxWord + D_VNET]! & VNET_F_NEEDS_CSUM) === 0) return;
    const csum = rx[rxWord + D_CSUM]!;
    const start = rx[rxWord + D_AT]! + (csum & 0xffff);
    const field = start + (csum >>> 16);
    const end = ipAt + total;
    if (field + 2 > end) return;
    const sum = ~fold(sumBytes(view, start, end - start, 0)) & 0xffff;
    view.setUint16(field, sum === 0 ? 0xffff : sum);
    rx[rxWord + D_VNET] = rx[rxWord + D_VNET]! & ~VNET_F_NEEDS_CSUM;
    rx[rxWord + D_CSUM] = 0;
  }

  function setFragment(ipAt: number, headerBytes: number, totalBytes: number, word: number): void {
    view.setUint16(ipAt + 2, totalBytes);
    view.setUint16(ipAt + 6, word);
    view.setUint16(ipAt + 10, 0);
    view.setUint16(ipAt + 10, ~fold(sumBytes(view, ipAt, headerBytes, 0)) & 0xffff);
  }

  function send(rxWord: number, ipAt: number, egress: number, mtu: number): number {
    const headerBytes = ipv4HeaderBytes(view, ipAt);
    const total = ipv4TotalBytes(view, ipAt);
    const vnet = rx[rxWord + D_VNET]!;
    if (isGso(vnet)) {
      const tcpBytes = (view.getUint8(ipAt + headerBytes + 12) >>> 4) * 4;
      const segment = mtu - headerBytes - tcpBytes;
      if (segment <= 0) return DROPPED | (DROP_TOO_BIG << 8);
      rx[rxWord + D_VNET] = (vnet & 0xffff) | (segment << 16);
      rx[rxWord + D_BYTES] = link + total;
      output.sendReceived(rxWord, egress);
      return FORWARDED;
    }
    const room = Math.min(mtu, output.spareBytes) - headerBytes;
    const payload = room & ~7;
    if (payload < 8) return DROPPED | (DROP_TOO_BIG << 8);
    completeChecksum(rxWord, ipAt, total);
    const pieces = Math.ceil((total - headerBytes) / payload);
    // The receiver cannot put a packet together that lacks a piece: all of them, or none.
    if (pieces - 1 > output.sparesLeft()) return DROPPED | (DROP_TOO_BIG << 8);
    // What is split can be a fragment itself (RFC 791 section 3.2): its pieces lie from its own
    // offset on, and the last of them ends the datagram only if it did.
    const word = ipv4FragmentWord(view, ipAt);
    const flags = word & 0xc000;
    // Whoever sent the whole did not expect its identification to matter (RFC 6864 section 5.3).
    if ((word & (IPV4_MORE_FRAGMENTS | IPV4_OFFSET_MASK)) === 0) {
      view.setUint16(ipAt + 4, reply.nextId());
    }
    const base = word & IPV4_OFFSET_MASK;
    const lastMore = word & IPV4_MORE_FRAGMENTS;
    setFragment(ipAt, headerBytes, headerBytes + payload, flags | IPV4_MORE_FRAGMENTS | base);
    rx[rxWord + D_BYTES] = link + headerBytes + payload;
    output.sendReceived(rxWord, egress);
    for (let offset = payload; offset < total - headerBytes; offset += payload) {
      const left = total - headerBytes - offset;
      const bytes = Math.min(left, payload);
      const spare = output.takeSpare();
      // Options are copied into every fragment, the copied flag or not: legal, and rare.
      for (let index = -link; index < headerBytes; index++) {
        view.setUint8(spare + index, view.getUint8(ipAt + index));
      }
      for (let index = 0; index < bytes; index++) {
        const from = ipAt + headerBytes + offset + index;
        view.setUint8(spare + headerBytes + index, view.getUint8(from));
      }
      const more = left > payload ? IPV4_MORE_FRAGMENTS : lastMore;
      const place = base + (offset >>> 3);
      setFragment(spare, headerBytes, headerBytes + bytes, flags | more | place);
      output.sendSpare(spare, headerBytes + bytes, egress, ORIGINATED);
    }
    return FORWARDED;
  }

  return { mustRefuse, refuse, send };
}
