import { SERVICE_RUN_WORDS, V_CURSOR } from "../service/backend-slots.ts";
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
  S_LIST_KEY,
  S_MAX_LOAD,
  S_SCHEDULER,
  S_SCHEDULER_SEED,
  S_WEIGHT_SHIFT,
  S_WEIGHT_SUM,
  SCHEDULER_BOUNDED_MAGLEV,
  SCHEDULER_FAILOVER,
  SCHEDULER_LEAST_CONNECTIONS,
  SCHEDULER_LEAST_LATENCY,
  SCHEDULER_MAGLEV,
  SCHEDULER_NEVER_QUEUE,
  SCHEDULER_OVERFLOW,
  SCHEDULER_POLICY,
  SCHEDULER_POWER_OF_TWO,
  SCHEDULER_RANDOM,
  SCHEDULER_RENDEZVOUS,
  SCHEDULER_ROUND_ROBIN,
  SCHEDULER_SHORTEST_EXPECTED_DELAY,
  SCHEDULER_SOURCE_HASH,
  SCHEDULER_WEIGHTED_LEAST_CONNECTIONS,
  SCHEDULER_WEIGHTED_ROUND_ROBIN,
} from "../service/bank.ts";
import type { RegionViews } from "../state/layout.ts";
import { pickBoundedMaglev } from "./bounded-maglev.ts";
import { nextByWeight, pickFailover } from "./failover.ts";
import { pickLeastConnections } from "./least-connections.ts";
import { pickLeastLatency } from "./least-latency.ts";
import { nextMaglev, pickMaglev } from "./maglev.ts";
import { mix } from "./mix.ts";
import { pickNeverQueue } from "./never-queue.ts";
import { pickOverflow } from "./overflow.ts";
import { pickPowerOfTwo } from "./power-of-two.ts";
import { pickRandom } from "./random.ts";
import { nextRendezvous, pickRendezvous } from "./rendezvous.ts";
import { pickRoundRobin } from "./round-robin.ts";
import { pickShortestExpectedDelay } from "./shortest-expected-delay.ts";
import { nextSourceHash, pickSourceHash } from "./source-hash.ts";
import { firstTurn, turnOf } from "./turns.ts";
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
  /**
   * Another choice for a flow that the backend picked cannot take. The first other one is the
   * scheduler's own where it promises the same choice on every node, so that these agree here too and
   * a full backend's flows go to all others; after that, and elsewhere, it is the next of the list, so
   * that every backend is reached within as many attempts as the list has entries.
   *
   * @param entry - what was picked, or returned here last
   * @param attempt - 1 for the first other choice
   * @returns an entry; with one backend that one again
   */
  next(
    bankWord: number,
    serviceWord: number,
    entry: number,
    attempt: number,
    client: number,
    clientPort: number,
    vip: number,
    vipPort: number,
    protocol: number,
  ): number;
}

