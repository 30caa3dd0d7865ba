import { PROTOCOL_UDP } from "../flow/flow-record.ts";
import { addressWord } from "../scheduler/mix.ts";
import type { RegionViews } from "../state/layout.ts";
import { agentState, agentWeight } from "./agent-state.ts";
import {
  ADMIN_DISABLED,
  ADMIN_DRAINED,
  ADMIN_ENABLED,
  B_ADMIN,
  B_ADMIN_DEADLINE_MS,
  B_CONFIGURED,
  B_DEADLINE,
  B_EJECTED,
  B_EXISTING,
  B_HEALTH,
  B_PROTOCOL,
  B_RULES,
  B_RULES_DEADLINE_MS,
  B_SLOW_SHARE,
  B_STATE,
  B_STATE_SINCE,
  B_WEIGHT,
  B_WEIGHT_OVERRIDE,
  EJECTED_YES,
  EXISTING_DEADLINE,
  EXISTING_KEEP,
  EXISTING_MOVE,
  EXISTING_MOVE_LATER,
  EXISTING_RESET,
  HEALTH_DOWN,
  HEALTH_STARTING,
} from "./backend-slots.ts";
import type { GatewayDefinition } from "./definition.ts";
import { choosePool, withShares } from "./pools.ts";
import {
  type AssignedService,
  backendSlotWord,
  type SlotAssignment,
  usedBackendSlots,
} from "./slots.ts";

/** What a backend is, all things considered: see backendState. Documented in docs/states.md. */
export const BACKEND_STATES = [
  "up",
  "starting",
  "draining",
  "down",
  "disabled",
  "removed",
  "ejected",
] as const;
export type BackendStateName = (typeof BACKEND_STATES)[number];

export interface BackendState {
  readonly state: BackendStateName;
  /** It is up. A starting one takes flows too where no backend of the service is up. */
  readonly takesNewFlows: boolean;
  /** The override, or the configuration's; of it what the agent says. */
  readonly weight: number;
  /** Why, for people; "" where health or the agent decides: who asks them knows what they said. */
  readonly reason: string;
}

/**
 * The state of the backend in a slot in use: configuration before operator before agent before
 * health before ejection.
 */
export function backendState(views: RegionViews, slot: number): BackendState {
  const { i32 } = views;
  const at = backendSlotWord(views, slot);
  const override = i32[at + B_WEIGHT_OVERRIDE]!;
  const given = override >= 0 ? override : i32[at + B_WEIGHT]!;
  const weight = agentWeight(i32, at, given);
  const is = (state: BackendStateName, reason: string): BackendState => ({
    state,
    takesNewFlows: state === "up",
    weight,
    reason,
  });
  if (i32[at + B_CONFIGURED] === 0) return is("removed", "not in the configuration");
  if (i32[at + B_ADMIN] === ADMIN_DISABLED) return is("disabled", "disabled by operator");
  if (i32[at + B_ADMIN] === ADMIN_DRAINED) return is("draining", "drained by operator");
  if (given === 0) return is("draining", override === 0 ? "weight 0 (override)" : "weight 0");
  const agent = agentState(i32, at);
  if (agent !== null) return is(agent, "");
  if (i32[at + B_HEALTH] === HEALTH_DOWN) return is("down", "");
  if (i32[at + B_EJECTED] === EJECTED_YES) return is("ejected", "");
  if (i32[at + B_HEALTH] === HEALTH_STARTING) return is("starting", "");
  return is("up", "");
}

/** A backend that takes new flows. */
export interface Eligible {
  readonly slot: number;
  /** int32, host order. */
  readonly address: number;
  /** 0: the packet's. */
  readonly port: number;
  /** At least 1; of a slow start the share that it has, to the scale of its list. */
  readonly weight: number;
  /** Percent of its weight that slow start leaves it, 1..100. */
  readonly share: number;
  /** It is down or ejected, and takes flows all the same. */
  readonly isDown: boolean;
}

/** The backends of a service that take new flows (pools.ts says which), in the order of the list. */
export function eligibleBackends(views: RegionViews, service: AssignedService): Eligible[] {
  const all = service.backends.map(({ slot, definition }) => ({
    slot,
    address: addressWord(definition.address),
    port: definition.port,
    priority: definition.priority,
    ...backendState(views, slot),
  }));
  const chosen = choosePool(all, service.definition).map(
    ({ slot, address, port, weight, state }) => ({
      slot,
      address,
      port,
      weight,
      share: views.i32[backendSlotWord(views, slot) + B_SLOW_SHARE]! || 100,
      isDown: state === "down" || state === "ejected",
    }),
  );
  return withShares(chosen, service.definition.scheduler);
}

export interface ExistingReport {
  /** Flows of some backend have to end that had not before: the worker must walk the table. */
  readonly sweep: boolean;
  /** Tick of the next deadline, when this has to be called again; null: none is running. */
  readonly nextDeadline: number | null;
}

