/**
 * IPv6 header (RFC 8200 section 3) and extension headers (section 4). `at` is the first byte of the
 * header.
 *
 *    0                   1                   2                   3
 *    0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1
 *   +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
 *   |Version| Traffic Class |           Flow Label                  |
 *   |         Payload Length        |  Next Header  |   Hop Limit   |
 *   |                  Source Address (16 bytes)                    |
 *   |                Destination Address (16 bytes)                 |
 *
 * Once checkIpv6() has returned IPV6_OK, no getter or setter leaves the packet, and the bytes from
 * `at + IPV6_HEADER_BYTES` to `at + ipv6TotalBytes()` are those of extension headers and transport.
 */

const PAYLOAD_LENGTH = 4;
const NEXT_HEADER = 6;
const HOP_LIMIT = 7;

/** Byte offsets of the addresses. */
export const IPV6_SOURCE_AT = 8;
export const IPV6_DESTINATION_AT = 24;
export const IPV6_HEADER_BYTES = 40;
export const IPV6_FRAGMENT_HEADER_BYTES = 8;
/** Every link takes as much (RFC 8200 section 5). */
export const IPV6_MTU_MIN = 1280;

export const IPV6_OK = 0;
/** Fewer than 40 bytes. */
export const IPV6_TOO_SHORT = 1;
export const IPV6_VERSION_WRONG = 2;
/** Payload longer than what is there (a jumbogram's length of 0 is one without payload). */
export const IPV6_LENGTH_WRONG = 3;
/** A source that no packet on a wire can have: a group or loopback (RFC 4291 2.5.3, 2.7). */
export const IPV6_SOURCE_INVALID = 4;

/**
 * Check the header. Bytes after the payload are link padding and allowed.
 *
 * @param bytes - bytes of the frame from `at` on; may be 0 or negative
 * @returns IPV6_OK, or the first finding, IPV6_…
 */
export function checkIpv6(view: DataView, at: number, bytes: number): number {
  if (bytes < IPV6_HEADER_BYTES) return IPV6_TOO_SHORT;
  if (view.getUint8(at) >>> 4 !== 6) return IPV6_VERSION_WRONG;
  if (IPV6_HEADER_BYTES + view.getUint16(at + PAYLOAD_LENGTH) > bytes) return IPV6_LENGTH_WRONG;
  const first = view.getInt32(at + IPV6_SOURCE_AT);
  if (first >>> 24 === 0xff) return IPV6_SOURCE_INVALID;
  const isLow = first === 0 && view.getInt32(at + 12) === 0 && view.getInt32(at + 16) === 0;
  return isLow && view.getInt32(at + 20) === 1 ? IPV6_SOURCE_INVALID : IPV6_OK;
}

/** Header and payload, in bytes. */
export function ipv6TotalBytes(view: DataView, at: number): number {
  return IPV6_HEADER_BYTES + view.getUint16(at + PAYLOAD_LENGTH);
}

export function ipv6NextHeader(view: DataView, at: number): number {
  return view.getUint8(at + NEXT_HEADER);
}

export function ipv6HopLimit(view: DataView, at: number): number {
  return view.getUint8(at + HOP_LIMIT);
}

export function setIpv6HopLimit(view: DataView, at: number, hopLimit: number): void {
  view.setUint8(at + HOP_LIMIT, hopLimit);
}

/** Traffic class: DSCP and ECN, as in IPv4's type of service (RFC 2474, RFC 3168). */
export function ipv6TrafficClass(view: DataView, at: number): number {
  return (view.getUint16(at) >>> 4) & 0xff;
}

/** 20 bits. */
export function ipv6FlowLabel(view: DataView, at: number): number {
  return view.getInt32(at) & 0xfffff;
}

/** Whether the destination is a group (ff00::/8). */
export function isIpv6Group(view: DataView, at: number): boolean {
  return view.getUint8(at + IPV6_DESTINATION_AT) === 0xff;
}

/** Whether the source is unspecified (::). */
export function isIpv6Unspecified(view: DataView, at: number): boolean {
  const from = at + IPV6_SOURCE_AT;
  return (
    (view.getInt32(from) |
      view.getInt32(from + 4) |
      view.getInt32(from + 8) |
      view.getInt32(from + 12)) ===
    0
  );
}

/**
 * Write a whole header; flow label 0.
 *
 * @param payloadBytes - 0..65,535
 * @param trafficClass - 0..255
 */
export function writeIpv6Header(
  view: DataView,
  at: number,
  payloadBytes: number,
  nextHeader: number,
  hopLimit: number,
  trafficClass: number,
): void {
  view.setInt32(at, 0x6000_0000 | (trafficClass << 20));
  view.setInt32(at + PAYLOAD_LENGTH, (payloadBytes << 16) | (nextHeader << 8) | hopLimit);
}

