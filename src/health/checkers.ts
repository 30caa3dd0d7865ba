import type { HealthDefinition } from "../service/health-definition.ts";
import type { CheckEndpoint, CheckResult } from "./check.ts";
import { checkHttp } from "./http-check.ts";
import { checkTcpConnect } from "./tcp-check.ts";

/**
 * Run one check of the definition's type.
 *
 * @returns fulfilled when everything that the check opened is closed; never rejected
 */
export function checkBackend(
  endpoint: CheckEndpoint,
  definition: HealthDefinition,
  signal: AbortSignal,
): Promise<CheckResult> {
  switch (definition.type) {
    case "tcp":
      return checkTcpConnect(endpoint, signal);
    case "http":
      return checkHttp(endpoint, definition, signal);
  }
}