/** Where in B_RULES the rule of a state lies; the other states keep their flows. */
const RULE_SHIFTS: Partial<Record<BackendStateName, number>> = {
  draining: 0,
  removed: 2,
  down: 4,
  disabled: 6,
  ejected: 8,
};
const RULE_MASK = 3;

/**
 * Decide what becomes of the flows of every slot (`existingFlows`). A deadline runs from the call
 * that first finds the backend in its state, in this process or one before; later calls move it
 * only when its length has changed. Whoever stores EXISTING_KEEP in B_EXISTING has it begin anew.
 *
 * @param now - tick
 */
export function applyExistingRules(
  views: RegionViews,
  _definition: GatewayDefinition,
  assignment: SlotAssignment,
  now: number,
): ExistingReport {
  const { i32 } = views;
  const usedAllTheSame = downButUsed(views, assignment);
  let sweep = false;
  let nextDeadline: number | null = null;
  for (const slot of usedBackendSlots(views)) {
    const at = backendSlotWord(views, slot);
    const before = i32[at + B_EXISTING]!;
    const existing = usedAllTheSame.has(slot) ? EXISTING_KEEP : decide(views, slot, now);
    i32[at + B_EXISTING] = existing;
    if (existing === EXISTING_RESET && before !== EXISTING_RESET) sweep = true;
    if (existing !== EXISTING_DEADLINE && existing !== EXISTING_MOVE_LATER) continue;
    const deadline = i32[at + B_DEADLINE]!;
    if (nextDeadline === null || ((deadline - nextDeadline) | 0) < 0) nextDeadline = deadline;
  }
  return { sweep, nextDeadline };
}

/** Backends that take new flows although they are down or ejected: these must not be reset. */
function downButUsed(views: RegionViews, assignment: SlotAssignment): Set<number> {
  const used = assignment.services.flatMap((service) => eligibleBackends(views, service));
  return new Set(used.filter(({ isDown }) => isDown).map(({ slot }) => slot));
}

/** @returns EXISTING_…; writes B_STATE, B_STATE_SINCE and B_DEADLINE */
function decide(views: RegionViews, slot: number, now: number): number {
  const { i32 } = views;
  const at = backendSlotWord(views, slot);
  const { state } = backendState(views, slot);
  const stateCode = 1 + BACKEND_STATES.indexOf(state);
  const isNew = i32[at + B_STATE] !== stateCode || i32[at + B_EXISTING] === EXISTING_KEEP;
  if (isNew) {
    i32[at + B_STATE] = stateCode;
    i32[at + B_STATE_SINCE] = now;
  }
  const { rule, deadlineMs } = ruleOf(views, at, state);
  const deadline = (i32[at + B_STATE_SINCE]! + deadlineMs) | 0;
  if (rule === EXISTING_KEEP && i32[at + B_PROTOCOL] === PROTOCOL_UDP) {
    // A UDP flow has no end of its own: kept for good, a busy one would never leave (docs/udp.md).
    if (state === "down") return EXISTING_MOVE;
    if (RULE_SHIFTS[state] === undefined) return EXISTING_KEEP;
    // Half a round of the clock later a deadline that is over would look like one to come.
    if (!isNew && i32[at + B_EXISTING] === EXISTING_MOVE) return EXISTING_MOVE;
    i32[at + B_DEADLINE] = deadline;
    return ((deadline - now) | 0) <= 0 ? EXISTING_MOVE : EXISTING_MOVE_LATER;
  }
  if (rule !== EXISTING_DEADLINE) return rule;
  const isSame = !isNew && i32[at + B_DEADLINE] === deadline;
  i32[at + B_DEADLINE] = deadline;
  // Half a round of the clock later a deadline that is over would look like one to come.
  if (isSame && i32[at + B_EXISTING] === EXISTING_RESET) return EXISTING_RESET;
  return ((deadline - now) | 0) <= 0 ? EXISTING_RESET : EXISTING_DEADLINE;
}

function ruleOf(
  views: RegionViews,
  at: number,
  state: BackendStateName,
): { rule: number; deadlineMs: number } {
  const { i32 } = views;
  const shift = RULE_SHIFTS[state];
  if (shift === undefined) return { rule: EXISTING_KEEP, deadlineMs: 0 };
  // A deadline that the operator gave with drain or disable beats the configuration's rule.
  const byOperator = i32[at + B_ADMIN] !== ADMIN_ENABLED && state !== "removed";
  const given = i32[at + B_ADMIN_DEADLINE_MS]!;
  if (byOperator && given >= 0) return { rule: EXISTING_DEADLINE, deadlineMs: given };
  return {
    rule: (i32[at + B_RULES]! >>> shift) & RULE_MASK,
    deadlineMs: i32[at + B_RULES_DEADLINE_MS]!,
  };
}
