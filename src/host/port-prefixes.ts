/** A prefix of the 16 bits of a port: all ports whose first `bits` bits are those of `port`. */
export interface PortPrefix {
  readonly port: number;
  readonly bits: number;
}

/**
 * Cut a range of ports into the fewest prefixes, for a longest-prefix map.
 *
 * @param low - first port, 0..65535
 * @param high - last port, low..65535
 * @returns at most 30 prefixes (2 * 16 - 2), ascending, not overlapping, together exactly the range
 */
export function portPrefixes(low: number, high: number): PortPrefix[] {
  const prefixes: PortPrefix[] = [];
  let port = low;
  while (port <= high) {
    // The largest block that starts here (its size divides `port`) and does not end behind `high`.
    let size = port === 0 ? 65_536 : port & -port;
    while (port + size - 1 > high) size >>= 1;
    prefixes.push({ port, bits: 16 - (31 - Math.clz32(size)) });
    port += size;
  }
  return prefixes;
}
