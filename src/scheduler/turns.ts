import { mix } from "./mix.ts";

const START_KEY = 0x74757268; // "turn"

/**
 * Where a worker begins in a list: the workers of a gateway stand evenly apart, so that they do not
 * march in step, and all of them begin at a place that the seed and the service decide, so that the
 * services of a gateway do not all begin at their first backend.
 *
 * @param seed - S_SCHEDULER_SEED
 * @param workers - at least 1
 * @param count - entries of the list, at least 1
 * @returns a position of the list
 */
export function firstTurn(seed: number, worker: number, workers: number, count: number): number {
  const start = (mix(seed, START_KEY, 0, 0, 0) >>> 1) % count;
  const apart = Math.floor((worker * count) / workers);
  return (start + apart) % count;
}

/**
 * The position whose turn it is.
 *
 * @param cursor - V_CURSOR: that position + 1; 0 where nobody has had a turn
 * @param first - firstTurn(), for that case
 * @returns a position of the list: the cursor of a list that was longer goes round in this one, and
 *   workers that stood apart still do
 */
export function turnOf(cursor: number, first: number, count: number): number {
  return cursor > 0 ? (cursor - 1) % count : first;
}
