import { setTimeout as pause } from "node:timers/promises";
import type { Address } from "../base/address.ts";
import { AssertionError } from "../base/assert.ts";
import { type Log, reasonOf } from "../base/log.ts";
import { writeBank } from "../service/bank-writer.ts";
import type { GatewayDefinition } from "../service/definition.ts";
import { applyExistingRules } from "../service/effective.ts";
import type { PolicyDecisions } from "../service/policy.ts";
import { assignSlots, type SlotAssignment } from "../service/slots.ts";
import { advanceSlowStart } from "../service/slow-start.ts";
import {
  H_BANK_PUBLISHED,
  H_SWEEP_REQUESTED,
  type RegionViews,
  W_BANK_TAKEN,
} from "../state/layout.ts";
import { allWorkersHave } from "../state/shards.ts";
import { restorePlan, savePlan } from "./slot-plan.ts";

/**
 * The one place that changes what the data plane does. Two inputs, one output:
 *
 *   definition ------\
 *                     > slots, rules -> host widened -> bank written, published, taken
 *   slot states -----/                                      -> sweep -> host narrowed
 *   (health, admin, weight)
 *
 * Everything runs in one queue, one run at a time: a run ends when every worker has taken the bank,
 * so the bank that is written is never in use. Refreshes that come while one is waiting are the
 * same refresh, and runs begin at least REWRITE_INTERVAL_MS apart.
 *
 * The host side (guard, TUN routes, next hops) is made wide enough for old and new before a bank is
 * published, and narrowed after it was taken: at no time can a packet be the data plane's and the
 * kernel's, or nobody's.
 */
export interface Reconciler {
  /**
   * Take over a definition; fulfilled when the worker has it. Rejected when it cannot be had (no
   * slot or room left, a host command failed): the definition before, its slots and their overrides
   * are as they were.
   */
  apply(definition: GatewayDefinition): Promise<void>;
  /** Slot states have changed; fulfilled when the worker has what follows from them. */
  refresh(): Promise<void>;
  /** The definition that runs, and where its services and backends lie. Null before the first. */
  current(): Applied | null;
  /** Wait for what is queued, and begin nothing more. */
  close(): Promise<void>;
}

export interface Applied {
  readonly definition: GatewayDefinition;
  readonly assignment: SlotAssignment;
}

/** The kernel's side of a definition; each function is fulfilled when the kernel has it. */
export interface HostSide {
  /** Before a bank is published: whatever `before` or `after` needs. */
  widen(before: Applied | null, after: Applied): Promise<void>;
  /** After it was taken: only what `after` and live flows need. */
  narrow(after: Applied): Promise<void>;
}

export interface ReconcilerParts {
  readonly views: RegionViews;
  readonly host: HostSide;
  readonly log: Log;
  /** Now, as ticks are. */
  readonly tick: () => number;
  /** Ends the workers' wait for frames; called after every publication. */
  readonly wake: () => void;
  /** Addresses of the host, int32 in host order. */
  readonly hostAddresses: () => readonly Address[];
  /** What policies have said; left out: there are none. */
  readonly decisions?: PolicyDecisions;
  /** Called at the end of every run, when the worker has taken its bank. */
  readonly onApplied: (applied: Applied) => void;
}

/** A burst of changes costs one rewrite in this time. */
export const REWRITE_INTERVAL_MS = 20;
/** Between two looks whether the workers have taken a bank. */
const TAKEN_POLL_MS = 2;
/** The watchdog ends a worker that hangs well before; without one this is a defect. */
const TAKEN_TIMEOUT_MS = 10_000;

/** Flows that are there must be told of a limit on their packets (datapath/expiry.ts). */
function hasNewPacketLimit(before: Applied | null, after: Applied): boolean {
  const limitedSlots = (applied: Applied | null): number[] =>
    (applied?.assignment.services ?? [])
      .filter(({ definition }) => definition.limits.packetsPerSecond !== null)
      .map(({ slot }) => slot);
  const known = new Set(limitedSlots(before));
  return limitedSlots(after).some((slot) => !known.has(slot));
}

