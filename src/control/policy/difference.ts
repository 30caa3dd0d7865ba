import { mix } from "../../scheduler/mix.ts";
import {
  BANK_BACKENDS_AT,
  BANK_HASH_SLOTS_AT,
  BANK_SEED,
  BANK_SERVICES_AT,
  E_SLOT,
  E_WEIGHT,
  ENTRY_WORDS,
  S_BACKENDS_COUNT,
  S_BACKENDS_FIRST,
  S_HASH_FIRST,
  S_HASH_SIZE,
  S_SCHEDULER,
  SCHEDULER_BOUNDED_MAGLEV,
  SCHEDULER_FAILOVER,
  SCHEDULER_LEAST_CONNECTIONS,
  SCHEDULER_MAGLEV,
  SCHEDULER_ROUND_ROBIN,
  SCHEDULER_SOURCE_HASH,
  SERVICE_WORDS,
} from "../../service/bank.ts";
import type { Eligible } from "../../service/effective.ts";
import { decidedList, decidedTable, type PolicyDecision } from "../../service/policy.ts";
import { H_BANK_PUBLISHED, type RegionViews } from "../../state/layout.ts";

/**
 * How differently a policy would choose than what chooses now (shadow mode).
 *
 * Where both are tables, flow by flow: the share of flows that would go to another backend. Else by the
 * shares of new flows that backends get: half the sum of what they differ by, which is the least share
 * of flows that would go elsewhere.
 */
export interface Difference {
  /** 0..1. */
  readonly ratio: number;
  readonly backends: readonly {
    readonly slot: number;
    /** Of the new flows: now, and by the policy. 0..1. */
    readonly share: number;
    readonly policyShare: number;
  }[];
}

/** Flows that two tables of different lengths are compared by: the error is below half a percent. */
const DRAWS = 16_384;
/** These know no weights: a backend is in the list or not. */
const UNWEIGHTED = new Set([SCHEDULER_ROUND_ROBIN, SCHEDULER_LEAST_CONNECTIONS]);
const BY_TABLE = new Set([SCHEDULER_SOURCE_HASH, SCHEDULER_MAGLEV, SCHEDULER_BOUNDED_MAGLEV]);

/** The service's record in the bank that was published last. */
interface Chooser {
  readonly scheduler: number;
  readonly seed: number;
  readonly list: readonly Eligible[];
  /** Positions in the list; empty where the scheduler goes by none. */
  readonly table: Uint16Array;
}

function chooserOf({ i32, u16, layout }: RegionViews, serviceSlot: number): Chooser {
  const bank = layout.banks[(i32[H_BANK_PUBLISHED]! & 1) as 0 | 1].at >> 2;
  const word = bank + (i32[bank + BANK_SERVICES_AT]! >> 2) + serviceSlot * SERVICE_WORDS;
  const first = bank + (i32[bank + BANK_BACKENDS_AT]! >> 2);
  const list = Array.from({ length: i32[word + S_BACKENDS_COUNT]! }, (_, index) => {
    const entry = first + (i32[word + S_BACKENDS_FIRST]! + index) * ENTRY_WORDS;
    const [slot, weight] = [i32[entry + E_SLOT]!, i32[entry + E_WEIGHT]!];
    return { slot, weight, address: 0, port: 0, share: 100, isDown: false };
  });
  const scheduler = i32[word + S_SCHEDULER]!;
  const at = (bank << 1) + (i32[bank + BANK_HASH_SLOTS_AT]! >> 1) + i32[word + S_HASH_FIRST]!;
  const size = BY_TABLE.has(scheduler) ? i32[word + S_HASH_SIZE]! : 0;
  return { scheduler, seed: i32[bank + BANK_SEED]!, list, table: u16.slice(at, at + size) };
}

/** @param serviceSlot - of a service whose fallback decides */
export function differenceOf(
  views: RegionViews,
  serviceSlot: number,
  decision: PolicyDecision,
): Difference {
  const now = chooserOf(views, serviceSlot);
  const policyTable = decidedTable(now.list, decision, now.seed);
  const shares =
    now.table.length > 0 ? countShares(now.table, now.list) : weightShares(now, now.list);
  const policyShares =
    policyTable === null
      ? weightShares(now, decidedList(now.list, decision))
      : countShares(policyTable, now.list);
  const backends = now.list.map(({ slot }) => ({
    slot,
    share: shares.get(slot) ?? 0,
    policyShare: policyShares.get(slot) ?? 0,
  }));
  const ratio =
    policyTable !== null && now.table.length > 0
      ? otherPicks(now.table, policyTable, now.seed)
      : backends.reduce((sum, it) => sum + Math.abs(it.share - it.policyShare), 0) / 2;
  return { ratio: Math.min(1, ratio), backends };
}

function weightShares(
  { scheduler }: Chooser,
  list: readonly Eligible[],
): ReadonlyMap<number, number> {
  if (scheduler === SCHEDULER_FAILOVER) {
    // The first of those with the largest weight has all.
    const heaviest = list.reduce((best, one) => (one.weight > best.weight ? one : best));
    return new Map([[heaviest.slot, 1]]);
  }
  const weightOf = ({ weight }: Eligible): number => (UNWEIGHTED.has(scheduler) ? 1 : weight);
  const sum = list.reduce((total, backend) => total + weightOf(backend), 0);
  return new Map(list.map((backend) => [backend.slot, weightOf(backend) / sum]));
}

function countShares(table: Uint16Array, list: readonly Eligible[]): ReadonlyMap<number, number> {
  const counts = new Float64Array(list.length);
  for (const position of table) counts[position] = counts[position]! + 1;
  return new Map(list.map(({ slot }, position) => [slot, counts[position]! / table.length]));
}

/** Share of flows that two tables choose differently for. */
function otherPicks(one: Uint16Array, other: Uint16Array, seed: number): number {
  if (one.length === other.length) {
    const differing = one.reduce((count, it, slot) => count + (it === other[slot] ? 0 : 1), 0);
    return differing / one.length;
  }
  let differing = 0;
  for (let draw = 0; draw < DRAWS; draw++) {
    const hash = mix(seed, draw, 0, 0, 0) >>> 1;
    if (one[hash % one.length] !== other[hash % other.length]) differing++;
  }
  return differing / DRAWS;
}
