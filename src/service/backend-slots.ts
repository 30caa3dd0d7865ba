import { assert } from "../base/assert.ts";
import {
  BACKEND_RUN_BYTES,
  BACKEND_SLOT_BYTES,
  SERVICE_RUN_BYTES,
  SERVICE_SLOT_BYTES,
} from "../state/layout.ts";

/**
 * Backend slots: what is known of one backend of one service and protocol, at a number that never
 * changes while a flow or a configuration refers to it (design 1.4). The key (service, protocol,
 * address, port) lies in the section backendKeys at the same number, as text.
 *
 * Slots are written by control alone. What the workers count of a backend or service lies at the
 * same number in each worker's own shard, a cache line each: the runs (R_…, BF_…; V_…, VF_…).
 * Sums over the workers: service/runs.ts. Each word is valid by itself.
 */

/** 0 free, 1 used. A slot becomes free only when no worker has a flow of it and no bank names it. */
export const B_USED = 0;
/** Counts uses of this number; flows carry the low 16 bits. */
export const B_GENERATION = 1;
/** Service slot. */
export const B_SERVICE = 2;
/** Protocol number, address (int32, host order), port (0: the packet's). */
export const B_PROTOCOL = 3;
export const B_ADDRESS = 4;
export const B_PORT = 5;
/** Weight of the configuration. */
export const B_WEIGHT = 6;
/** Weight set at run time, or -1; survives reload and restart. */
export const B_WEIGHT_OVERRIDE = 7;
/** ADMIN_…; survives reload and restart. */
export const B_ADMIN = 8;
/** HEALTH_…; survives restart. */
export const B_HEALTH = 9;
/** What happens to its flows: EXISTING_…. */
export const B_EXISTING = 10;
/** Tick at which EXISTING_DEADLINE becomes EXISTING_RESET. */
export const B_DEADLINE = 11;
/**
 * MTU of the path to the backend that routers have told (RFC 1191), 0: none, and the tick at which
 * it is forgotten. The one thing in a slot that workers write.
 */
export const B_PATH_MTU = 12;
export const B_PATH_MTU_UNTIL = 13;
/** 1 when the configuration that runs has it. */
export const B_CONFIGURED = 14;
/** State that control last saw the backend in, 1 + its place in BACKEND_STATES; 0: none yet. */
export const B_STATE = 15;
/** IPv6: the address in four words, host order, and B_ADDRESS is 0. IPv4: 0. */
export const B_ADDRESS6 = 16;
/**
 * What `existingFlows` says for this backend, kept here because it must outlast the
 * configuration: EXISTING_… for drained, removed << 2, down << 4, disabled << 6, ejected << 8.
 */
export const B_RULES = 26;
/** `existingFlows.deadline` in ms. */
export const B_RULES_DEADLINE_MS = 27;
/** Deadline in ms that the operator gave with drain or disable; -1: none. */
export const B_ADMIN_DEADLINE_MS = 28;
/** Tick at which control first applied the rule of B_STATE; deadlines run from here. */
export const B_STATE_SINCE = 29;
/** EJECTED_…: taken out because its traffic fails (passive checks), not because a check said so. */
export const B_EJECTED = 30;
/** Slow start: share of its weight in percent, 1..99; 0: the whole. And the tick at which it began. */
export const B_SLOW_SHARE = 31;
export const B_SLOW_SINCE = 32;
/** What people are told: 1 + place in BACKEND_STATES, and the wall clock's second at which it began. */
export const B_TOLD_STATE = 33;
export const B_TOLD_SINCE_S = 34;
/** `backends[].maxConnections`; 0: as the service says. */
export const B_MAX_CONNECTIONS = 35;
/** `backends[].priority`: its tier. */
export const B_PRIORITY = 36;
/**
 * What the backend's agent said last, which goes beside the operator's and the configuration's word:
 * the share of its weight in percent (-1: nothing), and AGENT_….
 */
export const B_AGENT_WEIGHT = 40;
export const B_AGENT = 41;
/**
 * Passive checks (control/passive.ts). Microseconds from SYN to SYN-ACK, an exponentially weighted
 * mean over all workers; 0: none was measured. And what least-latency goes by: the same, less and
 * less while no new flow is answered, so that a backend that was slow is tried again.
 */
