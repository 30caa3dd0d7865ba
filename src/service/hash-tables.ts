import { buildMaglevTable, type MaglevBackend, withoutAbsent } from "../scheduler/maglev-table.ts";
import { addressWord } from "../scheduler/mix.ts";
import { buildSourceHashTable, sourceHashSize } from "../scheduler/source-hash-table.ts";
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
   * @returns position in `list` by slot; empty where the scheduler has none, or the list is empty
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

export function createHashTables(views: RegionViews): HashTables {
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
    const isPresent = all.map((backend) => present.has(backend.slot));
    const wholeKey = keyOf(`${definition.tableSize} ${seed}`, all);
    return kept(inUse, slot, `maglev ${wholeKey} ${isPresent.map(Number).join("")}`, () => {
      const table = kept(whole, slot, wholeKey, () =>
        buildMaglevTable(all, definition.tableSize, seed),
      );
      const positions = Uint16Array.from(all, (backend) => present.get(backend.slot) ?? 0);
      return withoutAbsent(table, all, isPresent, seed).map((position) => positions[position]!);
    });
  }

  return {
    tableOf(service, list, seed, decision = null) {
      const { scheduler } = service.definition;
      if (list.length === 0) return EMPTY;
      if (scheduler === "maglev") return maglev(service, list, seed, decision);
      if (scheduler !== "source-hash") return EMPTY;
      return kept(inUse, service.slot, keyOf("source-hash", list), () => {
        const weights = list.map((backend) => backend.weight);
        return buildSourceHashTable(weights, sourceHashSize(weights));
      });
    },
  };
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
