import { assert } from "../base/assert.ts";
import { BACKEND_SLOT_BYTES, SERVICE_SLOT_BYTES } from "../state/layout.ts";

/**
 * Backend slots: what is known of one backend of one service and protocol, at a number that never
 * changes while a flow or a configuration refers to it (design 1.4). The key (service, protocol,
 * address, port) lies in the section backendKeys at the same number, as text.
 *
 * PLAN words are written by control, RUN words by the worker; each is valid by itself.
 */

/** PLAN: 0 free, 1 used. A slot becomes free only when B_FLOWS is 0 and no bank names it. */
export const B_USED = 0;
/** PLAN: counts uses of this number; flows carry the low 16 bits. */
export const B_GENERATION = 1;
/** PLAN: service slot. */
export const B_SERVICE = 2;
/** PLAN: protocol number, address (int32, host order), port (0: the packet's). */
export const B_PROTOCOL = 3;
export const B_ADDRESS = 4;
export const B_PORT = 5;
/** PLAN: weight of the configuration. */
export const B_WEIGHT = 6;
/** PLAN: weight set at run time, or -1; survives reload and restart. */
export const B_WEIGHT_OVERRIDE = 7;
/** PLAN: ADMIN_…; survives reload and restart. */
export const B_ADMIN = 8;
/** PLAN: HEALTH_…; survives restart. */
export const B_HEALTH = 9;
/** PLAN: what happens to its flows: EXISTING_…. */
export const B_EXISTING = 10;
/** PLAN: tick at which EXISTING_DEADLINE becomes EXISTING_RESET. */
export const B_DEADLINE = 11;
/** RUN: flows that refer to this slot: all, and those in an active state (ipvsadm's ActiveConn). */
export const B_FLOWS = 12;
export const B_ACTIVE = 13;
/** PLAN: 1 when the configuration that runs has it. */
export const B_CONFIGURED = 14;
/** PLAN: state that control last saw the backend in, 1 + its place in BACKEND_STATES; 0: none yet. */
export const B_STATE = 15;
/**
 * PLAN: what `existingFlows` says for this backend, kept here because it must outlast the
 * configuration: EXISTING_… for drained, removed << 2, down << 4, disabled << 6.
 */
export const B_RULES = 26;
/** PLAN: `existingFlows.deadline` in ms. */
export const B_RULES_DEADLINE_MS = 27;
/** PLAN: deadline in ms that the operator gave with drain or disable; -1: none. */
export const B_ADMIN_DEADLINE_MS = 28;
/** PLAN: tick at which control first applied the rule of B_STATE; deadlines run from here. */
export const B_STATE_SINCE = 29;
/** RUN, doubles: index (slot bytes / 8) + these. */
export const BF_CONNECTIONS = 8;
export const BF_PACKETS_IN = 9;
export const BF_BYTES_IN = 10;
export const BF_PACKETS_OUT = 11;
export const BF_BYTES_OUT = 12;

export const BACKEND_WORDS = 32;
assert(BACKEND_WORDS * 4 === BACKEND_SLOT_BYTES, "a backend slot is one section record");

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

export const EXISTING_KEEP = 0;
/** Keep until B_DEADLINE, then reset. */
export const EXISTING_DEADLINE = 1;
/** Reset at the next packet or sweep. */
export const EXISTING_RESET = 2;

/**
 * Service slots: run-time state of a service at a stable number; key in serviceKeys.
 */
/** PLAN: 0 free, 1 used. */
export const V_USED = 0;
/** RUN: position of rr and wrr in the backend list, and wrr's current weight. */
export const V_CURSOR = 1;
export const V_CURRENT_WEIGHT = 2;
/** RUN: draws made, so that a seeded random choice goes on where it stopped. */
export const V_DRAWS = 3;
/** PLAN: 1 when the configuration that runs has it. */
export const V_CONFIGURED = 4;
/** RUN, doubles: index (slot bytes / 8) + these. */
export const VF_CONNECTIONS = 8;
export const VF_PACKETS_IN = 9;
export const VF_BYTES_IN = 10;
export const VF_PACKETS_OUT = 11;
export const VF_BYTES_OUT = 12;
export const VF_DROPS = 13;

export const SERVICE_SLOT_WORDS = 32;
assert(SERVICE_SLOT_WORDS * 4 === SERVICE_SLOT_BYTES, "a service slot is one section record");
