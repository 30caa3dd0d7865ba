/**
 * What the admin API says, in the words of `headgate get -o json`: shared by the server
 * (control/admin) and the command line. Durations are milliseconds, counters count since the state
 * file was made, addresses are text.
 *
 *   GET  /api/v1/status                      -> Status
 *   GET  /api/v1/services                    -> ServiceRow[]
 *   GET  /api/v1/backends?service=           -> BackendRow[]
 *   GET  /api/v1/flows?limit=&service=&backend=&client=PREFIX -> FlowList
 *   GET  /api/v1/affinity?limit=&service=&backend=&client=PREFIX -> AffinityList
 *   GET  /api/v1/drops                       -> DropList
 *   GET  /api/v1/workers                     -> WorkerRow[]
 *   GET  /api/v1/config                      -> the effective configuration (JSON)
 *   POST /api/v1/backends/action  BackendAction -> BackendRow[]
 *   POST /api/v1/reload?dryRun=1             -> ReloadReport (409 with ReloadReport when refused)
 *   POST /api/v1/drain            DrainRequest -> DrainReport
 *   GET  /metrics /livez /readyz
 *
 * An error is AdminError with status 400 (bad request), 404 (no such service or backend), 409.
 */

export interface AdminError {
  readonly error: string;
}

export interface Rates {
  readonly packetsInPerSecond: number;
  readonly packetsOutPerSecond: number;
  readonly bytesInPerSecond: number;
  readonly bytesOutPerSecond: number;
  readonly connectionsPerSecond: number;
}

export interface Status {
  readonly version: string;
  readonly processId: number;
  readonly uptimeMs: number;
  readonly ready: boolean;
  readonly draining: boolean;
  readonly configuration: {
    readonly file: string;
    readonly generation: number;
    readonly lastReload: string;
    readonly lastReloadOk: boolean;
  };
  readonly device: {
    readonly type: string;
    readonly interfaces: readonly {
      readonly name: string;
      readonly mac: string;
      readonly mtu: number;
      readonly up: boolean;
    }[];
    readonly guard: string;
  };
  readonly flows: {
    readonly live: number;
    readonly capacity: number;
    readonly created: number;
    readonly expired: number;
    readonly evicted: number;
    readonly reset: number;
    readonly takenOver: number;
    readonly takeOverDropped: number;
    /** Packets that went on without a flow, and whether some did in the last second. */
    readonly statelessPackets: number;
    readonly stateless: boolean;
  };
  readonly services: number;
  readonly backends: { readonly total: number; readonly up: number };
  /** Health checks since the process started, and those that began late by over a tenth of their interval. */
  readonly healthChecks?: { readonly checks: number; readonly late: number };
  readonly frames: {
    readonly received: number;
    readonly forwarded: number;
    readonly replied: number;
    readonly passed: number;
    readonly consumed: number;
    readonly dropped: number;
    readonly originated: number;
    readonly missed: number;
  };
  readonly rates: Rates;
  readonly stateFile: string;
}

export interface TrafficCounters {
  readonly connections: number;
  readonly packetsIn: number;
  readonly bytesIn: number;
  readonly packetsOut: number;
  readonly bytesOut: number;
}

/** A policy in TypeScript, of a service and a protocol of it. */
export interface PolicyRow {
  readonly protocol: string;
  readonly module: string;
  readonly fallback: string;
  readonly shadow: boolean;
  /** starting | active | shadow | failed: the fallback decides in all but `active`. */
  readonly state: string;
  /** Why it failed: "timeout: no answer within 500 ms". */
  readonly reason: string;
  /** ISO time of the last change of state, or "". */
  readonly since: string;
  /** weights | table, or "" before the first answer. */
  readonly answer: string;
  /** Of the last answer. */
  readonly durationMs: number;
  /** By reason, since it runs. */
  readonly failures: Readonly<Record<string, number>>;
  /** Shadow: how differently it would choose, 0..1; null: nothing is compared. */
  readonly differenceRatio: number | null;
  /** Shadow: shares of new flows, 0..1, by the fallback and by the policy. */
  readonly backends: readonly {
    readonly backend: string;
    readonly share: number;
    readonly policyShare: number;
  }[];
}

export interface ServiceRow extends TrafficCounters {
  readonly name: string;
  readonly vips: readonly string[];
  readonly ports: readonly string[];
  readonly protocols: readonly string[];
  readonly mode: string;
  /** `policy` where a policy decides, or would. */
  readonly scheduler: string;
  /** One a protocol; empty without a policy. */
  readonly policies: readonly PolicyRow[];
  /** As `ipvsadm -L` has them: `persistent 300`, `mask 255.255.255.0`, `ops`. */
  readonly flags: readonly string[];
  readonly backends: { readonly total: number; readonly available: number };
  readonly active: number;
  readonly inactive: number;
  readonly drops: number;
  readonly rates: Rates;
}

