import {
  B_COST_US,
  B_EJECTED,
  B_EJECTED_SINCE,
  B_EJECTED_TIMES,
  B_EJECTED_UNTIL,
  B_EJECTED_WHY,
  B_EJECTIONS,
  B_LATENCY_US,
  B_PASSIVE_EPOCH,
  EJECTED_NO,
  EJECTED_YES,
} from "../service/backend-slots.ts";
import type { PassiveDefinition } from "../service/definition.ts";
import { backendState } from "../service/effective.ts";
import {
  FAILED_REFUSED,
  FAILED_SILENT,
  FAILED_UNANSWERED,
  FAILED_UNREACHABLE,
} from "../service/passive-run.ts";
import {
  costOf,
  createLatencyMeter,
  ejectableOf,
  ejectionMs,
  judge,
  type Seen,
  seenOf,
  type Verdict,
} from "../service/passive-seen.ts";
import { backendSlotWord } from "../service/slots.ts";
import type { RegionViews } from "../state/layout.ts";
import { formatDuration } from "./config/duration.ts";
import type { Applied } from "./reconcile.ts";

/**
 * Passive checks: what the workers see of the backends' answers becomes ejections, as Envoy's outlier
 * detection does it (docs/passive.md). All that has to outlast the process lies in the slots.
 */
export interface PassiveChecks {
  /** Watch the backends of this definition from now on. */
  follow(applied: Applied): void;
  /** Look at all of them; call every PASSIVE_LOOK_MS. */
  look(): void;
  /** An active check of the backend has come to an end. */
  checked(slot: number, ok: boolean, durationMs: number): void;
  /** Why the backend was ejected, or is back; "" where that decides nothing. */
  reasonOf(slot: number): string;
}

/** A backend that dies is out within `silence`, this, and the time that a bank takes. */
export const PASSIVE_LOOK_MS = 25;
/** Latencies are published in every so manieth look: as often as what schedulers count by. */
const LOOKS_PER_PUBLICATION = 4;

interface Watch {
  readonly slot: number;
  readonly definition: PassiveDefinition;
  readonly isUdp: boolean;
  /** Slots of its service, itself included. */
  readonly peers: readonly number[];
  /** Answers at the ejection, or at the look that first found failures; null: none. */
  answersThen: number | null;
}

export interface PassiveOptions {
  readonly views: RegionViews;
  readonly tick: () => number;
  /** Slot states have changed. */
  readonly refresh: () => void;
}

