import { LOAD_UNIT } from "../scheduler/bounded-maglev.ts";
import { ACTIVE_WEIGHT } from "../scheduler/least-connections.ts";
import {
  R_ACTIVE,
  R_FLOWS,
  R_OTHERS_ACTIVE,
  R_OTHERS_FLOWS,
  V_LOAD,
  V_LOAD_ADDED,
} from "../service/backend-slots.ts";
import {
  BANK_BACKENDS_AT,
  BANK_SERVICES_AT,
  E_SLOT,
  ENTRY_WORDS,
  S_BACKENDS_COUNT,
  S_BACKENDS_FIRST,
  S_SCHEDULER,
  S_USED,
  SCHEDULER_BOUNDED_MAGLEV,
  SERVICE_WORDS,
} from "../service/bank.ts";
import { backendActive, backendFlows, backendRunWord, serviceRunWord } from "../service/runs.ts";
import { usedBackendSlots } from "../service/slots.ts";
import { H_BANK_PUBLISHED, type RegionViews } from "../state/layout.ts";

/**
 * How often each worker is told what the others hold. Between two times a scheduler that counts
 * knows its own flows exactly, and the others' as they were.
 */
export const OTHERS_INTERVAL_MS = 100;

/** Tell every worker how many flows of each backend the others have, and services their load. */
export function publishOthers(views: RegionViews): void {
  // A worker alone knows all flows of its backends.
  if (views.layout.workers > 1) publishFlows(views);
  publishLoads(views);
}

function publishFlows(views: RegionViews): void {
  const { i32, layout } = views;
  for (const slot of usedBackendSlots(views)) {
    const flows = backendFlows(views, slot);
    const active = backendActive(views, slot);
    for (const { worker } of layout.shards) {
      const run = backendRunWord(views, worker, slot);
      // The sums were read a moment before: what has ended since must not make them negative.
      i32[run + R_OTHERS_FLOWS] = Math.max(0, flows - i32[run + R_FLOWS]!);
      i32[run + R_OTHERS_ACTIVE] = Math.max(0, active - i32[run + R_ACTIVE]!);
    }
  }
}

/** The load of services whose backends have a bound (`maxLoad`), of the backends that take flows. */
function publishLoads(views: RegionViews): void {
  const { i32, layout } = views;
  const published = i32[H_BANK_PUBLISHED]!;
  if (published === 0) return;
  const bank = layout.banks[(published & 1) as 0 | 1].at >> 2;
  const services = bank + (i32[bank + BANK_SERVICES_AT]! >> 2);
  for (let slot = 0; slot < layout.services; slot++) {
    const service = services + slot * SERVICE_WORDS;
    if (i32[service + S_USED] === 0 || i32[service + S_SCHEDULER] !== SCHEDULER_BOUNDED_MAGLEV) {
      continue;
    }
    // Read before the flows are: one opened in between counts twice rather than never.
    const added = layout.shards.map(
      ({ worker }) => i32[serviceRunWord(views, worker, slot) + V_LOAD_ADDED]!,
    );
    const load = Math.round(loadOf(views, bank, service) / LOAD_UNIT);
    for (const { worker } of layout.shards) {
      i32[serviceRunWord(views, worker, slot) + V_LOAD] = (load - added[worker]!) | 0;
    }
  }
}

/** Load of all backends in a service's list, as schedulers count it. */
function loadOf(views: RegionViews, bank: number, service: number): number {
  const { i32 } = views;
  const list =
    bank + (i32[bank + BANK_BACKENDS_AT]! >> 2) + i32[service + S_BACKENDS_FIRST]! * ENTRY_WORDS;
  let load = 0;
  for (let index = 0; index < i32[service + S_BACKENDS_COUNT]!; index++) {
    const slot = i32[list + index * ENTRY_WORDS + E_SLOT]!;
    const active = backendActive(views, slot);
    load += active * ACTIVE_WEIGHT + Math.max(0, backendFlows(views, slot) - active);
  }
  return load;
}
