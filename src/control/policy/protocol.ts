import type { MessagePort } from "node:worker_threads";
import type { Backend, Statistics } from "./policy.d.ts";

/**
 * What control, the nursery and a policy's thread say to each other: plain data, cloned. There is no
 * memory that two of them share.
 *
 *   control --start, end--> nursery --makes, ends--> thread of a policy
 *           <---ended------
 *   control <--loaded, answer, failed-- --rebuild--> thread of a policy
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
      readonly port: MessagePort;
      readonly files: readonly CompiledFile[];
      readonly tableSizeMax: number;
    }
  | { readonly kind: "end"; readonly id: number };

/** A thread is gone, whoever ended it. */
export interface FromNursery {
  readonly id: number;
  readonly failure: Failure;
  readonly message: string;
}

/** What a policy's thread is made with. */
export interface ThreadData {
  readonly port: MessagePort;
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
