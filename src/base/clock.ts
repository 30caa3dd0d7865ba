/**
 * The tick that flows, slots and counters are stamped with: CLOCK_MONOTONIC in milliseconds, its
 * low 32 bits as int32. Compare two ticks as `(a - b) | 0`: right while they are less than 2^31 ms
 * (24 days) apart.
 *
 * Control plane only: it makes a BigInt. The data plane reads the tick of its batch, which the
 * addon takes from the same clock.
 *
 * @returns int32; wraps every 49.7 days
 */
export function monotonicMs(): number {
  return Number((process.hrtime.bigint() / 1_000_000n) & 0xffff_ffffn) | 0;
}
