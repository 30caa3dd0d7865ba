/**
 * The positions of a list from the largest weight to the least; of equal weights the one that stands
 * first in the list, whose order is that of addresses and ports, so that every node has the same.
 *
 * @param weights - of the backends in the order of the list, at most 65,536
 */
export function buildWeightOrder(weights: readonly number[]): Uint16Array {
  return Uint16Array.from([...weights.keys()].sort((a, b) => weights[b]! - weights[a]! || a - b));
}
