import type { PortRange } from "./definition.ts";

/**
 * A service's health checks after parsing and defaults: when and where they go, which is the same for
 * all of them, and what each type asks. Durations are milliseconds.
 */

/** When a check goes, and where. */
export interface HealthCommon {
  readonly intervalMs: number;
  readonly timeoutMs: number;
  readonly rise: number;
  readonly fall: number;
  /** Share of the interval by which checks are spread, 0..1 (HAProxy's spread-checks). */
  readonly spread: number;
  /** Port to check; 0: the backend's. */
  readonly port: number;
  /** Source address of the check, or null. */
  readonly source: string | null;
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
