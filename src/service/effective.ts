import type { RegionViews } from "../state/layout.ts";
import {
  ADMIN_DISABLED,
  ADMIN_DRAINED,
  ADMIN_ENABLED,
  B_ADMIN,
  B_ADMIN_DEADLINE_MS,
  B_CONFIGURED,
  B_DEADLINE,
  B_EXISTING,
  B_HEALTH,
  B_RULES,
  B_RULES_DEADLINE_MS,
  B_WEIGHT,
  B_WEIGHT_OVERRIDE,
  EXISTING_DEADLINE,
  EXISTING_KEEP,
  EXISTING_RESET,
  HEALTH_DOWN,
  HEALTH_STARTING,
} from "./backend-slots.ts";
import type { GatewayDefinition } from "./definition.ts";
import {
  type AssignedService,
  backendSlotWord,
  type SlotAssignment,
  usedBackendSlots,
} from "./slots.ts";

/** What a backend is, all things considered: configuration, operator, health. */
export type BackendStateName = "up" | "starting" | "draining" | "down" | "disabled" | "removed";

export interface BackendState {
  readonly state: BackendStateName;
  /** Up; `starting` counts only where no backend of the service is up. */
  readonly takesNewFlows: boolean;
  /** The override, or the configuration's. */
  readonly weight: number;
  /** Why, for people; "" where health alone decides. */
  readonly reason: string;
}

/** The state of the backend in a slot in use. */
export function backendState(views: RegionViews, slot: number): BackendState {
  const at = backendSlotWord(views, slot);
  const { i32 } = views;
  const override = i32[at + B_WEIGHT_OVERRIDE]!;
  const weight = override >= 0 ? override : i32[at + B_WEIGHT]!;
  const not = (state: BackendStateName, reason: string): BackendState => ({
    state,
    takesNewFlows: false,
    weight,
    reason,
  });
  if (i32[at + B_CONFIGURED] === 0) return not("removed", "not in the configuration");
  if (i32[at + B_ADMIN] === ADMIN_DISABLED) return not("disabled", "disabled by operator");
  if (i32[at + B_ADMIN] === ADMIN_DRAINED) return not("draining", "drained by operator");
  if (weight === 0) return not("draining", override === 0 ? "weight 0 (override)" : "weight 0");
  if (i32[at + B_HEALTH] === HEALTH_DOWN) return not("down", "");
  if (i32[at + B_HEALTH] === HEALTH_STARTING) return not("starting", "");
  return { state: "up", takesNewFlows: true, weight, reason: "" };
}

/** A backend that takes new flows, in the order of the list. */
export interface Eligible {
  readonly slot: number;
  readonly address: number;
  readonly port: number;
  readonly weight: number;
  /** It is down, and here because of panic. */
  readonly isDown: boolean;
}

/**
 * The backends of a service that take new flows: those that are up; where none is, those that are
 * starting; where none is either and `noBackend` says panic, all that the operator has not taken out.
 */
export function eligibleBackends(views: RegionViews, service: AssignedService): Eligible[] {
  const all = service.backends.map(({ slot, definition }) => ({
    slot,
    address: definition.address.value,
    port: definition.port,
    ...backendState(views, slot),
  }));
  const inState = (...states: BackendStateName[]): Eligible[] =>
    all
      .filter((backend) => states.includes(backend.state))
      .map(({ slot, address, port, weight, state }) => ({
        slot,
        address,
        port,
        weight,
        isDown: state === "down",
      }));
  const up = inState("up");
  if (up.length > 0) return up;
  const starting = inState("starting");
  if (starting.length > 0 || service.definition.noBackend.action !== "panic") return starting;
  return inState("down");
}

export interface ExistingReport {
  /** Some flows have to end now: the worker must walk the table. */
  readonly sweep: boolean;
  /** Tick of the next deadline, or null. */
  readonly nextDeadline: number | null;
}

/** Where in B_RULES a state's rule lies; the other states keep their flows. */
const RULE_SHIFT: Partial<Record<BackendStateName, number>> = {
  draining: 0,
  removed: 2,
  down: 4,
  disabled: 6,
};

/**
 * Decide what becomes of the flows of every slot (`existingFlows`). A deadline runs from the first
 * call that finds the state, and is not moved by later ones.
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
  let sweep = false;
  let nextDeadline: number | null = null;
  const panicking = downButUsed(views, assignment);
  for (const slot of usedBackendSlots(views)) {
    const at = backendSlotWord(views, slot);
    const before = i32[at + B_EXISTING]!;
    const { rule, deadlineMs } = panicking.has(slot) ? KEEP : ruleOf(views, slot);
    let existing = rule;
    if (rule === EXISTING_DEADLINE) {
      const runs = before === EXISTING_DEADLINE || before === EXISTING_RESET;
      if (!runs) i32[at + B_DEADLINE] = (now + deadlineMs) | 0;
      const left = (i32[at + B_DEADLINE]! - now) | 0;
      if (left <= 0) existing = EXISTING_RESET;
      else if (nextDeadline === null || ((i32[at + B_DEADLINE]! - nextDeadline) | 0) < 0) {
        nextDeadline = i32[at + B_DEADLINE]!;
      }
    }
    i32[at + B_EXISTING] = existing;
    if (existing === EXISTING_RESET && before !== EXISTING_RESET) sweep = true;
  }
  return { sweep, nextDeadline };
}

const KEEP = { rule: EXISTING_KEEP, deadlineMs: 0 } as const;

/** Backends that take new flows although they are down: what panic opens must not be reset. */
function downButUsed(views: RegionViews, assignment: SlotAssignment): Set<number> {
  const panics = assignment.services.filter(
    ({ definition }) => definition.noBackend.action === "panic",
  );
  const used = panics.flatMap((service) => eligibleBackends(views, service));
  return new Set(used.filter((backend) => backend.isDown).map((backend) => backend.slot));
}

function ruleOf(views: RegionViews, slot: number): { rule: number; deadlineMs: number } {
  const at = backendSlotWord(views, slot);
  const { i32 } = views;
  const { state } = backendState(views, slot);
  const shift = RULE_SHIFT[state];
  if (shift === undefined) return KEEP;
  const byOperator = i32[at + B_ADMIN] !== ADMIN_ENABLED && state !== "removed";
  const given = i32[at + B_ADMIN_DEADLINE_MS]!;
  if (byOperator && given >= 0) return { rule: EXISTING_DEADLINE, deadlineMs: given };
  return { rule: (i32[at + B_RULES]! >>> shift) & 3, deadlineMs: i32[at + B_RULES_DEADLINE_MS]! };
}
