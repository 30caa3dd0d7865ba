import type { HealthDefinition } from "../service/health-definition.ts";
import { type CheckEndpoint, type CheckResult, failureReason } from "./check.ts";
import { checkDns } from "./dns-check.ts";
import { checkExec, type ExecHost } from "./exec-check.ts";
import { checkHttp, checkHttps } from "./http-check.ts";
import { checkHttp2 } from "./http2-check.ts";
import { checkIcmp, type EchoSockets } from "./icmp-check.ts";
import { checkScript } from "./script-check.ts";
import { checkTcpConnect } from "./tcp-check.ts";
import { checkTls } from "./tls-check.ts";
import { checkUdp } from "./udp-check.ts";

/** What some types need of the host. */
export interface CheckTools extends ExecHost {
  /** Sockets for ICMP echo; null where the host gave none. */
  readonly echo: EchoSockets | null;
}

/** Without anything of the host: as in a test. */
export const NO_TOOLS: CheckTools = {
  echo: null,
  userOf: (name) => {
    throw new Error(`there is no user ${name}`);
  },
  spawnPlainly: (start) => start(),
};

/**
 * Load what only some types need, and would otherwise be loaded with their first check: before a
 * process gives up its rights, which it may need to read its own files.
 */
export async function loadCheckers(definitions: Iterable<HealthDefinition>): Promise<void> {
  for (const { type } of definitions) if (type === "grpc") await import("./grpc-check.ts");
}

/**
 * Run one check of the definition's type.
 *
 * @returns fulfilled when everything that the check opened is closed; never rejected
 */
export async function checkBackend(
  endpoint: CheckEndpoint,
  definition: HealthDefinition,
  tools: CheckTools,
  signal: AbortSignal,
): Promise<CheckResult> {
  const startedMs = performance.now();
  try {
    return await check(endpoint, definition, tools, signal);
  } catch (error) {
    const reason = failureReason(error as Error);
    return { ok: false, reason, durationMs: performance.now() - startedMs };
  }
}

async function check(
  endpoint: CheckEndpoint,
  definition: HealthDefinition,
  tools: CheckTools,
  signal: AbortSignal,
): Promise<CheckResult> {
  switch (definition.type) {
    case "tcp":
      return checkTcpConnect(endpoint, signal);
    case "tls":
      return checkTls(endpoint, definition, signal);
    case "http":
      return checkHttp(endpoint, definition, signal);
    case "https":
      return checkHttps(endpoint, definition, signal);
    case "http2":
      return checkHttp2(endpoint, definition, signal);
    case "grpc": {
      // 12 MB, for who has such checks.
      const { checkGrpc } = await import("./grpc-check.ts");
      return checkGrpc(endpoint, definition, signal);
    }
    case "udp":
      return checkUdp(endpoint, definition, signal);
    case "dns":
      return checkDns(endpoint, definition, signal);
    case "icmp":
      return checkIcmp(endpoint, definition, tools.echo, signal);
    case "exec":
      return checkExec(endpoint, definition, tools, signal);
    case "script":
      return checkScript(endpoint, definition, signal);
  }
}