/**
 * Write an address of four words.
 *
 * @param fieldAt - `at + IPV6_SOURCE_AT` or `at + IPV6_DESTINATION_AT`
 * @param words - with the address at `word`, host order
 */
export function setIpv6Address(
  view: DataView,
  fieldAt: number,
  words: Int32Array,
  word: number,
): void {
  view.setInt32(fieldAt, words[word]!);
  view.setInt32(fieldAt + 4, words[word + 1]!);
  view.setInt32(fieldAt + 8, words[word + 2]!);
  view.setInt32(fieldAt + 12, words[word + 3]!);
}

/** Copy an address from one header to another, 16 bytes. */
export function copyIpv6Address(view: DataView, fromAt: number, toAt: number): void {
  view.setInt32(toAt, view.getInt32(fromAt));
  view.setInt32(toAt + 4, view.getInt32(fromAt + 4));
  view.setInt32(toAt + 8, view.getInt32(fromAt + 8));
  view.setInt32(toAt + 12, view.getInt32(fromAt + 12));
}

/** Extension headers (IANA, protocol numbers; RFC 8200 section 4.1). */
export const IPV6_HOP_BY_HOP = 0;
export const IPV6_ROUTING = 43;
export const IPV6_FRAGMENT = 44;
export const IPV6_DESTINATION_OPTIONS = 60;

/** Headers walked before the transport's; a packet with more is not looked into (RFC 9288). */
export const IPV6_EXTENSIONS_MAX = 8;

export const WALK_OK = 0;
/** Cut off, or a hop-by-hop header that is not the first. */
export const WALK_MALFORMED = 1;
export const WALK_TOO_MANY = 2;
/** Routing header type 0 (RFC 5095), or one of which segments are left: not for us to follow. */
export const WALK_ROUTING = 3;
/** A fragment that is not the whole packet: what lies behind its header is a piece. */
export const WALK_FRAGMENT = 4;

/** Words of a walk's result. */
export const WALK_PROTOCOL = 0;
/** Byte offset in the view of the transport header. */
export const WALK_L4_AT = 1;
/** Byte offset of the fragment header, or 0: there is none. */
export const WALK_FRAGMENT_AT = 2;
export const WALK_WORDS = 4;

/**
 * Walk from the header to the transport header: over hop-by-hop options, destination options, routing
 * headers without segments left, and the fragment header of an atomic fragment (RFC 6946). Any other
 * header counts as the transport: authentication (RFC 4302) too, since what it protects cannot be
 * translated.
 *
 * @param at - a header that is there in full
 * @param end - byte offset behind the packet, or behind what a quote has of it
 * @param result - WALK_WORDS words; what was found so far also where the answer is not WALK_OK
 * @returns WALK_…
 */
export function walkExtensions(
  view: DataView,
  at: number,
  end: number,
  result: Int32Array,
): number {
  let protocol = view.getUint8(at + NEXT_HEADER);
  let next = at + IPV6_HEADER_BYTES;
  result[WALK_FRAGMENT_AT] = 0;
  for (let headers = 0; ; headers++) {
    result[WALK_PROTOCOL] = protocol;
    result[WALK_L4_AT] = next;
    const isExtension =
      protocol === IPV6_HOP_BY_HOP ||
      protocol === IPV6_ROUTING ||
      protocol === IPV6_FRAGMENT ||
      protocol === IPV6_DESTINATION_OPTIONS;
    if (!isExtension) return WALK_OK;
    if (headers === IPV6_EXTENSIONS_MAX) return WALK_TOO_MANY;
    if (protocol === IPV6_HOP_BY_HOP && headers !== 0) return WALK_MALFORMED;
    if (next + 8 > end) return WALK_MALFORMED;
    if (protocol === IPV6_FRAGMENT) {
      result[WALK_FRAGMENT_AT] = next;
      // Offset and the flag More Fragments; the two reserved bits are ignored.
      if ((view.getUint16(next + 2) & 0xfff9) !== 0) {
        result[WALK_PROTOCOL] = view.getUint8(next);
        result[WALK_L4_AT] = next + IPV6_FRAGMENT_HEADER_BYTES;
        return WALK_FRAGMENT;
      }
      protocol = view.getUint8(next);
      next += IPV6_FRAGMENT_HEADER_BYTES;
      continue;
    }
    if (protocol === IPV6_ROUTING) {
      if (view.getUint8(next + 2) === 0 || view.getUint8(next + 3) !== 0) return WALK_ROUTING;
    }
    const bytes = (view.getUint8(next + 1) + 1) << 3;
    if (next + bytes > end) return WALK_MALFORMED;
    protocol = view.getUint8(next);
    next += bytes;
  }
}
