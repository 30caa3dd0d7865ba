import type { Address } from "../base/address.ts";
import type {
  BackendRow,
  DropList,
  FlowList,
  FlowRow,
  PolicyRow,
  Rates,
  ServiceRow,
  WorkerRow,
} from "../base/admin-types.ts";
import { EXIT, HeadgateError } from "../base/errors.ts";
import {
  C_BATCHES,
  C_DROPPED,
  C_DROPS,
  C_FLOWS_CREATED,
  C_FORWARDED,
  C_HANDED_IN,
  C_HANDED_OUT,
  C_MISSED,
  C_NATIVE_CALLS,
  C_RECEIVED,
  C_RECEIVED_BYTES,
  C_SENT,
  C_SENT_BYTES,
} from "../datapath/counters.ts";
import { DROP_REASONS } from "../datapath/verdict.ts";
import {
  FLAG_ACTIVE,
  FLAG_ADOPTED,
  FLAG_BY_BACKEND,
  FLAG_FIN_ORIGINAL,
  FLAG_FIN_REPLY,
  FLAG_PROBE,
  FLAG_REPLIED,
  MODE_FULL_NAT,
  PROTOCOL_UDP,
  STATE_NAMES,
  X_BACKEND,
  X_CLIENT,
  X_REPLY,
  X_VIP,
} from "../flow/flow-record.ts";
import { addressIn, type FlowFilter, type FlowSnapshot, listFlows } from "../flow/read-flows.ts";
import {
  B_AGENT_WEIGHT,
  B_DEADLINE,
  B_EXISTING,
  B_HEALTH,
  B_MAX_CONNECTIONS,
  B_PRIORITY,
  B_SLOW_SHARE,
  B_WEIGHT,
  B_WEIGHT_OVERRIDE,
  BF_BYTES_IN,
  BF_BYTES_OUT,
  BF_CONNECTIONS,
  BF_PACKETS_IN,
  BF_PACKETS_OUT,
  EXISTING_DEADLINE,
  EXISTING_MOVE_LATER,
  HEALTH_NAMES,
  VF_BYTES_IN,
  VF_BYTES_OUT,
  VF_CONNECTIONS,
  VF_DROPS,
  VF_PACKETS_IN,
  VF_PACKETS_OUT,
} from "../service/backend-slots.ts";
import type { GatewayDefinition, PortRange, ServiceDefinition } from "../service/definition.ts";
import { backendState, eligibleBackends } from "../service/effective.ts";
import { backendActive, backendFlows, backendTotal, serviceTotal } from "../service/runs.ts";
import {
  type AssignedService,
  type BackendSlotKey,
  backendSlotWord,
  readBackendKey,
  usedBackendSlots,
} from "../service/slots.ts";
import { parseTarget } from "../service/target.ts";
import { type RegionViews, W_FLOWS_USED } from "../state/layout.ts";
import { counterTotal } from "../state/shards.ts";
import type { FlowQuery } from "./admin/gateway-view.ts";
import { readDropSamples } from "./drop-samples.ts";
import { passiveRow } from "./passive-row.ts";
import type { Totals } from "./rates.ts";
import type { Applied } from "./reconcile.ts";
import { serviceFlags } from "./service-flags.ts";

/**
 * The data plane's state in the words of the admin API: read from the mapped region, never asked
 * of the worker.
 */
export interface Readings {
  services(): ServiceRow[];
  /** @throws HeadgateError HEADGATE_NOT_FOUND for a service that is not there */
  backends(service: string | null): BackendRow[];
  /** Rows of these backend slots. */
  backendRows(slots: readonly number[]): BackendRow[];
  /** @throws HeadgateError HEADGATE_NOT_FOUND for a service that is not there */
  flows(query: FlowQuery): FlowList;
  drops(): DropList;
  workers(): WorkerRow[];
  /** A counter, C_…, of one worker, or of all together. */
  counter(index: number, worker?: number): number;
  /** What rates are made of, by subject: GATEWAY_SUBJECT and every service. */
  totals(): Map<string, Totals>;
}

export const GATEWAY_SUBJECT = "";

