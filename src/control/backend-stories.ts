import type { Log } from "../base/log.ts";
import { backendState } from "../service/effective.ts";
import { readBackendKey, usedBackendSlots } from "../service/slots.ts";
import type { RegionViews } from "../state/layout.ts";

/**
 * When and why every backend's state changed last: one log line a change, and what `get backends`
 * shows. Times are of this process: a state that it found at its start has none.
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
      if (was?.state === state) {
        next.set(slot, { ...was, reason });
        continue;
      }
      const since = isFirst ? "" : new Date().toISOString();
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
