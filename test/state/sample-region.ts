import { GENERATION_MASK } from "../../src/flow/flow-record.ts";
import { createFlowTable, type FlowTable } from "../../src/flow/flow-table.ts";
import {
  B_ADDRESS,
  B_GENERATION,
  B_HEALTH,
  B_PORT,
  B_PROTOCOL,
  B_SERVICE,
  B_USED,
  B_WEIGHT,
  B_WEIGHT_OVERRIDE,
  BACKEND_WORDS,
  BF_CONNECTIONS,
  HEALTH_UP,
  SERVICE_SLOT_WORDS,
  V_USED,
  VF_CONNECTIONS,
} from "../../src/service/backend-slots.ts";
import { backendRunWord, serviceRunWord } from "../../src/service/runs.ts";
import { KEY_BYTES, type RegionSize, type RegionViews } from "../../src/state/layout.ts";
import { openRegion, type Region, type RegionOptions } from "../../src/state/region.ts";
import { BACKEND, distinctFlow, insertSample, type SampleFlow } from "../flow/sample-flows.ts";
import type { MemoryMapper } from "./memory-mapper.ts";

export const PATH = "/run/headgate/state";
export const SIZE: RegionSize = {
  flowCapacity: 64,
  services: 4,
  backends: 16,
  hashSlots: 64,
  workers: 1,
};

/** An hour between the starts, so that deaths are far apart, unless the test sets the tick. */
let starts = 0;

export function openSample(mapper: MemoryMapper, options: Partial<RegionOptions> = {}): Region {
  starts++;
  return openRegion(mapper, {
    path: PATH,
    size: SIZE,
    tick: starts * 3_600_000,
    random: (bytes) => Uint8Array.from({ length: bytes }, (_, index) => index + 1),
    processId: 1000 + starts,
    now: () => new Date(Date.UTC(2026, 0, 2, 3, 4, 5)),
    ...options,
  });
}

export function backendWord(views: RegionViews, slot: number): number {
  return (views.layout.backendSlots.at >> 2) + slot * BACKEND_WORDS;
}

export function serviceWord(views: RegionViews, slot: number): number {
  return (views.layout.serviceSlots.at >> 2) + slot * SERVICE_SLOT_WORDS;
}

/** Use a backend slot, as control does. */
export function useBackend(views: RegionViews, slot: number, service = 0): void {
  const { i32, u8, f64, layout } = views;
  const at = backendWord(views, slot);
  i32[at + B_USED] = 1;
  i32[at + B_GENERATION] = generationOf(slot);
  i32[at + B_SERVICE] = service;
  i32[at + B_PROTOCOL] = 6;
  i32[at + B_ADDRESS] = BACKEND + slot;
  i32[at + B_PORT] = 8080;
  i32[at + B_WEIGHT] = 10;
  i32[at + B_WEIGHT_OVERRIDE] = slot;
  i32[at + B_HEALTH] = HEALTH_UP;
  f64[(backendRunWord(views, 0, slot) >> 1) + BF_CONNECTIONS] = 100 + slot;
  const key = new TextEncoder().encode(`web tcp backend ${slot}`);
  u8[layout.backendKeys.at + slot * KEY_BYTES] = key.length;
  u8.set(key, layout.backendKeys.at + slot * KEY_BYTES + 2);
}

export function useService(views: RegionViews, slot: number): void {
  const at = serviceWord(views, slot);
  views.i32[at + V_USED] = 1;
  views.f64[(serviceRunWord(views, 0, slot) >> 1) + VF_CONNECTIONS] = 1000 + slot;
  views.u8.set([3, 0, 0x77, 0x65, 0x62 + slot], views.layout.serviceKeys.at + slot * KEY_BYTES);
}

export function generationOf(slot: number): number {
  return 70_000 + slot;
}

/** A flow of a backend that useBackend() has made. */
export function flowOf(slot: number, id: number, changes: Partial<SampleFlow> = {}): SampleFlow {
  return distinctFlow(id, {
    backend: BACKEND + slot,
    slot,
    generation: generationOf(slot) & GENERATION_MASK,
    ...changes,
  });
}

/** Four services, backends 0..15 over them, `count` flows over the backends. */
export function populate(
  views: RegionViews,
  count: number,
): { table: FlowTable; flows: SampleFlow[] } {
  const { services, backends } = views.layout;
  for (let slot = 0; slot < services; slot++) useService(views, slot);
  for (let slot = 0; slot < backends; slot++) useBackend(views, slot, slot % services);
  const table = createFlowTable(views);
  const flows = Array.from({ length: count }, (_, id) => flowOf(id % backends, id));
  for (const flow of flows) insertSample(table, flow);
  return { table, flows };
}
