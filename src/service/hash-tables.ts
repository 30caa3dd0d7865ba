import { buildMaglevTable, type MaglevBackend, withShares } from "../scheduler/maglev-table.ts";
import { addressWord } from "../scheduler/mix.ts";
import { buildRendezvousKeys } from "../scheduler/rendezvous-keys.ts";
import { buildSourceHashTable, sourceHashSize } from "../scheduler/source-hash-table.ts";
import { buildWeightOrder } from "../scheduler/weight-order.ts";
import { buildWeightRanges } from "../scheduler/weight-ranges.ts";
import type { RegionViews } from "../state/layout.ts";
import { backendState, type Eligible } from "./effective.ts";
import { decidedWeight, type PolicyDecision } from "./policy.ts";
import type { AssignedService } from "./slots.ts";

/**
 * Tables of services whose scheduler has one, kept by service slot: banks are written far more
 * often than a table changes, and most changes of a maglev table begin at the same whole one.
 */
export interface HashTables {
  /**
   * @param list - the backends that take new flows, in the order of the list
   * @param seed - BANK_SEED
   * @param decision - where the weights of the list come from
   * @returns the scheduler's table, in 16-bit words; empty where it has none, or the list is empty
   */
  tableOf(
    service: AssignedService,
    list: readonly Eligible[],
    seed: number,
    decision?: PolicyDecision | null,
  ): Uint16Array;
}

interface Kept {
  readonly key: string;
  readonly table: Uint16Array;
}

const EMPTY = new Uint16Array(0);

/** @param buildWhole - the table of all backends of a maglev service */
export function createHashTables(views: RegionViews, buildWhole = buildMaglevTable): HashTables {
  const whole = new Map<number, Kept>();
  const inUse = new Map<number, Kept>();

  function kept(
    tables: Map<number, Kept>,
    slot: number,
    key: string,
    build: () => Uint16Array,
  ): Uint16Array {
    const found = tables.get(slot);
    if (found?.key === key) return found.table;
    const table = build();
    tables.set(slot, { key, table });
    return table;
  }

  function maglev(
    service: AssignedService,
    list: readonly Eligible[],
    seed: number,
    decision: PolicyDecision | null,
  ): Uint16Array {
    const { slot, definition } = service;
    const all = allBackends(views, service, decision);
    const present = new Map(list.map((backend, index) => [backend.slot, index]));
    const shares = all.map((one) => list[present.get(one.slot) ?? -1]?.share ?? 0);
    const wholeKey = keyOf(`${definition.tableSize} ${seed}`, all);
    return kept(inUse, slot, `maglev ${wholeKey} ${shares.join(" ")}`, () => {
      const table = kept(whole, slot, wholeKey, () => buildWhole(all, definition.tableSize, seed));
      const positions = Uint16Array.from(all, (backend) => present.get(backend.slot) ?? 0);
      return withShares(table, all, shares, seed).map((position) => positions[position]!);
    });
  }

  function tableOf(
    service: AssignedService,
    list: readonly Eligible[],
    seed: number,
    decision: PolicyDecision | null = null,
  ): Uint16Array {
    const { scheduler } = service.definition;
    if (list.length === 0) return EMPTY;
    const weights = (): number[] => list.map((backend) => backend.weight);
    const own = (build: () => Uint16Array): Uint16Array =>
      kept(inUse, service.slot, keyOf(`${scheduler} ${seed}`, list), build);
    switch (scheduler) {
      case "maglev":
      case "bounded-maglev":
        return maglev(service, list, seed, decision);
      case "source-hash":
        return own(() => buildSourceHashTable(weights(), sourceHashSize(weights())));
      case "rendezvous":
        return own(() => buildRendezvousKeys(list, seed));
      case "power-of-two":
      case "random":
        return own(() => buildWeightRanges(weights()));
      case "failover":
      case "overflow":
        return own(() => buildWeightOrder(weights()));
      default:
        return EMPTY;
    }
  }

  return { tableOf };
}

/**
 * 16-bit words of a service's table, at most: what `limits.hashSlots` has to have room for.
 *
 * @param weights - of all its backends, each at least 1
 */
export function tableWords(
  scheduler: AssignedService["definition"]["scheduler"],
  weights: readonly number[],
  tableSize: number,
): number {
  switch (scheduler) {
    case "maglev":
    case "bounded-maglev":
      return tableSize;
    case "source-hash":
      return sourceHashSize(weights);
    case "rendezvous":
    case "power-of-two":
    case "random":
      return 2 * weights.length;
    case "failover":
    case "overflow":
      return weights.length;
    default:
      return 0;
  }
}

/** Every backend that could take flows, with the weight that it would have then. */
function allBackends(
  views: RegionViews,
  { backends }: AssignedService,
  decision: PolicyDecision | null,
): (MaglevBackend & { readonly slot: number })[] {
  return backends
    .map(({ slot, definition }) => ({
      slot,
      address: addressWord(definition.address),
      port: definition.port,
      weight:
        decidedWeight(decision, slot) ?? (backendState(views, slot).weight || definition.weight),
    }))
    .filter(({ weight }) => weight > 0);
}

function keyOf(kind: string, backends: readonly MaglevBackend[]): string {
  const texts = backends.map(({ address, port, weight }) => `${address}:${port}*${weight}`);
  return `${kind} ${texts.join(" ")}`;
}
