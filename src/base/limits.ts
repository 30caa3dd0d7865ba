import { assert } from "./assert.ts";

/**
 * Every bound that is not a configuration key, with its reason. Everything the data plane uses is
 * taken at start; a bound that is reached is a counted policy, never growth.
 */

/** Frames moved per receive or transmit: 64 slots of 2 KiB stay within 128 KiB of cache. */
export const BATCH_FRAMES_MAX = 64;

/**
 * Frames sent per batch: every received one, and as many of our own making (RST at expiry, further
 * fragments, gratuitous ARP). Own frames beyond it wait for the next batch or are not made.
 */
export const OUT_FRAMES_MAX = 2 * BATCH_FRAMES_MAX;

/** Interfaces of one gateway. */
export const INTERFACES_MAX = 16;

/** Data-plane threads of one gateway (`device.workers`). */
export const WORKERS_MAX = 16;

/** Backend slots of one gateway: their numbers have 20 bits in a flow (flow/flow-record.ts). */
export const BACKENDS_MAX = 1 << 20;

/** Highest number of a processor: CPU_SETSIZE of glibc less one. */
export const CPU_MAX = 1023;

/** Prefixes of all access lists together (`limits.accessPrefixes`). */
export const ACCESS_PREFIXES_MAX = 1 << 24;

/** Token buckets of sources (`limits.sources`). */
export const SOURCES_MAX = 1 << 24;

/**
 * Clients that affinity remembers (`limits.affinity`): a flow's word names one of at most 2^22 entries
 * (flow/affinity-table.ts).
 */
export const AFFINITY_MAX = 1 << 20;

/** Sets of that table looked at by its sweep in one batch. */
export const AFFINITY_SWEEP_SETS = 64;

/** Flow index entries looked at before an insert gives up: two buckets of eight. */
export const INDEX_BUCKET_ENTRIES = 8;

/** Rows looked at for an eviction when the flow table is full (design section 3, `whenFull`). */
export const EVICT_LOOKS = 8;

/** Ports tried for a full-NAT flow before `snat_ports_exhausted` (design section 2). */
export const SNAT_PROBES_MAX = 128;

/** Rows looked at by the expiry sweep in one batch; bounds the time a batch can take. */
export const SWEEP_ROWS_MAX = 4096;

/** Next hops known at once; the rest are `no_neighbour` until one is given up. */
export const HOPS_MAX = 4096;

/** Addresses of the SNAT pool. */
export const SNAT_ADDRESSES_MAX = 256;

/** Routes kept for `replies: route`. */
export const ROUTES_MAX = 1024;

/** RST and ICMP that we make: tokens added a second, and the most that gather (design 1.7). */
export const REPLY_TOKENS_PER_SECOND = 1000;
export const REPLY_TOKENS_BURST = 1000;

/** Other backends tried for a new flow whose reply tuple is taken, before the drop. */
export const REPLY_TUPLE_TRIES = 8;

/** Other backends looked at for a new flow whose backend is full (`limits.perBackend`). */
export const FULL_BACKEND_LOOKS = 64;

/** Bytes of an ICMP error that we make, at most (RFC 1812 4.3.2.3). */
export const ICMP_ERROR_BYTES_MAX = 576;

/** How long what a router has told of a path's MTU is believed (RFC 1191 section 6.3). */
export const PATH_MTU_LIFETIME_MS = 600_000;

/**
 * Datagrams in fragments that a worker follows at once (flow/fragments.ts): 64 bytes and a bitmap of
 * 1 KiB each, 4.3 MiB.
 */
export const FRAGMENT_ENTRIES = 4096;

/** Entries of one set of that table: all that a search looks at. */
export const FRAGMENT_WAYS = 8;

/**
 * Datagrams in fragments that a worker begins to follow: tokens added a second, and the most that
 * gather. It is what a flood of fragments can cost, and it gives an entry 400 ms before it has to
 * make room, which is long between two fragments of one datagram.
 */
export const FRAGMENT_TOKENS_PER_SECOND = 10_000;
export const FRAGMENT_TOKENS_BURST = 4096;

/** How long a datagram's fragments are followed: as long as Linux puts one together (ip_frag_time). */
export const FRAGMENT_TIMEOUT_MS = 30_000;

/** Copies of fragments that came before the first one of their datagram, in all and of one datagram. */
export const FRAGMENTS_HELD_MAX = 256;
export const FRAGMENTS_HELD_OF_DATAGRAM_MAX = 64;

/** How long such a copy waits: fragments that overtake one another do so within milliseconds. */
export const FRAGMENT_HELD_MS = 2000;

/**
 * How far a RST or FIN may lie beyond the last acknowledgement of the other side and still end a flow:
 * the largest window that Linux offers by default is 3 MiB (half of tcp_rmem's 6 MiB).
 */
export const SEQUENCE_WINDOW_BYTES = 4 << 20;

/**
 * Longest QUIC server ID: a connection ID of version 1 has 20 bytes (RFC 9000 section 17.2), less the
 * first one and a nonce of at least 4.
 */
export const QUIC_SERVER_ID_BYTES_MAX = 15;

/** Highest configuration rotation: 7 says that a connection ID is not to be routed by. */
export const QUIC_ROTATION_MAX = 6;

/** Drop samples taken per millisecond: a flood of bad frames must not pay for copies. */
export const DROP_SAMPLES_PER_TICK = 2;

/** Headers of dropped frames kept for `get drops`. */
export const DROP_SAMPLES = 64;

/** Bytes kept of each sampled frame. */
export const DROP_SAMPLE_BYTES = 96;

assert((BATCH_FRAMES_MAX & (BATCH_FRAMES_MAX - 1)) === 0, "BATCH_FRAMES_MAX is a power of two");
assert(SNAT_PROBES_MAX <= 1024, "a port search is bounded");
