import type { Address } from "../base/address.ts";
import type { PortRange } from "./definition.ts";

/**
 * A service's health checks after parsing and defaults: when and where they go, which is the same for
 * all of them, and what each type asks (docs/health.md). Durations are milliseconds; everything here
 * is plain data, so that two definitions can be compared.
 */

/** When a check goes, and where. */
export interface HealthCommon {
  readonly intervalMs: number;
  /** While its health changes: starting, or after a contrary result that has not decided. */
  readonly fastIntervalMs: number;
  /** While it is down, and nothing speaks against that. */
  readonly downIntervalMs: number;
  readonly timeoutMs: number;
  readonly rise: number;
  readonly fall: number;
  /** Share of the interval by which checks are spread, 0..1 (HAProxy's spread-checks). */
  readonly spread: number;
  /** Port to check; 0: the backend's. */
  readonly port: number;
  /** Source address of the check, or null. */
  readonly source: string | null;
  /**
   * direct: from the host to the backend. path: from a client's place to the VIP, where the data plane
   * gives the connection to this backend whatever the scheduler would say (`probe`).
   */
  readonly through: "direct" | "path";
}

/** A backend's agent (HAProxy's agent-check): a line a connection that says what it can take. */
export interface AgentDefinition {
  /** 0: each backend has its own. */
  readonly port: number;
  readonly intervalMs: number;
  readonly timeoutMs: number;
  /** Sent as it is before the line is read; null: nothing. */
  readonly send: string | null;
}

/** Where one backend is checked, apart from what holds for all of the service. */
export interface BackendCheck {
  /** Address that checks and agent are at; null: the backend's. */
  readonly address: string | null;
  /** 0: the service's. */
  readonly port: number;
  /** 0: the service's. */
  readonly agentPort: number;
}

/** The device through which the host is a client of its own gateway (`probe`). */
export interface ProbeDefinition {
  /** Of the host's end; the gateway's has a digit more. */
  readonly interface: string;
  /** First of 65,536 sources: one for every backend slot. */
  readonly ipv4: Address;
}

/** How a check speaks TLS. */
export interface TlsQuestion {
  /** Name that is asked for (SNI) and, with `verify`, has to be in the certificate; null: the address. */
  readonly serverName: string | null;
  /** A certificate that is not good is a failure. */
  readonly verify: boolean;
  /** PEM file of who may have signed it; null: the certificate authorities that Node brings along. */
  readonly caFile: string | null;
  /** A certificate that ends within this time is warned of; 0: never. */
  readonly expiryWarningMs: number;
}

/** A request, and what is right of its answer. */
export interface HttpQuestion {
  readonly method: "GET" | "HEAD" | "OPTIONS" | "POST";
  readonly path: string;
  /** Host header; null: the address and port. */
  readonly host: string | null;
  /** More headers, by their names in lower case. */
  readonly headers: Readonly<Record<string, string>>;
  readonly status: readonly PortRange[];
  /** What the body has to hold (text or regular expression); null: it does not matter. */
  readonly body: { readonly kind: "contains" | "matches"; readonly text: string } | null;
  /** Bytes of the body that are read. */
  readonly bodyBytes: number;
}

/** The handshake alone. */
export interface TcpHealth extends HealthCommon {
  readonly type: "tcp";
}

/** The handshake of TLS, too. */
export interface TlsHealth extends HealthCommon {
  readonly type: "tls";
  readonly tls: TlsQuestion;
}

/** HTTP/1.1. */
export interface HttpHealth extends HealthCommon, HttpQuestion {
  readonly type: "http";
}

export interface HttpsHealth extends HealthCommon, HttpQuestion {
  readonly type: "https";
  readonly tls: TlsQuestion;
}

export interface Http2Health extends HealthCommon, HttpQuestion {
  readonly type: "http2";
  /** Null: without TLS, by prior knowledge. */
  readonly tls: TlsQuestion | null;
}

/** grpc.health.v1.Health/Check. */
export interface GrpcHealth extends HealthCommon {
  readonly type: "grpc";
  /** Service to ask for; "": the server as a whole. */
  readonly grpcService: string;
  /** :authority; null: the address and port. */
  readonly host: string | null;
  readonly tls: TlsQuestion | null;
}

/** One datagram, and what comes back. */
export interface UdpHealth extends HealthCommon {
  readonly type: "udp";
  /** Hex digits. */
  readonly sendHex: string;
  /** Hex digits, `x` for any; what an answer begins with. Null: none is needed. */
  readonly expectHex: string | null;
}

export interface DnsHealth extends HealthCommon {
  readonly type: "dns";
  readonly query: string;
  readonly queryType: DnsQueryType;
  readonly rcode: readonly DnsRcode[];
  /** Records that have to be among the answers, as text. */
  readonly answers: readonly string[];
}

export const DNS_QUERY_TYPES = [
  "SOA",
  "A",
  "AAAA",
  "NS",
  "CNAME",
  "MX",
  "TXT",
  "SRV",
  "PTR",
] as const;
export type DnsQueryType = (typeof DNS_QUERY_TYPES)[number];
export const DNS_RCODES = [
  "NOERROR",
  "FORMERR",
  "SERVFAIL",
  "NXDOMAIN",
  "NOTIMP",
  "REFUSED",
] as const;
export type DnsRcode = (typeof DNS_RCODES)[number];

/** ICMP echo. */
export interface IcmpHealth extends HealthCommon {
  readonly type: "icmp";
  /** Bytes behind the ICMP header. */
  readonly payloadBytes: number;
}

/** A program whose exit code says how it is. */
export interface ExecHealth extends HealthCommon {
  readonly type: "exec";
  /** Absolute path and arguments. */
  readonly command: readonly string[];
  /** Whom to run it as; null: whom the gateway runs as. */
  readonly user: string | null;
  /** Exit codes from 2 on mean up, with a share of the weight of (code - 2) percent. */
  readonly dynamicWeight: boolean;
}

/** Sends and expects in turn. */
export interface ScriptHealth extends HealthCommon {
  readonly type: "script";
  readonly steps: readonly ScriptStep[];
  readonly tls: TlsQuestion | null;
}

/** One step; expectations wait for what has come since the one before. */
export type ScriptStep =
  | { readonly kind: "send" | "expect"; readonly text: string }
  | { readonly kind: "sendHex" | "expectHex"; readonly text: string }
  | { readonly kind: "expectRegex"; readonly text: string };

export type HealthDefinition =
  | TcpHealth
  | TlsHealth
  | HttpHealth
  | HttpsHealth
  | Http2Health
  | GrpcHealth
  | UdpHealth
  | DnsHealth
  | IcmpHealth
  | ExecHealth
  | ScriptHealth;
export type HealthType = HealthDefinition["type"];

/** In the order of the documentation. */
export const HEALTH_TYPES = [
  "tcp",
  "tls",
  "http",
  "https",
  "http2",
  "grpc",
  "udp",
  "dns",
  "icmp",
  "exec",
  "script",
] as const satisfies readonly HealthType[];
