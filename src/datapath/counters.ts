import { assert } from "../base/assert.ts";
import { COUNTERS_BYTES } from "../state/layout.ts";
import { DROP_REASON_COUNT } from "./verdict.ts";

/**
 * Counters of a worker: doubles in the section `counters` of its shard, indexed from its start. The
 * worker adds, everybody reads. `received + handed in = forwarded + replied + passed + consumed +
 * drops + handed out + held` after every batch (design 1.6).
 */
export const C_RECEIVED = 0;
export const C_FORWARDED = 1;
export const C_REPLIED = 2;
export const C_PASSED = 3;
export const C_CONSUMED = 4;
export const C_DROPPED = 5;
/** Frames handed over to other workers, and by them to this one. */
export const C_HANDED_OUT = 6;
export const C_HANDED_IN = 27;
export const C_HELD = 28;
/** Frames of our own making: RST at expiry, gratuitous ARP, further fragments. */
export const C_ORIGINATED = 7;
/** Own frames that could not be sent or had no token. */
export const C_ORIGINATED_LOST = 8;
export const C_MISSED = 9;
export const C_RECEIVED_BYTES = 10;
export const C_SENT_BYTES = 11;
export const C_BATCHES = 12;
export const C_FLOWS_CREATED = 13;
export const C_FLOWS_EXPIRED = 14;
export const C_FLOWS_EVICTED = 15;
export const C_FLOWS_RESET = 16;
export const C_FLOWS_TAKEN_OVER = 17;
export const C_FLOWS_TAKE_OVER_DROPPED = 18;
export const C_FLOWS_TAKE_OVER_NO_ROOM = 19;
export const C_RST_SENT = 20;
export const C_ICMP_ERRORS_SENT = 21;
export const C_ICMP_ERRORS_TRANSLATED = 22;
export const C_ARP_REPLIES = 23;
export const C_ECHO_REPLIES = 24;
export const C_NATIVE_CALLS = 25;
export const C_SENT = 26;
/** New flows refused by admission, by what refused them, also where the answer was a RST: admit.ts. */
export const C_REFUSED = 48;
/** SYN-ACKs with a cookie, ACKs that brought one back, ACKs that brought a wrong one. */
export const C_SYN_COOKIES_SENT = 56;
export const C_SYN_COOKIES_ACCEPTED = 57;
export const C_SYN_COOKIES_REJECTED = 58;
/** SYNs that were sent to a backend again. */
export const C_SYN_RETRANSMITTED = 59;
/** Packets that went to a backend without a flow: stateless.ts. */
export const C_STATELESS_PACKETS = 60;
/** Drops by reason: C_DROPS + DROP_…. */
export const C_DROPS = 64;

/** Affinity (affinity.ts): new flows that went where their client's entry said; entries made; */
export const C_AFFINITY_HITS = 232;
export const C_AFFINITY_CREATED = 233;
/** entries that got another backend, since theirs takes no flows; entries that gave way to another; */
export const C_AFFINITY_MOVED = 234;
export const C_AFFINITY_EVICTED = 235;
/** flows whose client got no entry for want of room; entries taken over, or left behind then. */
export const C_AFFINITY_NO_ROOM = 236;
export const C_AFFINITY_TAKEN_OVER = 237;
export const C_AFFINITY_TAKE_OVER_LOST = 238;

assert(C_DROPS + DROP_REASON_COUNT <= C_AFFINITY_HITS, "drops end before the next counters");
assert((C_AFFINITY_TAKE_OVER_LOST + 1) * 8 <= COUNTERS_BYTES, "every counter has its place");
