import { handOverAbsent } from "../scheduler/policy-table.ts";
import type { Eligible } from "./effective.ts";
import type { AssignedService } from "./slots.ts";

/**
 * What a policy has decided about a service, as banks are made from it. A policy speaks of all
 * backends, at one moment; a bank is of those that take new flows now. So a decision names backends by
 * their slots, and one that takes no flows is left out of it without asking the policy again.
 *
 * A decision of which nothing is left decides nothing: the service goes by its fallback then, with the
 * weights of the configuration.
 */
export type PolicyDecision =
  | {
      readonly kind: "weights";
      /** By backend slot, 0..65535; a backend that is not in it is newer than the decision. */
      readonly weights: ReadonlyMap<number, number>;
    }
  | {
      readonly kind: "table";
      /** The backends that `table` has numbers of. */
      readonly slots: readonly number[];
      readonly table: Uint16Array;
    };

/** The decisions in force. */
export interface PolicyDecisions {
  /** Null: the fallback decides. */
  of(service: AssignedService): PolicyDecision | null;
}

export const NO_DECISIONS: PolicyDecisions = { of: () => null };

/** @returns the weight of a backend slot; null where the decision has no weights */
export function decidedWeight(decision: PolicyDecision | null, slot: number): number | null {
  if (decision?.kind !== "weights") return null;
  return decision.weights.get(slot) ?? 0;
}

/**
 * The backends that take new flows, with the weights of the decision.
 *
 * @returns the list itself where the decision says nothing of it
 */
export function decidedList(
  list: readonly Eligible[],
  decision: PolicyDecision | null,
): readonly Eligible[] {
  if (decision?.kind !== "weights") return list;
  if (inForce(list, decision) === null) return list;
  return list
    .map((backend) => {
      const weight = decidedWeight(decision, backend.slot) ?? 0;
      return { ...backend, weight, share: 100 };
    })
    .filter(({ weight }) => weight > 0);
}

/** @returns the decision; null where it gives none of these backends a flow */
export function inForce(
  list: readonly Eligible[],
  decision: PolicyDecision | null,
): PolicyDecision | null {
  if (decision === null) return null;
  if (decision.kind === "weights") {
    return list.some(({ slot }) => decidedWeight(decision, slot) !== 0) ? decision : null;
  }
  const present = new Set(list.map(({ slot }) => slot));
  const isThere = decision.slots.map((slot) => present.has(slot));
  return decision.table.some((backend) => isThere[backend] === true) ? decision : null;
}

/**
 * The table of the decision, of positions in the list.
 *
 * @param seed - BANK_SEED
 * @returns null where the decision has none, or no backend of it takes new flows
 */
export function decidedTable(
  list: readonly Eligible[],
  decision: PolicyDecision | null,
  seed: number,
): Uint16Array | null {
  if (decision?.kind !== "table") return null;
  const places = new Map(list.map(({ slot }, position) => [slot, position]));
  const positions = decision.slots.map((slot) => places.get(slot) ?? -1);
  return handOverAbsent(decision.table, positions, seed);
}
