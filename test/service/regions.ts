import { B_ADMIN, B_FLOWS, B_HEALTH, B_WEIGHT_OVERRIDE } from "../../src/service/backend-slots.ts";
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
    ...size,
  });
  return viewRegion(new ArrayBuffer(layout.bytes), layout);
}

export const SETTABLE = {
  admin: B_ADMIN,
  health: B_HEALTH,
  weightOverride: B_WEIGHT_OVERRIDE,
  flows: B_FLOWS,
} as const;

/** Write words of a backend slot, as control or the worker does. */
export function setSlot(
  views: RegionViews,
  slot: number,
  words: Partial<Record<keyof typeof SETTABLE, number>>,
): void {
  for (const [name, value] of Object.entries(words)) {
    views.i32[backendSlotWord(views, slot) + SETTABLE[name as keyof typeof SETTABLE]] = value;
  }
}
