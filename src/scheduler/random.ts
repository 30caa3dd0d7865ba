import { V_DRAWS } from "../service/backend-slots.ts";
import { ENTRY_WORDS } from "../service/bank.ts";
import { drawBelow, positionOf, rangeEnd } from "./draw.ts";

/**
 * Random: a backend by chance, in proportion to the weights (HAProxy's `random(1)`, Envoy's `random`,
 * which knows no weights). Nothing is counted, so shares are off by chance: of n flows to a backend
 * with share p two thirds of the time by less than the root of n p (1 - p).
 *
 * @param tableAt - index in u16 of the table of ranges
 * @param seed - S_SCHEDULER_SEED
 * @returns first word of the entry
 */
export function pickRandom(
  i32: Int32Array,
  u16: Uint16Array,
  tableAt: number,
  runWord: number,
  listWord: number,
  count: number,
  seed: number,
  worker: number,
): number {
  const draws = i32[runWord + V_DRAWS]!;
  i32[runWord + V_DRAWS] = (draws + 1) | 0;
  const total = rangeEnd(u16, tableAt, count - 1);
  const drawn = drawBelow(seed, worker, draws, 0, total);
  return listWord + positionOf(u16, tableAt, count, drawn) * ENTRY_WORDS;
}
