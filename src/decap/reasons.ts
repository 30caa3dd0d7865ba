/**
 * What becomes of a packet that came in a tunnel: one outcome each. The place in this list is the
 * number that decapsulate() gives; the names are those of the log.
 */
export const OUTCOMES = [
  "delivered",
  "source_not_accepted",
  "outer_malformed",
  "gue_short",
  "gue_variant",
  "gue_control",
  "gue_flags",
  "gue_protocol",
  "inner_short",
  "inner_version",
  "inner_header",
  "inner_length",
  "inner_checksum",
  "inner_destination",
  "inner_source",
  "ecn",
  "device_refused",
] as const;

export type Outcome = (typeof OUTCOMES)[number];

/** To the kernel's stack, by the TUN device. */
export const DELIVERED = 0;
/** The outer source is in no prefix of `accept`. */
export const SOURCE_NOT_ACCEPTED = 1;
/** The outer header is not what the kernel says it is. */
export const OUTER_MALFORMED = 2;
/** Shorter than its GUE header says. */
export const GUE_SHORT = 3;
/** GUE variants 2 and 3 mean nothing yet. */
export const GUE_VARIANT = 4;
/** A control message (C bit): nobody has asked for one. */
export const GUE_CONTROL = 5;
/** A flag that this decapsulator does not know: its field could change what the payload means. */
export const GUE_FLAGS = 6;
/** Neither IPv4 nor IPv6 is inside. */
export const GUE_PROTOCOL = 7;
/** Less than an IP header. */
export const INNER_SHORT = 8;
/** Neither 4 nor 6, or not what the outer header says. */
export const INNER_VERSION = 9;
/** IHL below 5. */
export const INNER_HEADER = 10;
/** The inner packet says that it is longer than what came, or shorter than its header. */
export const INNER_LENGTH = 11;
/** The inner IPv4 header's checksum is wrong. */
export const INNER_CHECKSUM = 12;
/** To no VIP of the configuration. */
export const INNER_DESTINATION = 13;
/** From a VIP, a loopback address, a group or nobody. */
export const INNER_SOURCE = 14;
/** Congestion experienced outside, and a transport that knows no ECN inside (RFC 6040). */
export const ECN = 15;
/** The TUN device took it not: its queue is full, or it is down. */
export const DEVICE_REFUSED = 16;
