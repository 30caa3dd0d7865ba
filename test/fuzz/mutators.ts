import type { Random } from "../../src/base/random.ts";

/** Values that fields of lengths, offsets and counts turn over at. */
const EDGES_8 = [0, 1, 4, 5, 6, 7, 8, 0x0f, 0x40, 0x45, 0x46, 0x4f, 0x60, 0x7f, 0x80, 0xff];
const EDGES_16 = [0, 1, 7, 8, 19, 20, 27, 28, 39, 40, 60, 0x3fff, 0x4000, 0x7fff, 0x8000, 0xffff];
/** Bytes after the headers are seldom what a parser looks at. */
const HEADER_BYTES = 100;
const MAC_BYTES = 12;
/** What fits in a slot of the worlds' devices. */
const FRAME_BYTES_MAX = 9_000;

/**
 * A frame with one change or more: bits, bytes, words, lengths, pieces of itself and of another.
 *
 * @returns a new array of at least one byte
 */
export function mutateFrame(frame: Uint8Array, other: Uint8Array, random: Random): Uint8Array {
  let out: Uint8Array = frame.slice();
  do out = change(out, other, random);
  while (random.below(2) === 0);
  return out.subarray(0, FRAME_BYTES_MAX);
}

function change(out: Uint8Array, other: Uint8Array, random: Random): Uint8Array {
  const reach = random.below(4) === 0 ? out.length : Math.min(out.length, HEADER_BYTES);
  // Whom a frame is for is decided soon; most changes are for what comes after the two MACs.
  const first = random.below(8) === 0 || reach <= MAC_BYTES ? 0 : MAC_BYTES;
  const at = first + random.below(reach - first);
  switch (random.below(11)) {
    case 0:
      out[at] = out[at]! ^ (1 << random.below(8));
      return out;
    case 1:
      out[at] = random.below(256);
      return out;
    case 2:
      out[at] = EDGES_8[random.below(EDGES_8.length)]!;
      return out;
    case 3:
      return setWord(out, at & ~1, EDGES_16[random.below(EDGES_16.length)]!);
    case 4:
      return setWord(out, at & ~1, Math.max(0, out.length - at + random.below(5) - 2));
    case 5:
      return setWord(out, at & ~1, (out[at & ~1]! * 256 + (out[at | 1] ?? 0) + 1) & 0xffff);
    case 6:
      return out.slice(0, Math.max(1, at));
    case 7:
      return joined(out, new Uint8Array(1 + random.below(64)).fill(random.below(256)));
    case 8:
      return joined(out.subarray(0, at), out.subarray(random.below(out.length)));
    case 9:
      return joined(out.subarray(0, at), other.subarray(Math.min(at, other.length - 1)));
    default: {
      // Ports, addresses and options change places.
      const from = (first + random.below(reach - first)) & ~1;
      const to = at & ~1;
      for (
        let index = 0;
        index < 4 && from + index < out.length && to + index < out.length;
        index++
      ) {
        const byte = out[from + index]!;
        out[from + index] = out[to + index]!;
        out[to + index] = byte;
      }
      return out;
    }
  }
}

function setWord(out: Uint8Array, at: number, value: number): Uint8Array {
  out[at] = (value >> 8) & 0xff;
  if (at + 1 < out.length) out[at + 1] = value & 0xff;
  return out;
}

function joined(head: Uint8Array, tail: Uint8Array): Uint8Array {
  const out = new Uint8Array(Math.max(1, Math.min(FRAME_BYTES_MAX, head.length + tail.length)));
  out.set(head.subarray(0, out.length));
  if (head.length < out.length) out.set(tail.subarray(0, out.length - head.length), head.length);
  return out;
}
