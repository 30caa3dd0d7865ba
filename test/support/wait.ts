import { setTimeout as sleep } from "node:timers/promises";

/** How long to wait, and how often to look. Milliseconds. */
export interface WaitOptions {
  readonly timeoutMs?: number;
  readonly everyMs?: number;
}

/**
 * Asks `probe` until it gives something other than undefined, null or false, and returns that.
 * A probe that throws counts as "not yet". After `timeoutMs` (10,000 unless said) it throws an
 * Error that names `what` and the probe's last error.
 */
export async function waitFor<T>(
  what: string,
  probe: () => T | Promise<T>,
  options: WaitOptions = {},
): Promise<Exclude<Awaited<T>, undefined | null | false>> {
  const timeoutMs = options.timeoutMs ?? 10_000;
  const deadline = performance.now() + timeoutMs;
  let last: unknown;
  for (;;) {
    try {
      const value = await probe();
      if (value !== undefined && value !== null && value !== false) {
        return value as Exclude<Awaited<T>, undefined | null | false>;
      }
      last = undefined;
    } catch (error) {
      last = error;
    }
    if (performance.now() > deadline) {
      const cause = last instanceof Error ? `: ${last.message}` : "";
      throw new Error(`waited ${timeoutMs} ms for ${what}${cause}`, { cause: last });
    }
    await sleep(options.everyMs ?? 20);
  }
}

/** `promise`, or an Error that names `what` when it takes longer than `timeoutMs`. */
export async function within<T>(what: string, timeoutMs: number, promise: Promise<T>): Promise<T> {
  const late = new AbortController();
  const timer = sleep(timeoutMs, undefined, { signal: late.signal }).then(() => {
    throw new Error(`waited ${timeoutMs} ms for ${what}`);
  });
  timer.catch(() => undefined); // aborted: the promise was faster
  try {
    return await Promise.race([promise, timer]);
  } finally {
    late.abort();
  }
}
