import {
  B_COST_US,
  BACKEND_RUN_WORDS,
  BACKEND_WORDS,
  R_FLOWS,
  R_OTHERS_FLOWS,
} from "../service/backend-slots.ts";
import { E_SLOT, E_WEIGHT, ENTRY_WORDS } from "../service/bank.ts";
import { ACTIVE_WEIGHT, overhead } from "./least-connections.ts";

/**
 * Least latency: the least L (C + 1) / U, with L the time that the backend takes to answer a SYN, C the
 * connections that it has and U its weight. This is Finagle's Peak EWMA cost (PeakEwma.scala of Twitter's
 * Finagle, in Linkerd too: round-trip time times requests under way) over all backends. Of several the
 * first from `first` on.
 *
 * L is what control has published last (B_COST_US, every 100 ms), so all workers go by the same; it
 * gets less while nobody is answered, and is at least what the oldest unanswered SYN has waited
 * (service/passive-seen.ts). Connections are counted as in wlc.
 *
 * A backend that has never answered is tried first, but by few at once: with as many flows as
 * UNKNOWN_FLOWS_MAX it counts as the slowest of those that are known.
 *
 * @param slotsWord - first word of the backend slots
 * @param runsWord - first word of the worker's backend runs
 * @returns first word of the entry
 */
export function pickLeastLatency(
  i32: Int32Array,
  slotsWord: number,
  runsWord: number,
  listWord: number,
  count: number,
  first: number,
): number {
  const unknown = slowest(i32, slotsWord, listWord, count);
  let best = listWord + first * ENTRY_WORDS;
  let bestCost = costOf(i32, slotsWord, runsWord, best, unknown);
  for (let turn = 1; turn < count; turn++) {
    const index = first + turn < count ? first + turn : first + turn - count;
    const entry = listWord + index * ENTRY_WORDS;
    const cost = costOf(i32, slotsWord, runsWord, entry, unknown);
    // Crosswise, so that nothing is divided.
    if (cost * i32[best + E_WEIGHT]! < bestCost * i32[entry + E_WEIGHT]!) {
      best = entry;
      bestCost = cost;
    }
  }
  return best;
}

/** Flows of a backend of which nobody knows how long it takes. */
export const UNKNOWN_FLOWS_MAX = 8;

function latencyOf(i32: Int32Array, slotsWord: number, entry: number): number {
  return i32[slotsWord + i32[entry + E_SLOT]! * BACKEND_WORDS + B_COST_US]!;
}

/** The longest latency that is known; 1 where none is, so that connections decide. */
function slowest(i32: Int32Array, slotsWord: number, listWord: number, count: number): number {
  let most = 1;
  for (let entry = listWord; entry < listWord + count * ENTRY_WORDS; entry += ENTRY_WORDS) {
    most = Math.max(most, latencyOf(i32, slotsWord, entry));
  }
  return most;
}

function costOf(
  i32: Int32Array,
  slotsWord: number,
  runsWord: number,
  entry: number,
  unknown: number,
): number {
  const slot = i32[entry + E_SLOT]!;
  let latency = latencyOf(i32, slotsWord, entry);
  if (latency === 0) {
    const run = runsWord + slot * BACKEND_RUN_WORDS;
    if (i32[run + R_FLOWS]! + i32[run + R_OTHERS_FLOWS]! < UNKNOWN_FLOWS_MAX) return 0;
    latency = unknown;
  }
  return latency * (overhead(i32, runsWord, slot) + ACTIVE_WEIGHT);
}
