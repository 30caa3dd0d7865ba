import { type RegionViews, W_BATCHES } from "../state/layout.ts";

/**
 * Sees a worker that hangs: each raises W_BATCHES with every batch, idle ones included, so at least
 * a hundred times a second. The number of looks counts, not the time between them: a process that
 * was stopped and goes on (SIGSTOP, a suspended machine) gives one late look, not an alarm.
 */
export const WATCHDOG_INTERVAL_MS = 250;
/** Looks in a row without a batch: 2 s. */
export const WATCHDOG_LOOKS = 8;

export interface Watchdog {
  /** One look; true when a worker hangs. The gateway calls it every WATCHDOG_INTERVAL_MS. */
  look(): boolean;
}

/** Make a watchdog that has seen nothing yet. */
export function createWatchdog(views: RegionViews): Watchdog {
  const workers = views.layout.shards.map(({ workerWord }) => ({
    word: workerWord + W_BATCHES,
    last: Atomics.load(views.i32, workerWord + W_BATCHES),
    still: 0,
  }));
  return {
    look() {
      let hangs = false;
      for (const worker of workers) {
        const now = Atomics.load(views.i32, worker.word);
        worker.still = now === worker.last ? worker.still + 1 : 0;
        worker.last = now;
        hangs ||= worker.still >= WATCHDOG_LOOKS;
      }
      return hangs;
    },
  };
}
