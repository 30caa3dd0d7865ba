import { DROP_SAMPLE_BYTES, DROP_SAMPLES, DROP_SAMPLES_PER_TICK } from "../base/limits.ts";
import { D_AT, D_BYTES, D_INTERFACE } from "../device/device.ts";
import {
  SAMPLE_CAPTURED_BYTES,
  SAMPLE_FRAME_BYTES,
  SAMPLE_HEADER_WORDS,
  SAMPLE_INTERFACE,
  SAMPLE_LINK_BYTES,
  SAMPLE_REASON,
  SAMPLE_SEQUENCE,
  SAMPLE_TICK,
  SAMPLE_WORDS,
} from "../state/drop-sample.ts";
import { type Context, R_SAMPLE_TICK, R_SAMPLES_TAKEN, R_TICK } from "./context.ts";

export interface Samples {
  /** Keep the first bytes of the frame in `rxWord`; does nothing when enough were taken this tick. */
  take(rxWord: number, reason: number): void;
}

export function createSamples(context: Context): Samples {
  const { i32, layout, link, registers, rx, view } = context;
  const first = layout.samples.at >> 2;
  const perTick = Math.max(1, Math.floor(DROP_SAMPLES_PER_TICK / layout.workers));
  let sequence = 0;
  for (let index = 0; index < DROP_SAMPLES; index++) {
    const found = i32[first + index * SAMPLE_WORDS + SAMPLE_SEQUENCE]!;
    if (found > sequence) sequence = found;
  }

  function take(rxWord: number, reason: number): void {
    const tick = registers[R_TICK]!;
    if (registers[R_SAMPLE_TICK] !== tick) {
      registers[R_SAMPLE_TICK] = tick;
      registers[R_SAMPLES_TAKEN] = 0;
    }
    const taken = registers[R_SAMPLES_TAKEN]!;
    if (taken >= perTick) return;
    registers[R_SAMPLES_TAKEN] = taken + 1;
    sequence = sequence === 0x3fffffff ? 1 : sequence + 1;
    const at = first + (sequence % DROP_SAMPLES) * SAMPLE_WORDS;
    const bytes = rx[rxWord + D_BYTES]!;
    const captured = Math.min(bytes, DROP_SAMPLE_BYTES);
    i32[at + SAMPLE_SEQUENCE] = 0;
    i32[at + SAMPLE_TICK] = tick;
    i32[at + SAMPLE_REASON] = reason;
    i32[at + SAMPLE_INTERFACE] = rx[rxWord + D_INTERFACE]!;
    i32[at + SAMPLE_FRAME_BYTES] = bytes;
    i32[at + SAMPLE_CAPTURED_BYTES] = captured & ~3;
    i32[at + SAMPLE_LINK_BYTES] = link;
    const from = rx[rxWord + D_AT]!;
    const to = at + SAMPLE_HEADER_WORDS;
    // Little-endian words, so that the bytes of the region are the frame's.
    for (let word = 0; word < DROP_SAMPLE_BYTES >> 2; word++) {
      i32[to + word] = word * 4 + 4 <= captured ? view.getInt32(from + word * 4, true) : 0;
    }
    Atomics.store(i32, at + SAMPLE_SEQUENCE, sequence);
  }

  return { take };
}
