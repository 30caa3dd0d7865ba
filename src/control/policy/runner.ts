import type { PolicyDecision } from "../../service/policy.ts";
import { decisionOf, isSameDecision } from "./decision.ts";
import type { PolicyInput } from "./input.ts";
import type { Statistics } from "./policy.d.ts";
import { FAILURES, type Failure, type FromThread } from "./protocol.ts";
import type { PolicyThread, ThreadEvents } from "./threads.ts";

/**
 * One policy of one service and protocol: its thread, its calls and their time limit, and what follows
 * from answers and failures.
 *
 *   starting --first answer--> active | shadow --failure--> failed --pause, new thread, answer--> active
 *
 * `failed`: the fallback decides, from the next bank on. The pause before a new thread doubles with
 * every failure, and is short again when the policy has answered well for some time.
 */
export type PolicyState = "starting" | "active" | "shadow" | "failed";
export const POLICY_STATES = [
  "starting",
  "active",
  "shadow",
  "failed",
] as const satisfies readonly PolicyState[];

export interface RunnerParts {
  /** The decision takes effect; else it is only compared. */
  readonly shadow: boolean;
  readonly timeoutMs: number;
  readonly intervalMs: number;
  readonly startThread: (events: ThreadEvents) => PolicyThread;
  readonly read: () => PolicyInput;
  /** The key that `read` would give. */
  readonly key: () => string;
  /** The decision in force is another one. */
  readonly onDecision: () => void;
  /** State or reason are others: once a change. */
  readonly onState: (state: PolicyState, previous: PolicyState, reason: string) => void;
  /** An answer was right. */
  readonly onAnswer: (decision: PolicyDecision) => void;
  /** What the policy wrote to its console. */
  readonly onLines: (lines: readonly string[]) => void;
  readonly pauses?: Pauses;
}

/** Milliseconds. */
export interface Pauses {
  readonly first: number;
  readonly most: number;
  /** Good time after which the pause is the first again. */
  readonly good: number;
  /** Longest that loading a module may take; nothing waits for it. */
  readonly load: number;
}

const PAUSES: Pauses = { first: 1000, most: 60_000, good: 60_000, load: 15_000 };

export interface Runner {
  /** Call the policy if its backends are others than at the last call. */
  look(): void;
  /** What is in force; null: the fallback decides. */
  decision(): PolicyDecision | null;
  state(): PolicyState;
  /** Why it is in this state; "" where there is nothing to say. */
  reason(): string;
  /** Milliseconds that the last right answer took; 0 before. */
  durationMs(): number;
  failures(): Readonly<Record<Failure, number>>;
  close(): void;
}

/** @param before - what is in force until the first answer: an earlier version's decision */
export function createRunner(parts: RunnerParts, before: PolicyDecision | null = null): Runner {
  const pauses = parts.pauses ?? PAUSES;
  const failures = Object.fromEntries(FAILURES.map((it) => [it, 0])) as Record<Failure, number>;
  let decision = before;
  let state: PolicyState = "starting";
  let reason = "";
  let durationMs = 0;
  let thread: PolicyThread | null = null;
  let isLoaded = false;
  let lastKey = "";
  let calls = 0;
  let inFlight: PolicyInput | null = null;
  let isDue = false;
  let inRow = 0;
  let goodSinceMs = 0;
  let limit: NodeJS.Timeout | null = null;
  let later: NodeJS.Timeout | null = null;

  function clear(): void {
    for (const timer of [limit, later]) if (timer !== null) clearTimeout(timer);
    limit = null;
    later = null;
  }

  function after(ms: number, job: () => void): NodeJS.Timeout {
    return setTimeout(job, ms).unref();
  }

  function enter(next: PolicyState, why: string): void {
    if (state === next && reason === why) return;
    const previous = state;
    state = next;
    reason = why;
    parts.onState(next, previous, why);
  }

  function decide(next: PolicyDecision | null): void {
    const isSame = isSameDecision(decision, next);
    decision = next;
    if (!isSame) parts.onDecision();
  }

  /** Whoever is late gets one turn of the event loop: it may be control that was busy. */
  function limitTo(ms: number, message: string): void {
    const waitedFor = calls;
    const own = thread;
    limit = after(ms, () =>
      setImmediate(() => {
        if (own === thread && waitedFor === calls && limit !== null) fail("timeout", message);
      }),
    );
  }

  function begin(): void {
    clear();
    isLoaded = false;
    const own = parts.startThread({
      onMessage: (message) => {
        if (thread === own) hear(message);
      },
      onEnded: (failure, message) => {
        if (thread === own) fail(failure, message);
      },
    });
    thread = own;
    limitTo(pauses.load, `its module was not loaded within ${pauses.load} ms`);
  }

  function call(why: Statistics["reason"]): void {
    if (thread === null || !isLoaded) return;
    if (inFlight !== null) {
      isDue = true;
      return;
    }
    clear();
    const input = parts.read();
    inFlight = input;
    lastKey = input.key;
    isDue = false;
    calls++;
    limitTo(parts.timeoutMs, `no answer within ${parts.timeoutMs} ms`);
    const { backends, statistics } = input;
    thread.call({ call: calls, backends, statistics: { ...statistics, reason: why } });
  }

  function hear(message: FromThread): void {
    if (message.kind === "loaded") {
      isLoaded = true;
      call("start");
      return;
    }
    if (message.lines.length > 0) parts.onLines(message.lines);
    if (message.kind === "failed") {
      fail(message.failure, message.message);
      return;
    }
    if (inFlight === null || message.call !== calls) return;
    const { backends, slots } = inFlight;
    const next = decisionOf(message.decided, message.numbers, backends, slots);
    if (typeof next === "string") {
      fail("nonsense", next);
      return;
    }
    clear();
    inFlight = null;
    durationMs = message.durationMs;
    if (state === "starting" || state === "failed") goodSinceMs = performance.now();
    decide(parts.shadow ? null : next);
    enter(parts.shadow ? "shadow" : "active", "");
    parts.onAnswer(next);
    if (isDue) call("change");
    else later = after(parts.intervalMs, () => call("interval"));
  }

  function fail(failure: Failure, message: string): void {
    const isGood = state === "active" || state === "shadow";
    clear();
    thread?.end();
    thread = null;
    inFlight = null;
    failures[failure]++;
    inRow = isGood && performance.now() - goodSinceMs >= pauses.good ? 1 : inRow + 1;
    decide(null);
    enter("failed", `${failure}: ${message}`);
    later = after(Math.min(pauses.most, pauses.first * 2 ** (inRow - 1)), begin);
  }

  begin();
  return {
    look: () => {
      if (thread !== null && isLoaded && parts.key() !== lastKey) call("change");
    },
    decision: () => decision,
    state: () => state,
    reason: () => reason,
    durationMs: () => durationMs,
    failures: () => failures,
    close: () => {
      clear();
      thread?.end();
      thread = null;
    },
  };
}
