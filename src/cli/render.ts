import type {
  AffinityList,
  AffinityRow,
  BackendRow,
  DropList,
  FlowList,
  FlowRow,
  PolicyRow,
  ReloadReport,
  ServiceRow,
  Status,
  TrafficCounters,
  WorkerRow,
} from "../base/admin-types.ts";
import { type Column, formatAge, formatCount, renderTable } from "./table.ts";

/** What the commands print: pure functions from the admin API's answers to text. */

/**
 * ipvsadm's words for forwarding modes: `-m` is masquerading, `-g` routing, `-i` a tunnel. It has none
 * for full NAT, and calls GUE a tunnel too, which would hide which one it is.
 */
const FORWARD: Readonly<Record<string, string>> = {
  nat: "Masq",
  "full-nat": "FullNat",
  dsr: "Route",
  ipip: "Tunnel",
  gue: "Gue",
};

function forward(mode: string): string {
  return FORWARD[mode] ?? mode;
}

function number<Row>(title: string, cell: (row: Row) => number): Column<Row> {
  return { title, cell: (row) => formatCount(cell(row)), isNumber: true };
}

/** The columns of `ipvsadm -L --stats`. */
function traffic<Row extends TrafficCounters>(): Column<Row>[] {
  return [
    number("Conns", (row) => row.connections),
    number("InPkts", (row) => row.packetsIn),
    number("OutPkts", (row) => row.packetsOut),
    number("InBytes", (row) => row.bytesIn),
    number("OutBytes", (row) => row.bytesOut),
  ];
}

const SERVICE_COLUMNS: readonly Column<ServiceRow>[] = [
  { title: "Service", cell: (row) => row.name },
  { title: "Prot", cell: (row) => row.protocols.join(",").toUpperCase() },
  { title: "LocalAddress:Port", cell: localAddress },
  { title: "Scheduler", cell: (row) => row.scheduler },
  { title: "Flags", cell: (row) => row.flags.join(" ") || "-" },
  { title: "Forward", cell: (row) => forward(row.mode) },
  { title: "Backends", cell: (row) => `${row.backends.available}/${row.backends.total}` },
  number("ActiveConn", (row) => row.active),
  number("InActConn", (row) => row.inactive),
];

/** And those of `ipvsadm -L --rate`. */
const SERVICE_COLUMNS_WIDE: readonly Column<ServiceRow>[] = [
  ...SERVICE_COLUMNS,
  ...traffic<ServiceRow>(),
  number("CPS", (row) => row.rates.connectionsPerSecond),
  number("InPPS", (row) => row.rates.packetsInPerSecond),
  number("OutPPS", (row) => row.rates.packetsOutPerSecond),
  number("InBPS", (row) => row.rates.bytesInPerSecond),
  number("OutBPS", (row) => row.rates.bytesOutPerSecond),
  number("Drops", (row) => row.drops),
  { title: "Policy", cell: (row) => row.policies.map(policyText).join("; ") || "-" },
];

/** `active 0.4ms`, `shadow differs 12.5%`, `failed (maglev): timeout: no answer within 500 ms`. */
function policyText({ state, reason, fallback, durationMs, differenceRatio }: PolicyRow): string {
  if (state === "active") return `active ${durationMs.toFixed(1)}ms`;
  if (differenceRatio !== null) return `shadow differs ${(100 * differenceRatio).toFixed(1)}%`;
  return reason === "" ? `${state} (${fallback})` : `${state} (${fallback}): ${reason}`;
}

/** `203.0.113.10:80,443`; several addresses share the ports behind the last, IPv6 has brackets. */
function localAddress(row: ServiceRow): string {
  const hosts = row.vips.map((vip) => (vip.includes(":") ? `[${vip}]` : vip));
  return `${hosts.join(",")}:${row.ports.join(",")}`;
}

export function renderServices(rows: readonly ServiceRow[], isWide = false): string {
  return renderTable(isWide ? SERVICE_COLUMNS_WIDE : SERVICE_COLUMNS, rows);
}

