import type { SchedulerName } from "./bank.ts";
import type { MinimumHealthy } from "./definition.ts";

/**
 * Which backends of a service take new flows (docs/pools.md), decided in this order:
 *
 *   1. whom an operator, the agent or weight 0 took out takes none, whatever follows
 *   2. panic: where fewer than `panicThreshold` percent are up of those that are up, down or
 *      ejected, everybody else does, of every tier
 *   3. those that are up, tier by tier, until `minimumHealthy` of them do
 *   4. where none is up: those that are starting, tier by tier, likewise
 *   5. where none is starting either: those that are ejected, for they pass their checks
 *   6. `noBackend: panic`: those that are down; any other `noBackend` is the fast path's
 *
 * Envoy counts hosts by priority and lets priorities overlap by its overprovisioning factor of 1.4:
 * about `minimumHealthy: 70%`, with whole tiers. HAProxy's `backup` with `allbackups` is the default
 * (1) with two tiers.
 */
export interface PoolMember {
  readonly state: string;
  /** 0 is the first tier. */
  readonly priority: number;
}

export interface PoolRules {
  readonly minimumHealthy: MinimumHealthy;
  /** Percent; 0: off. */
  readonly panicThreshold: number;
  readonly noBackend: { readonly action: string };
}

/** @returns members that take new flows, in the order of `all`; it may be empty */
export function choosePool<Member extends PoolMember>(
  all: readonly Member[],
  rules: PoolRules,
): Member[] {
  const wanted = wantedCount(all, rules.minimumHealthy);
  const inState = (state: string): Member[] => all.filter((one) => one.state === state);
  if (isPanic(all, rules.panicThreshold)) return all.filter(({ state }) => CANDIDATES.has(state));
  for (const state of ["up", "starting", "ejected"]) {
    const found = joinTiers(inState(state), wanted);
    if (found.length > 0) return found;
  }
  return rules.noBackend.action === "panic" ? inState("down") : [];
}

/** Nobody has taken these out. */
const CANDIDATES: ReadonlySet<string> = new Set(["up", "starting", "down", "ejected"]);

/** A starting backend says nothing of how many are well. */
function isPanic(all: readonly PoolMember[], thresholdPercent: number): boolean {
  if (thresholdPercent === 0) return false;
  const known = all.filter(({ state }) => CANDIDATES.has(state) && state !== "starting");
  const up = known.filter(({ state }) => state === "up");
  return up.length * 100 < thresholdPercent * known.length;
}

/** Percent are of the first tier as it is configured: it is what the service was planned for. */
function wantedCount(all: readonly PoolMember[], minimum: MinimumHealthy): number {
  if ("count" in minimum) return minimum.count;
  const first = all.reduce((least, { priority }) => Math.min(least, priority), Infinity);
  const size = all.filter(({ priority }) => priority === first).length;
  return Math.ceil((size * minimum.percent) / 100);
}

/** Whole tiers, in their order, until `wanted` members are together. */
function joinTiers<Member extends PoolMember>(
  members: readonly Member[],
  wanted: number,
): Member[] {
  let last = -1;
  let joined = 0;
  const tiers = [...new Set(members.map(({ priority }) => priority))].sort((a, b) => a - b);
  for (const tier of tiers) {
    if (joined >= wanted) break;
    last = tier;
    joined += members.filter(({ priority }) => priority === tier).length;
  }
  return members.filter(({ priority }) => priority <= last);
}

/** A backend of a list, with what slow start leaves of its weight. */
interface Weighted {
  readonly weight: number;
  /** Percent, 1..100. */
  readonly share: number;
}

/** Steps in which slow start gives a backend its weight (slow-start.ts). */
export const SLOW_START_STEPS = 10;

/** Weights stay in 16 bits: a larger one would not fit what schedulers make of it. */
const WEIGHT_MAX = 65_535;

/**
 * Weights in force. While a share is less than the whole, all weights of the list are made ten times
 * as large where they fit, so that a weight of 1 has shares too. Not where weights are more than
 * proportions: to failover they are ranks and to source-hash places of clients, which slow start
 * leaves alone, and to overflow numbers of connections.
 *
 * @returns the list with new weights, at least 1 each
 */
export function withShares<Backend extends Weighted>(
  list: readonly Backend[],
  scheduler: SchedulerName,
): Backend[] {
  if (scheduler === "failover" || scheduler === "source-hash") return [...list];
  if (list.every(({ share }) => share === 100)) return [...list];
  const most = list.reduce((largest, { weight }) => Math.max(largest, weight), 1);
  const steps = scheduler === "overflow" ? 1 : SLOW_START_STEPS;
  const factor = Math.max(1, Math.min(steps, Math.floor(WEIGHT_MAX / most)));
  return list.map((backend) => ({
    ...backend,
    weight: Math.max(1, Math.round((backend.weight * factor * backend.share) / 100)),
  }));
}
