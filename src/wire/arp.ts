/**
 * ARP for IPv4 over Ethernet (RFC 826). `at` is the first byte after the Ethernet header.
 *
 *    0               2               4
 *   +---------------+---------------+
 *   | Hardware = 1  | Protocol=0800 |
 *   | HLen=6|PLen=4 |   Operation   |
 *   |  Sender hardware address      |
 *   |               | Sender        |
 *   | proto. address| Target        |
 *   |  hardware address             |
 *   |  Target protocol address      |
 *
 * Once checkArp() has returned ARP_OK, no getter leaves the packet.
 */

const OPERATION = 6;
const SENDER_MAC = 8;
const SENDER_ADDRESS = 14;
const TARGET_MAC = 18;
const TARGET_ADDRESS = 24;

export const ARP_BYTES = 28;
export const ARP_OPERATION_REQUEST = 1;
export const ARP_OPERATION_REPLY = 2;

export const ARP_OK = 0;
export const ARP_MALFORMED = 1;

/** Hardware type 1 (Ethernet), protocol type 0x0800 (IPv4); then address lengths 6 and 4. */
const HARDWARE_AND_PROTOCOL = 0x0001_0800;
const ADDRESS_LENGTHS = 0x0604;

/**
 * Check that it is ARP for IPv4 over Ethernet, whole, from one station: a group address as sender
 * must not be believed (RFC 1812 3.3.2), and an answer to it would go to everybody. Which operation
 * it is, is the caller's.
 *
 * @param bytes - bytes of the frame from `at` on; may be 0 or negative
 * @returns ARP_OK or ARP_MALFORMED
 */
export function checkArp(view: DataView, at: number, bytes: number): number {
  if (bytes < ARP_BYTES) return ARP_MALFORMED;
  if (view.getInt32(at) !== HARDWARE_AND_PROTOCOL) return ARP_MALFORMED;
  if (view.getUint16(at + 4) !== ADDRESS_LENGTHS) return ARP_MALFORMED;
  return (view.getUint8(at + SENDER_MAC) & 1) === 0 ? ARP_OK : ARP_MALFORMED;
}

/** ARP_OPERATION_REQUEST, ARP_OPERATION_REPLY, or another. */
export function arpOperation(view: DataView, at: number): number {
  return view.getUint16(at + OPERATION);
}

/** Sender's IPv4 address: int32. 0 in a probe (RFC 5227 2.1.1). */
export function arpSenderAddress(view: DataView, at: number): number {
  return view.getInt32(at + SENDER_ADDRESS);
}

/** Address that is asked for: int32. */
export function arpTargetAddress(view: DataView, at: number): number {
  return view.getInt32(at + TARGET_ADDRESS);
}

export function arpSenderMacHigh(view: DataView, at: number): number {
  return view.getInt32(at + SENDER_MAC);
}

export function arpSenderMacLow(view: DataView, at: number): number {
  return view.getUint16(at + SENDER_MAC + 4);
}

/**
 * Write a whole packet of ARP_BYTES. A gratuitous one is a request with sender and target address
 * equal and a target MAC of 0 (RFC 5227 2.3).
 *
 * @param operation - ARP_OPERATION_REQUEST or ARP_OPERATION_REPLY
 * @param senderAddress - int32
 * @param targetAddress - int32
 */
export function writeArp(
  view: DataView,
  at: number,
  operation: number,
  senderMacHigh: number,
  senderMacLow: number,
  senderAddress: number,
  targetMacHigh: number,
  targetMacLow: number,
  targetAddress: number,
): void {
  view.setInt32(at, HARDWARE_AND_PROTOCOL);
  view.setInt32(at + 4, (ADDRESS_LENGTHS << 16) | operation);
  view.setInt32(at + SENDER_MAC, senderMacHigh);
  view.setUint16(at + SENDER_MAC + 4, senderMacLow);
  view.setInt32(at + SENDER_ADDRESS, senderAddress);
  view.setInt32(at + TARGET_MAC, targetMacHigh);
  view.setUint16(at + TARGET_MAC + 4, targetMacLow);
  view.setInt32(at + TARGET_ADDRESS, targetAddress);
}
