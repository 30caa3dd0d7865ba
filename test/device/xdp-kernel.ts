import assert from "node:assert/strict";
import { OUT_FRAMES_MAX } from "../../src/base/limits.ts";
import { DESCRIPTOR_WORDS } from "../../src/device/device.ts";
import type { NativeXdpRing, NativeXdpSocket } from "../../src/device/native.ts";
import type { XdpRingsParts } from "../../src/device/xdp-rings.ts";

/**
 * The kernel's side of AF_XDP in memory: rings and UMEM in one buffer, and what the kernel does with
 * them (net/xdp/xsk_queue.h), slowly and with checks. Sending is held back until the test says so.
 */
export interface KernelOptions {
  /** Interface of each socket. */
  readonly sockets: readonly number[];
  readonly interfaces: number;
  readonly entries: number;
  readonly chunks: number;
  readonly metadataBytes?: number;
  readonly mtu?: number;
  /** Positions at which all rings begin. */
  readonly start?: number;
}

export interface SentByKernel {
  readonly socket: number;
  readonly bytes: Uint8Array;
  /** The metadata before the frame, when it has that option. */
  readonly metadata: Uint8Array | null;
}

export interface XdpKernel {
  readonly parts: XdpRingsParts;
  readonly rx: Int32Array;
  readonly tx: Int32Array;
  /** First byte of the spare with this number. */
  readonly spareAt: (index: number) => number;
  readonly memory: Uint8Array;
  /** Timeouts of the waits so far. */
  readonly waits: number[];
  /** Called by a wait. */
  onWait: () => void;
  /** errno of the next kicks by socket; 0 sends. */
  readonly refuse: number[];
  /** What was sent, in order; empty it with `length = 0`. */
  readonly sent: SentByKernel[];
  /** False: frames stay in the send rings. */
  sends: boolean;
  /** Put a received frame into a ring. @returns false when there is no chunk for it */
  deliver(socket: number, frame: Uint8Array): boolean;
  /** Give back up to this many chunks of what was sent, oldest first. */
  complete(socket: number, count: number): void;
  /** Every chunk that the kernel has or that lies in a ring; throws when one is there twice. */
  chunks(): number[];
  needWakeup(socket: number, needed: boolean): void;
}

export const CHUNK_BYTES = 2048;
export const FRAME_AT = 258;
const SPARES = 64;
const SPARE_BYTES = 2048;
const BATCH_FRAMES = 64;

interface Ring extends NativeXdpRing {
  readonly words: number;
}

