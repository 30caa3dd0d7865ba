/**
 * Ethernet II header (RFC 894; IEEE 802.3-2022 3.1.1). `at` is its first byte; the caller has made
 * sure that ETHERNET_HEADER_BYTES lie in the frame.
 *
 *    0               2               4
 *   +---------------+---------------+---------------+
 *   |           destination address                 |
 *   |              source address                   |
 *   |     type      | payload ...
 *
 * An address is a pair: high = first four bytes as big-endian int32, low = last two bytes.
 */

export const ETHERNET_HEADER_BYTES = 14;

export const ETHERTYPE_IPV4 = 0x0800;
export const ETHERTYPE_ARP = 0x0806;
export const ETHERTYPE_VLAN = 0x8100;
export const ETHERTYPE_IPV6 = 0x86dd;

/** First two bytes of the groups of IPv6 (RFC 2464 section 7). */
export const MAC_IPV6_GROUP = 0x3333;

/** The broadcast address, as high and low. */
export const MAC_BROADCAST_HIGH = -1;
export const MAC_BROADCAST_LOW = 0xffff;

const DESTINATION = 0;
const SOURCE = 6;
const TYPE = 12;

/** Type of the payload; below 0x0600 it is an 802.3 length. */
export function etherType(view: DataView, at: number): number {
  return view.getUint16(at + TYPE);
}

export function setEtherType(view: DataView, at: number, type: number): void {
  view.setUint16(at + TYPE, type);
}

/** Write both addresses: three stores, the middle one across the border between them. */
export function setEthernetAddresses(
  view: DataView,
  at: number,
  destinationHigh: number,
  destinationLow: number,
  sourceHigh: number,
  sourceLow: number,
): void {
  view.setInt32(at, destinationHigh);
  view.setInt32(at + 4, (destinationLow << 16) | (sourceHigh >>> 16));
  view.setInt32(at + 8, (sourceHigh << 16) | (sourceLow & 0xffff));
}

export function destinationMacHigh(view: DataView, at: number): number {
  return view.getInt32(at + DESTINATION);
}

export function destinationMacLow(view: DataView, at: number): number {
  return view.getUint16(at + DESTINATION + 4);
}

export function sourceMacHigh(view: DataView, at: number): number {
  return view.getInt32(at + SOURCE);
}

export function sourceMacLow(view: DataView, at: number): number {
  return view.getUint16(at + SOURCE + 4);
}

/** Broadcast or multicast: the lowest bit of the first byte (IEEE 802-2014 8.2). */
export function isGroupDestination(view: DataView, at: number): boolean {
  return (view.getUint8(at + DESTINATION) & 1) !== 0;
}
