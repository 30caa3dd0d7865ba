import { Counter, Gauge, Registry } from "prom-client";
import type { BackendRow, ServiceRow, Status, WorkerRow } from "../base/admin-types.ts";
import {
  C_AFFINITY_CREATED,
  C_AFFINITY_EVICTED,
  C_AFFINITY_HITS,
  C_AFFINITY_MOVED,
  C_AFFINITY_NO_ROOM,
  C_AFFINITY_TAKE_OVER_LOST,
  C_AFFINITY_TAKEN_OVER,
  C_ARP_REPLIES,
  C_CONSUMED,
  C_DROPS,
  C_ECHO_REPLIES,
  C_FLOWS_CREATED,
  C_FLOWS_EVICTED,
  C_FLOWS_EXPIRED,
  C_FLOWS_RESET,
  C_FLOWS_TAKE_OVER_DROPPED,
  C_FLOWS_TAKE_OVER_NO_ROOM,
  C_FLOWS_TAKEN_OVER,
  C_FORWARDED,
  C_HELD,
  C_ICMP_ERRORS_SENT,
  C_ICMP_ERRORS_TRANSLATED,
  C_ORIGINATED,
  C_ORIGINATED_LOST,
  C_PASSED,
  C_RECEIVED,
  C_RECEIVED_BYTES,
  C_REFUSED,
  C_REPLIED,
  C_RST_SENT,
  C_SENT,
  C_SENT_BYTES,
  C_STATELESS_PACKETS,
  C_SYN_COOKIES_ACCEPTED,
  C_SYN_COOKIES_REJECTED,
  C_SYN_COOKIES_SENT,
  C_SYN_RETRANSMITTED,
} from "../datapath/counters.ts";
import { DROP_REASONS, REFUSAL_NAMES } from "../datapath/verdict.ts";
import { BACKEND_STATES } from "../service/effective.ts";
import { addPassive } from "./passive-metrics.ts";
import { addPolicies } from "./policy/metrics.ts";

/** What the metrics are read from, at every scrape; each function is called many times in one. */
export interface MetricsSource {
  status(): Status;
  services(): readonly ServiceRow[];
  backends(): readonly BackendRow[];
  workers(): readonly WorkerRow[];
  /** A counter, C_…, of one worker, or of all together. */
  counter(index: number, worker?: number): number;
  /** Wall clock of the last reload that was taken over (or of the start), milliseconds. */
  lastReloadSuccessMs(): number;
  reloads(): { readonly succeeded: number; readonly failed: number };
  /** Failed checks since the start, by backend slot. */
  healthCheckFailures(slot: number): number;
  /** Clients that affinity remembers. */
  affinityEntries(): number;
  /** Health checks since the start, and those that began too late. */
  healthChecks(): { readonly checks: number; readonly late: number };
  /** Questions to agents without an answer, likewise. */
  agentFailures(slot: number): number;
  /** Of the certificate that the backend showed last; null: none was seen. */
  certificateExpiresMs(slot: number): number | null;
  /** Wall clock of the start of this process, milliseconds. */
  readonly processStartMs: number;
}

export type Labels = Readonly<Record<string, string>>;
type Add = (value: number, labels?: Labels) => void;

/**
 * The metrics of one gateway. Everything is read at the scrape: the counters live in the mapped
 * region, survive a restart, and are only shown here.
 */
export function createMetrics(source: MetricsSource): Registry {
  const registry = new Registry();
  const declare = { counter: counterOf(registry), gauge: gaugeOf(registry) };
  addProcess(declare, source);
  addFrames(declare, source);
  addFlows(declare, source);
  addAffinity(declare, source);
  addServices(declare, source);
  addBackends(declare, source);
  addChecks(declare, source);
  addConfiguration(declare, source);
  addPolicies(declare, source.services);
  return registry;
}

export type Declare = (
  name: string,
  help: string,
  labelNames: readonly string[],
  read: (add: Add) => void,
) => void;
export interface Declarations {
  readonly counter: Declare;
  readonly gauge: Declare;
}

function counterOf(registry: Registry): Declare {
  return (name, help, labelNames, read) => {
    new Counter({
      name: `headgate_${name}`,
      help,
      labelNames: [...labelNames],
      registers: [registry],
      collect() {
        this.reset();
        read((value, labels) => this.inc({ ...labels }, value));
      },
    });
  };
}

function gaugeOf(registry: Registry): Declare {
  return (name, help, labelNames, read) => {
    new Gauge({
      name: `headgate_${name}`,
      help,
      labelNames: [...labelNames],
      registers: [registry],
      collect() {
        this.reset();
        read((value, labels) => this.set({ ...labels }, value));
      },
    });
  };
}

