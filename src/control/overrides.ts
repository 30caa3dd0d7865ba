import type { BackendAction } from "../base/admin-types.ts";
import { EXIT, HeadgateError } from "../base/errors.ts";
import {
  ADMIN_DISABLED,
  ADMIN_DRAINED,
  ADMIN_ENABLED,
  B_ADMIN,
  B_ADMIN_DEADLINE_MS,
  B_EXISTING,
  B_WEIGHT_OVERRIDE,
  EXISTING_KEEP,
} from "../service/backend-slots.ts";
import { backendSlotWord, findSlots } from "../service/slots.ts";
import { parseTarget } from "../service/target.ts";
import type { RegionViews } from "../state/layout.ts";

/**
 * The slots of the configured backend that a target names: one a protocol of its service.
 *
 * @param text - `SERVICE/ADDRESS:PORT`, or `SERVICE/ADDRESS`
 * @throws HeadgateError HEADGATE_USAGE for a text that is no target, HEADGATE_NOT_FOUND when there
 *   is no such backend
 */
export function slotsOfTarget(views: RegionViews, text: string): number[] {
  const slots = findSlots(views, parseTarget(text));
  if (slots.length === 0) {
    throw new HeadgateError("HEADGATE_NOT_FOUND", `there is no backend ${text}`, EXIT.failed);
  }
  return slots;
}

/**
 * Write an action's override into a slot. It lasts until the next action, across reload, restart
 * and kill; the reconciler makes the data plane follow.
 */
export function setOverride(views: RegionViews, slot: number, action: BackendAction): void {
  const { i32 } = views;
  const at = backendSlotWord(views, slot);
  if (action.action === "weight") {
    i32[at + B_WEIGHT_OVERRIDE] = action.weight!;
    return;
  }
  i32[at + B_ADMIN_DEADLINE_MS] = action.deadlineMs ?? -1;
  // A deadline runs from the action that set it: a running one is forgotten, and set anew.
  i32[at + B_EXISTING] = EXISTING_KEEP;
  if (action.action === "reset") i32[at + B_WEIGHT_OVERRIDE] = -1;
  i32[at + B_ADMIN] = ADMIN_OF[action.action];
}

const ADMIN_OF = {
  drain: ADMIN_DRAINED,
  disable: ADMIN_DISABLED,
  enable: ADMIN_ENABLED,
  reset: ADMIN_ENABLED,
} as const;
