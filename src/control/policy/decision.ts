import { wholeWeights } from "../../scheduler/policy-table.ts";
import type { PolicyDecision } from "../../service/policy.ts";
import type { Backend } from "./policy.d.ts";

/**
 * The answer of a policy as a decision, or why it is none.
 *
 * @param slots - backend slots, in the order of `backends`
 * @returns a sentence when the answer is nonsense
 */
export function decisionOf(
  decided: "weights" | "table",
  numbers: Float64Array,
  backends: readonly Backend[],
  slots: readonly number[],
): PolicyDecision | string {
  const problem =
    decided === "weights" ? weightsProblem(numbers, backends) : tableProblem(numbers, backends);
  if (problem !== null) return problem;
  if (decided === "table") return { kind: "table", slots, table: Uint16Array.from(numbers) };
  const whole = wholeWeights(numbers);
  return { kind: "weights", weights: new Map(slots.map((slot, index) => [slot, whole[index]!])) };
}

function weightsProblem(numbers: Float64Array, backends: readonly Backend[]): string | null {
  if (numbers.length !== backends.length) {
    return `expected ${backends.length} weights, one for each backend, got ${numbers.length}`;
  }
  const bad = numbers.findIndex((weight) => !(weight >= 0 && Number.isFinite(weight)));
  if (bad >= 0) return `expected weights of 0 or more, got ${numbers[bad]} at index ${bad}`;
  if (numbers.every((weight) => weight === 0)) return "expected a weight above 0, got only 0";
  return nobodyProblem(backends, (index) => numbers[index]! > 0);
}

function tableProblem(numbers: Float64Array, backends: readonly Backend[]): string | null {
  const count = backends.length;
  const bad = numbers.findIndex(
    (entry) => !(Number.isInteger(entry) && entry >= 0 && entry < count),
  );
  if (bad >= 0) {
    return `expected indexes from 0 to ${count - 1} in the table, got ${numbers[bad]} at entry ${bad}`;
  }
  const named = new Set(numbers);
  return nobodyProblem(backends, (index) => named.has(index));
}

/** To send all flows where none may go is to send none. */
function nobodyProblem(
  backends: readonly Backend[],
  isChosen: (index: number) => boolean,
): string | null {
  const ready = backends.filter(({ takesNewFlows }) => takesNewFlows);
  if (ready.length === 0 || ready.some(({ index }) => isChosen(index))) return null;
  return "expected a backend that takes new flows among those chosen, got none";
}

/** Whether a bank made from one would be the same as one made from the other. */
export function isSameDecision(one: PolicyDecision | null, other: PolicyDecision | null): boolean {
  if (one === null || other === null) return one === other;
  if (one.kind === "weights") {
    if (other.kind !== "weights" || one.weights.size !== other.weights.size) return false;
    return [...one.weights].every(([slot, weight]) => other.weights.get(slot) === weight);
  }
  if (other.kind !== "table" || one.table.length !== other.table.length) return false;
  return (
    one.slots.length === other.slots.length &&
    one.slots.every((slot, index) => slot === other.slots[index]) &&
    one.table.every((entry, index) => entry === other.table[index])
  );
}
