import { seedWord } from "../../scheduler/mix.ts";
import {
  B_LATENCY_US,
  BF_BYTES_IN,
  BF_BYTES_OUT,
  BF_CONNECTIONS,
  BF_PACKETS_IN,
  BF_PACKETS_OUT,
} from "../../service/backend-slots.ts";
import { backendState, eligibleBackends } from "../../service/effective.ts";
import { backendActive, backendFlows, backendTotal } from "../../service/runs.ts";
import { type AssignedService, backendSlotWord } from "../../service/slots.ts";
import type { RegionViews } from "../../state/layout.ts";
import type { Backend, Statistics } from "./policy.d.ts";

/** What a policy is called with. */
export interface PolicyInput {
  readonly backends: readonly Backend[];
  /** Of the backends, in their order. */
  readonly slots: readonly number[];
  readonly statistics: Omit<Statistics, "reason">;
  /** Another text: a backend came, went, or changed its state or weight. */
  readonly key: string;
}

/** Rates over less than this would be noise. */
const SAMPLE_INTERVAL_MS = 500;

const TOTALS = {
  connections: BF_CONNECTIONS,
  packetsIn: BF_PACKETS_IN,
  bytesIn: BF_BYTES_IN,
  packetsOut: BF_PACKETS_OUT,
  bytesOut: BF_BYTES_OUT,
} as const;
type TotalName = keyof typeof TOTALS;
type Totals = Readonly<Record<TotalName, number>>;

interface Sample {
  readonly atMs: number;
  readonly totals: Totals;
  readonly rates: Totals;
}

const NO_RATES: Totals = { connections: 0, packetsIn: 0, bytesIn: 0, packetsOut: 0, bytesOut: 0 };

/** Reads what one policy is called with. */
export interface PolicyInputs {
  /**
   * @param atMs - on a clock that never steps back
   * @param now - the wall clock
   */
  read(service: AssignedService, atMs: number, now: Date): PolicyInput;
  /** The key alone, which costs a fraction of it. */
  key(service: AssignedService): string;
}

/** @param seed - `hash.seed` */
export function createInputs(views: RegionViews, seed: string): PolicyInputs {
  let samples = new Map<number, Sample>();

  function sample(slot: number, atMs: number): Sample {
    const totals = Object.fromEntries(
      Object.entries(TOTALS).map(([name, word]) => [name, backendTotal(views, slot, word)]),
    ) as Totals;
    const before = samples.get(slot);
    if (before === undefined) return { atMs, totals, rates: NO_RATES };
    const seconds = (atMs - before.atMs) / 1000;
    if (seconds * 1000 < SAMPLE_INTERVAL_MS) return before;
    const rates = Object.fromEntries(
      Object.entries(totals).map(([name, total]) => [
        name,
        Math.max(0, (total - before.totals[name as TotalName]) / seconds),
      ]),
    ) as Totals;
    return { atMs, totals, rates };
  }

  function readyOf(service: AssignedService): ReadonlySet<number> {
    return new Set(eligibleBackends(views, service).map(({ slot }) => slot));
  }

  function key({ backends }: AssignedService, ready: ReadonlySet<number>): string {
    const parts = backends.map(({ slot }) => {
      const { state, weight } = backendState(views, slot);
      return `${slot} ${weight} ${state} ${ready.has(slot)}`;
    });
    return parts.join("\n");
  }

  function read(service: AssignedService, atMs: number, now: Date): PolicyInput {
    const { definition, protocol } = service;
    const ready = readyOf(service);
    const next = new Map<number, Sample>();
    const backends = service.backends.map(({ slot, definition: backend }, index): Backend => {
      const taken = sample(slot, atMs);
      next.set(slot, taken);
      const { rates } = taken;
      const { state, weight } = backendState(views, slot);
      const active = backendActive(views, slot);
      const latencyUs = views.i32[backendSlotWord(views, slot) + B_LATENCY_US]!;
      return {
        index,
        address: backend.address.text,
        port: backend.port,
        weight,
        state,
        takesNewFlows: ready.has(slot),
        active,
        inactive: Math.max(0, backendFlows(views, slot) - active),
        ...taken.totals,
        connectionsPerSecond: rates.connections,
        packetsInPerSecond: rates.packetsIn,
        bytesInPerSecond: rates.bytesIn,
        packetsOutPerSecond: rates.packetsOut,
        bytesOutPerSecond: rates.bytesOut,
        latencyMs: latencyUs > 0 ? latencyUs / 1000 : null,
      };
    });
    samples = next;
    return {
      backends,
      slots: service.backends.map(({ slot }) => slot),
      statistics: {
        service: definition.name,
        protocol,
        nowMs: now.getTime(),
        now: now.toISOString(),
        seed: seedWord(seed),
        fallback: definition.scheduler,
        tableSizeMax: definition.tableSize,
        available: ready.size,
      },
      key: key(service, ready),
    };
  }

  return { read, key: (service) => key(service, readyOf(service)) };
}
