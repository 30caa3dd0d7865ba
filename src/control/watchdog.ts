import { H_BATCHES, type RegionViews } from "../state/layout.ts";

/**
 * Sees a worker that hangs: it raises H_BATCHES with every batch, idle ones included, so at least
 * a hundred times a second. The number of looks counts, not the time between them: a process that
 * was stopped and goes on (SIGSTOP, a suspended machine) gives one late look, not an alarm.
 */
export const WATCHDOG_INTERVAL_MS = 250;
/** Looks in a row without a batch: 2 s. */
export const WATCHDOG_LOOKS = 8;

export interface Watchdog {
  /** One look; true when the worker hangs. The gateway calls it every WATCHDOG_INTERVAL_MS. */
  look(): boolean;
}

/** Make a watchdog that has seen nothing yet. */
export function createWatchdog(views: RegionViews): Watchdog {
  let last = Atomics.load(views.i32, H_BATCHES);
  let still = 0;
  return {
    look() {
      const now = Atomics.load(views.i32, H_BATCHES);
      still = now === last ? still + 1 : 0;
      last = now;
      return still >= WATCHDOG_LOOKS;
    },
  };
}
