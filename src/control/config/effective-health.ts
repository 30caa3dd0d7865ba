import type {
  AgentDefinition,
  BackendCheck,
  HealthDefinition,
} from "../../service/health-definition.ts";
import { formatDuration } from "./duration.ts";

/** The `health` of a service as a configuration file would say it. */
export function effectiveHealth(health: HealthDefinition): Record<string, unknown> {
  return {
    type: health.type,
    interval: formatDuration(health.intervalMs),
    timeout: formatDuration(health.timeoutMs),
    fastInterval: formatDuration(health.fastIntervalMs),
    downInterval: formatDuration(health.downIntervalMs),
    rise: health.rise,
    fall: health.fall,
    spread: health.spread,
    ...(health.port === 0 ? {} : { port: health.port }),
    ...(health.source === null ? {} : { source: health.source }),
    through: health.through,
    ...effectiveQuestion(health),
  };
}

function effectiveQuestion(health: HealthDefinition): Record<string, unknown> {
  switch (health.type) {
    case "tcp":
      return {};
    case "http":
      return {
        path: health.path,
        ...(health.host === null ? {} : { host: health.host }),
        status: health.status.map(({ low, high }) => (low === high ? low : `${low}-${high}`)),
      };
  }
}

/** The `agent` of a service. */
export function effectiveAgent(
  agent: AgentDefinition | null | undefined,
): Record<string, unknown> | "none" {
  if (agent == null) return "none";
  return {
    ...(agent.port === 0 ? {} : { port: agent.port }),
    interval: formatDuration(agent.intervalMs),
    timeout: formatDuration(agent.timeoutMs),
    ...(agent.send === null ? {} : { send: agent.send }),
  };
}

/** The `check` of a backend, where it has one. */
export function effectiveCheck(
  check: BackendCheck | undefined,
): { check: Record<string, unknown> } | Record<string, never> {
  if (check === undefined) return {};
  return {
    check: {
      ...(check.address === null ? {} : { address: check.address }),
      ...(check.port === 0 ? {} : { port: check.port }),
      ...(check.agentPort === 0 ? {} : { agentPort: check.agentPort }),
    },
  };
}
