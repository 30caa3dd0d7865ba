/**
 * The Internet checksum (RFC 1071) and its incremental update (RFC 1624 eqn 3).
 *
 * Words    All sums are of big-endian 16-bit words. The sum does not depend on byte order (RFC 1071
 *          2.B) as long as one is used everywhere; this one is what `getUint16` reads.
 * Delta    A 16-bit one's complement difference, new minus old. Deltas of several fields add up
 *          (`add16`); the way back has the negated one (`negate16`). So a flow keeps one delta for
 *          its addresses and one for addresses and ports, and a packet costs one addition.
 * Complete A checksum field holds the complement of the sum: `updateChecksum`.
 * Partial  With NEEDS_CSUM (virtio_net_hdr) the field holds the sum of the pseudo header alone, not
 *          complemented; whoever sends the frame adds the rest. Then the addresses' delta goes in
 *          with `updatePartial`, and the ports' must not: they are not in the pseudo header
 *          (net/core/utils.c, inet_proto_csum_replace4).
 * Zero     0 and 0xffff are the same number. Eqn 3 gives 0 where it has the choice, as a full
 *          computation does. UDP gives 0 a meaning of its own: see wire/udp.ts.
 */

/**
 * Add the carries back in (RFC 1071 2.A).
 *
 * @param sum - any sum of words below 2^32, as a number or as its int32
 * @returns 0..0xffff; 0 only for 0
 */
export function fold(sum: number): number {
  const once = (sum & 0xffff) + (sum >>> 16);
  return (once & 0xffff) + (once >>> 16);
}

/** One's complement sum of two 16-bit numbers. */
export function add16(a: number, b: number): number {
  const sum = a + b;
  return (sum & 0xffff) + (sum >>> 16);
}

/** The delta of the opposite direction. */
export function negate16(delta: number): number {
  return ~delta & 0xffff;
}

/**
 * Delta of one 32-bit field, such as an address or a pair of ports: m' - m of RFC 1624 eqn 3.
 *
 * @param oldWord - int32 or uint32
 * @param newWord - int32 or uint32
 * @returns 16-bit delta; 0xffff (minus zero) when nothing changes
 */
export function difference32(oldWord: number, newWord: number): number {
  return fold((~oldWord & 0xffff) + (~oldWord >>> 16) + (newWord & 0xffff) + (newWord >>> 16));
}

/** Delta of one 16-bit field: see difference32. */
export function difference16(oldWord: number, newWord: number): number {
  return add16(~oldWord & 0xffff, newWord & 0xffff);
}

/**
 * The checksum field after a change, complete checksums: HC' = ~(~HC + ~m + m') (RFC 1624 eqn 3).
 *
 * @param checksum - the field, 16 bits; a wrong checksum stays as wrong as it was
 * @param delta - 16 bits
 * @returns the new field, 16 bits
 */
export function updateChecksum(checksum: number, delta: number): number {
  const sum = (~checksum & 0xffff) + delta;
  return ~((sum & 0xffff) + (sum >>> 16)) & 0xffff;
}

/**
 * The checksum field after a change of the pseudo header, partial checksums (NEEDS_CSUM).
 *
 * @param sum - the field: folded sum of the pseudo header, not complemented
 * @param delta - 16 bits, of addresses only
 * @returns the new field, 16 bits
 */
export function updatePartial(sum: number, delta: number): number {
  return add16(sum, delta);
}

/**
 * Sum of bytes, word by word; an odd last byte counts as the high half of a word (RFC 1071 1). The
 * full computation: 20 ns for a header, near a microsecond for 1500 bytes, so not for every packet.
 *
 * @param at - first byte; any alignment
 * @param bytes - 0..65,536, all inside the view
 * @param initial - a sum to go on from (pseudo header, earlier bytes of even number), below 2^32
 * @returns folded sum, 16 bits, not complemented: the checksum is `negate16` of it
 */
export function sumBytes(view: DataView, at: number, bytes: number, initial = 0): number {
  let sum = fold(initial);
  let next = at;
  // At most 2^16 bytes of 0xff and the initial value sum up to less than 2^32: `| 0` keeps every
  // bit, and fold() reads it as unsigned.
  for (const end = at + (bytes & ~3); next < end; next += 4) {
    const word = view.getInt32(next);
    sum = (sum + (word >>> 16) + (word & 0xffff)) | 0;
  }
  if ((bytes & 2) !== 0) {
    sum = (sum + view.getUint16(next)) | 0;
    next += 2;
  }
  if ((bytes & 1) !== 0) sum = (sum + (view.getUint8(next) << 8)) | 0;
  return fold(sum);
}

/**
 * Sum of the IPv4 pseudo header: addresses, protocol, length (RFC 9293 3.1, RFC 768).
 *
 * @param source - int32
 * @param destination - int32
 * @param l4Bytes - header and data of TCP or UDP, 0..65,535
 * @returns folded sum, 16 bits, not complemented: what a partial checksum field holds
 */
export function pseudoSumIpv4(
  source: number,
  destination: number,
  protocol: number,
  l4Bytes: number,
): number {
  return fold(
    (source >>> 16) +
      (source & 0xffff) +
      (destination >>> 16) +
      (destination & 0xffff) +
      protocol +
      l4Bytes,
  );
}

/**
 * Sum of the IPv6 pseudo header (RFC 8200 section 8.1): addresses of the header at `ipAt`, length,
 * protocol.
 *
 * @param protocol - of the transport, behind all extension headers
 * @param l4Bytes - header and data of the transport
 * @returns folded sum, 16 bits, not complemented
 */
export function pseudoSumIpv6(
  view: DataView,
  ipAt: number,
  protocol: number,
  l4Bytes: number,
): number {
  return sumBytes(view, ipAt + 8, 32, protocol + l4Bytes);
}