export const B_LATENCY_US = 48;
export const B_COST_US = 49;
/** Ejected: tick at which it ends; how long ejections last by now, in multiples of the first. */
export const B_EJECTED_UNTIL = 50;
export const B_EJECTED_TIMES = 51;
/** Tick from which good time counts: of the return, or when B_EJECTED_TIMES was lowered last. */
export const B_EJECTED_SINCE = 52;
/** Ejections since the slot was taken. */
export const B_EJECTIONS = 53;
/** Raised with every ejection and return: workers then count failures from 0. */
export const B_PASSIVE_EPOCH = 54;
/** Why it is ejected: FAILED_… | failures in a row << 8. */
export const B_EJECTED_WHY = 55;
/** 1: every service of its affinity group has a backend at this address. */
export const B_AFFINITY_SHARED = 56;
/** All that it has said and not taken back, of which B_AGENT is the strongest: service/agent-state.ts. */
export const B_AGENT_SAID = 42;
/** Flows at once that it will have, which goes before the configuration's; 0: it does not say. */
export const B_AGENT_MAX_CONNECTIONS = 43;
export const BACKEND_WORDS = 64;
assert(BACKEND_WORDS * 4 === BACKEND_SLOT_BYTES, "a backend slot is one section record");

/** Run of a backend: flows that refer to the slot, and those in an active state (ActiveConn). */
export const R_FLOWS = 0;
export const R_ACTIVE = 1;
/** The same of all other workers together: control writes it, for schedulers that count. */
export const R_OTHERS_FLOWS = 2;
export const R_OTHERS_ACTIVE = 3;
/** Schedulers: where the backend stands in the worker's smooth weighted round robin; signed. */
export const R_CURRENT_WEIGHT = 15;
/** 1: as many flows as `limits.perBackend` allows, and not down at three quarters of it since. */
export const R_FULL = 14;
/** Doubles: index (run bytes / 8) + these. */
export const BF_CONNECTIONS = 2;
export const BF_PACKETS_IN = 3;
export const BF_BYTES_IN = 4;
export const BF_PACKETS_OUT = 5;
export const BF_BYTES_OUT = 6;

export const BACKEND_RUN_WORDS = 16;
assert(BACKEND_RUN_WORDS * 4 === BACKEND_RUN_BYTES, "a backend's run is one section record");

export const ADMIN_ENABLED = 0;
/** No new flows (`backend drain`). */
export const ADMIN_DRAINED = 1;
/** Out of service (`backend disable`): existing flows as `existingFlows.disabled` says. */
export const ADMIN_DISABLED = 2;
export const ADMIN_NAMES = ["enabled", "drained", "disabled"] as const;

export const HEALTH_STARTING = 0;
export const HEALTH_UP = 1;
export const HEALTH_DOWN = 2;
export const HEALTH_NAMES = ["starting", "up", "down"] as const;

/** B_EJECTED. */
export const EJECTED_NO = 0;
export const EJECTED_YES = 1;

/** B_AGENT: what HAProxy's agent-check line can say of a server. */
export const AGENT_READY = 0;
export const AGENT_DRAIN = 1;
export const AGENT_MAINTENANCE = 2;
export const AGENT_DOWN = 3;

export const EXISTING_KEEP = 0;
/** Keep until B_DEADLINE, then reset. */
export const EXISTING_DEADLINE = 1;
/** Reset at the next packet or sweep. */
export const EXISTING_RESET = 2;
/** UDP alone: balanced anew at the client's next datagram, where another backend takes flows. */
export const EXISTING_MOVE = 3;
/** UDP alone: the same for a flow without an answer; for the others from B_DEADLINE on. */
export const EXISTING_MOVE_LATER = 4;

/**
 * Service slots: a service at a stable number; key in serviceKeys.
 */
/** 0 free, 1 used. */
export const V_USED = 0;
/** 1 when the configuration that runs has it. */
export const V_CONFIGURED = 4;

export const SERVICE_SLOT_WORDS = 32;
assert(SERVICE_SLOT_WORDS * 4 === SERVICE_SLOT_BYTES, "a service slot is one section record");

/** Run of a service: whose turn it is in the backend list, a position + 1; 0: nobody had one yet. */
export const V_CURSOR = 0;
/** The list that wrr's currents are of (S_LIST_KEY); 0: none yet. */
export const V_LIST_KEY = 1;
/** Draws made, so that a seeded random choice goes on where it stopped. */
export const V_DRAWS = 2;
/** Bounded maglev, which draws nothing: load of all flows that it has sent, ever. */
export const V_LOAD_ADDED = 2;
/** Bounded maglev: the service's load as control saw it less V_LOAD_ADDED then; control writes it. */
export const V_LOAD = 3;
/** Doubles: index (run bytes / 8) + these. */
export const VF_CONNECTIONS = 2;
export const VF_PACKETS_IN = 3;
export const VF_BYTES_IN = 4;
export const VF_PACKETS_OUT = 5;
export const VF_BYTES_OUT = 6;
export const VF_DROPS = 7;

export const SERVICE_RUN_WORDS = 16;
assert(SERVICE_RUN_WORDS * 4 === SERVICE_RUN_BYTES, "a service's run is one section record");
