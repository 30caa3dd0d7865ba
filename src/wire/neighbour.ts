import { IPV6_DESTINATION_AT, ipv6HopLimit, isIpv6Unspecified } from "./ipv6.ts";

/**
 * Neighbour discovery (RFC 4861 sections 4.3, 4.4, 7.1). `at` is the first byte of the ICMPv6 message.
 *
 *    0               2               4
 *   +-------+-------+---------------+
 *   | 135/6 |   0   |   Checksum    |
 *   | advertisement: R S O, else 0  |
 *   |  target address (16 bytes)    |
 *   |  options: type, length in units of 8 bytes, ...
 */

export const NEIGHBOUR_SOLICITATION = 135;
export const NEIGHBOUR_ADVERTISEMENT = 136;
/** Flags of an advertisement, in its second word. */
export const ADVERTISEMENT_SOLICITED = 0x4000_0000;
export const ADVERTISEMENT_OVERRIDE = 0x2000_0000;

const FLAGS = 4;
export const NEIGHBOUR_TARGET_AT = 8;
const OPTIONS_AT = 24;
const OPTION_SOURCE_LINK = 1;
const OPTION_TARGET_LINK = 2;

/** Solicitation without options. */
export const SOLICITATION_BYTES_MIN = 24;
/** Advertisement with the target's link-layer address. */
export const ADVERTISEMENT_BYTES = 32;

/**
 * Check a solicitation whose checksum is right (RFC 4861 section 7.1.1).
 *
 * @param ipAt - IPv6 header
 * @param bytes - of the message
 * @returns whether it is one to act on
 */
export function isSolicitationValid(
  view: DataView,
  ipAt: number,
  at: number,
  bytes: number,
): boolean {
  // No router has forwarded it: it comes from the link.
  if (ipv6HopLimit(view, ipAt) !== 255 || view.getUint8(at + 1) !== 0) return false;
  if (bytes < SOLICITATION_BYTES_MIN || view.getUint8(at + NEIGHBOUR_TARGET_AT) === 0xff) {
    return false;
  }
  const isProbe = isIpv6Unspecified(view, ipAt);
  if (isProbe && !isSolicitedNodeGroup(view, ipAt + IPV6_DESTINATION_AT)) return false;
  for (let next = at + OPTIONS_AT; next < at + bytes; ) {
    if (next + 8 > at + bytes) return false;
    const optionBytes = view.getUint8(next + 1) << 3;
    if (optionBytes === 0 || next + optionBytes > at + bytes) return false;
    if (isProbe && view.getUint8(next) === OPTION_SOURCE_LINK) return false;
    next += optionBytes;
  }
  return true;
}

/** ff02::1:ffXX:XXXX (RFC 4291 section 2.7.1). */
function isSolicitedNodeGroup(view: DataView, at: number): boolean {
  return (
    view.getInt32(at) === (0xff02_0000 | 0) &&
    view.getInt32(at + 4) === 0 &&
    view.getInt32(at + 8) === 1 &&
    view.getUint8(at + 12) === 0xff
  );
}

/**
 * Write an advertisement of ADVERTISEMENT_BYTES, all but its checksum and target.
 *
 * @param flags - ADVERTISEMENT_…
 * @param macHigh - link-layer address of the target
 */
export function writeAdvertisement(
  view: DataView,
  at: number,
  flags: number,
  macHigh: number,
  macLow: number,
): void {
  view.setInt32(at, NEIGHBOUR_ADVERTISEMENT << 24);
  view.setInt32(at + FLAGS, flags);
  view.setUint16(at + OPTIONS_AT, (OPTION_TARGET_LINK << 8) | 1);
  view.setInt32(at + OPTIONS_AT + 2, macHigh);
  view.setUint16(at + OPTIONS_AT + 6, macLow);
}

/** Write the group of all nodes on a link, ff02::1, into the address field at `at`. */
export function writeAllNodes(view: DataView, at: number): void {
  view.setInt32(at, 0xff02_0000 | 0);
  view.setInt32(at + 4, 0);
  view.setInt32(at + 8, 0);
  view.setInt32(at + 12, 1);
}

/** MAC of all nodes on a link: 33:33 and the last four bytes of ff02::1 (RFC 2464 section 7). */
export const ALL_NODES_MAC_HIGH = 0x3333_0000;
export const ALL_NODES_MAC_LOW = 1;
