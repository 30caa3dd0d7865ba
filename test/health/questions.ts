import type { TestContext } from "node:test";
import type { CheckEndpoint, CheckResult } from "../../src/health/check.ts";
import type { HttpQuestion } from "../../src/service/health-definition.ts";
import { LOOPBACK, type TestServer } from "./targets.ts";

/** What checks are called with in tests of single ones. */

export function endpoint(port: number, overrides: Partial<CheckEndpoint> = {}): CheckEndpoint {
  return { address: LOOPBACK, port, source: null, timeoutMs: 2000, ...overrides };
}

export function question(overrides: Partial<HttpQuestion> = {}): HttpQuestion {
  return {
    method: "GET",
    path: "/",
    host: null,
    headers: {},
    status: [{ low: 200, high: 399 }],
    body: null,
    bodyBytes: 65_536,
    ...overrides,
  };
}

export const never = (): AbortSignal => new AbortController().signal;

/** Closed with the test, so that a failure leaves nothing open. */
export async function open(t: TestContext, server: Promise<TestServer>): Promise<TestServer> {
  const opened = await server;
  t.after(() => opened.close());
  return opened;
}

/** `up: reason` or `down: reason`. */
export function found({ ok, reason }: CheckResult): string {
  return `${ok ? "up" : "down"}: ${reason}`;
}
