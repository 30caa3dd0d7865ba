import type { Address } from "../base/address.ts";
import type { AccessRules } from "./access-rules.ts";
import type { SchedulerName } from "./bank.ts";
import type {
  AgentDefinition,
  BackendCheck,
  HealthDefinition,
  ProbeDefinition,
} from "./health-definition.ts";

/**
 * A configuration after parsing, validation and defaults: what the rest of the program reads.
 * Addresses are int32 in host order beside their text; durations are milliseconds.
 */

export type { Address } from "../base/address.ts";
export type { HealthDefinition } from "./health-definition.ts";

/** A VIP address: one address, or every address of a prefix. */
export interface VipAddress extends Address {
  /** Bits that count, which `text` then ends in (`/28`). Left out: it is one address. */
  readonly prefixLength?: number;
}

/** Both ends included; low 1, high 65535 is `any`. */
export interface PortRange {
  readonly low: number;
  readonly high: number;
}

export type ProtocolName = "tcp" | "udp";
export type ModeName = "nat" | "full-nat" | "dsr" | "ipip" | "gue";
export type ExistingRule = "keep" | "drain" | "reset";

export interface TcpTimeouts {
  readonly synSent: number;
  readonly synReceived: number;
  readonly established: number;
  readonly finWait: number;
  readonly closeWait: number;
  readonly lastAck: number;
  readonly timeWait: number;
  readonly close: number;
}
export interface UdpTimeouts {
  readonly oneWay: number;
  readonly replied: number;
}
export interface Timeouts {
  readonly tcp: TcpTimeouts;
  readonly udp: UdpTimeouts;
}

/** Passive checks: what becomes of a backend that does not answer new flows. */
export interface PassiveDefinition {
  /** Flows in a row that have to fail. */
  readonly failures: number;
  /** How long every new flow of a backend has to go unanswered. */
  readonly silenceMs: number;
  /** Length of the first ejection, and the most that one has. */
  readonly ejectionMs: number;
  readonly maximumMs: number;
  /** Good time that makes the next ejection shorter by one step. */
  readonly intervalMs: number;
  /** Share of the backends that may be ejected at once, 0..1; one always may. */
  readonly ejectAtMost: number;
  /** A health check that succeeds ends an ejection. */
  readonly activeCheckEnds: boolean;
  /** UDP: every client is answered, so a flow without an answer has failed. */
  readonly answers: boolean;
}

/** A file of a policy as it was when the configuration was read. */
export interface PolicySource {
  /** Absolute. */
  readonly path: string;
  readonly text: string;
}

/** `scheduler: { module: … }`; the service's `scheduler` is its fallback then. */
export interface PolicyDefinition {
  /** Absolute path of the module, which is the first of the sources. */
  readonly module: string;
  /** The module and what it imports by relative paths. */
  readonly sources: readonly PolicySource[];
  /** The fallback decides; what the policy says is only compared. */
  readonly shadow: boolean;
  readonly timeoutMs: number;
  readonly intervalMs: number;
}

/** So many backends, or percent of the first tier's. */
export type MinimumHealthy = { readonly count: number } | { readonly percent: number };

/** What a service's access lists are, and what they mean together. */
export interface AccessDefinition {
  /** Prefixes of the configuration, as text; null: no allow list. */
  readonly allow: readonly string[] | null;
  readonly allowFile: string | null;
  readonly deny: readonly string[];
  readonly denyFile: string | null;
  readonly refuse: "drop" | "reset";
  /** All of it, files included; null: everybody is admitted. */
  readonly rules: AccessRules | null;
}

/** `synProxy`: null is "learnt from the backends". */
export interface SynProxyDefinition {
  readonly mode: "off" | "auto" | "on";
  readonly mss: number | null;
  /** -1: none at all. */
  readonly windowScale: number | null;
  readonly sack: boolean | null;
  readonly timestamps: boolean | null;
  readonly halfOpen: number;
}

