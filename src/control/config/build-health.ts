import type { PortRange } from "../../service/definition.ts";
import type {
  AgentDefinition,
  BackendCheck,
  HealthCommon,
  HealthDefinition,
  HttpQuestion,
  TlsQuestion,
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
  return { ...common, ...buildQuestion(health) };
}

export type HealthValues = Exclude<ServiceValues["health"], undefined | "none">;

/** A definition without what all types have in common. */
type Question<D = HealthDefinition> = D extends HealthDefinition
  ? Omit<D, keyof HealthCommon>
  : never;

function buildQuestion(health: HealthValues): Question {
  const { type } = health;
  switch (type) {
    case "tcp":
      return { type };
    case "tls":
      return { type, tls: buildTls(health) };
    case "http":
      return { type, ...buildHttp(health) };
    case "https":
      return { type, ...buildHttp(health), tls: buildTls(health) };
    case "http2":
      return { type, ...buildHttp(health), tls: optionalTls(health) };
    case "grpc": {
      const { grpcService = "", host = null } = health;
      return { type, grpcService, host, tls: optionalTls(health) };
    }
    case "udp":
      return {
        type,
        sendHex: bytesOf(health.send, health.sendHex) ?? "",
        expectHex: bytesOf(health.expect, health.expectHex) ?? null,
      };
    case "dns":
      return {
        type,
        query: health.query ?? ".",
        queryType: health.queryType ?? "SOA",
        rcode: whole(health.rcode ?? ["NOERROR"]),
        answers: whole(health.answers ?? []),
      };
    case "icmp":
      return { type, payloadBytes: health.payloadBytes ?? 56 };
    case "exec": {
      const { command = [], user = null, dynamicWeight = false } = health;
      return { type, command, user, dynamicWeight };
    }
    case "script":
      return { type, steps: health.steps ?? [], tls: optionalTls(health) };
  }
}

function buildHttp(health: HealthValues): HttpQuestion {
  const { bodyContains, bodyMatches } = health;
  let body: HttpQuestion["body"] = null;
  if (bodyContains !== undefined) body = { kind: "contains", text: bodyContains };
  if (bodyMatches !== undefined) body = { kind: "matches", text: bodyMatches };
  return {
    method: health.method ?? "GET",
    path: health.path ?? "/",
    host: health.host ?? null,
    headers: health.headers ?? {},
    status: whole(health.status ?? [{ low: 200, high: 399 }]),
    body,
    bodyBytes: health.bodyBytes ?? 65_536,
  };
}

/** Does a check of this type and with these keys speak TLS? */
export function speaksTls({ type, tls }: Pick<HealthValues, "type" | "tls">): boolean {
  if (type === "tls" || type === "https") return true;
  if (type === "http2") return tls ?? true;
  return (type === "grpc" || type === "script") && tls === true;
}

function optionalTls(health: HealthValues): TlsQuestion | null {
  return speaksTls(health) ? buildTls(health) : null;
}

const EXPIRY_WARNING_MS = 336 * 3_600_000;

function buildTls(health: HealthValues): TlsQuestion {
  return {
    serverName: health.serverName ?? null,
    verify: health.verify ?? false,
    caFile: health.caFile ?? null,
    expiryWarningMs: health.expiryWarning ?? EXPIRY_WARNING_MS,
  };
}

/** Hex digits of a text, or of what is in hex already. */
function bytesOf(text: string | undefined, hex: string | undefined): string | undefined {
  return text === undefined ? hex : Buffer.from(text).toString("hex");
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
