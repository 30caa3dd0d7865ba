import { createRandom, type Random } from "../base/random.ts";

/**
 * Jobs that come round again, each in an interval of its own: health checks and agents of all backends.
 *
 * Spread   The first round of a job is at a random time within `firstWithinMs`, each later one up to
 *          `spread` of the interval to either side. The numbers follow from the job's seed.
 * Rhythm   An interval counts from the time that was planned for a round to the next one, so that what
 *          is late once is not late for ever.
 * Bound    So many rounds run at once; the rest wait, in the order in which they became due.
 */
export interface Rounds {
  /** Begin a job; its rounds go on until its handle, or all of them, are ended. */
  add(job: Job): RoundHandle;
  /** Rounds at once from now on. Those that run go on. */
  setConcurrent(most: number): void;
  /** End all; fulfilled when no round runs any more. */
  close(): Promise<void>;
}

export interface Job {
  readonly seed: number;
  readonly firstWithinMs: number;
  /** Share of the interval, 0..1. */
  readonly spread: number;
  /** Until the next round; asked when one has ended. */
  intervalMs(): number;
  /**
   * One round; must not be rejected.
   *
   * @param signal - ends it early
   * @param lateMs - how long after the planned time it begins
   */
  run(signal: AbortSignal, lateMs: number): Promise<void>;
}

export interface RoundHandle {
  /** No round begins any more, and the one that runs is to end. */
  end(): void;
}

interface Entry {
  readonly job: Job;
  readonly random: Random;
  /** When its next round is to begin, as performance.now() counts. */
  dueMs: number;
  /** Until then; null while it waits its turn or runs. */
  timer: NodeJS.Timeout | null;
  /** Aborts the round that runs when the job ends; one for all rounds, since making one is dear. */
  readonly controller: AbortController;
  ended: boolean;
}

/** A round that begins later than this says that the thread was busy: such time is not made up for. */
const CATCH_UP_MS = 50;

/** @param concurrent - rounds at once, at least 1 */
export function createRounds(concurrent: number): Rounds {
  const entries = new Set<Entry>();
  const waiting = new Set<Entry>();
  const running = new Set<Promise<void>>();
  let most = concurrent;

  function schedule(entry: Entry, dueMs: number): void {
    entry.dueMs = dueMs;
    entry.timer = setTimeout(becomeDue, Math.max(0, dueMs - performance.now()), entry);
  }

  function becomeDue(entry: Entry): void {
    entry.timer = null;
    waiting.add(entry);
    startWaiting();
  }

  function startWaiting(): void {
    for (const entry of waiting) {
      if (running.size >= most) return;
      waiting.delete(entry);
      const round = run(entry).then(() => {
        running.delete(round);
        startWaiting();
      });
      running.add(round);
    }
  }

  async function run(entry: Entry): Promise<void> {
    const { job } = entry;
    const startedMs = performance.now();
    await job.run(entry.controller.signal, startedMs - entry.dueMs);
    if (entry.ended) return;
    const swing = job.spread * (2 * fraction(entry.random) - 1);
    const fromMs = Math.max(entry.dueMs, startedMs - CATCH_UP_MS);
    schedule(entry, fromMs + job.intervalMs() * (1 + swing));
  }

  function end(entry: Entry): void {
    entries.delete(entry);
    entry.ended = true;
    if (entry.timer !== null) clearTimeout(entry.timer);
    entry.timer = null;
    waiting.delete(entry);
    entry.controller.abort();
  }

  function add(job: Job): RoundHandle {
    const random = createRandom(job.seed);
    const controller = new AbortController();
    const entry: Entry = { job, random, dueMs: 0, timer: null, controller, ended: false };
    entries.add(entry);
    schedule(entry, performance.now() + fraction(random) * job.firstWithinMs);
    return { end: () => end(entry) };
  }

  return {
    add,
    setConcurrent(next) {
      most = next;
      startWaiting();
    },
    async close() {
      for (const entry of entries) end(entry);
      await Promise.all(running);
    },
  };
}

/** 0 to less than 1. */
function fraction(random: Random): number {
  return random.below(2 ** 32) / 2 ** 32;
}
