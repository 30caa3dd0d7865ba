import { flowHash } from "../flow/flow-hash.ts";

/**
 * SYN cookies (RFC 4987 section 3.6; D. J. Bernstein, cr.yp.to/syncookies.html; the arithmetic of
 * Linux): all that a half-open connection is lies in the initial sequence number that we send, and
 * the client's ACK brings it back.
 *
 *   cookie = H(k, key, 0) + client's sequence number + (minute << 24)
 *          + ((H(k', key, minute and sequence number) + MSS index) mod 2^24)
 *
 * Linux has no sequence number in the second hash: there a number that is off by one names another
 * MSS, and is taken.
 *
 * key: client, VIP, ports. H is the keyed hash of the flow index, with secrets of its own. A minute
 * is 60 s of the monotonic clock; a cookie is good in its own minute and in the next. So of all 2^32
 * acknowledgement numbers 16 are taken for a cookie of a given SYN: one in 2^28.
 *
 * What the number has no room for lies in the timestamp that a client with timestamps sends back:
 * window scale, SACK and ECN in its low six bits (Linux, cookie_init_timestamp).
 */

/** MSS values that a cookie can name, rising; the largest that is not above the client's is kept. */
const MSS_TABLE = Int32Array.of(536, 1220, 1300, 1360, 1400, 1440, 1460, 8960);

/** Minutes, its own included, in which a cookie is good. */
export const COOKIE_MINUTES = 2;
export const COOKIE_MINUTE_MS = 60_000;

const DATA_MASK = 0xff_ffff;

/** Low bits of our timestamp: window scale (NO_SCALE: none), SACK, ECN. */
export const COOKIE_SCALE_MASK = 0xf;
export const COOKIE_NO_SCALE = 0xf;
export const COOKIE_SACK = 1 << 4;
export const COOKIE_ECN = 1 << 5;
const TIMESTAMP_MASK = 0x3f;

/** Makes and checks the cookies of one region. */
export interface SynCookies {
  /**
   * @param sequence - the SYN's
   * @param mss - the client's; 0: it said none, which means 536 (RFC 9293 3.7.1)
   * @returns our initial sequence number, int32
   */
  make(
    client: number,
    vip: number,
    ports: number,
    sequence: number,
    mss: number,
    tick: number,
  ): number;
  /**
   * @param sequence - the SYN's, which is the ACK's less one
   * @param cookie - the ACK's acknowledgement number less one
   * @returns the client's MSS as far as the cookie has kept it, or 0: it is no cookie of ours
   */
  check(
    client: number,
    vip: number,
    ports: number,
    sequence: number,
    cookie: number,
    tick: number,
  ): number;
}

/** @param k0 - first word of the region's secret; @param k1 - second word */
export function createSynCookies(k0: number, k1: number): SynCookies {
  // Other keys than the flow index has: what is sent out must say nothing about it.
  const keys = Int32Array.from([1, 2, 3, 4], (use) =>
    flowHash(k0, k1, 0x53594e, 0x434f4f4b, use, 0),
  );
  const [a0, a1, b0, b1] = keys as unknown as readonly [number, number, number, number];

  function minuteOf(tick: number): number {
    return Math.floor((tick >>> 0) / COOKIE_MINUTE_MS);
  }

  function make(
    client: number,
    vip: number,
    ports: number,
    sequence: number,
    mss: number,
    tick: number,
  ): number {
    const minute = minuteOf(tick);
    let index = MSS_TABLE.length - 1;
    while (index > 0 && MSS_TABLE[index]! > mss) index--;
    const base = (flowHash(a0, a1, 0, client, vip, ports) + sequence) | 0;
    const hash = flowHash(b0, b1, sequence ^ (minute << 8), client, vip, ports);
    const data = (hash + index) & DATA_MASK;
    return (base + (minute << 24) + data) | 0;
  }

  function check(
    client: number,
    vip: number,
    ports: number,
    sequence: number,
    cookie: number,
    tick: number,
  ): number {
    const rest = (cookie - flowHash(a0, a1, 0, client, vip, ports) - sequence) | 0;
    const minute = minuteOf(tick);
    const age = (minute - (rest >>> 24)) & 0xff;
    if (age >= COOKIE_MINUTES) return 0;
    const hash = flowHash(b0, b1, sequence ^ ((minute - age) << 8), client, vip, ports);
    const index = ((rest & DATA_MASK) - hash) & DATA_MASK;
    return index < MSS_TABLE.length ? MSS_TABLE[index]! : 0;
  }

  return { make, check };
}

/**
 * Our timestamp with what it must keep: the tick, at most 64 ms back, so that it is never from
 * the future.
 */
export function cookieTimestamp(tick: number, kept: number): number {
  const stamped = (tick & ~TIMESTAMP_MASK) | kept;
  return kept > (tick & TIMESTAMP_MASK) ? (stamped - TIMESTAMP_MASK - 1) | 0 : stamped;
}

/** What an echoed timestamp of ours has kept. */
export function keptInTimestamp(tsecr: number): number {
  return tsecr & TIMESTAMP_MASK;
}
