import { assert } from "../base/assert.ts";

/**
 * Verdicts and drop reasons: closed sets. Every received frame ends in exactly one of them
 * (design 1.6), and each has a counter.
 */

/** Sent on towards backend or client. */
export const FORWARDED = 0;
/** Answered by us: ARP, ICMP echo, ICMP error or RST in answer. */
export const REPLIED = 1;
/** Left to the kernel (AF_PACKET) or written back unchanged (TUN). */
export const PASSED = 2;
/** Taken, with no frame of its own. */
export const CONSUMED = 3;
/** Dropped, for one reason. */
export const DROPPED = 4;
/** Copied to the worker that owns its flow, which gives it a verdict. */
export const HANDED_OVER = 5;
/**
 * A fragment that waits, as a copy, for the first one of its datagram (C_HELD, not one of the
 * verdicts below): it gets its verdict when that has come, or when its time is over.
 */
export const HELD = 6;
export const VERDICT_NAMES = [
  "forwarded",
  "replied",
  "passed",
  "consumed",
  "dropped",
  "handed_over",
] as const;

/**
 * Reasons of a drop. The order is part of the region's layout (counters are indexed by it): add at
 * the end, and raise LAYOUT_VERSION when one goes.
 */
export const DROP_REASONS = [
  // The frame itself
  "frame_too_short",
  "arp_malformed",
  "ipv4_header_malformed",
  "ipv4_checksum_wrong",
  "ipv4_length_wrong",
  "ipv4_options_source_route",
  "ipv4_source_invalid",
  "tcp_header_malformed",
  "tcp_flags_invalid",
  "udp_header_malformed",
  "icmp_header_malformed",
  "icmp_checksum_wrong",
  "icmp_quote_malformed",
  "vnet_header_invalid",
  "fragment_not_supported",
  "ipv6_not_supported",
  // Services and flows
  "no_service",
  "no_backend",
  "backend_gone",
  "out_of_state",
  "node_draining",
  "flow_table_full",
  "flow_index_full",
  "reply_tuple_taken",
  "snat_ports_exhausted",
  "icmp_no_flow",
  "icmp_type_not_handled",
  "ping_not_answered",
  // Sending
  "ttl_expired",
  "no_neighbour",
  "no_route",
  "too_big",
  "reply_rate_limited",
  "reply_not_allowed",
  "tx_full",
  "tx_failed",
  // AF_XDP takes a frame from the kernel: what turns out not to be ours has nowhere to go
  "not_ours",
  // Between workers
  "handover_full",
  // Fragments
  "fragment_malformed",
  "fragment_tiny",
  "fragment_overlap",
  "fragment_duplicate",
  "fragment_rate_limited",
  "fragment_table_full",
  "fragment_timeout",
  "fragment_refused",
  // Admission
  "access_denied",
  "connections_limited",
  "source_rate_limited",
  "packets_limited",
  "backends_full",
  // IPv6
  "ipv6_header_malformed",
  "ipv6_length_wrong",
  "ipv6_source_invalid",
  "ipv6_extension_malformed",
  "ipv6_extensions_too_many",
  "ipv6_routing_header",
  "udp_checksum_missing",
  "neighbour_malformed",
  "family_not_translated",
] as const;
export type DropReason = (typeof DROP_REASONS)[number];

export const DROP_REASON_COUNT = DROP_REASONS.length;
assert(DROP_REASON_COUNT <= 128, "drop counters have 128 places");

function reason(name: DropReason): number {
  return DROP_REASONS.indexOf(name);
}

