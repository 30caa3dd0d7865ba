/**
 * A bank: the planned services in the form that the fast path reads.
 *
 * Control writes the bank that is not in use and publishes its number (H_BANK_PUBLISHED); the
 * worker takes it between two batches by changing one base offset (H_BANK_TAKEN). Control never
 * writes a bank that is published or taken. So a reload costs the worker nothing that grows with
 * the configuration.
 *
 *   header | address hash | port intervals | services | backend lists | hash slots (uint16)
 *
 * All offsets below are int32 words relative to the start of their record.
 */

/** Bank header words. Offsets of tables are bytes from the start of the bank. */
export const BANK_NUMBER = 0;
export const BANK_ADDRESSES_AT = 1;
/** Entries of the address hash less one (a power of two less one). */
export const BANK_ADDRESSES_MASK = 2;
export const BANK_INTERVALS_AT = 3;
export const BANK_SERVICES_AT = 4;
export const BANK_SERVICE_COUNT = 5;
export const BANK_BACKENDS_AT = 6;
export const BANK_HASH_SLOTS_AT = 7;
/** Full-NAT pool: first and last port, addresses. */
export const BANK_SNAT_PORT_LOW = 8;
export const BANK_SNAT_PORT_HIGH = 9;
export const BANK_SNAT_COUNT = 10;
/** hash.seed, hashed to one word: the same across a fleet. */
export const BANK_SEED = 11;
/** 1: the gateway answers ARP and announces (`device.announce`). */
export const BANK_ANNOUNCE = 12;
/** 1: `device.replies: last-hop`; 0: route. */
export const BANK_LAST_HOP = 13;
/** 1: `flows.whenFull: evict`; 0: drop. */
export const BANK_EVICT = 14;
/** Tunnels: outer IPv4 source (0: none) and four words of the outer IPv6 source. */
export const BANK_TUNNEL_SOURCE = 16;
export const BANK_TUNNEL_SOURCE_IPV6 = 17;
/** UDP port of GUE, and GUE_CHECKSUM_…: where its checksum is computed. */
export const BANK_GUE_PORT = 21;
export const BANK_GUE_CHECKSUM = 22;
export const GUE_CHECKSUM_IPV4 = 1;
export const GUE_CHECKSUM_IPV6 = 2;
/** SNAT addresses of IPv6. */
export const BANK_SNAT6_COUNT = 64;
/** Lengths of VIPs that are prefixes: how many different ones, of either family. */
export const BANK_PREFIX4_COUNT = 65;
export const BANK_PREFIX6_COUNT = 66;
/** IPv4 SNAT addresses, BANK_SNAT_COUNT words, at most SNAT_ADDRESSES_MAX (256). */
/** 1: some service limits the age of UDP flows or has none but by backend; the sweep looks at them. */
export const BANK_UDP_SWEEP = 48;
/** Which buffer holds the access lists (0, 1): admission/access-table.ts. */
export const BANK_ACCESS = 32;
/** `flows.statelessAbove`: new flows a second of all workers together; 0: off. */
export const BANK_STATELESS_ABOVE = 33;
/** SNAT addresses, BANK_SNAT_COUNT words, at most SNAT_ADDRESSES_MAX (256). */
export const BANK_SNAT_ADDRESSES = 256;
/** IPv6 SNAT addresses: what stands for each in a flow's key, and its four words, host order. */
export const BANK_SNAT6_FOLDS = 512;
export const BANK_SNAT6_ADDRESSES = 1024;
/** The different prefix lengths, longest first. */
export const BANK_PREFIX4_LENGTHS = 2048;
export const BANK_PREFIX6_LENGTHS = 2112;

/** Words of an address entry (16): an address or a prefix that the gateway knows. */
export const A_FLAGS = 0;
export const A_ADDRESS = 1;
/** First interval and count for TCP, then for UDP: sorted by port, not overlapping. */
export const A_TCP_FIRST = 2;
export const A_TCP_COUNT = 3;
export const A_UDP_FIRST = 4;
export const A_UDP_COUNT = 5;
/** `ping`: PING_ALWAYS, PING_HEALTHY with at least one backend up (control resolves it) or never. */
export const A_ANSWER_PING = 6;
/** Bits of a prefix; of an address all of its own. */
export const A_PREFIX_LENGTH = 7;
/** IPv6: the address in four words, and A_ADDRESS is 0. */
export const A_ADDRESS6 = 8;
export const ADDRESS_WORDS = 16;

/** Flags of an address entry; 0 is a free entry. */
export const A_USED = 1;
export const A_IS_VIP = 2;
export const A_IS_SNAT = 4;
export const A_IS_HOST = 8;
/**
 * The address of a nat backend: its intervals are the backend's ports (0-65535 for "the packet's"),
 * and its packets to no address of the host are owned (design 1.9 b). An address can be a backend's
 * and also the host's, never a backend's and a VIP's or SNAT's.
 */