function addProcess({ counter, gauge }: Declarations, source: MetricsSource): void {
  gauge("build_info", "Version and device type; always 1.", ["version", "device"], (add) => {
    const { version, device } = source.status();
    add(1, { version, device: device.type });
  });
  gauge("ready", "1 when the gateway takes new flows.", [], (add) =>
    add(source.status().ready ? 1 : 0),
  );
  gauge("draining", "1 while the whole node is drained.", [], (add) =>
    add(source.status().draining ? 1 : 0),
  );
  gauge("start_time_seconds", "Start of the process, since the epoch.", [], (add) =>
    add(source.processStartMs / 1000),
  );
  gauge("resident_memory_bytes", "Resident memory, the mapped state included.", [], (add) =>
    add(process.memoryUsage.rss()),
  );
  counter("cpu_seconds_total", "Processor time of all threads.", ["mode"], (add) => {
    const { user, system } = process.cpuUsage();
    add(user / 1e6, { mode: "user" });
    add(system / 1e6, { mode: "system" });
  });
  gauge("interface_up", "1 when the interface is up.", ["interface"], (add) => {
    for (const entry of source.status().device.interfaces) {
      add(entry.up ? 1 : 0, { interface: entry.name });
    }
  });
}

function addFrames({ counter, gauge }: Declarations, source: MetricsSource): void {
  const each = (index: number, add: Add): void => {
    for (const { worker } of source.workers()) {
      add(source.counter(index, worker), { worker: String(worker) });
    }
  };
  const plain = (name: string, help: string, index: number): void => {
    counter(name, help, ["worker"], (add) => each(index, add));
  };
  plain("frames_received_total", "Frames taken from the device.", C_RECEIVED);
  plain("frames_sent_total", "Frames given to the device.", C_SENT);
  plain("received_bytes_total", "Bytes of the frames taken from the device.", C_RECEIVED_BYTES);
  plain("sent_bytes_total", "Bytes of the frames given to the device.", C_SENT_BYTES);
  plain("frames_forwarded_total", "Frames sent on to a backend or a client.", C_FORWARDED);
  plain("frames_replied_total", "Frames answered by the gateway: ARP, ICMP, RST.", C_REPLIED);
  plain("frames_passed_total", "Frames left or given back to the kernel.", C_PASSED);
  plain("frames_consumed_total", "Frames taken with no frame of their own.", C_CONSUMED);
  plain("frames_originated_total", "Frames that the gateway made by itself.", C_ORIGINATED);
  plain("frames_originated_lost_total", "Own frames that could not be sent.", C_ORIGINATED_LOST);
  gauge("frames_held", "Frames that wait for others of theirs.", ["worker"], (add) =>
    each(C_HELD, add),
  );
  counter("frames_dropped_total", "Frames dropped, by reason.", ["reason"], (add) => {
    DROP_REASONS.forEach((reason, index) => {
      add(source.counter(C_DROPS + index), { reason });
    });
  });
  counter(
    "flows_refused_total",
    "New flows that access lists or limits refused, dropped or reset.",
    ["reason"],
    (add) => {
      REFUSAL_NAMES.forEach((reason, index) => {
        add(source.counter(C_REFUSED + index), { reason });
      });
    },
  );
  plain("syn_cookies_sent_total", "SYN-ACKs with a cookie.", C_SYN_COOKIES_SENT);
  counter(
    "syn_cookies_received_total",
    "ACKs without a flow that were looked at for a cookie, by outcome.",
    ["outcome"],
    (add) => {
      add(source.counter(C_SYN_COOKIES_ACCEPTED), { outcome: "accepted" });
      add(source.counter(C_SYN_COOKIES_REJECTED), { outcome: "rejected" });
    },
  );
  plain(
    "syn_retransmitted_total",
    "SYNs that the gateway sent to a backend again.",
    C_SYN_RETRANSMITTED,
  );
  plain("rst_sent_total", "TCP resets made by the gateway.", C_RST_SENT);
  plain("icmp_errors_sent_total", "ICMP errors made by the gateway.", C_ICMP_ERRORS_SENT);
  plain(
    "icmp_errors_translated_total",
    "ICMP errors about a flow, translated and sent on.",
    C_ICMP_ERRORS_TRANSLATED,
  );
  plain("arp_replies_total", "ARP requests answered.", C_ARP_REPLIES);
  plain("echo_replies_total", "ICMP echo requests answered.", C_ECHO_REPLIES);
  const perWorker = (name: string, help: string, pick: (row: WorkerRow) => number): void => {
    counter(name, help, ["worker"], (add) => {
      for (const row of source.workers()) add(pick(row), { worker: String(row.worker) });
    });
  };
  perWorker("frames_missed_total", "Frames lost before the gateway saw them.", (row) => row.missed);
  counter(
    "frames_handed_over_total",
    "Frames copied from one worker to another; in: from others, out: to them.",
    ["worker", "direction"],
    (add) => {
      for (const row of source.workers()) {
        const worker = String(row.worker);
        add(row.handedIn, { worker, direction: "in" });
        add(row.handedOut, { worker, direction: "out" });
      }
    },
  );
  perWorker("batches_total", "Batches of frames, empty ones included.", (row) => row.batches);
  perWorker("native_calls_total", "Calls into the device driver.", (row) => row.nativeCalls);
}

