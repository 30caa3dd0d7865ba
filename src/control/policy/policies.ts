import { endpointOf } from "../../base/address.ts";
import type { PolicyRow } from "../../base/admin-types.ts";
import { assert } from "../../base/assert.ts";
import type { Log } from "../../base/log.ts";
import type { PolicyDefinition } from "../../service/definition.ts";
import type { PolicyDecision, PolicyDecisions } from "../../service/policy.ts";
import type { AssignedService } from "../../service/slots.ts";
import type { RegionViews } from "../../state/layout.ts";
import type { Applied } from "../reconcile.ts";
import { type CompiledPolicy, compiledPolicy } from "./compile.ts";
import { type Difference, differenceOf } from "./difference.ts";
import { createInputs } from "./input.ts";
import { createRunner, type PolicyState, type Runner } from "./runner.ts";
import { createPolicyThreads, type PolicyThreads } from "./threads.ts";

/** The policies of the running configuration: one runner a service and protocol that has one. */
export interface Policies extends PolicyDecisions {
  /** Run the policies of this definition, and call those whose backends have changed. */
  follow(applied: Applied): void;
  /** Rows of a service's policies, one a protocol; empty where it has none. */
  rowsOf(service: string): PolicyRow[];
  close(): Promise<void>;
}

interface Running {
  readonly runner: Runner;
  /** Another text: another runner. */
  readonly key: string;
  service: AssignedService;
  since: string;
  answer: "weights" | "table" | "";
  difference: Difference | null;
  /** The ratio in the log, and when it was written. */
  logged: { readonly ratio: number; readonly atMs: number } | null;
}

/** A difference is worth a line in the log when it is another one by this much, and not too often. */
const DIFFERENCE_LOGGED = 0.05;
const DIFFERENCE_LOG_INTERVAL_MS = 10_000;

/**
 * @param refresh - a decision has changed: banks are to be written anew
 * @param threads - where policies run
 */
export function createPolicies(
  views: RegionViews,
  log: Log,
  refresh: () => void,
  threads: PolicyThreads = createPolicyThreads(),
): Policies {
  const running = new Map<number, Running>();

  function start(
    service: AssignedService,
    compiled: CompiledPolicy,
    policy: PolicyDefinition,
    key: string,
    seed: string,
  ): void {
    const { slot, definition, protocol } = service;
    const about = { service: definition.name, protocol };
    const old = running.get(slot);
    const inputs = createInputs(views, seed);
    old?.runner.close();
    const own: Running = {
      key,
      service,
      since: "",
      answer: "",
      difference: null,
      logged: null,
      runner: createRunner(
        {
          shadow: policy.shadow,
          timeoutMs: policy.timeoutMs,
          intervalMs: policy.intervalMs,
          startThread: (events) =>
            threads.start(
              { ...compiled, name: definition.name, tableSizeMax: definition.tableSize },
              events,
            ),
          read: () => inputs.read(own.service, performance.now(), new Date()),
          key: () => inputs.key(own.service),
          onDecision: refresh,
          onState: (state, previous, reason) => {
            own.since = new Date().toISOString();
            if (state !== "shadow") own.difference = null;
            writeState(state, previous, reason);
          },
          onAnswer: (decision) => {
            own.answer = decision.kind;
            if (policy.shadow) compare(own, decision, about);
          },
          onLines: (lines) => log.debug("policy_output", { ...about, lines }),
        },
        // What the version before has said goes on until this one has said something.
        policy.shadow ? null : (old?.runner.decision() ?? null),
      ),
    };
    const writeState = (state: PolicyState, previous: PolicyState, reason: string): void => {
      const fields = { ...about, state, previous, fallback: definition.scheduler, reason };
      if (state === "failed") log.warn("policy_state", fields);
      else log.info("policy_state", fields);
    };
    running.set(slot, own);
  }

  function compare(
    own: Running,
    decision: PolicyDecision,
    about: { readonly service: string; readonly protocol: string },
  ): void {
    const difference = differenceOf(views, own.service.slot, decision);
    own.difference = difference;
    const { ratio } = difference;
    const atMs = performance.now();
    const { logged } = own;
    if (
      logged !== null &&
      (Math.abs(logged.ratio - ratio) < DIFFERENCE_LOGGED ||
        atMs - logged.atMs < DIFFERENCE_LOG_INTERVAL_MS)
    ) {
      return;
    }
    own.logged = { ratio, atMs };
    log.info("policy_shadow", { ...about, difference_ratio: Number(ratio.toFixed(4)) });
  }

  function follow({ assignment, definition: { hash } }: Applied): void {
    const named = new Set<number>();
    for (const service of assignment.services) {
      const { definition, slot } = service;
      const { policy, scheduler, tableSize } = definition;
      if (policy === null) continue;
      named.add(slot);
      const compiled = compiledPolicy(policy);
      assert(compiled !== null, "a policy is compiled before its configuration is taken over");
      const { shadow, timeoutMs, intervalMs } = policy;
      const key = JSON.stringify([
        ...[definition.name, compiled.digest, scheduler, tableSize],
        ...[shadow, timeoutMs, intervalMs, hash.seed],
      ]);
      const known = running.get(slot);
      if (known?.key === key) {
        known.service = service;
        known.runner.look();
      } else {
        start(service, compiled, policy, key, hash.seed);
      }
    }
    for (const [slot, { runner }] of running) {
      if (named.has(slot)) continue;
      runner.close();
      running.delete(slot);
    }
  }

  function rowOf({ runner, service, since, answer, difference }: Running): PolicyRow {
    const { definition, protocol, backends } = service;
    const { policy, scheduler } = definition;
    const names = new Map(
      backends.map(({ slot, definition: it }) => [slot, endpointOf(it.address, it.port)]),
    );
    return {
      protocol,
      module: policy?.module ?? "",
      fallback: scheduler,
      shadow: policy?.shadow ?? false,
      state: runner.state(),
      reason: runner.reason(),
      since,
      answer,
      durationMs: runner.durationMs(),
      failures: { ...runner.failures() },
      differenceRatio: difference?.ratio ?? null,
      backends: (difference?.backends ?? []).map(({ slot, share, policyShare }) => ({
        backend: names.get(slot) ?? "",
        share,
        policyShare,
      })),
    };
  }

  return {
    of: ({ slot, definition: { name, policy } }) => {
      // A bank is written before `follow` is told of its definition.
      const own = running.get(slot);
      if (policy === null || policy.shadow || own?.service.definition.name !== name) return null;
      return own.runner.decision();
    },
    follow,
    rowsOf: (name) =>
      [...running.values()].filter(({ service }) => service.definition.name === name).map(rowOf),
    async close() {
      for (const { runner } of running.values()) runner.close();
      running.clear();
      await threads.close();
    },
  };
}
