import { D_AT, D_CSUM, D_INTERFACE, D_VNET, VNET_F_NEEDS_CSUM } from "../device/device.ts";
import { PROTOCOL_TCP } from "../flow/flow-record.ts";
import { W_PARTIAL_CHECKSUMS } from "../state/layout.ts";
import { pseudoSumIpv4, pseudoSumIpv6 } from "../wire/checksum.ts";
import { ipv4Destination, ipv4Source } from "../wire/ipv4.ts";
import { TCP_CHECKSUM_AT } from "../wire/tcp.ts";
import { UDP_CHECKSUM_AT, udpLength } from "../wire/udp.ts";
import type { Context } from "./context.ts";

/**
 * Partial checksums on AF_XDP, which has no virtio_net_hdr to say so: a veth peer with checksum
 * offload leaves the sum of the pseudo header in the field, not complemented. One complete checksum
 * in 65,536 has that value too; what is then computed anew is the same for a packet that was whole.
 */
export interface PartialChecksums {
  /**
   * Mark the frame's descriptor (D_VNET, D_CSUM) when its checksum is partial.
   *
   * @param l4At - TCP or UDP header, checked
   * @param l4Bytes - header and data
   */
  mark(rxWord: number, ipAt: number, l4At: number, l4Bytes: number, protocol: number): void;
  /** The same for IPv6. */
  mark6(rxWord: number, ipAt: number, l4At: number, l4Bytes: number, protocol: number): void;
}

export function createPartialChecksums(context: Context): PartialChecksums {
  const { i32, layout, rx, view } = context;
  const seenWord = layout.workerWord + W_PARTIAL_CHECKSUMS;

  function mark(
    rxWord: number,
    ipAt: number,
    l4At: number,
    l4Bytes: number,
    protocol: number,
  ): void {
    const sum = pseudoSumIpv4(
      ipv4Source(view, ipAt),
      ipv4Destination(view, ipAt),
      protocol,
      l4Bytes,
    );
    markIf(sum, rxWord, l4At, l4Bytes, protocol);
  }

  function mark6(
    rxWord: number,
    ipAt: number,
    l4At: number,
    l4Bytes: number,
    protocol: number,
  ): void {
    markIf(pseudoSumIpv6(view, ipAt, protocol, l4Bytes), rxWord, l4At, l4Bytes, protocol);
  }

  function markIf(
    sum: number,
    rxWord: number,
    l4At: number,
    l4Bytes: number,
    protocol: number,
  ): void {
    const field = protocol === PROTOCOL_TCP ? TCP_CHECKSUM_AT : UDP_CHECKSUM_AT;
    // The sum is never 0, which on UDP says "no checksum".
    if (view.getUint16(l4At + field) !== sum) return;
    // Bytes behind a datagram's end are in no sum of its own; what completes it would take them in.
    if (protocol !== PROTOCOL_TCP && udpLength(view, l4At) !== l4Bytes) return;
    rx[rxWord + D_VNET] = VNET_F_NEEDS_CSUM;
    rx[rxWord + D_CSUM] = (l4At - rx[rxWord + D_AT]!) | (field << 16);
    const seen = i32[seenWord]!;
    const bit = 1 << rx[rxWord + D_INTERFACE]!;
    if ((seen & bit) === 0) i32[seenWord] = seen | bit;
  }

  return { mark, mark6 };
}
