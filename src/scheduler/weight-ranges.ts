/** Shift that brings a sum of weights below 2^30: no backend's weight becomes nothing by it. */
export function weightShift(weights: readonly number[]): number {
  let shift = 0;
  const sum = weights.reduce((total, weight) => total + weight, 0);
  while (sum / 2 ** shift + weights.length >= 2 ** 30) shift++;
  return shift;
}

/**
 * The table that draws look weights up in (draw.ts): of each backend the sum of the weights up to and
 * with its own, in two 16-bit words, low half first.
 *
 * @param weights - of the backends in the order of the list, each from 1 to 65,535; at most 65,536
 */
export function buildWeightRanges(weights: readonly number[]): Uint16Array {
  const table = new Uint16Array(2 * weights.length);
  const shift = weightShift(weights);
  let end = 0;
  weights.forEach((weight, position) => {
    end += Math.max(1, weight >>> shift);
    table[2 * position] = end & 0xffff;
    table[2 * position + 1] = end >>> 16;
  });
  return table;
}