/** `-> 10.20.0.11:8080`; a backend without a port of its own has `*`. */
function remoteAddress(row: BackendRow): string {
  const host = row.address.includes(":") ? `[${row.address}]` : row.address;
  return `-> ${host}:${row.port === 0 ? "*" : row.port}`;
}

/** `10`, `10 (override 0)` (design section 3), `10 (agent 50%)`, `10 (slow start 40 %)`. */
export function formatWeight(
  row: Pick<BackendRow, "weight" | "weightOverride" | "agentPercent" | "slowStart">,
): string {
  const { weight, weightOverride, agentPercent = null, slowStart } = row;
  const notes = [
    ...(weightOverride === null ? [] : [`override ${weightOverride}`]),
    ...(agentPercent === null ? [] : [`agent ${agentPercent}%`]),
    ...(slowStart === null ? [] : [`slow start ${slowStart} %`]),
  ];
  return notes.length === 0 ? String(weight) : `${weight} (${notes.join(", ")})`;
}

const BACKEND_COLUMNS: readonly Column<BackendRow>[] = [
  { title: "Service", cell: (row) => row.service },
  { title: "Prot", cell: (row) => row.protocol.toUpperCase() },
  { title: "-> RemoteAddress:Port", cell: remoteAddress },
  { title: "Forward", cell: (row) => forward(row.mode) },
  { title: "Weight", cell: formatWeight },
  number("ActiveConn", (row) => row.active),
  number("InActConn", (row) => row.inactive),
  { title: "State", cell: (row) => row.state },
  { title: "Reason", cell: (row) => row.reason },
];

const BACKEND_COLUMNS_WIDE: readonly Column<BackendRow>[] = [
  ...BACKEND_COLUMNS.slice(0, -1),
  ...traffic<BackendRow>(),
  { title: "Health", cell: (row) => row.health },
  { title: "Latency", cell: (row) => formatLatency(row.passive.latencyUs), isNumber: true },
  number("Failed", (row) => failedFlows(row)),
  number("Ejected", (row) => row.passive.ejections),
  { title: "Priority", cell: (row) => row.priority, isNumber: true },
  { title: "New", cell: (row) => (row.takesNewFlows ? "yes" : "no") },
  { title: "Remaining", cell: (row) => row.remaining ?? "-", isNumber: true },
  { title: "Since", cell: (row) => row.since || "-" },
  {
    title: "Deadline",
    cell: (row) => (row.deadlineInMs === null ? "-" : formatAge(row.deadlineInMs)),
    isNumber: true,
  },
  { title: "Slot", cell: (row) => row.slot, isNumber: true },
  ...BACKEND_COLUMNS.slice(-1),
];

/** New flows that the backend did not take, of all kinds. */
function failedFlows({ passive }: BackendRow): number {
  return Object.values(passive.failures).reduce((sum, count) => sum + count, 0);
}

/** `85us`, `1.24ms`, `2.00s`; `-` where nothing was measured. */
export function formatLatency(latencyUs: number | null): string {
  if (latencyUs === null) return "-";
  if (latencyUs < 1000) return `${latencyUs}us`;
  if (latencyUs < 1_000_000) return `${(latencyUs / 1000).toFixed(2)}ms`;
  return `${(latencyUs / 1_000_000).toFixed(2)}s`;
}

export function renderBackends(rows: readonly BackendRow[], isWide = false): string {
  return renderTable(isWide ? BACKEND_COLUMNS_WIDE : BACKEND_COLUMNS, rows);
}

/** The columns of `ipvsadm -L -c`. */
const FLOW_COLUMNS: readonly Column<FlowRow>[] = [
  { title: "Prot", cell: (row) => row.protocol.toUpperCase() },
  { title: "Expire", cell: (row) => formatAge(row.expiresInMs), isNumber: true },
  { title: "State", cell: (row) => row.state },
  { title: "Source", cell: (row) => row.client },
  { title: "Virtual", cell: (row) => row.vip },
  { title: "Destination", cell: (row) => row.backend },
  { title: "Service", cell: (row) => row.service },
];