export interface BackendRow extends TrafficCounters {
  readonly service: string;
  readonly protocol: string;
  readonly address: string;
  /** 0: the packet's own port. */
  readonly port: number;
  readonly mode: string;
  readonly weight: number;
  readonly weightOverride: number | null;
  /** Share of that which the backend's agent asks for, in percent; null or left out: it says nothing. */
  readonly agentPercent?: number | null;
  /** Percent of its weight that slow start leaves it; null: it has all of it. */
  readonly slowStart: number | null;
  /** Its tier; 0 is the first. */
  readonly priority: number;
  /** Flows at once (`maxConnections`); null: as its service says. */
  readonly maxConnections: number | null;
  /** up | starting | draining | down | disabled | removed | ejected (docs/states.md) */
  readonly state: string;
  readonly health: string;
  /** Why, for people: "connect ECONNREFUSED", "weight 0", "drained by operator". */
  readonly reason: string;
  /** ISO time of the last change of state, to the second; also over a restart. */
  readonly since: string;
  /** False also of a backend that is up while its tier is not needed. */
  readonly takesNewFlows: boolean;
  /** Flows that it still has although it takes no new ones; null: it takes new ones. */
  readonly remaining: number | null;
  /** Time until `existingFlows` ends its flows or has them move; null: no deadline runs. */
  readonly deadlineInMs: number | null;
  readonly active: number;
  readonly inactive: number;
  readonly slot: number;
  readonly passive: PassiveRow;
}

/** What the backend's traffic says of it. */
export interface PassiveRow {
  /** Microseconds from SYN to SYN-ACK, an exponentially weighted mean; null: none was measured. */
  readonly latencyUs: number | null;
  /** New flows that failed, by kind: silent, refused, unreachable, unanswered. */
  readonly failures: Readonly<Record<string, number>>;
  readonly ejections: number;
  /** Milliseconds until the ejection ends; null: it is not ejected. */
  readonly ejectedForMs: number | null;
}

export interface FlowRow {
  readonly service: string;
  readonly protocol: string;
  readonly state: string;
  readonly expiresInMs: number;
  readonly ageMs: number;
  readonly client: string;
  readonly vip: string;
  readonly backend: string;
  /** SNAT address and port in full-nat, else null. */
  readonly snat: string | null;
  readonly flags: readonly string[];
}

export interface FlowList {
  readonly flows: readonly FlowRow[];
  /** All that match, listed or not. */
  readonly total: number;
  readonly truncated: boolean;
}

/** Which backend a client has (`affinity`). */
export interface AffinityRow {
  /** An address, or a prefix where not all of its bits count. */
  readonly client: string;
  /** What remembers it: a group of services, or one service alone; both null: neither is there now. */
  readonly group: string | null;
  readonly service: string | null;
  /** As the service that made the entry has it; others of its group have ports of their own. */
  readonly backend: string;
  /** Live flows of the client that count for it. */
  readonly flows: number;
  /** Null while it has flows. */
  readonly expiresInMs: number | null;
  /** One of its flows was answered: it outlasts its flows. */
  readonly answered: boolean;
}

export interface AffinityList {
  readonly entries: readonly AffinityRow[];
  /** All that match, listed or not. */
  readonly total: number;
  readonly truncated: boolean;
}

export interface DropSample {
  readonly at: string;
  readonly reason: string;
  readonly interface: string;
  readonly bytes: number;
  /** First bytes of the frame, hexadecimal. */
  readonly header: string;
  /** "tcp 198.51.100.2:40000 > 203.0.113.10:80", or "" when it cannot be read. */
  readonly summary: string;
}

export interface DropList {
  /** Every reason of the closed set, also those at 0. */
  readonly reasons: readonly { readonly reason: string; readonly count: number }[];
  readonly samples: readonly DropSample[];
}

export interface WorkerRow {
  readonly worker: number;
  readonly device: string;
  /** Live flows that it has. */
  readonly flows: number;
  readonly received: number;
  readonly forwarded: number;
  readonly dropped: number;
  /** Frames handed over by other workers, and to them. */
  readonly handedIn: number;
  readonly handedOut: number;
  readonly batches: number;
  readonly nativeCalls: number;
  readonly missed: number;
  readonly framesPerBatch: number;
}

export interface BackendAction {
  readonly action: "drain" | "enable" | "disable" | "reset" | "weight";
  /** `SERVICE/ADDRESS:PORT`, or `SERVICE/ADDRESS` for a backend without a port. */
  readonly target: string;
  readonly weight?: number;
  readonly deadlineMs?: number;
}

export interface ReloadReport {
  readonly ok: boolean;
  readonly dryRun: boolean;
  readonly generation: number;
  readonly added: readonly string[];
  readonly changed: readonly string[];
  readonly removed: readonly string[];
  /** Why not: formatted problems, in the file's order. */
  readonly problems: readonly string[];
}

export interface DrainRequest {
  readonly timeoutMs: number;
}

export interface DrainReport {
  readonly liveFlows: number;
}