/** Make a reconciler; nothing runs until the first `apply`. */
export function createReconciler(parts: ReconcilerParts): Reconciler {
  const { views, host, log, tick } = parts;
  const { i32 } = views;
  let applied: Applied | null = null;
  let tail: Promise<unknown> = Promise.resolve();
  let waiting: Promise<void> | null = null;
  let lastRunMs = Number.NEGATIVE_INFINITY;
  let deadlineTimer: NodeJS.Timeout | null = null;
  let closed = false;

  function enqueue(job: () => Promise<void>): Promise<void> {
    const result = tail.then(job);
    tail = result.catch(() => {});
    return result;
  }

  async function run(definition: GatewayDefinition, before: Applied | null): Promise<void> {
    lastRunMs = performance.now();
    const plan = savePlan(views);
    let after: Applied;
    let number: number;
    let nextStep: number | null;
    try {
      after = { definition, assignment: assignSlots(views, definition, tick()) };
      await host.widen(before, after);
      nextStep = advanceSlowStart(views, after.assignment, tick());
      number = nextBank();
      const { assignment } = after;
      const addresses = parts.hostAddresses();
      const report = writeBank(views, number, definition, assignment, addresses, parts.decisions);
      log.debug("bank_written", { number, ...report });
    } catch (error) {
      restorePlan(views, plan);
      if (before !== null) await narrow(before);
      throw error;
    }
    // From here on nothing can fail: rules end flows at once, so they come after all that could.
    const rules = applyExistingRules(views, definition, after.assignment, tick());
    await publish(number);
    applied = after;
    if (rules.sweep || hasNewPacketLimit(before, after)) {
      Atomics.add(i32, H_SWEEP_REQUESTED, 1);
      parts.wake();
    }
    scheduleDeadline(sooner(rules.nextDeadline, nextStep));
    await narrow(after);
    parts.onApplied(after);
  }

  /** What stays too wide costs nothing but a rule; what runs must not depend on it. */
  async function narrow(to: Applied): Promise<void> {
    try {
      await host.narrow(to);
    } catch (error) {
      log.error("host_update_failed", { reason: reasonOf(error) });
    }
  }

  /** 0 says: none yet, also after 2^32 banks. */
  function nextBank(): number {
    const next = (Atomics.load(i32, H_BANK_PUBLISHED) + 1) | 0;
    return next === 0 ? 2 : next;
  }

  async function publish(number: number): Promise<void> {
    Atomics.store(i32, H_BANK_PUBLISHED, number);
    parts.wake();
    const giveUpAt = performance.now() + TAKEN_TIMEOUT_MS;
    while (!allWorkersHave(views, W_BANK_TAKEN, number) && !closed) {
      if (performance.now() > giveUpAt) {
        throw new AssertionError(`every worker takes bank ${number} within ${TAKEN_TIMEOUT_MS} ms`);
      }
      await pause(TAKEN_POLL_MS);
    }
  }

  /**
   * Idle flows have no packet that would end them at their backend's deadline: a sweep does; and
   * nothing else would give a backend the next step of its slow start.
   */
  function scheduleDeadline(deadline: number | null): void {
    if (deadlineTimer !== null) clearTimeout(deadlineTimer);
    deadlineTimer = null;
    if (deadline === null || closed) return;
    const delayMs = Math.max(1, (deadline - tick()) | 0);
    deadlineTimer = setTimeout(() => {
      refresh().catch((error: unknown) => log.error("refresh_failed", { reason: reasonOf(error) }));
    }, delayMs);
    // A deadline minutes away keeps no process alive that has nothing else to do.
    deadlineTimer.unref();
  }

  function refresh(): Promise<void> {
    if (waiting !== null) return waiting;
    const result = enqueue(async () => {
      const waitMs = lastRunMs + REWRITE_INTERVAL_MS - performance.now();
      if (waitMs > 0 && !closed) await pause(waitMs);
      // Whoever asks from here on has changed a slot that this run may already have read.
      waiting = null;
      if (applied !== null && !closed) await run(applied.definition, applied);
    });
    waiting = result;
    return result;
  }

  return {
    apply: (definition) =>
      enqueue(async () => {
        if (!closed) await run(definition, applied);
      }),
    refresh,
    current: () => applied,
    async close() {
      closed = true;
      if (deadlineTimer !== null) clearTimeout(deadlineTimer);
      await tail;
    },
  };
}

/** The sooner of two ticks. */
function sooner(a: number | null, b: number | null): number | null {
  if (a === null || b === null) return a ?? b;
  return ((a - b) | 0) < 0 ? a : b;
}
