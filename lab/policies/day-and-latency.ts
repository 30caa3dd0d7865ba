import type { Backend, Decision, Statistics } from "headgate/policy";

/**
 * A policy for `scheduler: { module: ./day-and-latency.ts }`: backends by time of day and latency.
 *
 * By day all backends work, by their weights. At night the first half of them is enough: the others keep
 * a tenth of their share, so that their caches stay warm. A backend that takes longer to answer a SYN
 * than the fastest one gets less in the same proportion, down to a quarter.
 *
 * It is a function of what it is called with: the same on every node that sees the same.
 */

/** Hours of the day in UTC: from the first on, until the second. */
const DAY = [6, 22] as const;
const NIGHT_SHARE = 0.1;
const SLOW_SHARE_MIN = 0.25;
/** Below this, latencies are noise of the network. */
const LATENCY_MS_MIN = 0.5;

export function rebuild(backends: readonly Backend[], statistics: Statistics): Decision {
  const hour = new Date(statistics.nowMs).getUTCHours();
  const isNight = hour < DAY[0] || hour >= DAY[1];
  const ready = backends.filter((backend) => backend.takesNewFlows);
  const awake = new Set(ready.slice(0, Math.ceil(ready.length / 2)));
  const fastest = Math.min(...ready.map(latencyOf));
  const weights = backends.map((backend) => {
    const byTime = !isNight || awake.has(backend) ? 1 : NIGHT_SHARE;
    const byLatency = Math.max(SLOW_SHARE_MIN, fastest / latencyOf(backend));
    return backend.weight * byTime * Math.min(1, byLatency);
  });
  // Nobody to choose from: then it does not matter, but all 0 would be no answer.
  return { weights: weights.some((weight) => weight > 0) ? weights : weights.map(() => 1) };
}

/** A backend of which nothing is known counts as fast: it has to be tried. */
function latencyOf({ latencyMs }: Backend): number {
  return Math.max(LATENCY_MS_MIN, latencyMs ?? 0);
}
