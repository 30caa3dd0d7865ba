import {
  B_ADMIN,
  B_AGENT,
  B_AGENT_WEIGHT,
  B_EJECTED,
  B_HEALTH,
  B_WEIGHT_OVERRIDE,
  R_FLOWS,
} from "../../src/service/backend-slots.ts";
import { backendRunWord } from "../../src/service/runs.ts";
import { backendSlotWord } from "../../src/service/slots.ts";
import {
  planRegion,
  type RegionSize,
  type RegionViews,
  viewRegion,
} from "../../src/state/layout.ts";

/** An empty region in memory. */
export function memoryRegion(size: Partial<RegionSize> = {}): RegionViews {
  const layout = planRegion({
    flowCapacity: 1,
    services: 32,
    backends: 128,
    hashSlots: 1_100_000,
    workers: 1,
    ...size,
  });
  return viewRegion(new ArrayBuffer(layout.bytes), layout);
}

export const SETTABLE = {
  admin: B_ADMIN,
  health: B_HEALTH,
  weightOverride: B_WEIGHT_OVERRIDE,
  agent: B_AGENT,
  agentWeight: B_AGENT_WEIGHT,
  ejected: B_EJECTED,
} as const;

/** Write words of a backend slot, as control or the worker does. */
export function setSlot(
  views: RegionViews,
  slot: number,
  { flows, ...words }: Partial<Record<keyof typeof SETTABLE | "flows", number>>,
): void {
  if (flows !== undefined) views.i32[backendRunWord(views, 0, slot) + R_FLOWS] = flows;
  for (const [name, value] of Object.entries(words)) {
    views.i32[backendSlotWord(views, slot) + SETTABLE[name as keyof typeof SETTABLE]] = value;
  }
}
