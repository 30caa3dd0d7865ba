import { mix } from "./mix.ts";

/**
 * What a policy says, in numbers that schedulers work with (cold). The table itself is looked up like
 * that of maglev (maglev.ts): by the hash of the flow, whatever its length.
 */

/** Largest weight of a backend, as in a configuration. */
export const WEIGHT_MAX = 65_535;
/**
 * Fractions become shares of this: an error of one part in 8,192 of the largest weight, and a weight
 * that moved by less than that is the same, so that a table is not built anew for nothing.
 */
export const FRACTION_STEPS = 4096;

const HEIR_KEY = 0x68656972; // "heir"

/**
 * Whole weights from a policy's: those that are whole and small enough stay, others are scaled so
 * that the largest is FRACTION_STEPS. A weight above 0 stays above 0.
 *
 * @param weights - finite, none below 0, not all 0
 */
export function wholeWeights(weights: ArrayLike<number>): Int32Array {
  const given = Float64Array.from(weights);
  if (given.every((weight) => Number.isInteger(weight) && weight <= WEIGHT_MAX)) {
    return Int32Array.from(given);
  }
  const largest = given.reduce((most, weight) => Math.max(most, weight), 0);
  // Dividing first: a weight may be next to the largest number there is.
  return Int32Array.from(given, (weight) =>
    weight > 0 ? Math.max(1, Math.round((weight / largest) * FRACTION_STEPS)) : 0,
  );
}

/**
 * A table of backends with those that take no flows replaced: each of their slots goes to the owner
 * of another, drawn from a hash, so that the present ones get more in the proportion that they have.
 * No slot of a present backend changes.
 *
 * @param table - numbers of backends
 * @param positions - by number of a backend: what stands for it, or -1 when it takes no flows
 * @returns `positions` by slot; null when the table has no backend that takes flows
 */
export function handOverAbsent(
  table: Uint16Array,
  positions: readonly number[],
  seed: number,
): Uint16Array | null {
  const present = table.filter((backend) => positions[backend]! >= 0);
  if (present.length === 0) return null;
  return table.map((backend, slot) => {
    const position = positions[backend]!;
    if (position >= 0) return position;
    const heir = (mix(seed, slot, backend, HEIR_KEY, 0) >>> 1) % present.length;
    return positions[present[heir]!]!;
  });
}
