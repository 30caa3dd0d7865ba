import {
  D_AT,
  D_BYTES,
  D_CSUM,
  D_FROM,
  D_INTERFACE,
  D_RESULT,
  D_VNET,
  DESCRIPTOR_WORDS,
  TX_FAILED,
  TX_FULL,
  TX_SENT,
  TX_TOO_BIG,
  VNET_F_NEEDS_CSUM,
} from "./device.ts";
import type { NativeXdpRing, NativeXdpSocket } from "./native.ts";
import { completeChecksum } from "./partial-checksum.ts";

/**
 * Frames in and out of AF_XDP, by reading and writing the kernel's rings in place
 * (Documentation/networking/af_xdp.rst).
 *
 * Theory of operation
 *
 * Chunks    The UMEM is `chunks` pieces of `chunkBytes`, each with room for one frame; a chunk is
 *           named by its byte offset in the UMEM. Every chunk is in one place: with the kernel
 *           (fill ring, receive ring), in the batch, in a send ring, at the kernel for sending
 *           (until the completion ring has it), or free. Free ones are a stack, for all sockets: the
 *           one that was used last, and is in the cache, is used first.
 * Rings     Single producer, single consumer. Positions count modulo 2^32; the entry is position &
 *           mask. Each socket's positions are kept in `sockets`, so that a batch reads the other
 *           side's index once and publishes its own once, with Atomics; entries are plain words in
 *           between (the atomic load and store order them).
 * Supply    A socket has at most `fill.entries` chunks with the kernel or unread, so that none can
 *           starve the others: what was taken from its receive ring is given back as fill.
 * Batch     receive: chunks of the last batch that were not sent are free; completions are taken;
 *           the fill rings are topped up; frames are listed, in turns over the sockets. transmit:
 *           descriptors into the send rings, then one native call for all of them.
 * Spares    They are free again after transmit, so a spare is copied into a chunk.
 */

export interface XdpRingsParts {
  readonly memory: ArrayBuffer;
  readonly rx: Int32Array;
  readonly tx: Int32Array;
  readonly umemAt: number;
  readonly chunkBytes: number;
  readonly chunks: number;
  readonly frameAt: number;
  readonly metadataBytes: number;
  /** One word a socket: not 0 when its last kick was refused. */
  readonly kicked: Int32Array;
  readonly sockets: readonly NativeXdpSocket[];
  /** MTU of each interface. */
  readonly mtus: Int32Array;
  /** Waits and writes the tick; below 0 it only writes the tick. 0, or a negative errno. */
  wait(timeoutMs: number): number;
  /** Sends what is in the rings; 1 when `kicked` has something to say. */
  kick(count: number, wakeMask: number): number;
}

export interface XdpRings {
  /** Frames in rx, 0..BATCH_FRAMES_MAX, or a negative errno. */
  receive(timeoutMs: number): number;
  /** Frames sent; wakes the workers of the mask too. */
  transmit(count: number, wakeMask?: number): number;
}

/** Timeout of `wait` for "write the tick and do nothing else". */
export const TICK_ONLY = -1;

/** Result of a frame that the native call has to send: its interface has no socket. */
const TX_BY_PACKET = 4;

/** XDP_TX_METADATA, an option of a send descriptor (include/uapi/linux/if_xdp.h, Linux 6.8). */
const OPTION_METADATA = 2;
/** XDP_TXMD_FLAGS_CHECKSUM, first word of struct xsk_tx_metadata. */
const METADATA_CHECKSUM = 2;
/** XDP_RING_NEED_WAKEUP. */
const NEED_WAKEUP = 1;

const ETHERNET_HEADER_BYTES = 14;