export function createPassiveChecks({ views, tick, refresh }: PassiveOptions): PassiveChecks {
  const { i32 } = views;
  const meter = createLatencyMeter(views);
  const ends = new Map<number, string>();
  let watches = new Map<number, Watch>();
  let slots: readonly number[] = [];
  let looks = 0;

  const wordOf = (slot: number): number => backendSlotWord(views, slot);
  const isEjected = (slot: number): boolean => i32[wordOf(slot) + B_EJECTED] === EJECTED_YES;

  function follow({ assignment }: Applied): void {
    const next = new Map<number, Watch>();
    slots = assignment.services.flatMap(({ backends }) => backends.map(({ slot }) => slot));
    let isFreed = false;
    for (const { backends, definition, protocol } of assignment.services) {
      const peers = backends.map(({ slot }) => slot);
      for (const slot of peers) {
        if (definition.passive === null) {
          // Nobody would end it any more.
          if (isEjected(slot)) {
            end(slot, "passive checks are off");
            isFreed = true;
          }
          continue;
        }
        const answersThen = watches.get(slot)?.answersThen ?? null;
        const isUdp = protocol === "udp";
        next.set(slot, { slot, definition: definition.passive, isUdp, peers, answersThen });
      }
    }
    watches = next;
    if (isFreed) refresh();
  }

  function end(slot: number, reason: string): void {
    const at = wordOf(slot);
    i32[at + B_EJECTED] = EJECTED_NO;
    i32[at + B_EJECTED_SINCE] = tick();
    i32[at + B_PASSIVE_EPOCH] = (i32[at + B_PASSIVE_EPOCH]! + 1) | 0;
    ends.set(slot, `ejection over: ${reason}`);
    const watch = watches.get(slot);
    if (watch !== undefined) watch.answersThen = null;
  }

  function eject(watch: Watch, { kind, count }: Verdict, seen: Seen): void {
    const { slot, definition } = watch;
    const at = wordOf(slot);
    const now = tick();
    const times = i32[at + B_EJECTED_TIMES]!;
    const isLongest = ejectionMs(definition, times) >= definition.maximumMs;
    const next = times > 0 && isLongest ? times : times + 1;
    i32[at + B_EJECTED_TIMES] = next;
    i32[at + B_EJECTED_UNTIL] = (now + ejectionMs(definition, next)) | 0;
    i32[at + B_EJECTED_SINCE] = now;
    i32[at + B_EJECTED_WHY] = kind | (Math.min(count, 1 << 20) << 8);
    i32[at + B_EJECTIONS] = (i32[at + B_EJECTIONS]! + 1) | 0;
    i32[at + B_PASSIVE_EPOCH] = (i32[at + B_PASSIVE_EPOCH]! + 1) | 0;
    i32[at + B_EJECTED] = EJECTED_YES;
    watch.answersThen = seen.answers;
    ends.delete(slot);
  }

  /** Whether one more of the service may go, and another one is left. */
  function mayEject({ definition, peers, slot }: Watch): boolean {
    const states = peers.map((peer) => backendState(views, peer).state);
    if (states[peers.indexOf(slot)] !== "up") return false;
    const ups = states.filter((state) => state === "up").length;
    // Also those that checks find down by now: they are ejected still when they are up again.
    const ejected = peers.filter(isEjected).length;
    const total = states.filter((state) => ["up", "ejected", "down", "starting"].includes(state));
    return ups > 1 && ejected < ejectableOf(definition, total.length);
  }

  /** @returns true: the state of the backend is another one */
  function lookAtEjected(watch: Watch, now: number): boolean {
    const at = wordOf(watch.slot);
    if (((now - i32[at + B_EJECTED_UNTIL]!) | 0) >= 0) {
      end(watch.slot, `its time of ${timeOf(watch.definition, i32[at + B_EJECTED_TIMES]!)}`);
      return true;
    }
    const { answers } = seenOf(views, watch.slot, now);
    const isFirst = watch.answersThen === null;
    const isSilent = (i32[at + B_EJECTED_WHY]! & 0xff) === FAILED_SILENT;
    if (isFirst || !isSilent || answers === watch.answersThen) {
      if (isFirst) watch.answersThen = answers;
      return false;
    }
    end(watch.slot, "it has answered");
    return true;
  }

  function lookAtOther(watch: Watch, now: number): boolean {
    const { definition, slot } = watch;
    const at = wordOf(slot);
    const goodMs = (now - i32[at + B_EJECTED_SINCE]!) | 0;
    if (i32[at + B_EJECTED_TIMES]! > 0 && goodMs >= definition.intervalMs) {
      i32[at + B_EJECTED_TIMES] = i32[at + B_EJECTED_TIMES]! - 1;
      // By now it is as good as any other, and says nothing more of it.
      ends.delete(slot);
      i32[at + B_EJECTED_SINCE] = now;
    }
    const seen = seenOf(views, slot, now);
    const verdict = judge(definition, seen, i32[at + B_LATENCY_US]!, watch.isUdp);
    // A client can make up an ICMP error, but not keep the backend from answering right after it.
    const isSure = verdict?.isSilence === true || watch.answersThen === seen.answers;
    watch.answersThen = verdict === null ? null : seen.answers;
    if (verdict === null || !isSure || !mayEject(watch)) return false;
    eject(watch, verdict, seen);
    return true;
  }

  function publish(now: number): void {
    for (const slot of slots) {
      const at = wordOf(slot);
      const latency = meter.read(slot);
      i32[at + B_LATENCY_US] = latency;
      i32[at + B_COST_US] = costOf(seenOf(views, slot, now), latency);
    }
  }

  function look(): void {
    const now = tick();
    if (looks++ % LOOKS_PER_PUBLICATION === 0) publish(now);
    let hasChanged = false;
    for (const watch of watches.values()) {
      const changed = isEjected(watch.slot) ? lookAtEjected(watch, now) : lookAtOther(watch, now);
      hasChanged = changed || hasChanged;
    }
    if (hasChanged) refresh();
  }

  function checked(slot: number, ok: boolean, durationMs: number): void {
    const watch = watches.get(slot);
    if (!ok || watch === undefined || !watch.definition.activeCheckEnds || !isEjected(slot)) return;
    // A check that had begun before the backend died says nothing.
    const sinceMs = (tick() - i32[wordOf(slot) + B_EJECTED_SINCE]!) | 0;
    if (sinceMs <= durationMs) return;
    end(slot, "a health check has succeeded");
    refresh();
  }

  function reasonOf(slot: number): string {
    const { state } = backendState(views, slot);
    if (state === "up") return ends.get(slot) ?? "";
    if (state !== "ejected") {
      ends.delete(slot);
      return "";
    }
    const at = wordOf(slot);
    const why = i32[at + B_EJECTED_WHY]!;
    const times = i32[at + B_EJECTED_TIMES]!;
    const definition = watches.get(slot)?.definition;
    const length = definition === undefined ? "" : `; ejected for ${timeOf(definition, times)}`;
    return `${why >> 8} connections in a row failed: ${WHY[why & 0xff] ?? ""}${length}`;
  }

  return { follow, look, checked, reasonOf };
}

const WHY: Readonly<Record<number, string>> = {
  [FAILED_SILENT]: "no answer",
  [FAILED_REFUSED]: "RST in answer to SYN",
  [FAILED_UNREACHABLE]: "ICMP says unreachable",
  [FAILED_UNANSWERED]: "no answer before the flow expired",
};

function timeOf(definition: PassiveDefinition, times: number): string {
  return formatDuration(ejectionMs(definition, times));
}
