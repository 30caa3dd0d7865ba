import type { Backend, Statistics } from "./policy.d.ts";

/**
 * What control, the nursery and a policy's thread say to each other: plain data, cloned. The nursery is
 * a process; there is no memory that it shares with the gateway.
 *
 *   control --start, call, end--> nursery --rebuild------------------> thread of a policy
 *           <--said, ended-------         <--loaded, answer, failed---
 */

/** A file of a policy after compilation. */
export interface CompiledFile {
  /** Of its source. */
  readonly path: string;
  /** CommonJS. */
  readonly code: string;
  /** Source map, JSON. */
  readonly map: string;
}

/** Why a policy does not decide; the label of headgate_policy_failures_total. */
export const FAILURES = ["throws", "timeout", "nonsense", "exit", "memory", "load"] as const;
export type Failure = (typeof FAILURES)[number];

export type ToNursery =
  | {
      readonly kind: "start";
      readonly id: number;
      readonly name: string;
      readonly files: readonly CompiledFile[];
      readonly tableSizeMax: number;
    }
  | { readonly kind: "call"; readonly id: number; readonly message: ToThread }
  | { readonly kind: "end"; readonly id: number };

export type FromNursery =
  | { readonly kind: "said"; readonly id: number; readonly message: FromThread }
  /** A thread is gone, whoever ended it. */
  | {
      readonly kind: "ended";
      readonly id: number;
      readonly failure: Failure;
      readonly message: string;
    };

/** What a policy's thread is made with. */
export interface ThreadData {
  readonly files: readonly CompiledFile[];
  readonly tableSizeMax: number;
}

export interface ToThread {
  readonly call: number;
  readonly backends: readonly Backend[];
  readonly statistics: Statistics;
}

/** Call 0 is the loading of the module. */
export type FromThread =
  | { readonly kind: "loaded" }
  | {
      readonly kind: "answer";
      readonly call: number;
      readonly decided: "weights" | "table";
      readonly numbers: Float64Array;
      readonly durationMs: number;
      /** What it wrote to its console, bounded. */
      readonly lines: readonly string[];
    }
  | {
      readonly kind: "failed";
      readonly call: number;
      readonly failure: Failure;
      readonly message: string;
      readonly lines: readonly string[];
    };
