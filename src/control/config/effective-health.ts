import type {
  AgentDefinition,
  BackendCheck,
  HealthDefinition,
  HttpQuestion,
  TlsQuestion,
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
    case "tls":
      return effectiveTls(health.tls);
    case "http":
      return effectiveHttp(health);
    case "https":
      return { ...effectiveHttp(health), ...effectiveTls(health.tls) };
    case "http2":
      return { ...effectiveHttp(health), ...effectiveOptionalTls(health.tls) };
    case "grpc":
      return {
        grpcService: health.grpcService,
        ...(health.host === null ? {} : { host: health.host }),
        ...effectiveOptionalTls(health.tls),
      };
    case "udp":
      return {
        ...(health.sendHex === "" ? {} : { sendHex: health.sendHex }),
        ...(health.expectHex === null ? {} : { expectHex: health.expectHex }),
      };
    case "dns":
      return {
        query: health.query,
        queryType: health.queryType,
        rcode: [...health.rcode],
        ...(health.answers.length === 0 ? {} : { answers: [...health.answers] }),
      };
    case "icmp":
      return { payloadBytes: health.payloadBytes };
    case "exec":
      return {
        command: [...health.command],
        ...(health.user === null ? {} : { user: health.user }),
        dynamicWeight: health.dynamicWeight,
      };
    case "script":
      return {
        steps: health.steps.map(({ kind, text }) => ({ [kind]: text })),
        ...effectiveOptionalTls(health.tls),
      };
  }
}

function effectiveHttp(http: HttpQuestion): Record<string, unknown> {
  const { method, path, host, headers, status, body, bodyBytes } = http;
  return {
    method,
    path,
    ...(host === null ? {} : { host }),
    ...(Object.keys(headers).length === 0 ? {} : { headers: { ...headers } }),
    status: status.map(({ low, high }) => (low === high ? low : `${low}-${high}`)),
    ...(body === null
      ? {}
      : { [body.kind === "contains" ? "bodyContains" : "bodyMatches"]: body.text }),
    bodyBytes,
  };
}

function effectiveOptionalTls(tls: TlsQuestion | null): Record<string, unknown> {
  return tls === null ? { tls: false } : { tls: true, ...effectiveTls(tls) };
}

function effectiveTls(tls: TlsQuestion): Record<string, unknown> {
  return {
    ...(tls.serverName === null ? {} : { serverName: tls.serverName }),
    verify: tls.verify,
    ...(tls.caFile === null ? {} : { caFile: tls.caFile }),
    expiryWarning: formatDuration(tls.expiryWarningMs),
  };
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
