import { assert } from "../base/assert.ts";
import { ADMISSION_RUN_BYTES } from "../state/layout.ts";

/**
 * What one worker knows of a service beyond its counters (service/backend-slots.ts): flows for its
 * limits, and the state of its SYN cookies. A row a service slot, in the worker's own shard.
 */

/** Live flows, and those of TCP whose handshake is not done. */
export const N_FLOWS = 0;
export const N_HALF_OPEN = 1;
/** 1 while `synProxy: auto` answers with cookies. */
export const N_COOKIES_ON = 2;
/** Tick of the last cookie sent, and 1 when there was one: no ACK is taken for a cookie otherwise. */
export const N_COOKIE_TICK = 3;
export const N_COOKIE_SENT = 4;
/** From the backends' SYN-ACKs: MSS (0: none yet), and LEARNT_… */
export const N_LEARNT_MSS = 5;
export const N_LEARNT = 6;
/** Tick at which the packet tokens (NF_PACKET_TOKENS) were filled. */
export const N_PACKETS_TICK = 7;
/** Double: index (row bytes / 8) + this. */
export const NF_PACKET_TOKENS = 4;
export const ADMISSION_RUN_WORDS = 32;
assert(ADMISSION_RUN_WORDS * 4 === ADMISSION_RUN_BYTES, "a row is one section record");

/** N_LEARNT: window scale in the low bits, and options that were seen to be refused. */
export const LEARNT_SCALE_MASK = 0xf;
export const LEARNT_SCALE = 1 << 4;
export const LEARNT_NO_SACK = 1 << 6;
export const LEARNT_NO_TIMESTAMPS = 1 << 7;
/** Unlike the others, ECN is offered only once a backend was seen to take it. */
export const LEARNT_ECN = 1 << 8;
