import type { RegionViews, Section } from "../state/layout.ts";

/** The slots as they were before a change that may fail: words, generations and keys. */
export interface SavedPlan {
  readonly backendSlots: Int32Array;
  readonly backendKeys: Uint8Array;
  readonly serviceSlots: Int32Array;
  readonly serviceKeys: Uint8Array;
}

/** Copy all slots; 2 MB at the default limits. */
export function savePlan(views: RegionViews): SavedPlan {
  const { i32, u8, layout } = views;
  const words = ({ at, bytes }: Section) => i32.slice(at >> 2, (at + bytes) >> 2);
  const bytesOf = ({ at, bytes }: Section) => u8.slice(at, at + bytes);
  return {
    backendSlots: words(layout.backendSlots),
    backendKeys: bytesOf(layout.backendKeys),
    serviceSlots: words(layout.serviceSlots),
    serviceKeys: bytesOf(layout.serviceKeys),
  };
}

/**
 * Put the slots back, as long as no bank with the change was published. What the workers count goes
 * on, in their own shards; a slot that was free had nothing there.
 */
export function restorePlan(views: RegionViews, saved: SavedPlan): void {
  const { i32, u8, layout } = views;
  i32.set(saved.backendSlots, layout.backendSlots.at >> 2);
  i32.set(saved.serviceSlots, layout.serviceSlots.at >> 2);
  u8.set(saved.backendKeys, layout.backendKeys.at);
  u8.set(saved.serviceKeys, layout.serviceKeys.at);
}
