/**
 * What a policy of Headgate is: `import type { Policy } from "headgate/policy"`. docs/policy.md says
 * when it is called, what becomes of what it returns, and what happens when it fails.
 *
 * A module is a policy when it exports a function `rebuild`:
 *
 *   import type { Backend, Decision, Statistics } from "headgate/policy";
 *
 *   export function rebuild(backends: readonly Backend[], statistics: Statistics): Decision {
 *     return { weights: backends.map((backend) => backend.weight) };
 *   }
 */

/** A backend of the service, whether it takes new flows or not. */
export interface Backend {
  /** Place in the list: what a table names it by. */
  readonly index: number;
  readonly address: string;
  /** 0: the packet's own port. */
  readonly port: number;
  /** In force: the configuration's, or the operator's. 0..65535. */
  readonly weight: number;
  readonly state: "up" | "starting" | "draining" | "down" | "disabled" | "removed" | "ejected";
  /** It takes new flows now. What a policy gives to others goes to those that do. */
  readonly takesNewFlows: boolean;
  /** Flows that it has: established ones, and those that open or close. */
  readonly active: number;
  readonly inactive: number;
  /** Since the state file was made. */
  readonly connections: number;
  readonly packetsIn: number;
  readonly bytesIn: number;
  readonly packetsOut: number;
  readonly bytesOut: number;
  /** Over the last second or so; in: client to backend, out: back. */
  readonly connectionsPerSecond: number;
  readonly packetsInPerSecond: number;
  readonly bytesInPerSecond: number;
  readonly packetsOutPerSecond: number;
  readonly bytesOutPerSecond: number;
  /** From SYN to SYN-ACK, a mean in milliseconds; null: not measured. */
  readonly latencyMs: number | null;
}

/** The service, and the moment. */
export interface Statistics {
  readonly service: string;
  readonly protocol: "tcp" | "udp";
  /** Why it is called: it is new, a backend changed, or the interval is over. */
  readonly reason: "start" | "change" | "interval";
  /** Wall clock: milliseconds since 1970, and as ISO 8601 in UTC. */
  readonly nowMs: number;
  readonly now: string;
  /** `hash.seed` as a number, the same across a fleet: -2147483648..2147483647. */
  readonly seed: number;
  /** The scheduler that weights go to. */
  readonly fallback: string;
  /** Entries that a table may have (`tableSize`). */
  readonly tableSizeMax: number;
  /** Backends that take new flows. */
  readonly available: number;
}

/**
 * Who gets new flows.
 *
 * Weights: one number for each backend, in the order of the list, at least 0 and not all 0. Whole
 * numbers up to 65535 stay; others count in proportion. The fallback chooses by them.
 *
 * A table: indexes of backends, 1 to `tableSizeMax` of them. The hash of a flow chooses the entry.
 */
export type Decision =
  | { readonly weights: ArrayLike<number> }
  | { readonly table: ArrayLike<number> };

export interface Policy {
  /**
   * Called when a backend changes and once an interval, in a thread of its own; never for a packet or
   * a flow.
   *
   * @param backends - all of the service's, by address, then port
   */
  rebuild(backends: readonly Backend[], statistics: Statistics): Decision;
}
