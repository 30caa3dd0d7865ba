import { isDeepStrictEqual } from "node:util";
import { createRandom, type Random } from "../base/random.ts";
import type { HealthDefinition } from "../service/definition.ts";
import type { CheckEndpoint, CheckResult } from "./check.ts";
import { checkBackend } from "./checkers.ts";
import { createRiseFall, type RiseFall } from "./rise-fall.ts";

/** A backend to check, at the number of its slot. */
export interface HealthTarget {
  readonly slot: number;
  /** Text of an IP address. */
  readonly address: string;
  /** The backend's; the definition's port goes before it. */
  readonly port: number;
  readonly definition: HealthDefinition;
  readonly serviceName: string;
  /** HEALTH_… that the backend has now. */
  readonly health: number;
}

export interface HealthChange {
  readonly slot: number;
  /** HEALTH_UP or HEALTH_DOWN. */
  readonly health: number;
  /** What the check that decided found. */
  readonly reason: string;
}

export interface HealthResult {
  readonly slot: number;
  readonly ok: boolean;
  readonly durationMs: number;
  readonly reason: string;
}

export interface HealthMonitorOptions {
  /** A backend has another health; never called from within `apply`. */
  readonly onChange: (change: HealthChange) => void;
  /** Every check that came to an end; called before `onChange`. */
  readonly onResult?: (result: HealthResult) => void;
}

/** Checks backends from the host's own stack, each in its interval. */
export interface HealthMonitor {
  /**
   * Check these from now on. A target that is the same as before goes on, one that has changed
   * begins anew, one that is missing ends: no result of it is reported after this call.
   */
  apply(targets: readonly HealthTarget[]): void;
  /** End all checks; fulfilled when their connections are closed. */
  close(): Promise<void>;
}

/** Checks that run at once; the rest wait their turn. Bounds sockets, and the load of a reload. */
export const CHECKS_AT_ONCE_MAX = 256;
/** A backend's first check begins within this time, or its interval where that is shorter. */
export const FIRST_CHECK_MS = 500;

interface Probe {
  readonly target: HealthTarget;
  readonly random: Random;
  riseFall: RiseFall;
  /** Until its next check; null while that waits or runs. */
  timer: NodeJS.Timeout | null;
  /** Of the check that runs. */
  running: AbortController | null;
  ended: boolean;
}

/**
 * Make a monitor; it checks nothing until `apply`.
 *
 * Checks are spread: the first of a target by a random part of FIRST_CHECK_MS, each later one by
 * up to `spread` of the interval to either side. The numbers follow from the slot.
 */
export function createHealthMonitor(options: HealthMonitorOptions): HealthMonitor {
  const probes = new Map<number, Probe>();
  const waiting = new Set<Probe>();
  const running = new Set<Promise<void>>();
  let closed = false;

  function startProbe(target: HealthTarget): Probe {
    const { definition, health, slot } = target;
    const probe: Probe = {
      target,
      random: createRandom(slot),
      riseFall: createRiseFall(health, definition.rise, definition.fall),
      timer: null,
      running: null,
      ended: false,
    };
    const withinMs = Math.min(definition.intervalMs, FIRST_CHECK_MS);
    schedule(probe, fraction(probe.random) * withinMs);
    return probe;
  }

  function endProbe(probe: Probe): void {
    probe.ended = true;
    if (probe.timer !== null) clearTimeout(probe.timer);
    probe.timer = null;
    waiting.delete(probe);
    probe.running?.abort();
  }

  function schedule(probe: Probe, delayMs: number): void {
    probe.timer = setTimeout(() => {
      probe.timer = null;
      waiting.add(probe);
      startWaiting();
    }, delayMs);
  }

  /** In the order in which they became due. */
  function startWaiting(): void {
    for (const probe of waiting) {
      if (running.size >= CHECKS_AT_ONCE_MAX) return;
      waiting.delete(probe);
      const check = runProbe(probe).then(() => {
        running.delete(check);
        startWaiting();
      });
      running.add(check);
    }
  }

  async function runProbe(probe: Probe): Promise<void> {
    const { definition } = probe.target;
    const startedMs = performance.now();
    const controller = new AbortController();
    probe.running = controller;
    const result = await check(probe.target, controller.signal);
    probe.running = null;
    if (probe.ended) return;
    report(probe, result);
    // What was told may have ended it.
    if (probe.ended) return;
    const swing = definition.spread * (2 * fraction(probe.random) - 1);
    const dueMs = startedMs + definition.intervalMs * (1 + swing);
    schedule(probe, Math.max(0, dueMs - performance.now()));
  }

  function report(probe: Probe, { ok, durationMs, reason }: CheckResult): void {
    const { slot } = probe.target;
    const hasChanged = probe.riseFall.record(ok);
    const { health } = probe.riseFall;
    options.onResult?.({ slot, ok, durationMs, reason });
    if (hasChanged && !probe.ended) options.onChange({ slot, health, reason });
  }

  function apply(targets: readonly HealthTarget[]): void {
    if (closed) return;
    const wanted = new Map(targets.map((target) => [target.slot, target]));
    for (const [slot, probe] of probes) {
      const target = wanted.get(slot);
      if (target !== undefined && isSame(probe.target, target)) continue;
      endProbe(probe);
      probes.delete(slot);
    }
    for (const [slot, target] of wanted) {
      const probe = probes.get(slot);
      if (probe === undefined) {
        probes.set(slot, startProbe(target));
      } else if (probe.riseFall.health !== target.health) {
        // The slot was given up and taken again by the same backend: its health began anew.
        const { rise, fall } = target.definition;
        probe.riseFall = createRiseFall(target.health, rise, fall);
      }
    }
  }

  async function close(): Promise<void> {
    closed = true;
    for (const probe of probes.values()) endProbe(probe);
    probes.clear();
    await Promise.all(running);
  }

  return { apply, close };
}

function check(target: HealthTarget, signal: AbortSignal): Promise<CheckResult> {
  const { address, definition } = target;
  const endpoint: CheckEndpoint = {
    address,
    port: definition.port === 0 ? target.port : definition.port,
    source: definition.source,
    timeoutMs: definition.timeoutMs,
  };
  return checkBackend(endpoint, definition, signal);
}

/** The same checks: `health` is what they find, not what they are. */
function isSame(a: HealthTarget, b: HealthTarget): boolean {
  return (
    a.address === b.address &&
    a.port === b.port &&
    a.serviceName === b.serviceName &&
    isDeepStrictEqual(a.definition, b.definition)
  );
}

/** 0 to less than 1. */
function fraction(random: Random): number {
  return random.below(2 ** 32) / 2 ** 32;
}