export interface ReadingsOptions {
  readonly views: RegionViews;
  readonly deviceType: string;
  /** Names by index in the device's list. */
  readonly interfaces: readonly string[];
  readonly tick: () => number;
  readonly current: () => Applied | null;
  /** Why the last health check failed, and when the backend's state changed. */
  readonly storyOf: (slot: number) => { readonly reason: string; readonly since: string };
  readonly ratesOf: (subject: string) => Rates;
  /** Rows of a service's policies; left out: there are none. */
  readonly policiesOf?: (service: string) => readonly PolicyRow[];
}

/** Make the readings of one region. */
export function createReadings(options: ReadingsOptions): Readings {
  const { views } = options;
  const { f64, i32, layout } = views;
  const counter = (index: number, worker?: number): number =>
    worker === undefined
      ? counterTotal(views, index)
      : f64[(layout.shards[worker]!.counters.at >> 3) + index]!;

  function serviceRow(
    service: ServiceDefinition,
    assigned: readonly AssignedService[],
    slots: readonly number[],
  ): ServiceRow {
    const sum = (word: number): number =>
      assigned.reduce((total, { slot }) => total + serviceTotal(views, slot, word), 0);
    const load = { active: 0, flows: 0 };
    for (const slot of slots) {
      load.active += backendActive(views, slot);
      load.flows += backendFlows(views, slot);
    }
    return {
      name: service.name,
      vips: service.vips.map(({ text }) => text),
      ports: service.ports.map(portText),
      protocols: service.protocols,
      mode: service.mode,
      scheduler: service.policy === null ? service.scheduler : "policy",
      policies: options.policiesOf?.(service.name) ?? [],
      flags: serviceFlags(service),
      backends: {
        total: assigned.reduce((total, { backends }) => total + backends.length, 0),
        available: assigned.reduce((total, one) => total + eligibleBackends(views, one).length, 0),
      },
      active: load.active,
      inactive: Math.max(0, load.flows - load.active),
      connections: sum(VF_CONNECTIONS),
      packetsIn: sum(VF_PACKETS_IN),
      bytesIn: sum(VF_BYTES_IN),
      packetsOut: sum(VF_PACKETS_OUT),
      bytesOut: sum(VF_BYTES_OUT),
      drops: sum(VF_DROPS),
      rates: options.ratesOf(service.name),
    };
  }

  function services(): ServiceRow[] {
    const applied = options.current();
    if (applied === null) return [];
    const assigned = groupBy(applied.assignment.services, ({ definition }) => definition.name);
    const slots = groupBy(
      usedBackendSlots(views),
      (slot) => readBackendKey(views, slot)?.service ?? "",
    );
    return applied.definition.services.map((service) =>
      serviceRow(service, assigned.get(service.name) ?? [], slots.get(service.name) ?? []),
    );
  }

  function backendRow(
    slot: number,
    key: BackendSlotKey,
    modes: ReadonlyMap<string, string>,
    takesNewFlows: boolean,
  ) {
    const at = backendSlotWord(views, slot);
    const { state, reason } = backendState(views, slot);
    const story = options.storyOf(slot);
    const override = i32[at + B_WEIGHT_OVERRIDE]!;
    const active = backendActive(views, slot);
    const flows = backendFlows(views, slot);
    const double = (word: number): number => backendTotal(views, slot, word);
    return {
      service: key.service,
      protocol: key.protocol,
      address: key.address,
      port: key.port,
      mode: modes.get(key.service) ?? "",
      weight: i32[at + B_WEIGHT]!,
      weightOverride: override >= 0 ? override : null,
      agentPercent: i32[at + B_AGENT_WEIGHT]! >= 0 ? i32[at + B_AGENT_WEIGHT]! : null,
      slowStart: i32[at + B_SLOW_SHARE]! || null,
      priority: i32[at + B_PRIORITY]!,
      maxConnections: i32[at + B_MAX_CONNECTIONS]! || null,
      state,
      health: HEALTH_NAMES[i32[at + B_HEALTH]!] ?? "",
      reason: reason || story.reason,
      since: story.since,
      takesNewFlows,
      remaining: takesNewFlows ? null : Math.max(0, flows),
      deadlineInMs: deadlineOf(i32, at, options.tick()),
      active,
      inactive: Math.max(0, flows - active),
      slot,
      passive: passiveRow(views, slot, options.tick()),
      connections: double(BF_CONNECTIONS),
      packetsIn: double(BF_PACKETS_IN),
      bytesIn: double(BF_BYTES_IN),
      packetsOut: double(BF_PACKETS_OUT),
      bytesOut: double(BF_BYTES_OUT),
    } satisfies BackendRow;
  }

  function backendRows(slots: readonly number[]): BackendRow[] {
    const modes = new Map(
      options.current()?.definition.services.map(({ name, mode }) => [name, mode]),
    );
    const takers = new Set(
      options
        .current()
        ?.assignment.services.flatMap((service) => eligibleBackends(views, service))
        .map(({ slot }) => slot),
    );
    return slots.flatMap((slot) => {
      const key = readBackendKey(views, slot);
      // A sorry server is no backend: its flows count for the service.
      if (key === null || key.sorry) return [];
      return [backendRow(slot, key, modes, takers.has(slot))];
    });
  }

  function backends(service: string | null): BackendRow[] {
    // A removed backend without flows is history: its slot is free as soon as somebody needs it.
    const rows = backendRows(usedBackendSlots(views)).filter(
      (row) => row.state !== "removed" || row.active + row.inactive > 0,
    );
    if (service === null) return inOrder(rows, options.current()?.definition);
    const found = rows.filter((row) => row.service === service);
    if (found.length === 0) requireService(service);
    return inOrder(found, options.current()?.definition);
  }

  function requireService(name: string): void {
    if (options.current()?.definition.services.some((service) => service.name === name)) return;
    const message = `there is no service ${JSON.stringify(name)}`;
    throw new HeadgateError("HEADGATE_NOT_FOUND", message, EXIT.failed);
  }

  function flowFilter(query: FlowQuery): FlowFilter {
    const client = query.client === null ? {} : { client: query.client };
    if (query.service === null && query.backend === null) return client;
    const slots = usedBackendSlots(views)
      .map((slot) => ({ slot, key: readBackendKey(views, slot) }))
      .filter(({ key }) => key !== null && (query.service ?? key.service) === key.service);
    if (query.service !== null && slots.length === 0) requireService(query.service);
    const endpoint = query.backend === null ? null : parseTarget(`any/${query.backend}`);
    const wanted = slots.filter(
      ({ key }) =>
        endpoint === null ||
        (endpoint.address.text === key?.address &&
          (endpoint.port === 0 || endpoint.port === key.port)),
    );
    return { ...client, backends: new Set(wanted.map(({ slot }) => slot)) };
  }

  function flows(query: FlowQuery): FlowList {
    const tick = options.tick();
    const { flows: found, total } = listFlows(views, flowFilter(query), query.limit);
    const names = new Map(
      usedBackendSlots(views).map((slot) => [slot, readBackendKey(views, slot)?.service ?? ""]),
    );
    return {
      flows: found.map((flow) => flowRow(flow, names.get(flow.backendSlot) ?? "", tick)),
      total,
      truncated: total > found.length,
    };
  }

  function totals(): Map<string, Totals> {
    const all = new Map<string, Totals>();
    all.set(GATEWAY_SUBJECT, {
      packetsIn: counter(C_RECEIVED),
      packetsOut: counter(C_SENT),
      bytesIn: counter(C_RECEIVED_BYTES),
      bytesOut: counter(C_SENT_BYTES),
      connections: counter(C_FLOWS_CREATED),
    });
    for (const { slot, definition } of options.current()?.assignment.services ?? []) {
      const own = (word: number): number => serviceTotal(views, slot, word);
      const before = all.get(definition.name);
      all.set(definition.name, {
        packetsIn: (before?.packetsIn ?? 0) + own(VF_PACKETS_IN),
        packetsOut: (before?.packetsOut ?? 0) + own(VF_PACKETS_OUT),
        bytesIn: (before?.bytesIn ?? 0) + own(VF_BYTES_IN),
        bytesOut: (before?.bytesOut ?? 0) + own(VF_BYTES_OUT),
        connections: (before?.connections ?? 0) + own(VF_CONNECTIONS),
      });
    }
    return all;
  }

  function workerRow(worker: number): WorkerRow {
    const batches = counter(C_BATCHES, worker);
    const received = counter(C_RECEIVED, worker);
    return {
      worker,
      device: options.deviceType,
      flows: Math.max(0, Atomics.load(i32, layout.shards[worker]!.workerWord + W_FLOWS_USED)),
      received,
      forwarded: counter(C_FORWARDED, worker),
      dropped: counter(C_DROPPED, worker),
      handedIn: counter(C_HANDED_IN, worker),
      handedOut: counter(C_HANDED_OUT, worker),
      batches,
      nativeCalls: counter(C_NATIVE_CALLS, worker),
      missed: counter(C_MISSED, worker),
      framesPerBatch: batches === 0 ? 0 : received / batches,
    };
  }

  return {
    services,
    backends,
    backendRows,
    flows,
    totals,
    counter,
    drops: () => ({
      reasons: DROP_REASONS.map((reason, index) => ({ reason, count: counter(C_DROPS + index) })),
      samples: readDropSamples(views, options.tick(), Date.now(), options.interfaces),
    }),
    workers: () => layout.shards.map(({ worker }) => workerRow(worker)),
  };
}

