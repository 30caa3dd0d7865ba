import { R_ACTIVE, R_FLOWS, R_OTHERS_ACTIVE, R_OTHERS_FLOWS } from "../service/backend-slots.ts";
import { backendActive, backendFlows, backendRunWord } from "../service/runs.ts";
import { usedBackendSlots } from "../service/slots.ts";
import type { RegionViews } from "../state/layout.ts";

/**
 * How often each worker is told what the others hold. Between two times a scheduler that counts
 * knows its own flows exactly, and the others' as they were.
 */
export const OTHERS_INTERVAL_MS = 100;

/** Tell every worker how many flows of each backend the others have. */
export function publishOthers(views: RegionViews): void {
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
