import type { Rates } from "../base/admin-types.ts";

/**
 * Rates of counters that only grow: the difference of the last two samples over the time between
 * them. The gateway samples once a second; a reader gets the last whole second.
 */

/** What one subject (the gateway, a service) has counted so far. */
export interface Totals {
  readonly packetsIn: number;
  readonly packetsOut: number;
  readonly bytesIn: number;
  readonly bytesOut: number;
  readonly connections: number;
}

export const NO_RATES: Rates = {
  packetsInPerSecond: 0,
  packetsOutPerSecond: 0,
  bytesInPerSecond: 0,
  bytesOutPerSecond: 0,
  connectionsPerSecond: 0,
};

export interface RateMeter {
  /**
   * Take a sample of everything; a subject that is not in it is forgotten.
   *
   * @param atMs - time of the sample on a clock that never steps back, milliseconds
   */
  sample(atMs: number, totals: ReadonlyMap<string, Totals>): void;
  /** Rates of a subject between the last two samples; all 0 until there are two. */
  of(subject: string): Rates;
}

/** Make a meter without samples. */
export function createRateMeter(): RateMeter {
  let sampledAtMs = 0;
  let before: ReadonlyMap<string, Totals> = new Map();
  let rates = new Map<string, Rates>();
  return {
    sample(atMs, totals) {
      const seconds = (atMs - sampledAtMs) / 1000;
      const next = new Map<string, Rates>();
      for (const [subject, now] of totals) {
        const last = before.get(subject);
        if (last !== undefined && seconds > 0) next.set(subject, between(last, now, seconds));
      }
      rates = next;
      before = totals;
      sampledAtMs = atMs;
    },
    of: (subject) => rates.get(subject) ?? NO_RATES,
  };
}

/** A slot that was given to another subject starts at 0 again: never a negative rate. */
function between(last: Totals, now: Totals, seconds: number): Rates {
  const rate = (a: number, b: number): number => Math.max(0, Math.round((b - a) / seconds));
  return {
    packetsInPerSecond: rate(last.packetsIn, now.packetsIn),
    packetsOutPerSecond: rate(last.packetsOut, now.packetsOut),
    bytesInPerSecond: rate(last.bytesIn, now.bytesIn),
    bytesOutPerSecond: rate(last.bytesOut, now.bytesOut),
    connectionsPerSecond: rate(last.connections, now.connections),
  };
}
