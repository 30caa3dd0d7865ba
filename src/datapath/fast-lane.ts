import { assert } from "../base/assert.ts";
import { BATCH_FRAMES_MAX, INDEX_BUCKET_ENTRIES } from "../base/limits.ts";
import {
  D_AT,
  D_BYTES,
  D_CSUM,
  D_INTERFACE,
  D_VNET,
  DESCRIPTOR_WORDS,
  VNET_F_DATA_VALID,
  VNET_F_NEEDS_CSUM,
} from "../device/device.ts";
import { flowHash } from "../flow/flow-hash.ts";
import { firstPlace, secondBucketOf, secondShiftOf } from "../flow/flow-index.ts";
import {
  backendSlotOf,
  F_ACK_ORIGINAL,
  F_ACK_REPLY,
  F_BACKEND,
  F_BACKEND_ADDR,
  F_BACKEND_REPLY_PORTS,
  F_CLIENT_ADDR,
  F_CLIENT_VIP_PORTS,
  F_DELTA,
  F_EXPIRES,
  F_HOP_MAC_HIGH,
  F_HOP_MAC_LOW,
  F_REPLY_ADDR,
  F_STATE,
  F_VERSION,
  F_VIP_ADDR,
  FLOW_WORDS,
  GENERATION_MASK,
  generationOf,
  ORIGINAL,
  PROTOCOL_TCP,
  PROTOCOL_UDP,
  REPLY,
  STATE_CLOSE,
  STATE_SYN_SENT,
  STATE_UDP_ONE_WAY,
  STATE_UDP_REPLIED,
} from "../flow/flow-record.ts";
import { nextState, SEGMENT_ACK } from "../flow/tcp-state.ts";
import {
  B_EXISTING,
  B_GENERATION,
  B_SERVICE,
  BACKEND_RUN_WORDS,
  BACKEND_WORDS,
  BF_BYTES_IN,
  BF_BYTES_OUT,
  BF_PACKETS_IN,
  BF_PACKETS_OUT,
  SERVICE_RUN_WORDS,
  VF_BYTES_IN,
  VF_BYTES_OUT,
  VF_PACKETS_IN,
  VF_PACKETS_OUT,
} from "../service/backend-slots.ts";
import { BANK_LAST_HOP, S_TIMEOUTS, SERVICE_WORDS } from "../service/bank.ts";
import {
  HOP_FLAGS,
  HOP_INTERFACE,
  HOP_MAC_HIGH,
  HOP_MAC_LOW,
  HOP_MTU,
  HOP_RESOLVED,
  HOP_WORDS,
  HT_INTERFACES,
} from "../state/hop-table.ts";
import { BUCKET_BYTES, H_SECRET, PAGE_BYTES } from "../state/layout.ts";
import { add16, updateChecksum, updatePartial } from "../wire/checksum.ts";
import {
  ETHERNET_HEADER_BYTES,
  ETHERTYPE_IPV4,
  etherType,
  setEthernetAddresses,
} from "../wire/ethernet.ts";
import { IPV4_HEADER_BYTES } from "../wire/ipv4.ts";
import {
  TCP_ACK,
  TCP_CHECKSUM_AT,
  TCP_FIN,
  TCP_HEADER_BYTES,
  TCP_RST,
  TCP_SYN,
} from "../wire/tcp.ts";
import { UDP_CHECKSUM_AT, UDP_HEADER_BYTES } from "../wire/udp.ts";
import { type Context, R_BANK, R_HOPS, R_SERVICES, R_TICK } from "./context.ts";
import type { Output } from "./output.ts";
import type { PartialChecksums } from "./partial.ts";
import { FORWARDED } from "./verdict.ts";

