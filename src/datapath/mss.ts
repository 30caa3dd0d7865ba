import { D_INTERFACE, D_VNET, VNET_F_NEEDS_CSUM } from "../device/device.ts";
import { B_SERVICE } from "../service/backend-slots.ts";
import { MSS_AUTO, S_MSS, SERVICE_WORDS } from "../service/bank.ts";
import { HT_INTERFACES } from "../state/hop-table.ts";
import { updateChecksum } from "../wire/checksum.ts";
import {
  setTcpChecksum,
  TCP_HEADER_BYTES,
  TCP_SYN,
  tcpChecksum,
  tcpFlags,
  tcpHeaderBytes,
} from "../wire/tcp.ts";
import { clampMss, MSS_UNCHANGED } from "../wire/tcp-mss.ts";
import { type Context, R_HOPS, R_SERVICES } from "./context.ts";
import type { Encapsulator } from "./encapsulate.ts";
import type { Flows } from "./flows.ts";

/** Smallest segment that `auto` asks for: what every IPv4 host takes (RFC 9293 section 3.7.1). */
const MSS_MIN = 536;

/**
 * The TCP MSS clamp of a service (`mss`): lowers the option of SYN and SYN+ACK, in whichever
 * direction they are seen.
 *
 * `auto` is what the smaller of the two ways takes in one packet: the MTU towards the receiver, less
 * the outer header of a tunnel, and the MTU of the interface that the segment came in on; less both
 * headers (RFC 6691: without options).
 */
export interface MssClamp {
  /**
   * Clamp the segment at `l4At`, if it is a SYN, before it is translated; its hop is in the registers.
   *
   * @param ipBytes - IP header of the packet as it is received, extension headers included
   */
  clamp(rxWord: number, l4At: number, flowWord: number, ipBytes: number): void;
}

export function createMssClamp(
  context: Context,
  flows: Flows,
  encapsulator: Encapsulator,
): MssClamp {
  const { i32, registers, rx, view } = context;

  function automatic(rxWord: number, flowWord: number, ipBytes: number): number {
    const egress = encapsulator.pathMtu(flowWord);
    const hops = registers[R_HOPS]!;
    const ingress = hops === 0 ? 0 : i32[hops + HT_INTERFACES + 4 * rx[rxWord + D_INTERFACE]!]!;
    let mtu = egress === 0 ? 0 : egress - encapsulator.overhead(flowWord);
    if (ingress !== 0 && (mtu === 0 || ingress < mtu)) mtu = ingress;
    return mtu === 0 ? 0xffff : Math.max(MSS_MIN, mtu - ipBytes - TCP_HEADER_BYTES);
  }

  function clamp(rxWord: number, l4At: number, flowWord: number, ipBytes: number): void {
    if ((tcpFlags(view, l4At) & TCP_SYN) === 0) return;
    const service = i32[flows.backendWord(flowWord) + B_SERVICE]!;
    const wanted = i32[registers[R_SERVICES]! + service * SERVICE_WORDS + S_MSS]!;
    if (wanted === 0) return;
    const most = wanted === MSS_AUTO ? automatic(rxWord, flowWord, ipBytes) : wanted;
    const delta = clampMss(view, l4At, tcpHeaderBytes(view, l4At), most);
    // A partial checksum has only the pseudo header in it.
    if (delta === MSS_UNCHANGED || (rx[rxWord + D_VNET]! & VNET_F_NEEDS_CSUM) !== 0) return;
    setTcpChecksum(view, l4At, updateChecksum(tcpChecksum(view, l4At), delta));
  }

  return { clamp };
}