/** Milliseconds until the rule of a backend's flows changes; null: it does not. */
function deadlineOf(i32: Int32Array, at: number, tick: number): number | null {
  const existing = i32[at + B_EXISTING]!;
  if (existing !== EXISTING_DEADLINE && existing !== EXISTING_MOVE_LATER) return null;
  return Math.max(0, (i32[at + B_DEADLINE]! - tick) | 0);
}

function groupBy<T>(items: readonly T[], keyOf: (item: T) => string): Map<string, T[]> {
  const groups = new Map<string, T[]>();
  for (const item of items) {
    const key = keyOf(item);
    const group = groups.get(key);
    if (group === undefined) groups.set(key, [item]);
    else group.push(item);
  }
  return groups;
}

/** `80`, `8000-8099`, or `any`. */
function portText({ low, high }: PortRange): string {
  if (low === 1 && high === 65535) return "any";
  return low === high ? String(low) : `${low}-${high}`;
}

/** By service, in the configuration's order (removed ones last), then address, port, protocol. */
function inOrder(rows: BackendRow[], definition: GatewayDefinition | undefined): BackendRow[] {
  const places = new Map(definition?.services.map(({ name }, index) => [name, index]));
  const place = (row: BackendRow): number => places.get(row.service) ?? places.size;
  const numeric = new Intl.Collator("en", { numeric: true });
  return rows.sort(
    (a, b) =>
      place(a) - place(b) ||
      numeric.compare(a.service, b.service) ||
      numeric.compare(a.address, b.address) ||
      a.port - b.port ||
      numeric.compare(a.protocol, b.protocol),
  );
}