function addFlows({ counter, gauge }: Declarations, source: MetricsSource): void {
  gauge("flows", "Live flows.", [], (add) => add(source.status().flows.live));
  gauge("flow_table_capacity", "Flows that fit.", [], (add) => add(source.status().flows.capacity));
  const plain = (name: string, help: string, index: number): void => {
    counter(name, help, [], (add) => add(source.counter(index)));
  };
  plain("flows_created_total", "Flows made.", C_FLOWS_CREATED);
  counter(
    "stateless_packets_total",
    "Packets sent to a backend without a flow, above flows.statelessAbove.",
    ["worker"],
    (add) => {
      for (const { worker } of source.workers()) {
        add(source.counter(C_STATELESS_PACKETS, worker), { worker: String(worker) });
      }
    },
  );
  gauge("stateless", "1 when packets went on without a flow in the last second.", [], (add) =>
    add(source.status().flows.stateless ? 1 : 0),
  );
  plain("flows_expired_total", "Flows ended by their timeout.", C_FLOWS_EXPIRED);
  plain("flows_evicted_total", "Flows given up for new ones in a full table.", C_FLOWS_EVICTED);
  plain("flows_reset_total", "Flows ended by a rule for existing flows.", C_FLOWS_RESET);
  plain("flows_taken_over_total", "Flows taken over from an earlier process.", C_FLOWS_TAKEN_OVER);
  counter(
    "flows_take_over_dropped_total",
    "Flows of an earlier process that could not be taken over, by reason.",
    ["reason"],
    (add) => {
      add(source.counter(C_FLOWS_TAKE_OVER_DROPPED), { reason: "damaged" });
      add(source.counter(C_FLOWS_TAKE_OVER_NO_ROOM), { reason: "no_room" });
    },
  );
}

function addAffinity({ counter, gauge }: Declarations, source: MetricsSource): void {
  gauge("affinity_entries", "Clients whose backend is remembered.", [], (add) =>
    add(source.affinityEntries()),
  );
  const rows = [
    ["hits", "New flows that went to the backend that their client has.", C_AFFINITY_HITS],
    ["created", "Clients that got an entry.", C_AFFINITY_CREATED],
    ["moved", "Clients that got another backend, as theirs takes no flows.", C_AFFINITY_MOVED],
    ["evictions", "Entries given up for new clients in a full table.", C_AFFINITY_EVICTED],
    ["no_room", "New flows whose client got no entry in a full table.", C_AFFINITY_NO_ROOM],
    ["taken_over", "Entries taken over from an earlier process.", C_AFFINITY_TAKEN_OVER],
    ["take_over_lost", "Entries that could not be taken over.", C_AFFINITY_TAKE_OVER_LOST],
  ] as const;
  for (const [name, help, index] of rows) {
    counter(`affinity_${name}_total`, help, [], (add) => add(source.counter(index)));
  }
}

interface Traffic {
  readonly connections: number;
  readonly packetsIn: number;
  readonly bytesIn: number;
  readonly packetsOut: number;
  readonly bytesOut: number;
}

/** Connections, packets and bytes of services or backends. */
function addTraffic<Row extends Traffic>(
  { counter }: Declarations,
  subject: "service" | "backend",
  labelNames: readonly string[],
  rows: () => readonly Row[],
  labelsOf: (row: Row) => Labels,
): void {
  counter(`${subject}_connections_total`, `Flows made for the ${subject}.`, labelNames, (add) => {
    for (const row of rows()) add(row.connections, labelsOf(row));
  });
  const directions = [...labelNames, "direction"];
  const both = (unit: "packets" | "bytes", pick: (row: Row) => readonly [number, number]): void => {
    counter(
      `${subject}_${unit}_total`,
      `${unit === "packets" ? "Packets" : "Bytes"} forwarded; in: client to backend, out: back.`,
      directions,
      (add) => {
        for (const row of rows()) {
          const [incoming, outgoing] = pick(row);
          add(incoming, { ...labelsOf(row), direction: "in" });
          add(outgoing, { ...labelsOf(row), direction: "out" });
        }
      },
    );
  };
  both("packets", (row) => [row.packetsIn, row.packetsOut]);
  both("bytes", (row) => [row.bytesIn, row.bytesOut]);
}

