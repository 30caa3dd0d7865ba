import { mix, seedWord } from "../scheduler/mix.ts";
import { weightShift } from "../scheduler/weight-ranges.ts";
import {
  S_LIST_KEY,
  S_MAX_LOAD,
  S_SCHEDULER,
  S_SCHEDULER_SEED,
  S_WEIGHT_SHIFT,
  S_WEIGHT_SUM,
  SCHEDULER_NAMES,
} from "./bank.ts";
import type { Eligible } from "./effective.ts";
import { type AssignedService, serviceKey } from "./slots.ts";

/**
 * The words of a service that its scheduler reads.
 *
 * @param word - first word of the service in the bank
 * @param list - the backends that take new flows, in the order of the list
 * @param seed - BANK_SEED
 */
export function writeSchedulerWords(
  i32: Int32Array,
  word: number,
  { definition, protocol }: AssignedService,
  list: readonly Eligible[],
  seed: number,
): void {
  const weights = list.map((backend) => backend.weight);
  i32[word + S_SCHEDULER] = SCHEDULER_NAMES.indexOf(definition.scheduler);
  i32[word + S_WEIGHT_SUM] = weights.reduce((sum, weight) => sum + weight, 0);
  i32[word + S_WEIGHT_SHIFT] = weightShift(weights);
  i32[word + S_LIST_KEY] = list.reduce((key, one) => mix(key, one.slot, one.weight, 0, 0), 0) | 1;
  i32[word + S_MAX_LOAD] = Math.round((definition.maxLoad ?? 0) * 1000);
  const name = seedWord(serviceKey(definition.name, protocol));
  i32[word + S_SCHEDULER_SEED] = mix(seed, name, 0, 0, 0);
}
