import { V_DRAWS } from "../service/backend-slots.ts";
import { E_SLOT, E_WEIGHT, ENTRY_WORDS } from "../service/bank.ts";
import { drawBelow, positionOf, rangeEnd } from "./draw.ts";
import { overhead } from "./least-connections.ts";

/**
 * Power of two choices, weighted (Mitzenmacher, "The Power of Two Choices in Randomized Load
 * Balancing", IEEE TPDS 12(10), 2001; ip_vs_twos.c; HAProxy's `random(2)`, Envoy's least_request): two
 * backends by chance in proportion to the weights, and of them the one with less load per weight, the
 * first of equals. With n backends the fullest is ahead of the mean by about log log n, where plain
 * chance gives log n; and where several workers know each other's flows only as they were, they do not
 * all run to the one that was least loaded, as with lc.
 *
 * @param runsWord - first word of the worker's backend runs
 * @param tableAt - index in u16 of the table of ranges
 * @param seed - S_SCHEDULER_SEED
 * @returns first word of the entry
 */
export function pickPowerOfTwo(
  i32: Int32Array,
  u16: Uint16Array,
  tableAt: number,
  runWord: number,
  runsWord: number,
  listWord: number,
  count: number,
  seed: number,
  worker: number,
): number {
  const draws = i32[runWord + V_DRAWS]!;
  i32[runWord + V_DRAWS] = (draws + 1) | 0;
  const total = rangeEnd(u16, tableAt, count - 1);
  const drawn = drawBelow(seed, worker, draws, 0, total);
  const other = drawBelow(seed, worker, draws, 1, total);
  const one = listWord + positionOf(u16, tableAt, count, drawn) * ENTRY_WORDS;
  const two = listWord + positionOf(u16, tableAt, count, other) * ENTRY_WORDS;
  const oneLoad = overhead(i32, runsWord, i32[one + E_SLOT]!);
  const twoLoad = overhead(i32, runsWord, i32[two + E_SLOT]!);
  return twoLoad * i32[one + E_WEIGHT]! < oneLoad * i32[two + E_WEIGHT]! ? two : one;
}