const FLOW_COLUMNS_WIDE: readonly Column<FlowRow>[] = [
  ...FLOW_COLUMNS,
  { title: "Snat", cell: (row) => row.snat ?? "-" },
  { title: "Age", cell: (row) => formatAge(row.ageMs), isNumber: true },
  { title: "Flags", cell: (row) => row.flags.join(",") || "-" },
];

export function renderFlows(list: FlowList, isWide = false): string {
  const table = renderTable(isWide ? FLOW_COLUMNS_WIDE : FLOW_COLUMNS, list.flows);
  if (!list.truncated) return table;
  return `${table}${list.flows.length} of ${list.total} flows; more with --limit\n`;
}

/** `ipvsadm -L -c` shows these as templates; here they have a table of their own. */
const AFFINITY_COLUMNS: readonly Column<AffinityRow>[] = [
  { title: "Client", cell: (row) => row.client },
  { title: "Backend", cell: (row) => row.backend },
  { title: "Of", cell: affinityOwner },
  number("Flows", (row) => row.flows),
  {
    title: "Expire",
    cell: (row) => (row.expiresInMs === null ? "-" : formatAge(row.expiresInMs)),
    isNumber: true,
  },
];

const AFFINITY_COLUMNS_WIDE: readonly Column<AffinityRow>[] = [
  ...AFFINITY_COLUMNS,
  { title: "Answered", cell: (row) => (row.answered ? "yes" : "no") },
];

function affinityOwner({ group, service }: AffinityRow): string {
  if (group !== null) return `group ${group}`;
  return service === null ? "-" : `service ${service}`;
}

export function renderAffinity(list: AffinityList, isWide = false): string {
  const table = renderTable(isWide ? AFFINITY_COLUMNS_WIDE : AFFINITY_COLUMNS, list.entries);
  if (!list.truncated) return table;
  return `${table}${list.entries.length} of ${list.total} clients; more with --limit\n`;
}

/** Reasons that were counted, most first; wide: all of them, and the sampled headers. */
export function renderDrops(list: DropList, isWide = false): string {
  const counted = list.reasons.filter((it) => isWide || it.count > 0);
  const reasons = counted.toSorted((a, b) => b.count - a.count);
  let text = renderTable(
    [
      { title: "Reason", cell: (row) => row.reason },
      { title: "Count", cell: (row) => String(row.count), isNumber: true },
    ],
    reasons,
  );
  if (isWide && list.samples.length > 0) {
    text += "\n";
    text += renderTable(
      [
        { title: "At", cell: (row) => row.at },
        { title: "Reason", cell: (row) => row.reason },
        { title: "Interface", cell: (row) => row.interface },
        { title: "Bytes", cell: (row) => row.bytes, isNumber: true },
        { title: "Packet", cell: (row) => row.summary || row.header },
      ],
      list.samples,
    );
  }
  return text;
}

const WORKER_COLUMNS: readonly Column<WorkerRow>[] = [
  { title: "Worker", cell: (row) => row.worker, isNumber: true },
  { title: "Device", cell: (row) => row.device },
  number("Flows", (row) => row.flows),
  number("Received", (row) => row.received),
  number("Forwarded", (row) => row.forwarded),
  number("Dropped", (row) => row.dropped),
  number("Missed", (row) => row.missed),
  { title: "FramesPerBatch", cell: (row) => row.framesPerBatch.toFixed(1), isNumber: true },
];

const WORKER_COLUMNS_WIDE: readonly Column<WorkerRow>[] = [
  ...WORKER_COLUMNS,
  number("HandedIn", (row) => row.handedIn),
  number("HandedOut", (row) => row.handedOut),
  number("Batches", (row) => row.batches),
  number("NativeCalls", (row) => row.nativeCalls),
];

export function renderWorkers(rows: readonly WorkerRow[], isWide = false): string {
  return renderTable(isWide ? WORKER_COLUMNS_WIDE : WORKER_COLUMNS, rows);
}

/** Drop reasons named on the status screen; `get drops` has the rest. */
const STATUS_DROPS = 5;

