import { PROTOCOL_TCP } from "../../src/flow/flow-record.ts";
import { fold, pseudoSumIpv4, pseudoSumIpv6, sumBytes } from "../../src/wire/checksum.ts";
import { writeIpv4Header } from "../../src/wire/ipv4.ts";
import {
  IPV6_DESTINATION_AT,
  IPV6_HEADER_BYTES,
  IPV6_SOURCE_AT,
  setIpv6Address,
  writeIpv6Header,
} from "../../src/wire/ipv6.ts";

/**
 * Many small frames in one buffer, for the memory bench and its reference in C++.
 *
 * A frame has a slot in the store: the interface it comes in on, its length, and the frame, so that
 * the IP header is 4-byte aligned. Slots have 64 bytes, and 128 where there are IPv6 frames, which
 * do not fit into 62. What was sent is kept in the same form.
 */
export const STORE_BYTES = 64;
export const STORE_BYTES_IPV6 = 128;

/** Frames that are put into the device's memory at once: 64 batches. */
export const WINDOW_FRAMES = 4096;

/** Bytes of every IPv4 frame: the smallest that Ethernet carries, without the checksum. */
export const FRAME_BYTES = 60;
const LINK_BYTES = 14;
const IP_BYTES = FRAME_BYTES - LINK_BYTES;

export interface FrameStore {
  readonly bytes: Uint8Array;
  readonly words: Int32Array;
  readonly view: DataView;
  /** Bytes of a slot, a multiple of four. */
  readonly slotBytes: number;
}

/** Room for some frames. */
export function createFrameStore(frames: number, slotBytes = STORE_BYTES): FrameStore {
  const bytes = new Uint8Array(frames * slotBytes);
  const { buffer } = bytes;
  return { bytes, words: new Int32Array(buffer), view: new DataView(buffer), slotBytes };
}

/** What a frame says. Addresses, and the first four bytes of MACs, are int32 in host order. */
export interface FrameFields {
  /** 0: from the client's side. 1: from the backends'. */
  side: number;
  destinationMacHigh: number;
  destinationMacLow: number;
  sourceMacHigh: number;
  sourceMacLow: number;
  protocol: number;
  /** Of IPv4. */
  source: number;
  destination: number;
  /** Source port << 16 | destination port. */
  ports: number;
  tcpFlags: number;
}

/** Write frame `index`: TTL 64, DF, right checksums; what is left of it is zeros. */
export function writeFrame(store: FrameStore, index: number, fields: FrameFields): void {
  const { view } = store;
  const { protocol, source, destination } = fields;
  const ipAt = writeLink(store, index, fields, FRAME_BYTES, 0x0800);
  writeIpv4Header(view, ipAt, IP_BYTES, 0, 0x4000, 64, protocol, source, destination);
  const l4Bytes = IP_BYTES - 20;
  const pseudo = pseudoSumIpv4(source, destination, protocol, l4Bytes);
  writeTransport(view, ipAt + 20, l4Bytes, fields, pseudo);
}

/**
 * Write an IPv6 frame without data: hop limit 64, right checksums. In a store of STORE_BYTES_IPV6.
 *
 * @param words - the addresses' words are in there
 * @param sourceAt - first of four words, host order
 */
export function writeFrame6(
  store: FrameStore,
  index: number,
  fields: FrameFields,
  words: Int32Array,
  sourceAt: number,
  destinationAt: number,
): void {
  const { view } = store;
  const { protocol } = fields;
  const l4Bytes = protocol === PROTOCOL_TCP ? 20 : 8;
  const bytes = LINK_BYTES + IPV6_HEADER_BYTES + l4Bytes;
  const ipAt = writeLink(store, index, fields, bytes, 0x86dd);
  writeIpv6Header(view, ipAt, l4Bytes, protocol, 64, 0);
  setIpv6Address(view, ipAt + IPV6_SOURCE_AT, words, sourceAt);
  setIpv6Address(view, ipAt + IPV6_DESTINATION_AT, words, destinationAt);
  const pseudo = pseudoSumIpv6(view, ipAt, protocol, l4Bytes);
  writeTransport(view, ipAt + IPV6_HEADER_BYTES, l4Bytes, fields, pseudo);
}

/** @returns where the IP header begins */
function writeLink(
  { view, slotBytes }: FrameStore,
  index: number,
  fields: FrameFields,
  bytes: number,
  type: number,
): number {
  const at = index * slotBytes + 2;
  view.setUint8(at - 2, fields.side);
  view.setUint8(at - 1, bytes);
  view.setInt32(at, fields.destinationMacHigh);
  view.setUint16(at + 4, fields.destinationMacLow);
  view.setInt32(at + 6, fields.sourceMacHigh);
  view.setUint16(at + 10, fields.sourceMacLow);
  view.setUint16(at + 12, type);
  return at + LINK_BYTES;
}

/** @param pseudo - the pseudo header's sum */
function writeTransport(
  view: DataView,
  l4At: number,
  l4Bytes: number,
  { protocol, ports, tcpFlags }: FrameFields,
  pseudo: number,
): void {
  for (let byte = 0; byte < l4Bytes; byte++) view.setUint8(l4At + byte, 0);
  view.setInt32(l4At, ports);
  let checksumAt = l4At + 6;
  if (protocol === PROTOCOL_TCP) {
    // Numbers that stay the same: the frame may come again.
    view.setInt32(l4At + 4, 0x01020304);
    view.setInt32(l4At + 8, (tcpFlags & 16) === 0 ? 0 : 0x05060708);
    view.setUint16(l4At + 12, 0x5000 | tcpFlags);
    view.setUint16(l4At + 14, 0xffff);
    checksumAt = l4At + 16;
  } else {
    view.setUint16(l4At + 4, l4Bytes);
  }
  const sum = fold(sumBytes(view, l4At, l4Bytes, pseudo));
  const checksum = ~sum & 0xffff;
  view.setUint16(checksumAt, checksum === 0 && protocol !== PROTOCOL_TCP ? 0xffff : checksum);
}

/** A number that 32 bits map to one to one, without order (the finalizer of MurmurHash3). */
function scatter(id: number): number {
  let hash = id | 0;
  hash = Math.imul(hash ^ (hash >>> 16), 0x85ebca6b | 0);
  hash = Math.imul(hash ^ (hash >>> 13), 0xc2b2ae35 | 0);
  return hash ^ (hash >>> 16);
}

/**
 * Address and port of client `id`, without order (RFC 4814 section 4.5): 2^22 addresses of
 * 100.64.0.0/10, ports 1024-65535; no two ids have the same of both.
 *
 * @param to - [0] gets the address, [1] the port
 */
export function clientOf(id: number, to: Int32Array): void {
  const hash = scatter(id ^ 0x5bd1e995);
  to[0] = 0x64400000 | (hash >>> 10);
  // 10 bits say which run of 63 ports, another hash which of them: 1,024 runs fill the range.
  to[1] = 1024 + (hash & 0x3ff) * 63 + ((scatter(hash ^ 0x3c6ef372) >>> 0) % 63);
}
