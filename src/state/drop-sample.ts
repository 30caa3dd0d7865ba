import { assert } from "../base/assert.ts";
import { DROP_SAMPLE_BYTES } from "../base/limits.ts";
import { SAMPLE_BYTES } from "./layout.ts";

/**
 * Samples of dropped frames: a ring that the worker writes and anybody reads. The record of
 * sequence number N lies at N % DROP_SAMPLES: eight words of description, then the frame's first
 * bytes. The sequence number is written last, and is 0 while the rest is written.
 */
export const SAMPLE_SEQUENCE = 0; // 1 and up; 0: empty
export const SAMPLE_TICK = 1;
export const SAMPLE_REASON = 2; // DROP_…
export const SAMPLE_INTERFACE = 3; // index in the device's list
export const SAMPLE_FRAME_BYTES = 4;
export const SAMPLE_CAPTURED_BYTES = 5;
export const SAMPLE_LINK_BYTES = 6; // link header before the IP header: 0 or 14
export const SAMPLE_HEADER_WORDS = 8;
export const SAMPLE_WORDS = SAMPLE_BYTES >> 2;

assert(SAMPLE_HEADER_WORDS * 4 + DROP_SAMPLE_BYTES === SAMPLE_BYTES, "a sample has its size");