function addServices(declare: Declarations, source: MetricsSource): void {
  const { counter, gauge } = declare;
  addTraffic(
    declare,
    "service",
    ["service"],
    () => source.services(),
    (row) => ({ service: row.name }),
  );
  counter(
    "service_drops_total",
    "Packets to the service that were dropped.",
    ["service"],
    (add) => {
      for (const row of source.services()) add(row.drops, { service: row.name });
    },
  );
  gauge("service_backends", "Backends by state.", ["service", "state"], (add) => {
    const counts = new Map<string, number>();
    for (const row of source.backends()) {
      const key = `${row.service} ${row.state}`;
      counts.set(key, (counts.get(key) ?? 0) + 1);
    }
    for (const { name } of source.services()) {
      for (const state of BACKEND_STATES) {
        add(counts.get(`${name} ${state}`) ?? 0, { service: name, state });
      }
    }
  });
}

function addBackends(declare: Declarations, source: MetricsSource): void {
  const { counter, gauge } = declare;
  const labelNames = ["service", "backend", "protocol"] as const;
  const labelsOf = (row: BackendRow): Labels => ({
    service: row.service,
    backend: row.port === 0 ? row.address : `${row.address}:${row.port}`,
    protocol: row.protocol,
  });
  const rows = (): readonly BackendRow[] => source.backends();
  addTraffic(declare, "backend", labelNames, rows, labelsOf);
  const each = (name: string, help: string, pick: (row: BackendRow) => number): void => {
    gauge(name, help, labelNames, (add) => {
      for (const row of rows()) add(pick(row), labelsOf(row));
    });
  };
  each("backend_connections_active", "Flows that open or are established.", (row) => row.active);
  each(
    "backend_connections_inactive",
    "Flows that close, and UDP flows without an answer.",
    (row) => row.inactive,
  );
  each(
    "backend_weight",
    "Weight in force, overrides included.",
    (row) => row.weightOverride ?? row.weight,
  );
  each(
    "backend_agent_weight_ratio",
    "Share of the weight that the agent asks for; 1 without.",
    (row) => (row.agentPercent ?? 100) / 100,
  );
  each("backend_up", "1 unless the backend is down, disabled or removed.", (row) =>
    row.state === "up" || row.state === "starting" || row.state === "draining" ? 1 : 0,
  );
  gauge("backend_state", "1 for the state it is in.", [...labelNames, "state"], (add) => {
    for (const row of rows()) {
      for (const state of BACKEND_STATES) {
        add(row.state === state ? 1 : 0, { ...labelsOf(row), state });
      }
    }
  });
  counter("health_check_failures_total", "Failed health checks.", labelNames, (add) => {
    for (const row of rows()) add(source.healthCheckFailures(row.slot), labelsOf(row));
  });
  counter("agent_failures_total", "Questions to agents without an answer.", labelNames, (add) => {
    for (const row of rows()) add(source.agentFailures(row.slot), labelsOf(row));
  });
  gauge(
    "health_certificate_expiry_timestamp_seconds",
    "End of the certificate that the backend showed to a check.",
    labelNames,
    (add) => {
      for (const row of rows()) {
        const expiresMs = source.certificateExpiresMs(row.slot);
        if (expiresMs !== null) add(expiresMs / 1000, labelsOf(row));
      }
    },
  );
  addPassive(declare, labelNames, rows, labelsOf);
}

function addChecks({ counter }: Declarations, source: MetricsSource): void {
  counter("health_checks_total", "Health checks that began.", [], (add) =>
    add(source.healthChecks().checks),
  );
  counter(
    "health_checks_late_total",
    "Health checks that began more than a tenth of their interval after the planned time.",
    [],
    (add) => add(source.healthChecks().late),
  );
}

function addConfiguration({ counter, gauge }: Declarations, source: MetricsSource): void {
  gauge("config_generation", "Counts the configurations taken over.", [], (add) =>
    add(source.status().configuration.generation),
  );
  gauge("config_last_reload_successful", "1 when the last reload was taken over.", [], (add) =>
    add(source.status().configuration.lastReloadOk ? 1 : 0),
  );
  gauge(
    "config_last_reload_success_timestamp_seconds",
    "Time of the last configuration taken over, since the epoch.",
    [],
    (add) => add(source.lastReloadSuccessMs() / 1000),
  );
  counter("config_reloads_total", "Reloads asked for, by outcome.", ["outcome"], (add) => {
    const { succeeded, failed } = source.reloads();
    add(succeeded, { outcome: "succeeded" });
    add(failed, { outcome: "failed" });
  });
}
