/**
 * Share out whole slots by weight: the largest remainders are rounded up, so no share is off by one
 * slot or more, and with equal weights no two differ by more than one.
 *
 * @param weights - each at least 0, at most 2^23, with a sum of at least 1
 * @param slots - to share out, at most 2^20
 * @param order - of two equal remainders, the one that comes first here is rounded up
 * @returns slots by position in `weights`; their sum is `slots`
 */
export function apportion(
  weights: readonly number[],
  slots: number,
  order: readonly number[],
): Int32Array {
  const sum = weights.reduce((total, weight) => total + weight, 0);
  const shares = new Int32Array(weights.length);
  // Products stay below 2^43, so remainders and quotients are exact.
  const remainders = weights.map((weight) => (weight * slots) % sum);
  let left = slots;
  weights.forEach((weight, index) => {
    shares[index] = (weight * slots - remainders[index]!) / sum;
    left -= shares[index]!;
  });
  const byRemainder = order.toSorted((a, b) => remainders[b]! - remainders[a]!);
  for (const index of byRemainder.slice(0, left)) shares[index] = shares[index]! + 1;
  return shares;
}