// Words of one socket in `sockets`; rings as word offsets in memory.
const S_INTERFACE = 0;
const S_FILL_PRODUCER = 1;
const S_FILL_FLAGS = 2;
const S_FILL_ENTRIES = 3;
const S_FILL_MASK = 4;
/** Own position: chunks given. */
const S_FILL_AT = 5;
const S_DONE_PRODUCER = 6;
const S_DONE_CONSUMER = 7;
const S_DONE_ENTRIES = 8;
const S_DONE_MASK = 9;
const S_DONE_AT = 10;
const S_RX_PRODUCER = 11;
const S_RX_CONSUMER = 12;
const S_RX_ENTRIES = 13;
const S_RX_MASK = 14;
/** Own position: frames taken. */
const S_RX_AT = 15;
const S_TX_PRODUCER = 16;
const S_TX_CONSUMER = 17;
const S_TX_ENTRIES = 18;
const S_TX_MASK = 19;
/** Own position, the one that was published, and the kernel's as last seen. */
const S_TX_AT = 20;
const S_TX_PUBLISHED = 21;
const S_TX_SEEN = 22;
const SOCKET_WORDS = 24;

// Registers: what changes from call to call.
const R_FREE = 0;
const R_RECEIVED = 1;
const R_TURN = 2;
/** 1: a native call has written the tick since the last receive. */
const R_TICKED = 3;
const REGISTERS = 4;

/** Positions of a socket's rings, taken over from the kernel. */
function describeSocket(words: Int32Array, socket: NativeXdpSocket, out: Int32Array, at: number) {
  const put = (ring: NativeXdpRing, fields: readonly number[]): void => {
    const values = [ring.producerAt, ring.consumerAt, ring.flagsAt, ring.entriesAt];
    for (const [index, field] of fields.entries()) {
      if (field >= 0) out[at + field] = (values[index] as number) >> 2;
    }
  };
  out[at + S_INTERFACE] = socket.interface;
  put(socket.fill, [S_FILL_PRODUCER, -1, S_FILL_FLAGS, S_FILL_ENTRIES]);
  out[at + S_FILL_MASK] = socket.fill.entries - 1;
  put(socket.completion, [S_DONE_PRODUCER, S_DONE_CONSUMER, -1, S_DONE_ENTRIES]);
  out[at + S_DONE_MASK] = socket.completion.entries - 1;
  put(socket.rx, [S_RX_PRODUCER, S_RX_CONSUMER, -1, S_RX_ENTRIES]);
  out[at + S_RX_MASK] = socket.rx.entries - 1;
  put(socket.tx, [S_TX_PRODUCER, S_TX_CONSUMER, -1, S_TX_ENTRIES]);
  out[at + S_TX_MASK] = socket.tx.entries - 1;
  out[at + S_FILL_AT] = Atomics.load(words, out[at + S_FILL_PRODUCER]!);
  out[at + S_DONE_AT] = Atomics.load(words, out[at + S_DONE_CONSUMER]!);
  out[at + S_RX_AT] = Atomics.load(words, out[at + S_RX_CONSUMER]!);
  out[at + S_TX_AT] = Atomics.load(words, out[at + S_TX_PRODUCER]!);
  out[at + S_TX_PUBLISHED] = out[at + S_TX_AT]!;
  out[at + S_TX_SEEN] = Atomics.load(words, out[at + S_TX_CONSUMER]!);
}

/** Sockets of each interface: the first, and how many follow one another. */
function groupSockets(sockets: readonly NativeXdpSocket[], interfaces: number) {
  const first = new Int32Array(interfaces);
  const count = new Int32Array(interfaces);
  for (const [index, socket] of sockets.entries()) {
    if (count[socket.interface] === 0) first[socket.interface] = index;
    count[socket.interface]! += 1;
  }
  return { first, count };
}

