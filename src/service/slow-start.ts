import type { RegionViews } from "../state/layout.ts";
import { B_SLOW_SHARE, B_SLOW_SINCE, B_STATE } from "./backend-slots.ts";
import { BACKEND_STATES, backendState } from "./effective.ts";
import { SLOW_START_STEPS } from "./pools.ts";
import { backendSlotWord, type SlotAssignment } from "./slots.ts";

/**
 * Slow start: a backend that comes up has a share of its weight, which grows in a straight line over
 * a window, in steps. It comes up from any state but draining, in which its caches stayed warm; a
 * process that takes over finds it up as it was.
 *
 * Steps of one window length fall on the same ticks, whenever a backend came up: however many come
 * up together, banks and tables are made anew SLOW_START_STEPS times in a window, not once for each
 * of them. The first step may therefore be up to one step shorter.
 */
const UP = 1 + BACKEND_STATES.indexOf("up");
const DRAINING = 1 + BACKEND_STATES.indexOf("draining");

/**
 * Write B_SLOW_SHARE of every configured backend. Call before a bank is written, and before B_STATE
 * is (applyExistingRules): what a backend was is read there.
 *
 * @param now - tick
 * @returns tick of the next step, when a bank has to be written again; null: none is to come
 */
export function advanceSlowStart(
  views: RegionViews,
  assignment: SlotAssignment,
  now: number,
): number | null {
  const { i32 } = views;
  let next: number | null = null;
  for (const { definition, backends } of assignment.services) {
    const { slowStart } = definition;
    for (const { slot } of backends) {
      const at = backendSlotWord(views, slot);
      if (slowStart === null || backendState(views, slot).state !== "up") {
        i32[at + B_SLOW_SHARE] = 0;
        continue;
      }
      const before = i32[at + B_STATE]!;
      const comesUp = before !== UP && before !== DRAINING;
      if (comesUp) i32[at + B_SLOW_SINCE] = now;
      else if (i32[at + B_SLOW_SHARE] === 0) continue;
      const { windowMs, minimumWeight } = slowStart;
      const step = stepOf(i32[at + B_SLOW_SINCE]!, now, windowMs);
      i32[at + B_SLOW_SHARE] = shareAt(step.done, minimumWeight);
      if (step.next === null) continue;
      if (next === null || ((step.next - next) | 0) < 0) next = step.next;
    }
  }
  return next;
}

/** @returns percent, or 0 for the whole weight */
function shareAt(steps: number, minimumPercent: number): number {
  if (steps >= SLOW_START_STEPS) return 0;
  return minimumPercent + Math.floor(((100 - minimumPercent) * steps) / SLOW_START_STEPS);
}

function stepOf(
  since: number,
  now: number,
  windowMs: number,
): { readonly done: number; readonly next: number | null } {
  const elapsed = (now - since) | 0;
  // Half a round of the clock ago it looks as if it were to come: that is over.
  if (elapsed < 0) return { done: SLOW_START_STEPS, next: null };
  const stepMs = windowMs / SLOW_START_STEPS;
  const early = (since >>> 0) % stepMs;
  const done = Math.floor((elapsed + early) / stepMs);
  if (done >= SLOW_START_STEPS) return { done, next: null };
  return { done, next: (since + Math.ceil((done + 1) * stepMs - early)) | 0 };
}
