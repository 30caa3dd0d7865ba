import type { PortRange } from "../../service/definition.ts";
import type {
  AgentDefinition,
  BackendCheck,
  HealthCommon,
  HealthDefinition,
} from "../../service/health-definition.ts";
import { whole } from "./fields.ts";
import type { ServiceValues } from "./schema.ts";

/** The one port of a service that has just one; 0 for any other. */
export function singlePort(ports: readonly (PortRange | undefined)[]): number {
  const only = ports.length === 1 ? ports[0] : undefined;
  return only !== undefined && only.low === only.high ? only.low : 0;
}

/** Port that checks go to: the key's, else the backends' (0), else the service's only port. */
export function checkedPort(
  values: ServiceValues,
  ports: readonly (PortRange | undefined)[],
): number {
  const { health } = values;
  if (typeof health === "object" && health.port !== undefined) return health.port;
  const allWithout = values.backends.every((backend) => backend.port === undefined);
  return allWithout ? singlePort(ports) : 0;
}

/** What `health` says, with the defaults of its type; null: none. */
export function buildHealth(
  values: ServiceValues,
  ports: readonly PortRange[],
): HealthDefinition | null {
  const { health } = values;
  if (health === undefined || health === "none") return null;
  const common: HealthCommon = {
    intervalMs: health.interval,
    fastIntervalMs: health.fastInterval ?? health.interval,
    downIntervalMs: health.downInterval ?? health.interval,
    timeoutMs: checkTimeout(health),
    rise: health.rise,
    fall: health.fall,
    spread: health.spread,
    port: health.through === "path" ? (health.port ?? 0) : checkedPort(values, ports),
    source: health.source?.text ?? null,
    through: health.through,
  };
  switch (health.type) {
    case "tcp":
      return { type: "tcp", ...common };
    case "http":
      return {
        type: "http",
        ...common,
        path: health.path ?? "/",
        host: health.host ?? null,
        status: whole(health.status ?? [{ low: 200, high: 399 }]),
      };
  }
}

/** A second, or the shortest interval if that is shorter. */
export function checkTimeout(health: {
  readonly timeout?: number | undefined;
  readonly interval: number;
  readonly fastInterval?: number | undefined;
  readonly downInterval?: number | undefined;
}): number {
  const { interval, fastInterval = interval, downInterval = interval } = health;
  return health.timeout ?? Math.min(1000, interval, fastInterval, downInterval);
}

/** What `agent` says; null: none. */
export function buildAgent({ agent }: ServiceValues): AgentDefinition | null {
  if (agent === undefined || agent === "none") return null;
  return {
    port: agent.port ?? 0,
    intervalMs: agent.interval,
    timeoutMs: checkTimeout(agent),
    send: agent.send ?? null,
  };
}

/** What a backend's `check` says, as far as it says anything. */
export function buildCheck(
  check: ServiceValues["backends"][number]["check"],
): { check: BackendCheck } | Record<string, never> {
  const { address, port, agentPort } = check;
  if (address === undefined && port === undefined && agentPort === undefined) return {};
  const text = address?.text ?? null;
  return { check: { address: text, port: port ?? 0, agentPort: agentPort ?? 0 } };
}