/**
 * The frames that most frames are: Ethernet, IPv4 without options or fragments, TCP with ACK alone or
 * UDP, a flow that lives and stays in its state, a next hop that is known, a size that fits.
 *
 * Theory of operation
 *
 * process.ts handles every frame; this handles these frames with the same result (same bytes, same
 * counters, same flow words: test/datapath/fast-lane.test.ts compares the two) and leaves all others
 * to it. What it gains is order: a flow costs two cache lines that are seldom in cache, a bucket of
 * the index and the record, and a search that waits for one and then for the other takes longer than
 * all the arithmetic. So the batch goes through three passes, each of which touches the lines that
 * the next one needs before it needs them, and the processor waits for a whole batch of lines at once:
 *
 *   parse    headers of all frames, hash of each key        -> touches the buckets
 *   look     hash in the bucket -> a row that may be it      -> touches the records
 *   forward  frame after frame, in order: is the record the flow's? rewrite and send
 *
 * Only `forward` changes anything, and it trusts nothing that an earlier frame of the batch may have
 * changed: the record is compared with the whole key, and what does not match goes to process.ts,
 * which looks again. So frames take effect in the order in which they came.
 *
 * TCP segments that are not for this lane (SYN, FIN, RST) are noted too: their lines come with the
 * others, both buckets for a key that no flow has, and process.ts need not hash it again.
 */
export interface FastLane {
  /** Parse the batch's frames and find the rows that may be their flows. Changes nothing. */
  prepare(count: number): void;
  /**
   * Translate and send frame `index` of the batch.
   *
   * @returns FORWARDED, or NOT_FAST: nothing was changed, process.ts has to look at it
   */
  forward(index: number): number;
  /** Tell the flow table the hash of a frame that was NOT_FAST, if there is one. */
  remember(index: number): void;
}

export const NOT_FAST = -1;
/** N_ROW of a frame whose key is noted, and which no row in its first bucket may have. */
const NOT_FOUND = -2;
/** N_ROW of a frame that is not for this lane and has a reference is this less the reference. */
const SLOW = -3;

/** Words of a frame's notes between the passes (8). */
const N_ROW = 0; // row << 1 | direction; NOT_FAST, NOT_FOUND, SLOW - it
const N_HASH = 1;
const N_SOURCE = 2;
const N_DESTINATION = 3;
const N_PORTS = 4;
const N_PROTOCOL = 5;
const N_TOTAL = 6; // bytes of the IP packet
const N_SLOW = 7; // 1: noted, but not for this lane
const NOTE_WORDS = 8;

/** Version 4, IHL 5: no options. */
const VERSION_AND_IHL = 0x45;
/** More Fragments and fragment offset; reserved flag and Don't Fragment do not count. */
const FRAGMENT_BITS = 0x3fff;
/** TTL - 1 in the word TTL | protocol; see decrementTtl() in wire/ipv4.ts. */
const TTL_DELTA = 0xfeff;
/**
 * [UDP][direction][state]: 1 where a flow stays in its state, after an ACK (TCP) or a datagram (UDP),
 * and its timer starts again.
 */
const STEADY = new Uint8Array(64);
for (let state = STATE_SYN_SENT; state <= STATE_CLOSE; state++) {
  for (const direction of [ORIGINAL, REPLY]) {
    if (nextState(state, direction, SEGMENT_ACK) === state) STEADY[16 * direction + state] = 1;
  }
}
STEADY[32 + 16 * ORIGINAL + STATE_UDP_ONE_WAY] = 1;
STEADY[32 + 16 * ORIGINAL + STATE_UDP_REPLIED] = 1;
STEADY[32 + 16 * REPLY + STATE_UDP_REPLIED] = 1;

assert(
  F_VIP_ADDR === F_CLIENT_ADDR + 1 &&
    F_CLIENT_VIP_PORTS === F_CLIENT_ADDR + 2 &&
    F_BACKEND_ADDR === F_CLIENT_ADDR + 3 &&
    F_REPLY_ADDR === F_BACKEND_ADDR + 1 &&
    F_BACKEND_REPLY_PORTS === F_BACKEND_ADDR + 2 &&
    F_ACK_REPLY === F_ACK_ORIGINAL + 1,
  "both directions of a record are laid out alike",
);
assert(
  BF_PACKETS_OUT === BF_PACKETS_IN + 2 &&
    BF_BYTES_OUT === BF_BYTES_IN + 2 &&
    VF_PACKETS_OUT === VF_PACKETS_IN + 2 &&
    VF_BYTES_OUT === VF_BYTES_IN + 2,
  "counters of the two directions are laid out alike",
);