export const A_IS_BACKEND = 16;
export const A_IS_IPV6 = 32;
/** A VIP that is a prefix: only a search for prefixes of its length finds it. */
export const A_IS_PREFIX = 64;
/** The source of tunnels: errors about outer packets come to it. */
export const A_IS_TUNNEL = 128;

/** Entry that a search for `address` starts at; the search ends at an entry whose flags are 0. */
export function addressHash(address: number, mask: number): number {
  const mixed = Math.imul(address ^ (address >>> 16), 0x9e3779b1 | 0);
  return (mixed ^ (mixed >>> 15)) & mask;
}

/** Where the search for an IPv6 address starts; the same search. */
export function addressHash6(w0: number, w1: number, w2: number, w3: number, mask: number): number {
  let mixed = Math.imul(w0 ^ (w1 >>> 16) ^ (w1 << 16), 0x9e3779b1 | 0);
  mixed = Math.imul(mixed ^ (mixed >>> 15) ^ w2, 0x85ebca6b | 0);
  mixed = Math.imul(mixed ^ (mixed >>> 13) ^ w3, 0x9e3779b1 | 0);
  return (mixed ^ (mixed >>> 15)) & mask;
}

/** Words of an interval (2). */
export const I_PORTS = 0; // low << 16 | high, both included
export const I_SERVICE = 1; // service slot
export const INTERVAL_WORDS = 2;

/**
 * Words of a service (64). Records are indexed by service slot, which is stable across reloads; a
 * removed service keeps its record without a VIP while flows of it live.
 */
export const S_USED = 0;
export const S_MODE = 1; // MODE_…
export const S_SCHEDULER = 2; // SCHEDULER_…
export const S_BACKENDS_FIRST = 3; // entry of the backend lists
export const S_BACKENDS_COUNT = 4; // entries that take new flows
export const S_HASH_FIRST = 5; // first hash slot (uint16 units from BANK_HASH_SLOTS_AT)
export const S_HASH_SIZE = 6; // slots; 0 when the scheduler has no table
export const S_OUT_OF_STATE = 7; // OUT_OF_STATE_…
export const S_ON_IDLE = 8; // 1: RST both ways
export const S_NO_BACKEND = 9; // NO_BACKEND_…
export const S_SORRY_SLOT = 10; // backend slot of the sorry server, or -1
export const S_WEIGHT_SUM = 13; // uint32
/** Affinity: what its entries belong to, group or service (service/affinity-words.ts); 0: none. */
export const S_AFFINITY = 34;
/** The service alone, where it has backends that others of its group lack; 0: it has none. */
export const S_AFFINITY_OWN = 35;
/** Bits of a client's address that count: IPv4 | IPv6 << 8. */
export const S_AFFINITY_BITS = 36;
export const S_AFFINITY_TIMEOUT_MS = 37;
/** 1: `udp.perPacket`, every datagram of a client is scheduled by itself. */
export const S_UDP_PER_PACKET = 40;
/** `udp.maxAge` in ms; 0: off. */
export const S_UDP_MAX_AGE_MS = 41;
/** `quic`: 0 off, else bytes of a server ID | rotation << 8 (rotation 0..6). */
export const S_QUIC = 42;
/** Entries (Q_…) of its server IDs, in the list of backend entries: first one and how many. */
export const S_QUIC_FIRST = 43;
export const S_QUIC_COUNT = 44;
/** 1: `passive.answers`, a UDP flow without an answer has failed. */
export const S_ANSWERS = 45;
/** Timeouts in ms, indexed by flow state (STATE_COUNT of them): S_TIMEOUTS + state. */
export const S_TIMEOUTS = 16;
/** Schedulers: changes with the slots and weights of the list; never 0. */
export const S_LIST_KEY = 27;
/** `maxLoad` in thousandths; 0: no bound. */
export const S_MAX_LOAD = 28;
/** hash.seed and the service's name and protocol, as one word: draws and first turns follow it. */
export const S_SCHEDULER_SEED = 29;
/** Weights shifted by this have a sum below 2^30. */
export const S_WEIGHT_SHIFT = 30;
/** `mss`: 0 off, MSS_AUTO, or the largest value of a SYN's option. */
export const S_MSS = 32;
/** `mtu.tooBig`: TOO_BIG_…. */
export const S_TOO_BIG = 33;
/** Admission, 48-63: ADMIT_… of what the service has; 0: nothing is asked. */
export const S_ADMISSION = 48;
/** Words of its IPv4 and IPv6 access tables, from the start of the buffer. */
export const S_ACCESS_4 = 49;
export const S_ACCESS_6 = 50;
/** Flows at once, and packets a second, of all workers together; 0: no limit. */
export const S_LIMIT_CONNECTIONS = 51;
export const S_LIMIT_PACKETS = 52;
/** New flows of one source: a second, at once; bits of an address that count. */
export const S_SOURCE_RATE = 53; // 0: no limit
export const S_SOURCE_BURST = 54;
export const S_SOURCE_BITS = 55; // IPv4 | IPv6 << 8
/** Flows at once of one backend, of all workers together; 0: no limit. */
export const S_LIMIT_BACKEND = 56;
/** SYN proxy: SYN_PROXY_…, and what the gateway's SYN-ACK says (0 or -1: learnt). */
export const S_SYN_PROXY = 57;
export const S_SYN_MSS = 58;
export const S_SYN_WINDOW_SCALE = 59; // -2: never; -1: learnt
export const S_SYN_OPTIONS = 60; // SYN_OPTION_…
/** auto: half-open flows of one worker that begin it. */
export const S_SYN_HALF_OPEN = 61;
/** 1: above BANK_STATELESS_ABOVE its packets go on without flows. */
export const S_STATELESS = 62;
/** Health checks come in through the data path, on interface S_PROBE - 1; 0: they do not. */
export const S_PROBE = 63;
export const SERVICE_WORDS = 64;

