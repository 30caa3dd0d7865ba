import type { HealthDefinition } from "../../service/health-definition.ts";
import { formatDuration } from "./duration.ts";

/** The `health` of a service as a configuration file would say it. */
export function effectiveHealth(health: HealthDefinition): Record<string, unknown> {
  return {
    type: health.type,
    interval: formatDuration(health.intervalMs),
    timeout: formatDuration(health.timeoutMs),
    rise: health.rise,
    fall: health.fall,
    spread: health.spread,
    ...(health.port === 0 ? {} : { port: health.port }),
    ...(health.source === null ? {} : { source: health.source }),
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
