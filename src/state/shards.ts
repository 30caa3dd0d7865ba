import { type RegionViews, type Shard, W_FLOWS_HIGH_WATER, W_FLOWS_USED } from "./layout.ts";

/** What the workers say of themselves, read over all shards (control plane; cold). */

/** Live flows. */
export function flowsUsed({ i32, layout }: RegionViews): number {
  return layout.shards.reduce(
    (sum, { workerWord }) => sum + Math.max(0, Atomics.load(i32, workerWord + W_FLOWS_USED)),
    0,
  );
}

/** Rows of a shard that may have a flow: whatever is above was never used since take-over. */
export function flowRows({ i32 }: RegionViews, { workerWord, flowCapacity }: Shard): number {
  const highWater = Atomics.load(i32, workerWord + W_FLOWS_HIGH_WATER);
  return Math.min(Math.max(0, highWater), flowCapacity);
}

/**
 * Whether every worker has stored `value` at a word of its header.
 *
 * @param word - W_…
 */
export function allWorkersHave({ i32, layout }: RegionViews, word: number, value: number): boolean {
  return layout.shards.every(({ workerWord }) => Atomics.load(i32, workerWord + word) === value);
}

/**
 * Sum of a counter over the workers.
 *
 * @param index - C_…
 */
export function counterTotal({ f64, layout }: RegionViews, index: number): number {
  return layout.shards.reduce((sum, { counters }) => sum + f64[(counters.at >> 3) + index]!, 0);
}