export const DROP_FRAME_TOO_SHORT = reason("frame_too_short");
export const DROP_ARP_MALFORMED = reason("arp_malformed");
export const DROP_IPV4_HEADER_MALFORMED = reason("ipv4_header_malformed");
export const DROP_IPV4_CHECKSUM_WRONG = reason("ipv4_checksum_wrong");
export const DROP_IPV4_LENGTH_WRONG = reason("ipv4_length_wrong");
export const DROP_IPV4_OPTIONS_SOURCE_ROUTE = reason("ipv4_options_source_route");
export const DROP_IPV4_SOURCE_INVALID = reason("ipv4_source_invalid");
export const DROP_TCP_HEADER_MALFORMED = reason("tcp_header_malformed");
export const DROP_TCP_FLAGS_INVALID = reason("tcp_flags_invalid");
export const DROP_UDP_HEADER_MALFORMED = reason("udp_header_malformed");
export const DROP_ICMP_HEADER_MALFORMED = reason("icmp_header_malformed");
export const DROP_ICMP_CHECKSUM_WRONG = reason("icmp_checksum_wrong");
export const DROP_ICMP_QUOTE_MALFORMED = reason("icmp_quote_malformed");
export const DROP_VNET_HEADER_INVALID = reason("vnet_header_invalid");
export const DROP_FRAGMENT_NOT_SUPPORTED = reason("fragment_not_supported");
export const DROP_IPV6_NOT_SUPPORTED = reason("ipv6_not_supported");
export const DROP_NO_SERVICE = reason("no_service");
export const DROP_NO_BACKEND = reason("no_backend");
export const DROP_BACKEND_GONE = reason("backend_gone");
export const DROP_OUT_OF_STATE = reason("out_of_state");
export const DROP_NODE_DRAINING = reason("node_draining");
export const DROP_FLOW_TABLE_FULL = reason("flow_table_full");
export const DROP_FLOW_INDEX_FULL = reason("flow_index_full");
export const DROP_REPLY_TUPLE_TAKEN = reason("reply_tuple_taken");
export const DROP_SNAT_PORTS_EXHAUSTED = reason("snat_ports_exhausted");
export const DROP_ICMP_NO_FLOW = reason("icmp_no_flow");
export const DROP_ICMP_TYPE_NOT_HANDLED = reason("icmp_type_not_handled");
export const DROP_PING_NOT_ANSWERED = reason("ping_not_answered");
export const DROP_TTL_EXPIRED = reason("ttl_expired");
export const DROP_NO_NEIGHBOUR = reason("no_neighbour");
export const DROP_NO_ROUTE = reason("no_route");
export const DROP_TOO_BIG = reason("too_big");
export const DROP_REPLY_RATE_LIMITED = reason("reply_rate_limited");
export const DROP_REPLY_NOT_ALLOWED = reason("reply_not_allowed");
export const DROP_TX_FULL = reason("tx_full");
export const DROP_TX_FAILED = reason("tx_failed");
export const DROP_NOT_OURS = reason("not_ours");
export const DROP_HANDOVER_FULL = reason("handover_full");
export const DROP_FRAGMENT_MALFORMED = reason("fragment_malformed");
export const DROP_FRAGMENT_TINY = reason("fragment_tiny");
export const DROP_FRAGMENT_OVERLAP = reason("fragment_overlap");
export const DROP_FRAGMENT_DUPLICATE = reason("fragment_duplicate");
export const DROP_FRAGMENT_RATE_LIMITED = reason("fragment_rate_limited");
export const DROP_FRAGMENT_TABLE_FULL = reason("fragment_table_full");
export const DROP_FRAGMENT_TIMEOUT = reason("fragment_timeout");
export const DROP_FRAGMENT_REFUSED = reason("fragment_refused");
export const DROP_ACCESS_DENIED = reason("access_denied");
export const DROP_CONNECTIONS_LIMITED = reason("connections_limited");
export const DROP_SOURCE_RATE_LIMITED = reason("source_rate_limited");
export const DROP_PACKETS_LIMITED = reason("packets_limited");
export const DROP_BACKENDS_FULL = reason("backends_full");

/** Refusals, in the order of their counters: C_REFUSED + REFUSED_…. */
export const REFUSED_ACCESS = 0;
export const REFUSED_CONNECTIONS = 1;
export const REFUSED_SOURCE_RATE = 2;
export const REFUSED_BACKENDS = 3;
export const REFUSAL_NAMES = ["access", "connections", "source_rate", "backends"] as const;
export const DROP_IPV6_HEADER_MALFORMED = reason("ipv6_header_malformed");
export const DROP_IPV6_LENGTH_WRONG = reason("ipv6_length_wrong");
export const DROP_IPV6_SOURCE_INVALID = reason("ipv6_source_invalid");
export const DROP_IPV6_EXTENSION_MALFORMED = reason("ipv6_extension_malformed");
export const DROP_IPV6_EXTENSIONS_TOO_MANY = reason("ipv6_extensions_too_many");
export const DROP_IPV6_ROUTING_HEADER = reason("ipv6_routing_header");
export const DROP_UDP_CHECKSUM_MISSING = reason("udp_checksum_missing");
export const DROP_NEIGHBOUR_MALFORMED = reason("neighbour_malformed");
export const DROP_FAMILY_NOT_TRANSLATED = reason("family_not_translated");