/** Over the mapped rings of a device. Allocates; what it returns does not. */
export function createXdpRings(parts: XdpRingsParts): XdpRings {
  const { memory, rx, tx, umemAt, chunkBytes, frameAt, metadataBytes, kicked, mtus } = parts;
  const { wait, kick } = parts;
  const words = new Int32Array(memory);
  const view = new DataView(memory);
  const socketCount = parts.sockets.length;
  const interfaceCount = mtus.length;
  const batchFrames = rx.length / DESCRIPTOR_WORDS;
  const chunkMask = ~(chunkBytes - 1);
  const sockets = new Int32Array(socketCount * SOCKET_WORDS);
  for (const [index, socket] of parts.sockets.entries()) {
    describeSocket(words, socket, sockets, index * SOCKET_WORDS);
  }
  const { first, count: queues } = groupSockets(parts.sockets, interfaceCount);
  const registers = new Int32Array(REGISTERS);
  const free = new Int32Array(parts.chunks);
  // Of the received frames: chunk (NO_CHUNK: on its way out), and the socket it came from.
  const chunkOf = new Int32Array(batchFrames);
  const socketOf = new Int32Array(batchFrames);
  // Of the frames to send: chunk, socket (NO_SOCKET: not in a ring), received frame (or FROM_SPARE).
  const outFrames = tx.length / DESCRIPTOR_WORDS;
  const sentChunk = new Int32Array(outFrames);
  const sentSocket = new Int32Array(outFrames);
  const sentFrom = new Int32Array(outFrames);

  // The first chunks are used first.
  for (let chunk = parts.chunks - 1; chunk >= 0; chunk--) {
    free[registers[R_FREE]!] = chunk * chunkBytes;
    registers[R_FREE]! += 1;
  }
  supply();

  /** Chunks of the last batch that were not sent are free. */
  function reclaim(): void {
    const count = registers[R_RECEIVED]!;
    let top = registers[R_FREE]!;
    for (let index = 0; index < count; index++) {
      const chunk = chunkOf[index]!;
      if (chunk === NO_CHUNK) continue;
      free[top] = chunk;
      top++;
    }
    registers[R_FREE] = top;
    registers[R_RECEIVED] = 0;
  }

  /** What the kernel has sent is free. */
  function complete(): void {
    let top = registers[R_FREE]!;
    for (let socket = 0; socket < socketCount * SOCKET_WORDS; socket += SOCKET_WORDS) {
      let at = sockets[socket + S_DONE_AT]!;
      const end = Atomics.load(words, sockets[socket + S_DONE_PRODUCER]!);
      if (at === end) continue;
      const entries = sockets[socket + S_DONE_ENTRIES]!;
      const mask = sockets[socket + S_DONE_MASK]!;
      for (; at !== end; at = (at + 1) | 0) {
        // An address is 64 bits; the UMEM is smaller than 2^31 bytes.
        free[top] = words[entries + ((at & mask) << 1)]! & chunkMask;
        top++;
      }
      sockets[socket + S_DONE_AT] = end;
      Atomics.store(words, sockets[socket + S_DONE_CONSUMER]!, end);
    }
    registers[R_FREE] = top;
  }

  /**
   * Top up the fill rings.
   *
   * @returns 1 when a driver waits to be told (zero-copy), else 0
   */
  function supply(): number {
    let sleeping = 0;
    let top = registers[R_FREE]!;
    for (let socket = 0; socket < socketCount * SOCKET_WORDS; socket += SOCKET_WORDS) {
      let at = sockets[socket + S_FILL_AT]!;
      const mask = sockets[socket + S_FILL_MASK]!;
      let missing = (mask + 1 - (at - sockets[socket + S_RX_AT]!)) | 0;
      if (missing > top) missing = top;
      if (missing > 0) {
        const entries = sockets[socket + S_FILL_ENTRIES]!;
        for (; missing > 0; missing--) {
          top--;
          words[entries + ((at & mask) << 1)] = free[top]!;
          at = (at + 1) | 0;
        }
        sockets[socket + S_FILL_AT] = at;
        Atomics.store(words, sockets[socket + S_FILL_PRODUCER]!, at);
      }
      sleeping |= words[sockets[socket + S_FILL_FLAGS]!]! & NEED_WAKEUP;
    }
    registers[R_FREE] = top;
    return sleeping;
  }

  /** List frames of one socket until rx has `limit`. */
  function take(index: number, count: number, limit: number): number {
    const socket = index * SOCKET_WORDS;
    let at = sockets[socket + S_RX_AT]!;
    let left = (Atomics.load(words, sockets[socket + S_RX_PRODUCER]!) - at) | 0;
    if (left === 0) return count;
    if (left > limit - count) left = limit - count;
    const entries = sockets[socket + S_RX_ENTRIES]!;
    const mask = sockets[socket + S_RX_MASK]!;
    const ingress = sockets[socket + S_INTERFACE]!;
    let next = count;
    for (; left > 0; left--) {
      const entry = entries + ((at & mask) << 2);
      const address = words[entry]!;
      const word = next * DESCRIPTOR_WORDS;
      rx[word + D_AT] = umemAt + address;
      rx[word + D_BYTES] = words[entry + 2]!;
      rx[word + D_INTERFACE] = ingress;
      rx[word + D_VNET] = 0;
      rx[word + D_CSUM] = 0;
      rx[word + D_RESULT] = 0;
      chunkOf[next] = address & chunkMask;
      socketOf[next] = index;
      next++;
      at = (at + 1) | 0;
    }
    sockets[socket + S_RX_AT] = at;
    Atomics.store(words, sockets[socket + S_RX_CONSUMER]!, at);
    return next;
  }

  /**
   * Frames of all sockets: each gets its share of the batch, then the rest is for whoever has more.
   * Who comes first changes with every batch.
   */
  function collect(): number {
    const turn = registers[R_TURN]!;
    registers[R_TURN] = turn + 1 < socketCount ? turn + 1 : 0;
    let count = 0;
    for (let done = 0; done < socketCount && count < batchFrames; done++) {
      const left = socketCount - done;
      const share = ((batchFrames - count + left - 1) / left) | 0;
      const socket = turn + done;
      count = take(socket < socketCount ? socket : socket - socketCount, count, count + share);
    }
    for (let done = 0; done + 1 < socketCount && count < batchFrames; done++) {
      const socket = turn + done;
      count = take(socket < socketCount ? socket : socket - socketCount, count, batchFrames);
    }
    registers[R_RECEIVED] = count;
    return count;
  }

  function receive(timeoutMs: number): number {
    reclaim();
    complete();
    const sleeping = supply();
    let count = collect();
    if (sleeping !== 0 || (count === 0 && timeoutMs !== 0)) {
      const code = wait(count === 0 ? timeoutMs : 0);
      if (code < 0) return code;
      if (count === 0) {
        complete();
        count = collect();
      }
    } else if (registers[R_TICKED] === 0) {
      const code = wait(TICK_ONLY);
      if (code < 0) return code;
    }
    registers[R_TICKED] = 0;
    return count;
  }

  /** Copy a frame into a free chunk. @returns its chunk, or NO_CHUNK */
  function copy(at: number, bytes: number): number {
    const top = registers[R_FREE]! - 1;
    if (top < 0 || frameAt + 2 + bytes > chunkBytes) return NO_CHUNK;
    registers[R_FREE] = top;
    const chunk = free[top]!;
    // Whole words from the one in which the frame starts: it starts in the same place of a word.
    let from = at >> 2;
    let to = (umemAt + chunk + frameAt) >> 2;
    for (const end = (at + bytes + 3) >> 2; from < end; from++) {
      words[to] = words[from]!;
      to++;
    }
    return chunk;
  }

  /** Write the metadata that has the checksum completed, or complete it here. @returns the option */
  function prepareChecksum(at: number, bytes: number, csum: number): number {
    if (metadataBytes === 0) {
      completeChecksum(view, at, bytes, csum & 0xffff, csum >>> 16);
      return 0;
    }
    const metadata = at - metadataBytes;
    view.setInt32(metadata, METADATA_CHECKSUM, true);
    view.setInt32(metadata + 4, 0, true);
    view.setInt32(metadata + 8, csum, true);
    return OPTION_METADATA;
  }

  /** Put one frame into the send ring of its interface. @returns TX_… */
  function enqueue(index: number): number {
    const word = index * DESCRIPTOR_WORDS;
    const egress = tx[word + D_INTERFACE]!;
    const bytes = tx[word + D_BYTES]!;
    let at = tx[word + D_AT]!;
    sentSocket[index] = NO_SOCKET;
    if (egress < 0 || egress >= interfaceCount || bytes < ETHERNET_HEADER_BYTES) return TX_FAILED;
    const vnet = tx[word + D_VNET]!;
    const csum = tx[word + D_CSUM]!;
    const partial = (vnet & VNET_F_NEEDS_CSUM) !== 0;
    if ((vnet & 0xff00) !== 0) return TX_FAILED;
    if (partial && (csum & 0xffff) + (csum >>> 16) + 2 > bytes) return TX_FAILED;
    if (bytes > mtus[egress]! + ETHERNET_HEADER_BYTES) return TX_TOO_BIG;
    if (at < 0 || at + bytes > memory.byteLength) return TX_FAILED;
    const available = queues[egress]!;
    if (available === 0) return TX_BY_PACKET;
    let from = tx[word + D_FROM]!;
    const isReceived = from >= 0 && from < registers[R_RECEIVED]!;
    const sender = first[egress]! + (isReceived && available > 1 ? socketOf[from]! % available : 0);
    const socket = sender * SOCKET_WORDS;
    const position = sockets[socket + S_TX_AT]!;
    const mask = sockets[socket + S_TX_MASK]!;
    if (((position - sockets[socket + S_TX_SEEN]!) | 0) > mask) {
      sockets[socket + S_TX_SEEN] = Atomics.load(words, sockets[socket + S_TX_CONSUMER]!);
      if (((position - sockets[socket + S_TX_SEEN]!) | 0) > mask) return TX_FULL;
    }
    let chunk = isReceived ? chunkOf[from]! : NO_CHUNK;
    const offset = at - umemAt - chunk;
    if (chunk !== NO_CHUNK && offset >= metadataBytes && offset + bytes <= chunkBytes) {
      chunkOf[from] = NO_CHUNK;
    } else {
      // A spare, a received frame that is sent a second time, or a frame that lies elsewhere.
      chunk = copy(at, bytes);
      if (chunk === NO_CHUNK) return TX_FULL;
      at = umemAt + ((chunk + frameAt) & ~3) + (at & 3);
      from = NO_FRAME;
    }
    const entry = sockets[socket + S_TX_ENTRIES]! + ((position & mask) << 2);
    words[entry] = at - umemAt;
    words[entry + 2] = bytes;
    words[entry + 3] = partial ? prepareChecksum(at, bytes, csum) : 0;
    sockets[socket + S_TX_AT] = (position + 1) | 0;
    sentChunk[index] = chunk;
    sentSocket[index] = sender;
    sentFrom[index] = from;
    return TX_SENT;
  }

  /** Frames that the kernel refused are out of the ring again; their chunks are ours. */
  function takeBack(count: number): void {
    for (let index = 0; index < count; index++) {
      const sender = sentSocket[index]!;
      if (sender === NO_SOCKET || kicked[sender] === 0) continue;
      tx[index * DESCRIPTOR_WORDS + D_RESULT] = TX_FAILED;
      const from = sentFrom[index]!;
      if (from === NO_FRAME) {
        free[registers[R_FREE]!] = sentChunk[index]!;
        registers[R_FREE]! += 1;
      } else {
        chunkOf[from] = sentChunk[index]!;
      }
    }
    for (let index = 0; index < socketCount; index++) {
      const socket = index * SOCKET_WORDS;
      if (kicked[index] === 0) continue;
      sockets[socket + S_TX_AT] = Atomics.load(words, sockets[socket + S_TX_PRODUCER]!);
      sockets[socket + S_TX_PUBLISHED] = sockets[socket + S_TX_AT]!;
    }
  }

  function transmit(count: number, wakeMask = 0): number {
    for (let index = 0; index < count; index++) {
      tx[index * DESCRIPTOR_WORDS + D_RESULT] = enqueue(index);
    }
    for (let socket = 0; socket < socketCount * SOCKET_WORDS; socket += SOCKET_WORDS) {
      const at = sockets[socket + S_TX_AT]!;
      if (at === sockets[socket + S_TX_PUBLISHED]) continue;
      sockets[socket + S_TX_PUBLISHED] = at;
      Atomics.store(words, sockets[socket + S_TX_PRODUCER]!, at);
    }
    const code = kick(count, wakeMask);
    if (code < 0) return code;
    if (code !== 0) takeBack(count);
    registers[R_TICKED] = 1;
    let sent = 0;
    for (let index = 0; index < count; index++) {
      if (tx[index * DESCRIPTOR_WORDS + D_RESULT] === TX_SENT) sent++;
    }
    return sent;
  }

  return { receive, transmit };
}

const NO_CHUNK = -1;
const NO_SOCKET = -1;
const NO_FRAME = -1;