/** Limits of a service; null: none. */
export interface LimitsDefinition {
  readonly connections: number | null;
  readonly packetsPerSecond: number | null;
  readonly newPerSource: {
    readonly rate: number;
    readonly burst: number;
    /** Bits of an address that count. */
    readonly ipv4: number;
    readonly ipv6: number;
  } | null;
  readonly backendConnections: number | null;
  readonly refuse: "drop" | "reset";
}

/** `affinity`: what a client is, and how long it keeps its backend. */
export interface AffinityDefinition {
  /** Bits of a client's address that count. */
  readonly ipv4: number;
  readonly ipv6: number;
  /** From the begin of its last flow, and from the end of the last that lives. */
  readonly timeoutMs: number;
  /** Services of one group share a client's backend; null: the service alone. */
  readonly group: string | null;
}

export interface BackendDefinition {
  readonly address: Address;
  /** 0: the packet's own port. */
  readonly port: number;
  readonly weight: number;
  /** Its tier: 0 is the first. */
  readonly priority: number;
  /** Flows at once, instead of `limits.perBackend.connections`; null: as that says. */
  readonly maxConnections: number | null;
  /** QUIC server ID in hex; null: none. */
  readonly serverId: string | null;
  /** Where it is checked; left out: as the service says. */
  readonly check?: BackendCheck;
}

/** What a sorry server is beside its address. */
export const SORRY_SERVER = {
  weight: 1,
  priority: 0,
  maxConnections: null,
  serverId: null,
} as const satisfies Omit<BackendDefinition, "address" | "port">;

export interface ServiceDefinition {
  readonly name: string;
  readonly vips: readonly VipAddress[];
  /** Sorted, not overlapping. */
  readonly ports: readonly PortRange[];
  readonly protocols: readonly ProtocolName[];
  readonly mode: ModeName;
  readonly scheduler: SchedulerName;
  /** Weights or a table come from here, while it answers; null: none. */
  readonly policy: PolicyDefinition | null;
  /** A backend's share of the flows by weight times this is the most it gets; null: no bound. */
  readonly maxLoad: number | null;
  readonly tableSize: number;
  /** Null: off. */
  readonly affinity: AffinityDefinition | null;
  readonly timeouts: Timeouts;
  /** What happens to packets that are too large once they have an outer header. */
  readonly mtu: { readonly tooBig: "icmp" | "fragment" };
  /** Largest TCP segment that a SYN may ask for; auto: what the path takes. */
  readonly mss: "off" | "auto" | number;
  readonly udp: {
    /** Every datagram of a client is scheduled by itself. */
    readonly perPacket: boolean;
    /** Null: a flow may be as old as it gets. */
    readonly maxAgeMs: number | null;
  };
  /** Routing by connection ID; null: off. */
  readonly quic: { readonly serverIdBytes: number; readonly configRotation: number } | null;
  readonly outOfState: "adopt" | "reset" | "drop";
  readonly onIdle: "reset" | "silent";
  readonly existingFlows: {
    readonly drained: ExistingRule;
    readonly removed: ExistingRule;
    readonly down: ExistingRule;
    readonly disabled: ExistingRule;
    readonly ejected: ExistingRule;
    readonly deadlineMs: number;
  };
  readonly noBackend: {
    readonly action: "reset" | "drop" | "panic" | "sorry";
    readonly sorry: { readonly address: Address; readonly port: number } | null;
  };
  /** Backends that must take flows before no further tier joins. */
  readonly minimumHealthy: MinimumHealthy;
  /** Percent of backends up below which all take flows; 0: never. */
  readonly panicThreshold: number;
  /** Null: a backend that comes up has its whole weight at once. */
  readonly slowStart: { readonly windowMs: number; readonly minimumWeight: number } | null;
  readonly ping: "always" | "healthy" | "never";
  readonly access: AccessDefinition;
  readonly synProxy: SynProxyDefinition;
  readonly limits: LimitsDefinition;
  readonly health: HealthDefinition | null;
  /** Null: off. */
  readonly passive: PassiveDefinition | null;
  /** Agents of its backends; null or left out: none. */
  readonly agent?: AgentDefinition | null;
  readonly backends: readonly BackendDefinition[];
}