const BUCKET_WORDS = BUCKET_BYTES >> 2;
const BACKEND_DOUBLES = BACKEND_RUN_WORDS >> 1;
const SERVICE_DOUBLES = SERVICE_RUN_WORDS >> 1;

export function createFastLane(
  context: Context,
  output: Output,
  partial: PartialChecksums,
): FastLane {
  const { device, f64, i32, layout, registers, rx, table, view } = context;
  const isXdp = device.type === "xdp";
  const flowsWord = layout.flows.at >> 2;
  const indexWord = layout.flowIndex.at >> 2;
  const bucketMask = layout.flowBuckets - 1;
  const secondShift = secondShiftOf(layout.flowBuckets);
  const slots = layout.backendSlots.at >> 2;
  const backendRuns = layout.backendRuns.at >> 3;
  const serviceRuns = layout.serviceRuns.at >> 3;
  const interfaceCount = device.interfaces.length;
  const notes = new Int32Array(BATCH_FRAMES_MAX * NOTE_WORDS);
  /** What the touching loads read goes here, so that the compiler keeps them. */
  const sink = new Int32Array(1);

  /** Header checks of process.ts, wire/ipv4.ts, wire/tcp.ts and wire/udp.ts for the plain case. */
  function parse(count: number): void {
    const interfaces = registers[R_HOPS]! + HT_INTERFACES;
    const k0 = i32[H_SECRET]!;
    const k1 = i32[H_SECRET + 1]!;
    for (let index = 0; index < count; index++) {
      const word = index * DESCRIPTOR_WORDS;
      const note = index * NOTE_WORDS;
      const at = rx[word + D_AT]!;
      const bytes = rx[word + D_BYTES]! - ETHERNET_HEADER_BYTES;
      notes[note + N_ROW] = NOT_FAST;
      if (bytes < IPV4_HEADER_BYTES + UDP_HEADER_BYTES) continue;
      const own = interfaces + 4 * rx[word + D_INTERFACE]!;
      if (
        etherType(view, at) !== ETHERTYPE_IPV4 ||
        view.getInt32(at) !== i32[own + 1] ||
        view.getUint16(at + 4) !== i32[own + 2]
      ) {
        continue;
      }
      const ipAt = at + ETHERNET_HEADER_BYTES;
      const first = view.getInt32(ipAt);
      const second = view.getInt32(ipAt + 4);
      const third = view.getInt32(ipAt + 8);
      const source = view.getInt32(ipAt + 12);
      const destination = view.getInt32(ipAt + 16);
      const sum =
        (first >>> 16) +
        (first & 0xffff) +
        (second >>> 16) +
        (second & 0xffff) +
        (third >>> 16) +
        (third & 0xffff) +
        (source >>> 16) +
        (source & 0xffff) +
        (destination >>> 16) +
        (destination & 0xffff);
      const once = (sum & 0xffff) + (sum >>> 16);
      const total = first & 0xffff;
      const protocol = (third >>> 16) & 0xff;
      if (
        first >>> 24 !== VERSION_AND_IHL ||
        (second & FRAGMENT_BITS) !== 0 ||
        (once & 0xffff) + (once >>> 16) !== 0xffff ||
        total > bytes ||
        third >>> 24 <= 1
      ) {
        continue;
      }
      const l4At = ipAt + IPV4_HEADER_BYTES;
      const l4Bytes = total - IPV4_HEADER_BYTES;
      let slow = 0;
      if (protocol === PROTOCOL_TCP) {
        if (l4Bytes < TCP_HEADER_BYTES) continue;
        const offsetAndFlags = view.getUint16(l4At + 12);
        const headerBytes = (offsetAndFlags >>> 10) & 0x3c;
        if (headerBytes < TCP_HEADER_BYTES || headerBytes > l4Bytes) continue;
        if ((offsetAndFlags & (TCP_FIN | TCP_SYN | TCP_RST | TCP_ACK)) !== TCP_ACK) slow = 1;
      } else if (protocol === PROTOCOL_UDP) {
        const length = view.getUint16(l4At + 4);
        if (length < UDP_HEADER_BYTES || length > l4Bytes) continue;
      } else {
        continue;
      }
      if (isXdp && slow === 0) partial.mark(word, ipAt, l4At, l4Bytes, protocol);
      const ports = view.getInt32(l4At);
      notes[note + N_ROW] = 0;
      notes[note + N_HASH] = flowHash(k0, k1, protocol, source, destination, ports);
      notes[note + N_SOURCE] = source;
      notes[note + N_DESTINATION] = destination;
      notes[note + N_PORTS] = ports;
      notes[note + N_PROTOCOL] = protocol;
      notes[note + N_TOTAL] = total;
      notes[note + N_SLOW] = slow;
    }
  }

  /** Read one word of every bucket and throw it away: the lines come while the loop goes on. */
  function touchBuckets(count: number): void {
    let sum = 0;
    for (let note = 0; note < count * NOTE_WORDS; note += NOTE_WORDS) {
      sum ^= i32[indexWord + (notes[note + N_HASH]! & bucketMask) * BUCKET_WORDS]!;
    }
    sink[0] = sum;
  }

  /** The first entry of the first bucket that has the hash; anything else is not fast. */
  function look(count: number): void {
    for (let note = 0; note < count * NOTE_WORDS; note += NOTE_WORDS) {
      if (notes[note + N_ROW] === NOT_FAST) continue;
      const hash = notes[note + N_HASH]!;
      const bucket = indexWord + (hash & bucketMask) * BUCKET_WORDS;
      const first = bucket + firstPlace(hash);
      const ref =
        (i32[first] === hash ? i32[first + INDEX_BUCKET_ENTRIES]! : search(bucket, hash)) - 1;
      notes[note + N_ROW] = notes[note + N_SLOW] === 0 || ref < 0 ? ref : SLOW - ref;
    }
  }

  function search(bucket: number, hash: number): number {
    for (let entry = bucket; entry < bucket + INDEX_BUCKET_ENTRIES; entry++) {
      if (i32[entry] === hash) return i32[entry + INDEX_BUCKET_ENTRIES]!;
    }
    return NOT_FOUND + 1;
  }

  /** The line that process.ts, or `forward`, reads first: a record, or the other bucket. */
  function lineOf(note: number): number {
    const ref = notes[note + N_ROW]!;
    if (ref >= 0) return flowsWord + (ref >> 1) * FLOW_WORDS;
    if (ref <= SLOW) return flowsWord + ((SLOW - ref) >> 1) * FLOW_WORDS;
    if (ref === NOT_FAST) return flowsWord;
    const other = secondBucketOf(notes[note + N_HASH]!, bucketMask, secondShift);
    return indexWord + other * BUCKET_WORDS;
  }

  function touchRecords(count: number): void {
    let sum = 0;
    for (let note = 0; note < count * NOTE_WORDS; note += NOTE_WORDS) {
      sum ^= i32[lineOf(note)]!;
    }
    sink[0] = sum;
  }

  function remember(index: number): void {
    const note = index * NOTE_WORDS;
    if (notes[note + N_ROW] === NOT_FAST) return;
    table.remember(
      notes[note + N_HASH]!,
      notes[note + N_PROTOCOL]!,
      notes[note + N_SOURCE]!,
      notes[note + N_DESTINATION]!,
      notes[note + N_PORTS]!,
    );
  }

  function prepare(count: number): void {
    parse(count);
    touchBuckets(count);
    look(count);
    touchRecords(count);
  }

  /**
   * The words of a record are laid out alike for both directions (flow-record.ts): three of the key
   * that a packet has, and three that it gets, in the order destination, source, ports.
   */
  function forward(index: number): number {
    const note = index * NOTE_WORDS;
    const ref = notes[note + N_ROW]!;
    if (ref < 0) return NOT_FAST;
    const flow = flowsWord + (ref >> 1) * FLOW_WORDS;
    const direction = ref & 1;
    const key = flow + F_CLIENT_ADDR + 3 * direction;
    const state = i32[flow + F_STATE]! & 0xffff;
    const protocol = notes[note + N_PROTOCOL]!;
    if (
      i32[key] !== notes[note + N_SOURCE] ||
      i32[key + 1] !== notes[note + N_DESTINATION] ||
      i32[key + 2] !== notes[note + N_PORTS] ||
      state >>> 8 !== protocol ||
      (i32[flow + F_VERSION]! & 1) !== 0
    ) {
      return NOT_FAST;
    }
    const backendAndGeneration = i32[flow + F_BACKEND]!;
    const slot = backendSlotOf(backendAndGeneration);
    const backend = slots + slot * BACKEND_WORDS;
    if (
      i32[backend + B_EXISTING] !== 0 ||
      (i32[backend + B_GENERATION]! & GENERATION_MASK) !== generationOf(backendAndGeneration) ||
      STEADY[(protocol === PROTOCOL_TCP ? 0 : 32) + 16 * direction + (state & 0xf)] === 0
    ) {
      return NOT_FAST;
    }
    return direction === ORIGINAL
      ? toBackend(index * DESCRIPTOR_WORDS, note, flow, slot, state & 0xff)
      : toClient(index * DESCRIPTOR_WORDS, note, flow, slot, state & 0xff);
  }

  function toBackend(
    rxWord: number,
    note: number,
    flow: number,
    slot: number,
    state: number,
  ): number {
    const at = rx[rxWord + D_AT]!;
    const hop = registers[R_HOPS]! + (PAGE_BYTES >> 2) + slot * HOP_WORDS;
    const source = view.getInt32(at + 8);
    if (
      (i32[hop + HOP_FLAGS]! & HOP_RESOLVED) === 0 ||
      notes[note + N_TOTAL]! > i32[hop + HOP_MTU]! ||
      i32[flow + F_HOP_MAC_HIGH] !== ((view.getUint16(at + 6) << 16) | (source >>> 16)) ||
      i32[flow + F_HOP_MAC_LOW] !== ((source << 16) | rx[rxWord + D_INTERFACE]!) ||
      (rx[rxWord + D_VNET] !== 0 && !isPlain(rxWord, notes[note + N_PROTOCOL]!))
    ) {
      return NOT_FAST;
    }
    translate(rxWord, note, flow, ORIGINAL, slot, state);
    const egress = i32[hop + HOP_INTERFACE]!;
    send(rxWord, note, egress, i32[hop + HOP_MAC_HIGH]!, i32[hop + HOP_MAC_LOW]!);
    return FORWARDED;
  }

  function toClient(
    rxWord: number,
    note: number,
    flow: number,
    slot: number,
    state: number,
  ): number {
    const low = i32[flow + F_HOP_MAC_LOW]!;
    const egress = low & 0xffff;
    if (
      egress >= interfaceCount ||
      i32[registers[R_BANK]! + BANK_LAST_HOP] === 0 ||
      notes[note + N_TOTAL]! > i32[registers[R_HOPS]! + HT_INTERFACES + 4 * egress]! ||
      (rx[rxWord + D_VNET] !== 0 && !isPlain(rxWord, notes[note + N_PROTOCOL]!))
    ) {
      return NOT_FAST;
    }
    translate(rxWord, note, flow, REPLY, slot, state);
    send(rxWord, note, egress, i32[flow + F_HOP_MAC_HIGH]!, low >>> 16);
    return FORWARDED;
  }

  /** A virtio header of one segment; a partial checksum, if any, is where this packet has it. */
  function isPlain(rxWord: number, protocol: number): boolean {
    const vnet = rx[rxWord + D_VNET]!;
    if ((vnet & ~(VNET_F_NEEDS_CSUM | VNET_F_DATA_VALID)) !== 0) return false;
    if ((vnet & VNET_F_NEEDS_CSUM) === 0) return true;
    const field = protocol === PROTOCOL_TCP ? TCP_CHECKSUM_AT : UDP_CHECKSUM_AT;
    const start = ETHERNET_HEADER_BYTES + IPV4_HEADER_BYTES;
    return rx[rxWord + D_CSUM] === ((field << 16) | start);
  }

  /** The flow's words and counters, and the packet's headers. From here on the frame is forwarded. */
  function translate(
    rxWord: number,
    note: number,
    flow: number,
    direction: number,
    slot: number,
    state: number,
  ): void {
    const ipAt = rx[rxWord + D_AT]! + ETHERNET_HEADER_BYTES;
    const l4At = ipAt + IPV4_HEADER_BYTES;
    const tcp = notes[note + N_PROTOCOL] === PROTOCOL_TCP;
    const service = i32[slots + slot * BACKEND_WORDS + B_SERVICE]!;
    if (tcp) i32[flow + F_ACK_ORIGINAL + direction] = view.getInt32(l4At + 8);
    const timeouts = registers[R_SERVICES]! + service * SERVICE_WORDS + S_TIMEOUTS;
    i32[flow + F_EXPIRES] = (registers[R_TICK]! + i32[timeouts + state]!) | 0;
    count(slot, service, 2 * direction, notes[note + N_TOTAL]!);

    const next = flow + F_BACKEND_ADDR - 3 * direction;
    const ports = i32[next + 2]!;
    const delta = i32[flow + F_DELTA]! ^ -direction;
    const third = view.getInt32(ipAt + 8);
    const checksum = updateChecksum(third & 0xffff, add16(delta >>> 16, TTL_DELTA));
    view.setInt32(ipAt + 8, ((third - 0x0100_0000) & 0xffff_0000) | checksum);
    view.setInt32(ipAt + 12, i32[next + 1]!);
    view.setInt32(ipAt + 16, i32[next]!);
    view.setInt32(l4At, (ports << 16) | (ports >>> 16));
    const field = l4At + (tcp ? TCP_CHECKSUM_AT : UDP_CHECKSUM_AT);
    const before = view.getUint16(field);
    if ((rx[rxWord + D_VNET]! & VNET_F_NEEDS_CSUM) !== 0) {
      view.setUint16(field, updatePartial(before, delta >>> 16));
    } else if (tcp) {
      view.setUint16(field, updateChecksum(before, delta & 0xffff));
    } else if (before !== 0) {
      // RFC 768: 0 says "no checksum"; a computed 0 is sent as all ones.
      const after = updateChecksum(before, delta & 0xffff);
      view.setUint16(field, after === 0 ? 0xffff : after);
    }
  }

  /** @param way - 0: in, 2: out; distance of their counters */
  function count(slot: number, service: number, way: number, bytes: number): void {
    const backend = backendRuns + slot * BACKEND_DOUBLES + way;
    const served = serviceRuns + service * SERVICE_DOUBLES + way;
    f64[backend + BF_PACKETS_IN] = f64[backend + BF_PACKETS_IN]! + 1;
    f64[backend + BF_BYTES_IN] = f64[backend + BF_BYTES_IN]! + bytes;
    f64[served + VF_PACKETS_IN] = f64[served + VF_PACKETS_IN]! + 1;
    f64[served + VF_BYTES_IN] = f64[served + VF_BYTES_IN]! + bytes;
  }

  function send(
    rxWord: number,
    note: number,
    egress: number,
    macHigh: number,
    macLow: number,
  ): void {
    const own = registers[R_HOPS]! + HT_INTERFACES + 4 * egress;
    setEthernetAddresses(view, rx[rxWord + D_AT]!, macHigh, macLow, i32[own + 1]!, i32[own + 2]!);
    // What lies behind the packet is the padding of a short frame (RFC 894).
    rx[rxWord + D_BYTES] = ETHERNET_HEADER_BYTES + notes[note + N_TOTAL]!;
    output.sendReceived(rxWord, egress);
  }

  return { prepare, forward, remember };
}
