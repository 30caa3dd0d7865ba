import {
  AGENT_DOWN,
  AGENT_DRAIN,
  AGENT_MAINTENANCE,
  AGENT_READY,
  B_AGENT,
  B_AGENT_MAX_CONNECTIONS,
  B_AGENT_SAID,
  B_AGENT_WEIGHT,
} from "./backend-slots.ts";

/**
 * What the agent of a backend has said last, in its slot: it survives a restart, and goes between the
 * operator's word and the health checks'. What an operator would say (ready, drain, maint) and what a
 * check would say (up, down) are kept apart, as an agent may speak of one alone.
 */

/** B_AGENT_SAID: 0 as nothing was said. */
const SAID_DRAIN = 1;
const SAID_MAINTENANCE = 2;
const SAID_DOWN = 4;

/** What a line says of a backend's state; null: nothing. */
export interface AgentWords {
  readonly weightPercent: number | null;
  /** 0: no limit of its own. */
  readonly maxConnections: number | null;
  readonly admin: "ready" | "drain" | "maint" | null;
  readonly operation: "up" | "down" | null;
}

/**
 * Take in what an agent says.
 *
 * @param at - first word of the backend's slot
 * @returns whether anything is another than before
 */
export function recordAgent(i32: Int32Array, at: number, words: AgentWords): boolean {
  const { weightPercent, maxConnections, admin, operation } = words;
  let said = i32[at + B_AGENT_SAID]!;
  if (admin !== null) {
    said &= ~(SAID_DRAIN | SAID_MAINTENANCE);
    if (admin === "drain") said |= SAID_DRAIN;
    if (admin === "maint") said |= SAID_MAINTENANCE;
  }
  if (operation !== null) said = operation === "down" ? said | SAID_DOWN : said & ~SAID_DOWN;
  const percent = weightPercent ?? i32[at + B_AGENT_WEIGHT]!;
  const most = maxConnections ?? i32[at + B_AGENT_MAX_CONNECTIONS]!;
  const isSame =
    i32[at + B_AGENT_SAID] === said &&
    i32[at + B_AGENT_WEIGHT] === percent &&
    i32[at + B_AGENT_MAX_CONNECTIONS] === most;
  i32[at + B_AGENT_SAID] = said;
  i32[at + B_AGENT_WEIGHT] = percent;
  i32[at + B_AGENT_MAX_CONNECTIONS] = most;
  i32[at + B_AGENT] = agentOf(said);
  return !isSame;
}

/** Nobody asks the agent any more. @returns whether that changes anything */
export function forgetAgent(i32: Int32Array, at: number): boolean {
  const isSame =
    i32[at + B_AGENT_SAID] === 0 &&
    i32[at + B_AGENT] === AGENT_READY &&
    i32[at + B_AGENT_WEIGHT]! < 0 &&
    i32[at + B_AGENT_MAX_CONNECTIONS] === 0;
  i32[at + B_AGENT_SAID] = 0;
  i32[at + B_AGENT] = AGENT_READY;
  i32[at + B_AGENT_WEIGHT] = -1;
  i32[at + B_AGENT_MAX_CONNECTIONS] = 0;
  return !isSame;
}

/** AGENT_…: the strongest of what was said. */
function agentOf(said: number): number {
  if ((said & SAID_MAINTENANCE) !== 0) return AGENT_MAINTENANCE;
  if ((said & SAID_DRAIN) !== 0) return AGENT_DRAIN;
  return (said & SAID_DOWN) !== 0 ? AGENT_DOWN : AGENT_READY;
}

/** A weight after the agent's share of it, rounded up: at least 1, unless either is 0. */
export function agentWeight(i32: Int32Array, at: number, weight: number): number {
  const percent = i32[at + B_AGENT_WEIGHT]!;
  if (percent < 0 || weight === 0) return weight;
  if (percent === 0) return 0;
  return Math.min(65_535, Math.ceil((weight * percent) / 100));
}

/** The state that the agent asks for; null: none. */
export function agentState(i32: Int32Array, at: number): "draining" | "disabled" | "down" | null {
  switch (i32[at + B_AGENT]) {
    case AGENT_DRAIN:
      return "draining";
    case AGENT_MAINTENANCE:
      return "disabled";
    case AGENT_DOWN:
      return "down";
    default:
      return i32[at + B_AGENT_WEIGHT] === 0 ? "draining" : null;
  }
}