/** Checks of all services that run at once, unless the configuration says otherwise. */
export const CHECKS_AT_ONCE = 256;

export interface GatewayDefinition {
  /** The file it came from, for messages. */
  readonly file: string;
  readonly device: {
    readonly type: "tun" | "packet" | "xdp";
    /** TUN: name of the device. */
    readonly name: string;
    readonly routes: "auto" | "none";
    readonly interfaces: readonly string[];
    readonly workers: number;
    /** Processor of each worker, in their order; empty: where the kernel puts them. */
    readonly cpus: readonly number[];
    readonly guard: "process" | "persistent";
    readonly announce: boolean;
    readonly replies: "last-hop" | "route";
    /** Microseconds that a worker looks for frames before it blocks; 0: it blocks at once. */
    readonly spinUs: number;
    readonly xdp: {
      readonly mode: "auto" | "native" | "generic";
      readonly zeroCopy: "auto" | "off" | "require";
      /** Microseconds; 0: off. */
      readonly busyPollUs: number;
    };
  };
  /** Whom to become after the start: a name, `UID` or `UID:GID`; null: stay who we are. */
  readonly user: string | null;
  readonly log: { readonly level: "trace" | "debug" | "info" | "warn" | "error" };
  readonly flows: {
    readonly capacity: number;
    /** Absolute path, or null: the default place on tmpfs. */
    readonly stateFile: string | null;
    readonly whenFull: "evict" | "drop";
    /**
     * Room for IPv6 flows (auto: where some service or the pool has an IPv6 address). It is taken at
     * start.
     */
    readonly ipv6: "auto" | boolean;
    /** New flows a second of the gateway from which on hash schedulers go without; null: never. */
    readonly statelessAbove: number | null;
  };
  readonly limits: {
    readonly services: number;
    readonly backends: number;
    readonly hashSlots: number;
    readonly accessPrefixes: number;
    readonly sources: number;
    /** Clients that affinity remembers. */
    readonly affinity: number;
  };
  readonly hash: { readonly seed: string };
  /** Health checks and agents of all services together; left out: CHECKS_AT_ONCE. */
  readonly health?: { readonly concurrent: number };
  /** For checks through the data path; null or left out: none. */
  readonly probe?: ProbeDefinition | null;
  readonly shutdown: { readonly mode: "keep" | "drain"; readonly timeoutMs: number };
  readonly admin: {
    readonly socket: string;
    readonly http: { readonly address: string; readonly port: number } | null;
    readonly tokenFile: string | null;
  };
  readonly snat: {
    readonly addresses: readonly Address[];
    readonly ports: PortRange;
  };
  readonly tunnel: {
    /** Outer source addresses; null where no backend of the family needs one. */
    readonly sourceIpv4: Address | null;
    readonly sourceIpv6: Address | null;
    /** Checksum of GUE: null is none over IPv4 and a computed one over IPv6. */
    readonly gue: { readonly port: number; readonly checksum: "zero" | "computed" | null };
  };
  readonly services: readonly ServiceDefinition[];
}

/** Whether replies go past the gateway. */
export function isOneWayMode(mode: ModeName): boolean {
  return mode !== "nat" && mode !== "full-nat";
}

/** Whether the definition needs room for IPv6 flows (`flows.ipv6`). */
export function needsIpv6({ flows, services, snat }: GatewayDefinition): boolean {
  if (flows.ipv6 !== "auto") return flows.ipv6;
  const isSix = ({ family }: Address): boolean => family === 6;
  return (
    snat.addresses.some(isSix) ||
    services.some(
      ({ vips, backends, noBackend }) =>
        vips.some(isSix) ||
        backends.some(({ address }) => isSix(address)) ||
        (noBackend.sorry !== null && isSix(noBackend.sorry.address)),
    )
  );
}
