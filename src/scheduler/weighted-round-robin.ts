import { BACKEND_RUN_WORDS, R_CURRENT_WEIGHT, V_LIST_KEY } from "../service/backend-slots.ts";
import { E_SLOT, E_WEIGHT, ENTRY_WORDS } from "../service/bank.ts";

/**
 * Smooth weighted round robin (nginx, ngx_http_upstream_round_robin.c, `ngx_http_upstream_get_peer`).
 * For each new flow:
 *
 *   current[i] += weight[i]      for every backend
 *   best        = the largest current, the first of several
 *   current[best] -= the sum of all weights
 *
 * Weights 5, 1, 1 give a a b a c a a, where ip_vs_wrr.c walks level by level: a a a a a b c. Both
 * give shares that are the weights; the smooth one sends no backend a burst. Its cost is one look at
 * every backend for each new flow, as with the schedulers that count.
 *
 * Currents lie in the backends' runs, so each worker has its own. They sum up to zero, and only
 * their differences matter. A worker begins with a ramp over the list instead of zeros: backends with
 * equal weights then have their turns in the order of the list from `first` on, and workers are in
 * different places of the same round. From such a start the flows of a backend differ by less than 2
 * from its share at any time, and a round of as many flows as the sum of the weights repeats itself.
 *
 * When the list changes (V_LIST_KEY), currents go on: a backend that comes back is where it was when
 * it went, within one round, and a new one begins in the middle. They are cut to one round either way
 * and centred, so that they stay small whatever comes and goes.
 */

/** What a weight counts here: shifted, so that sums fit into a word, but never nothing. */
export function smoothWeight(weight: number, shift: number): number {
  const shifted = weight >>> shift;
  return shifted === 0 ? 1 : shifted;
}

/**
 * @param runWord - run of the service
 * @param runsWord - first word of the worker's backend runs
 * @param listKey - S_LIST_KEY, not 0
 * @param shift - S_WEIGHT_SHIFT: the sum of all weights is below 2^30 then
 * @param first - where this worker begins
 * @returns first word of the entry
 */
export function pickWeightedRoundRobin(
  i32: Int32Array,
  runWord: number,
  runsWord: number,
  listWord: number,
  count: number,
  listKey: number,
  shift: number,
  first: number,
): number {
  if (i32[runWord + V_LIST_KEY] !== listKey) {
    if (i32[runWord + V_LIST_KEY] === 0) ramp(i32, runsWord, listWord, count, shift, first);
    else centre(i32, runsWord, listWord, count, shift);
    i32[runWord + V_LIST_KEY] = listKey;
  }
  let total = 0;
  let best = listWord;
  let bestRun = 0;
  let most = CURRENT_MIN;
  for (let index = 0; index < count; index++) {
    const entry = listWord + index * ENTRY_WORDS;
    const run = runsWord + i32[entry + E_SLOT]! * BACKEND_RUN_WORDS + R_CURRENT_WEIGHT;
    const weight = smoothWeight(i32[entry + E_WEIGHT]!, shift);
    const current = (i32[run]! + weight) | 0;
    i32[run] = current;
    total = (total + weight) | 0;
    if (current > most) {
      most = current;
      best = entry;
      bestRun = run;
    }
  }
  i32[bestRun] = (most - total) | 0;
  return best;
}

const CURRENT_MIN = -0x80000000;

function sumOf(i32: Int32Array, listWord: number, count: number, shift: number): number {
  let total = 0;
  for (let index = 0; index < count; index++) {
    total = (total + smoothWeight(i32[listWord + index * ENTRY_WORDS + E_WEIGHT]!, shift)) | 0;
  }
  return total;
}

/** From half a round ahead, at `first`, to half a round behind, before it. */
function ramp(
  i32: Int32Array,
  runsWord: number,
  listWord: number,
  count: number,
  shift: number,
  first: number,
): void {
  const total = sumOf(i32, listWord, count, shift);
  for (let turn = 0; turn < count; turn++) {
    const index = first + turn < count ? first + turn : first + turn - count;
    const slot = i32[listWord + index * ENTRY_WORDS + E_SLOT]!;
    const ahead = (total * (count - 1 - 2 * turn)) / (2 * count);
    i32[runsWord + slot * BACKEND_RUN_WORDS + R_CURRENT_WEIGHT] = Math.floor(ahead);
  }
}

/** Currents of another list: no more than a round either way, and about zero on average. */
function centre(
  i32: Int32Array,
  runsWord: number,
  listWord: number,
  count: number,
  shift: number,
): void {
  const total = sumOf(i32, listWord, count, shift);
  let sum = 0;
  for (let index = 0; index < count; index++) {
    const slot = i32[listWord + index * ENTRY_WORDS + E_SLOT]!;
    const run = runsWord + slot * BACKEND_RUN_WORDS + R_CURRENT_WEIGHT;
    const current = Math.max(-total, Math.min(total, i32[run]!));
    i32[run] = current;
    sum += current;
  }
  const mean = Math.floor(sum / count);
  for (let index = 0; index < count; index++) {
    const slot = i32[listWord + index * ENTRY_WORDS + E_SLOT]!;
    const run = runsWord + slot * BACKEND_RUN_WORDS + R_CURRENT_WEIGHT;
    i32[run] = (i32[run]! - mean) | 0;
  }
}
