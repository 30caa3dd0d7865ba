import { isDeepStrictEqual } from "node:util";
import { HEALTH_DOWN } from "../service/backend-slots.ts";
import { CHECKS_AT_ONCE, type HealthDefinition } from "../service/definition.ts";
import type { CheckEndpoint, CheckExtras, CheckResult } from "./check.ts";
import { type CheckTools, checkBackend, NO_TOOLS } from "./checkers.ts";
import { createRiseFall, type RiseFall } from "./rise-fall.ts";
import { createRounds, type RoundHandle, type Rounds } from "./rounds.ts";

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
  /** Where this one is checked, where that is not what the above say; null or left out: it is. */
  readonly place?: CheckPlace | null;
}

/** Where a check goes, and from where. */
export type CheckPlace = Pick<CheckEndpoint, "address" | "port" | "source">;

export interface HealthChange {
  readonly slot: number;
  /** HEALTH_UP or HEALTH_DOWN. */
  readonly health: number;
  /** What the check that decided found. */
  readonly reason: string;
}

export interface HealthResult extends CheckExtras {
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
  /** Told of the start of every check: how long after the planned time, and its interval. */
  readonly onStart?: (slot: number, lateMs: number, intervalMs: number) => void;
  /** What some types of checks need of the host; left out: nothing. */
  readonly tools?: CheckTools;
  /** Whose rounds the checks are; left out: its own. */
  readonly rounds?: Rounds;
}

/** Checks backends, each in its interval. */
export interface HealthMonitor {
  /**
   * Check these from now on. A target that is the same as before goes on, one that has changed
   * begins anew, one that is missing ends: no result of it is reported after this call.
   */
  apply(targets: readonly HealthTarget[]): void;
  /** End all checks; fulfilled when their connections are closed. */
  close(): Promise<void>;
}

/** A backend's first check begins within this time, or its interval where that is shorter. */
export const FIRST_CHECK_MS = 500;

interface Probe {
  readonly target: HealthTarget;
  riseFall: RiseFall;
  handle: RoundHandle | null;
  ended: boolean;
}

/**
 * Make a monitor; it checks nothing until `apply`.
 *
 * The interval is `fastInterval` while a backend is starting or results speak against its health, and
 * `downInterval` while it is down (HAProxy's fastinter and downinter).
 */
export function createHealthMonitor(options: HealthMonitorOptions): HealthMonitor {
  const rounds = options.rounds ?? createRounds(CHECKS_AT_ONCE);
  const tools = options.tools ?? NO_TOOLS;
  const probes = new Map<number, Probe>();
  let closed = false;

  function startProbe(target: HealthTarget): Probe {
    const { definition, health, slot } = target;
    const { rise, fall, fastIntervalMs, spread } = definition;
    const riseFall = createRiseFall(health, rise, fall);
    const probe: Probe = { target, riseFall, handle: null, ended: false };
    probe.handle = rounds.add({
      seed: slot,
      firstWithinMs: Math.min(fastIntervalMs, FIRST_CHECK_MS),
      spread,
      intervalMs: () => intervalOf(definition, probe.riseFall),
      run: async (signal, lateMs) => {
        options.onStart?.(slot, lateMs, intervalOf(definition, probe.riseFall));
        const result = await check(target, tools, signal);
        if (!probe.ended) report(probe, result);
      },
    });
    return probe;
  }

  function endProbe(probe: Probe): void {
    probe.ended = true;
    probe.handle?.end();
  }

  function report(probe: Probe, result: CheckResult): void {
    const { ok, reason } = result;
    const { slot } = probe.target;
    const hasChanged = probe.riseFall.record(ok);
    const { health } = probe.riseFall;
    options.onResult?.({ slot, ...result });
    // What was told may have ended it.
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
    await rounds.close();
  }

  return { apply, close };
}

function intervalOf(definition: HealthDefinition, { health, isChanging }: RiseFall): number {
  if (isChanging) return definition.fastIntervalMs;
  return health === HEALTH_DOWN ? definition.downIntervalMs : definition.intervalMs;
}

function check(target: HealthTarget, tools: CheckTools, signal: AbortSignal): Promise<CheckResult> {
  const { address, definition, place } = target;
  const own: CheckPlace = {
    address,
    port: definition.port === 0 ? target.port : definition.port,
    source: definition.source,
  };
  const endpoint: CheckEndpoint = {
    ...(place ?? own),
    timeoutMs: definition.timeoutMs,
    service: target.serviceName,
  };
  return checkBackend(endpoint, definition, tools, signal);
}

/** The same checks: `health` is what they find, not what they are. */
function isSame(a: HealthTarget, b: HealthTarget): boolean {
  return (
    a.address === b.address &&
    a.port === b.port &&
    a.serviceName === b.serviceName &&
    isDeepStrictEqual(a.place, b.place) &&
    isDeepStrictEqual(a.definition, b.definition)
  );
}
