import type { Log } from "../base/log.ts";
import { type HopPlan, writeHopTable } from "../state/hop-table.ts";
import { H_HOPS_PUBLISHED, type RegionViews, W_HOPS_TAKEN } from "../state/layout.ts";
import { allWorkersHave } from "../state/shards.ts";

/**
 * Gives plans of next hops to the data plane, the newest one first: a plan is written into the hop
 * table that is not in use once every worker has taken the one before; plans that came in between
 * are skipped.
 */
export interface HopPublisher {
  publish(plan: HopPlan): void;
  /** Nothing waits: the newest plan is published (whether or not it was taken). */
  isSettled(): boolean;
  /** Stop trying. */
  close(): void;
}

/** Between two looks whether the workers have taken a table. */
const RETRY_MS = 2;

/** @param wake - ends the workers' wait for frames, so that they take the table at once */
export function createHopPublisher(views: RegionViews, wake: () => void, log: Log): HopPublisher {
  const { i32 } = views;
  let next: HopPlan | null = null;
  let timer: NodeJS.Timeout | null = null;
  let closed = false;
  let leftBefore = 0;

  function tryNow(): void {
    timer = null;
    if (next === null || closed) return;
    const published = Atomics.load(i32, H_HOPS_PUBLISHED);
    if (!allWorkersHave(views, W_HOPS_TAKEN, published)) {
      timer = setTimeout(tryNow, RETRY_MS);
      return;
    }
    // 0 says: none yet, also after 2^32 tables.
    const number = ((published + 1) | 0) === 0 ? 2 : (published + 1) | 0;
    const left = writeHopTable(views, (number & 1) as 0 | 1, next);
    next = null;
    Atomics.store(i32, H_HOPS_PUBLISHED, number);
    wake();
    if (left !== leftBefore && left > 0) log.warn("hop_table_full", { left_out: left });
    leftBefore = left;
  }

  return {
    publish(plan) {
      next = plan;
      if (timer === null) tryNow();
    },
    isSettled: () => next === null,
    close() {
      closed = true;
      if (timer !== null) clearTimeout(timer);
    },
  };
}
