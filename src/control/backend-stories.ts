import type { Log } from "../base/log.ts";
import { B_TOLD_SINCE_S, B_TOLD_STATE } from "../service/backend-slots.ts";
import { BACKEND_STATES, type BackendStateName, backendState } from "../service/effective.ts";
import { backendSlotWord, readBackendKey, usedBackendSlots } from "../service/slots.ts";
import type { RegionViews } from "../state/layout.ts";

/**
 * When and why every backend's state changed last: one log line a change, and what `get backends`
 * shows. The time of a change lies in the slot: it outlasts the process that saw it.
 */
export interface BackendStories {
  /** Look at all slots; call whenever the data plane has taken a change. */
  update(): void;
  of(slot: number): { readonly reason: string; readonly since: string };
}

interface Story {
  readonly key: string;
  readonly state: string;
  readonly reason: string;
  readonly since: string;
}

const NO_STORY = { reason: "", since: "" };

/** @param checkReasonOf - what the health check that decided a slot's health found */
export function createBackendStories(
  views: RegionViews,
  log: Log,
  checkReasonOf: (slot: number) => string,
): BackendStories {
  let stories = new Map<number, Story>();
  let isFirst = true;

  function update(): void {
    const next = new Map<number, Story>();
    for (const slot of usedBackendSlots(views)) {
      const backend = readBackendKey(views, slot);
      if (backend === null) continue;
      const key = `${backend.service} ${backend.protocol} ${backend.address}:${backend.port}`;
      const { state, reason: stateReason } = backendState(views, slot);
      const reason = stateReason || checkReasonOf(slot);
      const old = stories.get(slot);
      const was = old?.key === key ? old : undefined;
      const since = sinceOf(views, slot, state);
      if (was?.state === state) {
        next.set(slot, { ...was, reason });
        continue;
      }
      next.set(slot, { key, state, reason, since });
      if (isFirst || (was === undefined && state === "up")) continue;
      const fields = {
        service: backend.service,
        backend: `${backend.address}:${backend.port}`,
        protocol: backend.protocol,
        state,
        previous: was?.state ?? "new",
        reason,
      };
      if (state === "down" || state === "ejected") log.warn("backend_state", fields);
      else log.info("backend_state", fields);
    }
    stories = next;
    isFirst = false;
  }

  return { update, of: (slot) => stories.get(slot) ?? NO_STORY };
}

/** When the backend came into this state, which may be now. */
function sinceOf(views: RegionViews, slot: number, state: BackendStateName): string {
  const { i32 } = views;
  const at = backendSlotWord(views, slot);
  const code = 1 + BACKEND_STATES.indexOf(state);
  if (i32[at + B_TOLD_STATE] !== code) {
    i32[at + B_TOLD_STATE] = code;
    i32[at + B_TOLD_SINCE_S] = Math.floor(Date.now() / 1000) | 0;
  }
  // A word without a sign: good until the year 2106.
  return new Date((i32[at + B_TOLD_SINCE_S]! >>> 0) * 1000).toISOString();
}