const FLAG_TEXTS: readonly (readonly [number, string])[] = [
  [FLAG_REPLIED, "replied"],
  [FLAG_ACTIVE, "active"],
  [FLAG_FIN_ORIGINAL, "fin-original"],
  [FLAG_FIN_REPLY, "fin-reply"],
  [FLAG_ADOPTED, "adopted"],
  [FLAG_PROBE, "probe"],
  [FLAG_BY_BACKEND, "by-backend"],
];

/** A client may send from port 0. */
function withPort({ family, text }: Address, port: number): string {
  return family === 6 ? `[${text}]:${port}` : `${text}:${port}`;
}

function flowRow(flow: FlowSnapshot, service: string, tick: number): FlowRow {
  return {
    service,
    protocol: flow.protocol === PROTOCOL_UDP ? "udp" : "tcp",
    state: STATE_NAMES[flow.state] ?? "NONE",
    expiresInMs: Math.max(0, (flow.expires - tick) | 0),
    ageMs: Math.max(0, (tick - flow.created) | 0),
    client: withPort(addressIn(flow, X_CLIENT), flow.clientPort),
    vip: withPort(addressIn(flow, X_VIP), flow.vipPort),
    backend: withPort(addressIn(flow, X_BACKEND), flow.backendPort),
    snat: flow.mode === MODE_FULL_NAT ? withPort(addressIn(flow, X_REPLY), flow.replyPort) : null,
    flags: FLAG_TEXTS.filter(([flag]) => (flow.flags & flag) !== 0).map(([, text]) => text),
  };
}
