import {
  BANK_BACKENDS_AT,
  BANK_HASH_SLOTS_AT,
  BANK_SEED,
  ENTRY_WORDS,
  NO_BACKEND,
  S_BACKENDS_COUNT,
  S_BACKENDS_FIRST,
  S_HASH_FIRST,
  S_HASH_SIZE,
  S_SCHEDULER,
  S_WEIGHT_GCD,
  S_WEIGHT_MAX,
  SCHEDULER_LEAST_CONNECTIONS,
  SCHEDULER_MAGLEV,
  SCHEDULER_POLICY,
  SCHEDULER_ROUND_ROBIN,
  SCHEDULER_SOURCE_HASH,
  SCHEDULER_WEIGHTED_LEAST_CONNECTIONS,
  SCHEDULER_WEIGHTED_ROUND_ROBIN,
} from "../service/bank.ts";
import { type RegionViews, SERVICE_RUN_BYTES } from "../state/layout.ts";
import { pickLeastConnections } from "./least-connections.ts";
import { pickMaglev } from "./maglev.ts";
import { pickRoundRobin } from "./round-robin.ts";
import { pickSourceHash } from "./source-hash.ts";
import { pickWeightedLeastConnections } from "./weighted-least-connections.ts";
import { pickWeightedRoundRobin } from "./weighted-round-robin.ts";

/** Picks a backend for a new flow. Once a flow; nothing in it allocates. */
export interface Scheduler {
  /**
   * @param bankWord - first word of the bank in use
   * @param serviceWord - first word of the service's record in it
   * @param serviceSlot - number of the service slot: cursors live in its run
   * @returns index in views.i32 of the backend list entry (E_…), or NO_BACKEND
   */
  pick(
    bankWord: number,
    serviceWord: number,
    serviceSlot: number,
    client: number,
    clientPort: number,
    vip: number,
    vipPort: number,
    protocol: number,
  ): number;
}

export function createScheduler(views: RegionViews): Scheduler {
  const { i32, u16, layout } = views;
  const serviceRuns = layout.serviceRuns.at >> 2;
  const backendRuns = layout.backendRuns.at >> 2;

  function pick(
    bankWord: number,
    serviceWord: number,
    serviceSlot: number,
    client: number,
    clientPort: number,
    vip: number,
    vipPort: number,
    protocol: number,
  ): number {
    const count = i32[serviceWord + S_BACKENDS_COUNT]!;
    if (count === 0) return NO_BACKEND;
    const list =
      bankWord +
      (i32[bankWord + BANK_BACKENDS_AT]! >> 2) +
      i32[serviceWord + S_BACKENDS_FIRST]! * ENTRY_WORDS;
    const runWord = serviceRuns + serviceSlot * (SERVICE_RUN_BYTES >> 2);
    switch (i32[serviceWord + S_SCHEDULER]!) {
      case SCHEDULER_ROUND_ROBIN:
        return pickRoundRobin(i32, runWord, list, count);
      case SCHEDULER_WEIGHTED_ROUND_ROBIN:
        return pickWeightedRoundRobin(
          i32,
          runWord,
          list,
          count,
          i32[serviceWord + S_WEIGHT_MAX]!,
          i32[serviceWord + S_WEIGHT_GCD]!,
        );
      case SCHEDULER_LEAST_CONNECTIONS:
        return pickLeastConnections(i32, backendRuns, list, count);
      case SCHEDULER_WEIGHTED_LEAST_CONNECTIONS:
        return pickWeightedLeastConnections(i32, backendRuns, list, count);
      case SCHEDULER_SOURCE_HASH:
        return pickSourceHash(
          u16,
          hashTable(bankWord, serviceWord),
          i32[serviceWord + S_HASH_SIZE]!,
          list,
          i32[bankWord + BANK_SEED]!,
          client,
        );
      case SCHEDULER_MAGLEV:
      case SCHEDULER_POLICY:
        return pickMaglev(
          u16,
          hashTable(bankWord, serviceWord),
          i32[serviceWord + S_HASH_SIZE]!,
          list,
          i32[bankWord + BANK_SEED]!,
          protocol,
          client,
          vip,
          (clientPort << 16) | vipPort,
        );
      default:
        return NO_BACKEND;
    }
  }

  /** Index in u16 of the service's table. */
  function hashTable(bankWord: number, serviceWord: number): number {
    const tables = (bankWord << 1) + (i32[bankWord + BANK_HASH_SLOTS_AT]! >> 1);
    return tables + i32[serviceWord + S_HASH_FIRST]!;
  }

  return { pick };
}
