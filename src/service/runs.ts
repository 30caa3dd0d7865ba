import type { RegionViews } from "../state/layout.ts";
import { BACKEND_RUN_WORDS, R_ACTIVE, R_FLOWS, SERVICE_RUN_WORDS } from "./backend-slots.ts";
import { clearPassiveRuns } from "./passive-run.ts";

/**
 * What the workers count of backends and services, summed over them (control plane; cold). Each
 * worker writes its own shard at any time: a sum is of values that were true at about one moment.
 */

/** First word of the run of a backend slot in a worker's shard. */
export function backendRunWord(views: RegionViews, worker: number, slot: number): number {
  return (views.layout.shards[worker]!.backendRuns.at >> 2) + slot * BACKEND_RUN_WORDS;
}

/** First word of the run of a service slot in a worker's shard. */
export function serviceRunWord(views: RegionViews, worker: number, slot: number): number {
  return (views.layout.shards[worker]!.serviceRuns.at >> 2) + slot * SERVICE_RUN_WORDS;
}

/** Live flows of a backend slot. */
export function backendFlows(views: RegionViews, slot: number): number {
  return sumOf(views, (worker) => views.i32[backendRunWord(views, worker, slot) + R_FLOWS]!);
}

/** Those of them in an active state. */
export function backendActive(views: RegionViews, slot: number): number {
  return sumOf(views, (worker) => views.i32[backendRunWord(views, worker, slot) + R_ACTIVE]!);
}

/** @param double - BF_… */
export function backendTotal(views: RegionViews, slot: number, double: number): number {
  return sumOf(views, (worker) => views.f64[(backendRunWord(views, worker, slot) >> 1) + double]!);
}

/** @param double - VF_… */
export function serviceTotal(views: RegionViews, slot: number, double: number): number {
  return sumOf(views, (worker) => views.f64[(serviceRunWord(views, worker, slot) >> 1) + double]!);
}

/** A slot has a new user, who has counted nothing yet; no flow refers to it. */
export function clearBackendRuns(views: RegionViews, slot: number): void {
  for (const { worker } of views.layout.shards) {
    const at = backendRunWord(views, worker, slot);
    views.i32.fill(0, at, at + BACKEND_RUN_WORDS);
  }
  clearPassiveRuns(views, slot);
}

/** The same for a service slot. */
export function clearServiceRuns(views: RegionViews, slot: number): void {
  for (const { worker } of views.layout.shards) {
    const at = serviceRunWord(views, worker, slot);
    views.i32.fill(0, at, at + SERVICE_RUN_WORDS);
  }
}

function sumOf(views: RegionViews, read: (worker: number) => number): number {
  return views.layout.shards.reduce((sum, { worker }) => sum + read(worker), 0);
}
