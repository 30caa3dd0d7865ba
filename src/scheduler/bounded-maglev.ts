import { V_LOAD, V_LOAD_ADDED } from "../service/backend-slots.ts";
import { E_SLOT, E_WEIGHT, ENTRY_WORDS } from "../service/bank.ts";
import { ACTIVE_WEIGHT, overhead } from "./least-connections.ts";
import { slotOf } from "./maglev.ts";
import { pickWeightedLeastConnections } from "./weighted-least-connections.ts";

/**
 * Maglev with bounded loads (Mirrokni, Thorup and Zadimoghaddam, "Consistent Hashing with Bounded
 * Loads", SODA 2018; `maxLoad` is their c). With m flows in the service and the new one, a backend
 * with share p of the weights may have c (m + 1) p of them, rounded up. The 5-tuple chooses a slot as in maglev;
 * a backend at its bound is passed over, and the flow goes to the next slots of the table until one
 * has room. So only flows past the bound move, and a backend that is hot for its share of keys gives
 * the excess to all others by weight. (HAProxy's hash-balance-factor and Envoy's
 * hash_balance_factor, in percent.)
 *
 * Backends at their bounds have at most 1 / c of the weight, so each further slot has room with at
 * least the chance 1 - 1 / c. PROBES slots are looked at; with c = 1.25 all of them are full for less
 * than one flow in a million. That one goes to the backend with the least load per weight, which is
 * below its bound always: bounds add up to more than there are flows.
 *
 * Flows are counted as in wlc, 256 for an active one and 1 for an inactive one. The service's total is
 * what control published last (V_LOAD) and what this worker has added since: control stores the
 * total less V_LOAD_ADDED, so that one sum of two words is both, whenever either is written.
 */

/** Slots looked at before the fallback. */
const PROBES = 64;

/** V_LOAD counts in sixteenths of an active flow, so that 2^28 flows fit in a word. */
export const LOAD_UNIT = 16;

/**
 * @param tableAt - index in u16 of the maglev table
 * @param runWord - run of the service
 * @param runsWord - first word of the worker's backend runs
 * @param flowHash - mix() of seed and 5-tuple
 * @param maxLoad - thousandths
 * @param weightSum - of the list
 * @param first - where the fallback begins
 * @returns first word of the entry
 */
export function pickBoundedMaglev(
  i32: Int32Array,
  u16: Uint16Array,
  tableAt: number,
  size: number,
  runWord: number,
  runsWord: number,
  listWord: number,
  count: number,
  flowHash: number,
  maxLoad: number,
  weightSum: number,
  first: number,
): number {
  const added = i32[runWord + V_LOAD_ADDED]!;
  const total = ((i32[runWord + V_LOAD]! + added) >>> 0) * LOAD_UNIT + ACTIVE_WEIGHT;
  i32[runWord + V_LOAD_ADDED] = (added + ACTIVE_WEIGHT / LOAD_UNIT) | 0;
  const perWeight = (total * maxLoad) / (1000 * weightSum);
  let slot = slotOf(flowHash, size);
  for (let probe = 0; probe < PROBES; probe++) {
    const entry = listWord + u16[tableAt + slot]! * ENTRY_WORDS;
    const load = overhead(i32, runsWord, i32[entry + E_SLOT]!);
    if (load < perWeight * i32[entry + E_WEIGHT]!) return entry;
    slot = slot + 1 === size ? 0 : slot + 1;
  }
  return pickWeightedLeastConnections(i32, runsWord, listWord, count, first);
}
