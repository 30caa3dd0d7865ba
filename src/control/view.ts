import type { ReloadReport, Status } from "../base/admin-types.ts";
import { monotonicMs } from "../base/clock.ts";
import type { Log } from "../base/log.ts";
import {
  C_CONSUMED,
  C_DROPPED,
  C_FLOWS_CREATED,
  C_FLOWS_EVICTED,
  C_FLOWS_EXPIRED,
  C_FLOWS_RESET,
  C_FLOWS_TAKE_OVER_DROPPED,
  C_FLOWS_TAKE_OVER_NO_ROOM,
  C_FLOWS_TAKEN_OVER,
  C_FORWARDED,
  C_MISSED,
  C_ORIGINATED,
  C_PASSED,
  C_RECEIVED,
  C_REPLIED,
  C_STATELESS_PACKETS,
} from "../datapath/counters.ts";
import type { DeviceInterface } from "../device/device.ts";
import { backendState } from "../service/effective.ts";
import type { RegionViews } from "../state/layout.ts";
import { flowsUsed } from "../state/shards.ts";
import type { GatewayView } from "./admin/gateway-view.ts";
import { createAffinityReadings } from "./affinity-readings.ts";
import { effectiveConfig } from "./config/load.ts";
import type { Health } from "./health.ts";
import type { HostParts } from "./host-side.ts";
import { createMetrics } from "./metrics.ts";
import { setOverride, slotsOfTarget } from "./overrides.ts";
import type { RateMeter } from "./rates.ts";
import { GATEWAY_SUBJECT, type Readings } from "./readings.ts";
import type { Reconciler } from "./reconcile.ts";
import type { Reloader } from "./reload.ts";

export interface ViewParts {
  readonly views: RegionViews;
  readonly version: string;
  readonly statePath: string;
  /** Wall clock. */
  readonly startedMs: number;
  readonly log: Log;
  readonly interfaces: readonly DeviceInterface[];
  readonly host: Pick<HostParts, "guardKind" | "interfaces">;
  readonly reconciler: Reconciler;
  readonly reloader: Reloader;
  readonly readings: Readings;
  readonly health: Pick<
    Health,
    "failuresOf" | "agentFailuresOf" | "counts" | "certificateExpiresMsOf"
  >;
  readonly rates: RateMeter;
  /** Whether packets go on without flows: stateless-watch.ts. */
  readonly isStateless: () => boolean;
  readonly isLive: () => boolean;
  readonly isReady: () => boolean;
  readonly isDraining: () => boolean;
  /** @returns flows that are left */
  readonly drain: (timeoutMs: number) => number;
}

/** The running gateway as the admin server shows it; ask only after the first definition runs. */
export function createView(parts: ViewParts): GatewayView {
  const { views, reconciler, reloader, readings, log } = parts;
  const { counter } = readings;
  const current = () => reconciler.current()!;
  const affinity = createAffinityReadings(
    views,
    monotonicMs,
    () => reconciler.current()?.definition ?? null,
  );

  function status(): Status {
    const { definition, assignment } = current();
    const slots = assignment.services.flatMap(({ backends }) => backends.map(({ slot }) => slot));
    const up = slots.filter((slot) => backendState(views, slot).state === "up").length;
    const links = parts.host.interfaces();
    const reload = reloader.last();
    return {
      version: parts.version,
      processId: process.pid,
      uptimeMs: Math.round(process.uptime() * 1000),
      ready: parts.isReady(),
      draining: parts.isDraining(),
      configuration: {
        file: definition.file,
        generation: reloader.generation(),
        lastReload: reload.at,
        lastReloadOk: reload.ok,
      },
      device: {
        type: definition.device.type,
        interfaces: parts.interfaces.map(({ name, mac, mtu }, index) => ({
          name,
          mac,
          mtu: links[index]?.mtu ?? mtu,
          up: links[index]?.up ?? false,
        })),
        guard: parts.host.guardKind,
      },
      flows: {
        live: flowsUsed(views),
        capacity: views.layout.size.flowCapacity,
        created: counter(C_FLOWS_CREATED),
        expired: counter(C_FLOWS_EXPIRED),
        evicted: counter(C_FLOWS_EVICTED),
        reset: counter(C_FLOWS_RESET),
        takenOver: counter(C_FLOWS_TAKEN_OVER),
        takeOverDropped: counter(C_FLOWS_TAKE_OVER_DROPPED) + counter(C_FLOWS_TAKE_OVER_NO_ROOM),
        statelessPackets: counter(C_STATELESS_PACKETS),
        stateless: parts.isStateless(),
      },
      services: definition.services.length,
      backends: { total: slots.length, up },
      frames: {
        received: counter(C_RECEIVED),
        forwarded: counter(C_FORWARDED),
        replied: counter(C_REPLIED),
        passed: counter(C_PASSED),
        consumed: counter(C_CONSUMED),
        dropped: counter(C_DROPPED),
        originated: counter(C_ORIGINATED),
        missed: counter(C_MISSED),
      },
      rates: parts.rates.of(GATEWAY_SUBJECT),
      stateFile: parts.statePath,
    };
  }

  // A scrape asks for the same rows many times: they are read once.
  const take = () => ({
    status: status(),
    services: readings.services(),
    backends: readings.backends(null),
    workers: readings.workers(),
  });
  let snapshot: ReturnType<typeof take> | null = null;
  const shown = () => (snapshot ??= take());
  const metrics = createMetrics({
    status: () => shown().status,
    services: () => shown().services,
    backends: () => shown().backends,
    workers: () => shown().workers,
    counter,
    lastReloadSuccessMs: () => reloader.last().successMs,
    reloads: reloader.counts,
    affinityEntries: affinity.entries,
    healthCheckFailures: (slot) => parts.health.failuresOf(slot),
    healthChecks: parts.health.counts,
    agentFailures: (slot) => parts.health.agentFailuresOf(slot),
    certificateExpiresMs: (slot) => parts.health.certificateExpiresMsOf(slot),
    processStartMs: parts.startedMs,
  });

  return {
    status,
    services: readings.services,
    backends: readings.backends,
    flows: readings.flows,
    affinity: affinity.list,
    drops: readings.drops,
    workers: readings.workers,
    configuration: () => effectiveConfig(current().definition),
    async backendAction(action) {
      const slots = slotsOfTarget(views, action.target);
      for (const slot of slots) setOverride(views, slot, action);
      const { action: verb, target, ...rest } = action;
      log.info("backend_override", { action: verb, backend: target, ...rest });
      await reconciler.refresh();
      return readings.backendRows(slots);
    },
    reload: (dryRun): Promise<ReloadReport> => reloader.reload(dryRun),
    drain: ({ timeoutMs }) => ({ liveFlows: parts.drain(timeoutMs) }),
    async metrics() {
      snapshot = null;
      const text = await metrics.metrics();
      snapshot = null;
      return text;
    },
    isLive: parts.isLive,
    isReady: parts.isReady,
  };
}