/** One screen: what runs, on what, and how it goes. */
export function renderStatus(
  status: Status,
  drops: DropList,
  workers: readonly WorkerRow[],
): string {
  const { configuration, device, flows, frames, rates } = status;
  const readiness = status.draining ? "draining" : status.ready ? "ready" : "not ready";
  const reload = configuration.lastReloadOk ? "ok" : "refused";
  const interfaces = device.interfaces
    .map((it) =>
      [it.name, it.mac, `mtu ${it.mtu}`, it.up ? "up" : "DOWN"].filter(Boolean).join(" "),
    )
    .join(", ");
  const used = flows.capacity === 0 ? 0 : (100 * flows.live) / flows.capacity;
  const dropped = drops.reasons
    .filter((it) => it.count > 0)
    .toSorted((a, b) => b.count - a.count)
    .map((it) => `${it.reason} ${formatCount(it.count)}`);
  if (dropped.length > STATUS_DROPS) {
    dropped.splice(STATUS_DROPS, Number.POSITIVE_INFINITY, "… (headgate get drops)");
  }
  const lines: (readonly [string, string])[] = [
    [
      "Gateway",
      `headgate ${status.version}, process ${status.processId}, up ${formatAge(status.uptimeMs)}, ${readiness}`,
    ],
    [
      "Configuration",
      `${configuration.file}, generation ${configuration.generation}, last reload ${configuration.lastReload || "never"} (${reload})`,
    ],
    ["Device", `${device.type}, guard ${device.guard || "none"}: ${interfaces || "no interface"}`],
    ["State file", status.stateFile],
    [
      "Services",
      `${status.services}, backends ${status.backends.up} of ${status.backends.total} up`,
    ],
    [
      "Flows",
      `${flows.live} of ${flows.capacity} (${used.toFixed(1)} %), created ${flows.created}, expired ${flows.expired}, evicted ${flows.evicted}, reset ${flows.reset}`,
    ],
    ...(flows.statelessPackets === 0
      ? []
      : [
          [
            "Without flow",
            `${formatCount(flows.statelessPackets)} packets${flows.stateless ? ", now too" : ""}`,
          ] as const,
        ]),
    ["Taken over", `${flows.takenOver} flows, ${flows.takeOverDropped} dropped`],
    [
      "Frames",
      `received ${formatCount(frames.received)}: forwarded ${formatCount(frames.forwarded)}, replied ${formatCount(frames.replied)}, passed ${formatCount(frames.passed)}, consumed ${formatCount(frames.consumed)}, dropped ${formatCount(frames.dropped)}`,
    ],
    ["", `originated ${formatCount(frames.originated)}, missed ${formatCount(frames.missed)}`],
    [
      "Rates",
      `in ${formatCount(rates.packetsInPerSecond)} packets/s ${formatCount(rates.bytesInPerSecond)}B/s, out ${formatCount(rates.packetsOutPerSecond)} packets/s ${formatCount(rates.bytesOutPerSecond)}B/s, ${formatCount(rates.connectionsPerSecond)} connections/s`,
    ],
    ["Drops", dropped.length === 0 ? "none" : dropped.join(", ")],
    ...workers.map(
      (it) =>
        [
          `Worker ${it.worker}`,
          `${it.device}, ${it.flows} flows, ${it.framesPerBatch.toFixed(1)} frames a batch, ${formatCount(it.batches)} batches`,
        ] as const,
    ),
  ];
  return lines
    .map(([title, text]) => `${title.padEnd(15)}${text}`.trimEnd())
    .join("\n")
    .concat("\n");
}

/** What a reload did, or would do. */
export function renderReload(report: ReloadReport): string {
  const lines = [
    ...report.added.map((it) => `added    ${it}`),
    ...report.changed.map((it) => `changed  ${it}`),
    ...report.removed.map((it) => `removed  ${it}`),
  ];
  if (lines.length === 0) lines.push("no changes");
  lines.push(
    report.dryRun
      ? `dry run: generation ${report.generation} stays as it is`
      : `generation ${report.generation} is running`,
  );
  return `${lines.join("\n")}\n`;
}
