import type { Address } from "../base/address.ts";
import type { PortRange } from "./definition.ts";

/**
 * A service's health checks after parsing and defaults: when and where they go, which is the same for
 * all of them, and what each type asks. Durations are milliseconds.
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

/** The handshake alone. */
export interface TcpHealth extends HealthCommon {
  readonly type: "tcp";
}

/** A request, and what is right of its answer. */
export interface HttpHealth extends HealthCommon {
  readonly type: "http";
  readonly path: string;
  /** Host header; null: the address and port. */
  readonly host: string | null;
  readonly status: readonly PortRange[];
}

export type HealthDefinition = TcpHealth | HttpHealth;
export type HealthType = HealthDefinition["type"];