export function createScheduler(views: RegionViews): Scheduler {
  const { i32, u16, layout } = views;
  const { worker, workers } = layout;
  const serviceRuns = layout.serviceRuns.at >> 2;
  const backendRuns = layout.backendRuns.at >> 2;
  const slots = layout.backendSlots.at >> 2;

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
    const scheduler = i32[serviceWord + S_SCHEDULER]!;
    const list = listOf(bankWord, serviceWord);
    const table = tableOf(bankWord, serviceWord);
    const size = i32[serviceWord + S_HASH_SIZE]!;
    const seed = i32[bankWord + BANK_SEED]!;
    const ports = (clientPort << 16) | vipPort;
    switch (scheduler) {
      case SCHEDULER_SOURCE_HASH:
        return pickSourceHash(u16, table, size, list, seed, client);
      case SCHEDULER_MAGLEV:
      case SCHEDULER_POLICY:
        return pickMaglev(u16, table, size, list, mix(seed, client, vip, ports, protocol));
      case SCHEDULER_RENDEZVOUS: {
        const hash = mix(seed, client, vip, ports, protocol);
        return pickRendezvous(i32, u16, table, list, count, hash);
      }
      case SCHEDULER_FAILOVER:
        return pickFailover(u16, table, list);
      case SCHEDULER_OVERFLOW:
        return pickOverflow(i32, u16, table, backendRuns, list, count);
      case SCHEDULER_BOUNDED_MAGLEV: {
        const hash = mix(seed, client, vip, ports, protocol);
        return pickBounded(serviceWord, serviceSlot, list, count, table, size, hash);
      }
      default:
        return pickOwn(scheduler, serviceWord, serviceSlot, list, count, table);
    }
  }

  /** The schedulers whose choice does not depend on who the client is. */
  function pickOwn(
    scheduler: number,
    serviceWord: number,
    serviceSlot: number,
    list: number,
    count: number,
    table: number,
  ): number {
    const run = serviceRuns + serviceSlot * SERVICE_RUN_WORDS;
    const seed = i32[serviceWord + S_SCHEDULER_SEED]!;
    if (scheduler === SCHEDULER_RANDOM) {
      return pickRandom(i32, u16, table, run, list, count, seed, worker);
    }
    if (scheduler === SCHEDULER_POWER_OF_TWO) {
      return pickPowerOfTwo(i32, u16, table, run, backendRuns, list, count, seed, worker);
    }
    const first = firstTurn(seed, worker, workers, count);
    if (scheduler === SCHEDULER_ROUND_ROBIN) return pickRoundRobin(i32, run, list, count, first);
    if (scheduler === SCHEDULER_WEIGHTED_ROUND_ROBIN) {
      const key = i32[serviceWord + S_LIST_KEY]!;
      const shift = i32[serviceWord + S_WEIGHT_SHIFT]!;
      return pickWeightedRoundRobin(i32, run, backendRuns, list, count, key, shift, first);
    }
    const turn = turnOf(i32[run + V_CURSOR]!, first, count);
    const entry = pickLeast(scheduler, list, count, turn);
    // The next of equals has its turn then.
    if (entry !== NO_BACKEND) i32[run + V_CURSOR] = (entry - list) / ENTRY_WORDS + 2;
    return entry;
  }

  /** The schedulers that look for the least of something, from one place of the list on. */
  function pickLeast(scheduler: number, list: number, count: number, turn: number): number {
    switch (scheduler) {
      case SCHEDULER_LEAST_CONNECTIONS:
        return pickLeastConnections(i32, backendRuns, list, count, turn);
      case SCHEDULER_WEIGHTED_LEAST_CONNECTIONS:
        return pickWeightedLeastConnections(i32, backendRuns, list, count, turn);
      case SCHEDULER_SHORTEST_EXPECTED_DELAY:
        return pickShortestExpectedDelay(i32, backendRuns, list, count, turn);
      case SCHEDULER_LEAST_LATENCY:
        return pickLeastLatency(i32, slots, backendRuns, list, count, turn);
      case SCHEDULER_NEVER_QUEUE:
        return pickNeverQueue(i32, backendRuns, list, count, turn);
      default:
        return NO_BACKEND;
    }
  }

  function pickBounded(
    serviceWord: number,
    serviceSlot: number,
    list: number,
    count: number,
    table: number,
    size: number,
    hash: number,
  ): number {
    const run = serviceRuns + serviceSlot * SERVICE_RUN_WORDS;
    const maxLoad = i32[serviceWord + S_MAX_LOAD]!;
    const sum = i32[serviceWord + S_WEIGHT_SUM]! >>> 0;
    const first = firstTurn(i32[serviceWord + S_SCHEDULER_SEED]!, worker, workers, count);
    return pickBoundedMaglev(
      i32,
      u16,
      table,
      size,
      run,
      backendRuns,
      list,
      count,
      hash,
      maxLoad,
      sum,
      first,
    );
  }

  function next(
    bankWord: number,
    serviceWord: number,
    entry: number,
    attempt: number,
    client: number,
    clientPort: number,
    vip: number,
    vipPort: number,
    protocol: number,
  ): number {
    const count = i32[serviceWord + S_BACKENDS_COUNT]!;
    const scheduler = i32[serviceWord + S_SCHEDULER]!;
    const list = listOf(bankWord, serviceWord);
    const table = tableOf(bankWord, serviceWord);
    if (scheduler === SCHEDULER_FAILOVER || scheduler === SCHEDULER_OVERFLOW) {
      return nextByWeight(u16, table, list, count, entry);
    }
    let other = entry;
    if (attempt === 1) {
      const size = i32[serviceWord + S_HASH_SIZE]!;
      const seed = i32[bankWord + BANK_SEED]!;
      const hash = mix(seed, client, vip, (clientPort << 16) | vipPort, protocol);
      if (scheduler === SCHEDULER_MAGLEV || scheduler === SCHEDULER_BOUNDED_MAGLEV) {
        other = nextMaglev(u16, table, size, list, hash, entry);
      } else if (scheduler === SCHEDULER_SOURCE_HASH) {
        other = nextSourceHash(u16, table, size, list, seed, client, entry);
      } else if (scheduler === SCHEDULER_RENDEZVOUS) {
        other = nextRendezvous(i32, u16, table, list, count, hash, entry);
      }
    }
    if (other !== entry) return other;
    return entry + ENTRY_WORDS < list + count * ENTRY_WORDS ? entry + ENTRY_WORDS : list;
  }

  /** First word of the service's backend list. */
  function listOf(bankWord: number, serviceWord: number): number {
    const lists = bankWord + (i32[bankWord + BANK_BACKENDS_AT]! >> 2);
    return lists + i32[serviceWord + S_BACKENDS_FIRST]! * ENTRY_WORDS;
  }

  /** Index in u16 of the service's table. */
  function tableOf(bankWord: number, serviceWord: number): number {
    const tables = (bankWord << 1) + (i32[bankWord + BANK_HASH_SLOTS_AT]! >> 1);
    return tables + i32[serviceWord + S_HASH_FIRST]!;
  }

  return { pick, next };
}
