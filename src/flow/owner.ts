import { maskWord } from "../base/prefix.ts";
import { MODE_FULL_NAT } from "./flow-record.ts";

/**
 * Which worker owns a flow: the one arithmetic of the data plane, the take-over and the kernel's
 * steering program (addon/steering.cc emits the same as eBPF), so that the frames of both directions
 * come to the worker that has the flow.
 *
 *   ORIGINAL, and REPLY in nat   a keyed hash of the client's address and port: source of the one,
 *                                destination of the other
 *   REPLY in full-nat            the port at our SNAT address, modulo the workers: worker w takes
 *                                only ports that are w modulo N (snat-ports.ts)
 *   either family                an IPv6 address is the exclusive or of its four words
 *   clients that count as one    without the last bits of the address (hostBits), where some service
 *                                counts or remembers clients by a prefix
 *   an ICMP error                by the packet that it quotes
 *   all else                     worker 0
 *
 * 32-bit multiplications, shifts and exclusive-ors only: what V8 does on int32 and eBPF's 32-bit ALU
 * alike. The key keeps a stranger from computing which ports burden one worker; the flow index, which
 * is worth attacking, has a stronger hash of its own.
 */

/** Every bit of the client's port counts: the default of RegionOptions.ownerPortMask. */
export const OWNER_PORT_COUNTS = 0xffff;
/** The client's address alone decides: services with affinity or limits per source need it. */
export const OWNER_ADDRESS_ONLY = 0;

/**
 * Bits at the end of addresses that do not count: IPv4 | IPv6 << 8. The word H_OWNER_HOST_BITS.
 *
 * @param ipv4 - bits that count, 1..32
 * @param ipv6 - likewise, 1..128
 */
export function ownerHostBits(ipv4: number, ipv6: number): number {
  return (32 - ipv4) | ((128 - ipv6) << 8);
}

/**
 * An IPv6 address as the one word that ownerOfClient() takes. Whoever owns a /64 can choose addresses
 * that fold to one word, so all of them to one worker: as one who owns many IPv4 addresses can by
 * trying. The kernel's program does it with three instructions.
 *
 * @param hostBits - ownerHostBits()
 * @returns int32
 */
export function ownerWord6(
  w0: number,
  w1: number,
  w2: number,
  w3: number,
  hostBits: number,
): number {
  const bits = 128 - (hostBits >>> 8);
  if (bits === 128) return w0 ^ w1 ^ w2 ^ w3;
  return (
    (w0 & maskWord(bits, 0)) ^
    (w1 & maskWord(bits, 1)) ^
    (w2 & maskWord(bits, 2)) ^
    (w3 & maskWord(bits, 3))
  );
}

/**
 * @param k0 - first word of the region's secret
 * @param k1 - second word
 * @param address - the client's, int32 in host order; ownerWord6() of an IPv6 one
 * @param port - the client's, 0..65535
 * @param portMask - OWNER_PORT_COUNTS or OWNER_ADDRESS_ONLY
 * @param workers - 1..WORKERS_MAX
 * @param hostBits - ownerHostBits(): those of IPv4 are cut off of either family's word, so that the
 *   kernel's program needs to know no family; left out: every bit counts
 * @returns 0..workers - 1
 */
export function ownerOfClient(
  k0: number,
  k1: number,
  address: number,
  port: number,
  portMask: number,
  workers: number,
  hostBits = 0,
): number {
  let hash = Math.imul((address & (-1 << (hostBits & 0xff))) ^ k0, 0x85ebca6b | 0);
  hash ^= hash >>> 15;
  hash = Math.imul(hash ^ (port & portMask) ^ k1, 0xc2b2ae35 | 0);
  hash ^= hash >>> 13;
  hash = Math.imul(hash, 0x27d4eb2f);
  hash ^= hash >>> 16;
  // The top sixteen bits as a fraction of the workers: no division, and no product over 20 bits.
  return Math.imul(hash >>> 16, workers) >>> 16;
}

/**
 * @param port - port at a SNAT address, 1..65535
 * @returns 0..workers - 1
 */
export function ownerOfSnatPort(port: number, workers: number): number {
  return port % workers;
}

/** Whether the REPLY frames of a flow come to another worker than its ORIGINAL ones (cold). */
export function isScattered(
  mode: number,
  replyPort: number,
  worker: number,
  workers: number,
): boolean {
  return mode === MODE_FULL_NAT && ownerOfSnatPort(replyPort, workers) !== worker;
}
