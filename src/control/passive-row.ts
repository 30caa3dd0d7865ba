import type { PassiveRow } from "../base/admin-types.ts";
import {
  B_EJECTED,
  B_EJECTED_UNTIL,
  B_EJECTIONS,
  B_LATENCY_US,
  EJECTED_YES,
} from "../service/backend-slots.ts";
import { FAILED_NAMES, failedTotal } from "../service/passive-run.ts";
import { backendSlotWord } from "../service/slots.ts";
import type { RegionViews } from "../state/layout.ts";

/** What is known of a backend slot by its traffic. @param now - tick */
export function passiveRow(views: RegionViews, slot: number, now: number): PassiveRow {
  const { i32 } = views;
  const at = backendSlotWord(views, slot);
  const isEjected = i32[at + B_EJECTED] === EJECTED_YES;
  return {
    latencyUs: i32[at + B_LATENCY_US]! || null,
    failures: Object.fromEntries(
      FAILED_NAMES.map((name, kind) => [name, failedTotal(views, slot, kind)]),
    ),
    ejections: i32[at + B_EJECTIONS]!,
    ejectedForMs: isEjected ? Math.max(0, (i32[at + B_EJECTED_UNTIL]! - now) | 0) : null,
  };
}