export const MSS_AUTO = -1;

/** ICMP where the packet may not be split, else fragments of the outer packet. */
export const TOO_BIG_ICMP = 0;
/** Fragments of the outer packet, whatever the inner one says. */
export const TOO_BIG_FRAGMENT = 1;

/** S_ADMISSION. */
export const ADMIT_ACCESS = 1;
export const ADMIT_LIMITS = 2;
export const ADMIT_PACKETS = 4;
export const ADMIT_SYN_PROXY = 8;
/** A refusal is a RST or port unreachable, not a drop: of access lists, and of limits. */
export const ADMIT_ACCESS_RESETS = 16;
export const ADMIT_LIMITS_RESET = 32;
export const ADMIT_BACKENDS = 64;

export const SYN_PROXY_OFF = 0;
export const SYN_PROXY_AUTO = 1;
export const SYN_PROXY_ON = 2;
/** S_SYN_OPTIONS: learn them from the backends, or what is said. */
export const SYN_OPTION_SACK = 1;
export const SYN_OPTION_TIMESTAMPS = 2;
export const SYN_OPTION_LEARN_SACK = 4;
export const SYN_OPTION_LEARN_TIMESTAMPS = 8;

export const OUT_OF_STATE_ADOPT = 0;
export const OUT_OF_STATE_RESET = 1;
export const OUT_OF_STATE_DROP = 2;

export const NO_BACKEND_RESET = 0;
export const NO_BACKEND_DROP = 1;
/** The sorry server takes the flow: S_SORRY_SLOT. Panic needs no code: control lists all backends. */
export const NO_BACKEND_SORRY = 2;

export const SCHEDULER_ROUND_ROBIN = 0;
export const SCHEDULER_WEIGHTED_ROUND_ROBIN = 1;
export const SCHEDULER_LEAST_CONNECTIONS = 2;
export const SCHEDULER_WEIGHTED_LEAST_CONNECTIONS = 3;
export const SCHEDULER_SOURCE_HASH = 4;
export const SCHEDULER_MAGLEV = 5;
export const SCHEDULER_SHORTEST_EXPECTED_DELAY = 6;
export const SCHEDULER_NEVER_QUEUE = 7;
export const SCHEDULER_RENDEZVOUS = 8;
export const SCHEDULER_POWER_OF_TWO = 9;
export const SCHEDULER_RANDOM = 10;
export const SCHEDULER_FAILOVER = 11;
export const SCHEDULER_OVERFLOW = 12;
/** What `maglev` with `maxLoad` is; no word of the configuration. */
export const SCHEDULER_BOUNDED_MAGLEV = 13;
export const SCHEDULER_LEAST_LATENCY = 14;
/** A table that a policy has handed over; no word of the configuration. */
export const SCHEDULER_POLICY = 15;
/** By number. */
export const SCHEDULER_NAMES = [
  "round-robin",
  "weighted-round-robin",
  "least-connections",
  "weighted-least-connections",
  "source-hash",
  "maglev",
  "shortest-expected-delay",
  "never-queue",
  "rendezvous",
  "power-of-two",
  "random",
  "failover",
  "overflow",
  "bounded-maglev",
  "least-latency",
] as const;
export type SchedulerName = (typeof SCHEDULER_NAMES)[number];

/** Words of a backend list entry (4). Entries are in a fixed order: by address, then port. */
export const E_SLOT = 0;
export const E_WEIGHT = 1;
export const E_ADDRESS = 2;
export const E_PORT = 3; // 0: the packet's
export const ENTRY_WORDS = 4;

/**
 * Words of a server ID's entry (8, two backend list entries): the backend's slot, and the ID as four
 * big-endian words with zeros behind it. A service's are sorted by these words, as unsigned numbers.
 */
export const Q_SLOT = 0;
export const Q_ID = 1;
export const QUIC_ENTRY_WORDS = 8;

/** No backend takes the flow. */
export const NO_BACKEND = -1;
