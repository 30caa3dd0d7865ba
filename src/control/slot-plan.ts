import {
  B_ACTIVE,
  B_FLOWS,
  B_USED,
  BACKEND_WORDS,
  BF_CONNECTIONS,
  SERVICE_SLOT_WORDS,
  V_USED,
  VF_CONNECTIONS,
} from "../service/backend-slots.ts";
import type { RegionViews, Section } from "../state/layout.ts";

/** The slots as they were before a change that may fail: PLAN words, generations and keys. */
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
 * Put the slots back, as long as no bank with the change was published: slots that were in use get
 * their PLAN words, and their RUN words, which the worker goes on writing, are left alone; slots
 * that were free are free, and empty, again.
 */
export function restorePlan(views: RegionViews, saved: SavedPlan): void {
  const { i32, u8, layout } = views;
  restore(
    i32,
    layout.backendSlots.at >> 2,
    saved.backendSlots,
    BACKEND_WORDS,
    B_USED,
    isBackendRun,
  );
  restore(
    i32,
    layout.serviceSlots.at >> 2,
    saved.serviceSlots,
    SERVICE_SLOT_WORDS,
    V_USED,
    isServiceRun,
  );
  u8.set(saved.backendKeys, layout.backendKeys.at);
  u8.set(saved.serviceKeys, layout.serviceKeys.at);
}

function restore(
  i32: Int32Array,
  first: number,
  saved: Int32Array,
  slotWords: number,
  usedWord: number,
  isRun: (word: number) => boolean,
): void {
  for (let at = 0; at < saved.length; at += slotWords) {
    const wasUsed = saved[at + usedWord] !== 0;
    for (let word = 0; word < slotWords; word++) {
      if (!wasUsed || !isRun(word)) i32[first + at + word] = saved[at + word]!;
    }
  }
}

/** B_FLOWS, B_ACTIVE and the five doubles. */
function isBackendRun(word: number): boolean {
  return word === B_FLOWS || word === B_ACTIVE || isDouble(word, BF_CONNECTIONS, 5);
}

/** V_CURSOR, V_CURRENT_WEIGHT, V_DRAWS and the six doubles. */
function isServiceRun(word: number): boolean {
  return (word >= 1 && word <= 3) || isDouble(word, VF_CONNECTIONS, 6);
}

function isDouble(word: number, first: number, count: number): boolean {
  return word >= 2 * first && word < 2 * (first + count);
}
