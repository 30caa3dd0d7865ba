import { PROTOCOL_TCP } from "../../src/flow/flow-record.ts";
import { fold, pseudoSumIpv4, sumBytes } from "../../src/wire/checksum.ts";
import { writeIpv4Header } from "../../src/wire/ipv4.ts";

/**
 * Many small frames in one buffer, for the memory bench and its reference in C++.
 *
 * A frame has 64 bytes in the store: the interface it comes in on, its length, and up to 62 bytes of
 * frame, so that the IP header is 4-byte aligned. What was sent is kept in the same form.
 */
export const STORE_BYTES = 64;
export const STORE_WORDS = STORE_BYTES / 4;

/** Frames that are put into the device's memory at once: 64 batches. */
export const WINDOW_FRAMES = 4096;

/** Bytes of every frame: the smallest that Ethernet carries, without the checksum. */
export const FRAME_BYTES = 60;
const IP_BYTES = FRAME_BYTES - 14;

export interface FrameStore {
  readonly bytes: Uint8Array;
  readonly words: Int32Array;
  readonly view: DataView;
}

/** Room for some frames. */
export function createFrameStore(frames: number): FrameStore {
  const bytes = new Uint8Array(frames * STORE_BYTES);
  return { bytes, words: new Int32Array(bytes.buffer), view: new DataView(bytes.buffer) };
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
  source: number;
  destination: number;
  /** Source port << 16 | destination port. */
  ports: number;
  tcpFlags: number;
}

/** Write frame `index`: TTL 64, DF, right checksums; what is left of it is zeros. */
export function writeFrame(store: FrameStore, index: number, fields: FrameFields): void {
  const { view } = store;
  const at = index * STORE_BYTES + 2;
  const { protocol, source, destination } = fields;
  view.setUint8(at - 2, fields.side);
  view.setUint8(at - 1, FRAME_BYTES);
  view.setInt32(at, fields.destinationMacHigh);
  view.setUint16(at + 4, fields.destinationMacLow);
  view.setInt32(at + 6, fields.sourceMacHigh);
  view.setUint16(at + 10, fields.sourceMacLow);
  view.setUint16(at + 12, 0x0800);
  const ipAt = at + 14;
  writeIpv4Header(view, ipAt, IP_BYTES, 0, 0x4000, 64, protocol, source, destination);
  const l4At = ipAt + 20;
  const l4Bytes = IP_BYTES - 20;
  for (let byte = 0; byte < l4Bytes + 2; byte++) view.setUint8(l4At + byte, 0);
  view.setInt32(l4At, fields.ports);
  let checksumAt = l4At + 6;
  if (protocol === PROTOCOL_TCP) {
    // Numbers that stay the same: the frame may come again.
    view.setInt32(l4At + 4, 0x01020304);
    view.setInt32(l4At + 8, (fields.tcpFlags & 16) === 0 ? 0 : 0x05060708);
    view.setUint16(l4At + 12, 0x5000 | fields.tcpFlags);
    view.setUint16(l4At + 14, 0xffff);
    checksumAt = l4At + 16;
  } else {
    view.setUint16(l4At + 4, l4Bytes);
  }
  const pseudo = pseudoSumIpv4(source, destination, protocol, l4Bytes);
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