export function createXdpKernel(options: KernelOptions): XdpKernel {
  const { entries, chunks, metadataBytes = 24, mtu = 1500, start = 0 } = options;
  const txAt = BATCH_FRAMES * DESCRIPTOR_WORDS * 4;
  const spareAt = txAt + OUT_FRAMES_MAX * DESCRIPTOR_WORDS * 4;
  const umemAt = spareAt + SPARES * SPARE_BYTES;
  let end = umemAt + chunks * CHUNK_BYTES;
  const makeRing = (words: number): Ring => {
    const at = end;
    end += 64 + entries * words * 4;
    return {
      producerAt: at,
      consumerAt: at + 16,
      flagsAt: at + 32,
      entriesAt: at + 64,
      entries,
      words,
    };
  };
  const sockets = options.sockets.map((each) => ({
    interface: each,
    fill: makeRing(2),
    completion: makeRing(2),
    rx: makeRing(4),
    tx: makeRing(4),
  })) satisfies NativeXdpSocket[];
  const buffer = new ArrayBuffer(end);
  const words = new Int32Array(buffer);
  const memory = new Uint8Array(buffer);
  const rx = new Int32Array(buffer, 0, BATCH_FRAMES * DESCRIPTOR_WORDS);
  const tx = new Int32Array(buffer, txAt, OUT_FRAMES_MAX * DESCRIPTOR_WORDS);
  const rings = sockets.flatMap(({ fill, completion, rx, tx }) => [fill, completion, rx, tx]);
  for (const ring of rings) {
    words[ring.producerAt >> 2] = start;
    words[ring.consumerAt >> 2] = start;
  }
  const producer = (ring: Ring): number => words[ring.producerAt >> 2]!;
  const consumer = (ring: Ring): number => words[ring.consumerAt >> 2]!;
  const used = (ring: Ring): number => (producer(ring) - consumer(ring)) | 0;
  const entryAt = (ring: Ring, position: number): number =>
    (ring.entriesAt >> 2) + (position & (entries - 1)) * ring.words;
  const move = (at: number, by: number): void => {
    words[at >> 2] = (words[at >> 2]! + by) | 0;
  };
  const checkFill = (ring: Ring): void => {
    assert.ok(used(ring) >= 0 && used(ring) <= entries, "no ring holds more than its entries");
  };

  // By socket: chunks that the kernel has sent and not given back, as the addresses it was given.
  const sending = sockets.map((): number[] => []);
  // By socket: producer of its send ring at the last kick.
  const told = sockets.map(() => start);
  const kernel: XdpKernel = {
    parts: {
      memory: buffer,
      rx,
      tx,
      umemAt,
      chunkBytes: CHUNK_BYTES,
      chunks,
      frameAt: FRAME_AT,
      metadataBytes,
      kicked: new Int32Array(sockets.length),
      sockets,
      mtus: new Int32Array(options.interfaces).fill(mtu),
      wait(timeoutMs) {
        kernel.waits.push(timeoutMs);
        kernel.onWait();
        return 0;
      },
      kick() {
        let refused = 0;
        for (const [index, { tx }] of sockets.entries()) {
          checkFill(tx);
          const errno = kernel.refuse[index]!;
          kernel.parts.kicked[index] = used(tx) === 0 ? 0 : errno;
          if (used(tx) !== 0 && errno !== 0) {
            // Those of an earlier kick stay.
            refused = 1;
            words[tx.producerAt >> 2] = told[index]!;
          } else if (kernel.sends) {
            send(index);
          }
          told[index] = producer(tx);
        }
        return refused;
      },
    },
    rx,
    tx,
    spareAt: (index) => spareAt + index * SPARE_BYTES,
    memory,
    waits: [],
    onWait: () => {},
    refuse: sockets.map(() => 0),
    sent: [],
    sends: true,
    deliver,
    complete,
    chunks: listChunks,
    needWakeup(socket, needed) {
      words[sockets[socket]!.fill.flagsAt >> 2] = needed ? 1 : 0;
    },
  };

  function send(index: number): void {
    const { completion, tx } = sockets[index]!;
    // The kernel keeps a place in the completion ring for all that it sends.
    while (used(tx) > 0 && sending[index]!.length + used(completion) < entries) {
      const at = entryAt(tx, consumer(tx));
      const [address, high, bytes, option] = [...words.subarray(at, at + 4)] as [
        number,
        number,
        number,
        number,
      ];
      assert.equal(high, 0);
      assert.equal(option & ~2, 0, "no option but metadata");
      const before = option === 0 ? 0 : metadataBytes;
      const chunk = address & ~(CHUNK_BYTES - 1);
      assert.ok(address - before >= chunk && address + bytes <= chunk + CHUNK_BYTES, "one chunk");
      const from = umemAt + address;
      kernel.sent.push({
        socket: index,
        bytes: memory.slice(from, from + bytes),
        metadata: option === 0 ? null : memory.slice(from - before, from),
      });
      sending[index]!.push(address);
      move(tx.consumerAt, 1);
    }
  }

  function deliver(socket: number, frame: Uint8Array): boolean {
    const { fill, rx } = sockets[socket]!;
    checkFill(fill);
    if (used(fill) === 0) return false;
    const chunk = words[entryAt(fill, consumer(fill))]! & ~(CHUNK_BYTES - 1);
    move(fill.consumerAt, 1);
    assert.ok(used(rx) < entries, "the receive ring has room for all that was given");
    memory.set(frame, umemAt + chunk + FRAME_AT);
    words.set([chunk + FRAME_AT, 0, frame.length, 0], entryAt(rx, producer(rx)));
    move(rx.producerAt, 1);
    return true;
  }

  function complete(socket: number, count: number): void {
    const { completion } = sockets[socket]!;
    for (const address of sending[socket]!.splice(0, count)) {
      assert.ok(used(completion) < entries);
      words.set([address, 0], entryAt(completion, producer(completion)));
      move(completion.producerAt, 1);
    }
  }

  function listChunks(): number[] {
    const seen = sending.flat();
    for (const ring of rings) {
      for (let at = consumer(ring); at !== producer(ring); at = (at + 1) | 0) {
        seen.push(words[entryAt(ring, at)]!);
      }
    }
    const all = seen.map((address) => address & ~(CHUNK_BYTES - 1));
    assert.equal(new Set(all).size, all.length, "every chunk is in one place");
    return all;
  }

  return kernel;
}
