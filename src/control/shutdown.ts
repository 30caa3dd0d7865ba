import type { Log } from "../base/log.ts";
import {
  F_STATE,
  FLOW_WORDS,
  STATE_CLOSE,
  STATE_FREE,
  STATE_TIME_WAIT,
} from "../flow/flow-record.ts";
import { H_NODE_DRAINED, type RegionViews } from "../state/layout.ts";
import { flowRows, flowsUsed } from "../state/shards.ts";

/** How a gateway ends: at once, or when its flows have. */
export interface Shutdown {
  /** Fulfilled with the exit code when everything is given back. */
  readonly ended: Promise<number>;
  /** A signal: the first does what `shutdown.mode` says, one more ends at once. */
  stop(reason: string): void;
  /**
   * Take no new flow from now on, and end when none is left or the time is over. Called again: the
   * time begins anew.
   *
   * @returns flows that are left
   */
  drain(timeoutMs: number): number;
  /** Drains or ends. */
  isDraining(): boolean;
}

export interface ShutdownParts {
  readonly views: RegionViews;
  readonly log: Log;
  readonly wake: () => void;
  /** The configuration's `shutdown`, as it is now. */
  readonly settings: () => { readonly mode: "keep" | "drain"; readonly timeoutMs: number };
  /** Give everything back; never rejected. */
  readonly finish: () => Promise<void>;
}

/** How often a drain looks whether flows are left. */
export const DRAIN_INTERVAL_MS = 100;

/** Make the shutdown of one gateway. */
export function createShutdown(parts: ShutdownParts): Shutdown {
  const { views, log } = parts;
  let draining = false;
  let ending = false;
  let deadlineMs = 0;
  let timer: NodeJS.Timeout | null = null;
  let resolveEnded: (code: number) => void = () => {};
  const ended = new Promise<number>((resolve) => {
    resolveEnded = resolve;
  });

  function end(reason: string): void {
    if (ending) return;
    ending = true;
    if (timer !== null) clearInterval(timer);
    log.info("stopping", { reason, flows: liveFlows(views) });
    void parts.finish().then(() => {
      log.info("stopped", { reason });
      resolveEnded(0);
    });
  }

  function look(): void {
    const left = liveFlows(views);
    if (left === 0) end("drained");
    else if (performance.now() >= deadlineMs) end("drain timeout");
  }

  function drain(timeoutMs: number): number {
    const left = liveFlows(views);
    if (ending) return left;
    deadlineMs = performance.now() + timeoutMs;
    log.info("draining", { timeout_ms: timeoutMs, flows: left });
    if (!draining) {
      draining = true;
      Atomics.store(views.i32, H_NODE_DRAINED, 1);
      parts.wake();
      // Never before the answer to who asked: the first look comes later.
      timer = setInterval(look, DRAIN_INTERVAL_MS);
    }
    return left;
  }

  return {
    ended,
    drain,
    isDraining: () => draining || ending,
    stop(reason) {
      const { mode, timeoutMs } = parts.settings();
      if (mode === "keep" || draining) end(reason);
      else drain(timeoutMs);
    },
  };
}

/**
 * Flows that somebody still uses. A connection that both ends have closed waits in TIME_WAIT for
 * stray packets only, and a reset one for nobody: they need not be waited for.
 */
export function liveFlows(views: RegionViews): number {
  const { i32, layout } = views;
  if (flowsUsed(views) === 0) return 0;
  let live = 0;
  for (const shard of layout.shards) {
    const rows = flowRows(views, shard);
    for (let row = 0; row < rows; row++) {
      const state = i32[(shard.flows.at >> 2) + row * FLOW_WORDS + F_STATE]! & 0xff;
      if (state !== STATE_FREE && state !== STATE_TIME_WAIT && state !== STATE_CLOSE) live++;
    }
  }
  return live;
}
