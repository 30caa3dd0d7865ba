import { connect, type Socket } from "node:net";

/** What one check connects to. */
export interface CheckEndpoint {
  /** Text of an IP address. */
  readonly address: string;
  readonly port: number;
  /** Source address, or null: the host's choice. */
  readonly source: string | null;
  readonly timeoutMs: number;
}

export interface CheckResult {
  readonly ok: boolean;
  /** `connected`, `status 200`; `connect ECONNREFUSED`, `timeout after 1s`, `status 503`. */
  readonly reason: string;
  /** Until the result was known; the connection's end is not in it. */
  readonly durationMs: number;
}

/** Says what a check found; the first word counts. */
export type Decide = (ok: boolean, reason: string) => void;

/** A timer that comes later than this says that the thread was busy, not that the backend is slow. */
const LATE_MS = 20;
const REASON_CHARACTERS_MAX = 200;

/**
 * Run one check over one TCP connection.
 *
 * Time in which this thread did not look at its sockets does not count against the backend: where
 * the timer comes late, the check is given that time again.
 *
 * @param signal - ends the check: the result is then a failure that says nothing about the backend
 * @param begin - called with the connecting socket; it has to destroy the socket once it has decided
 * @returns fulfilled when the connection is closed; never rejected
 */
export function runCheck(
  endpoint: CheckEndpoint,
  signal: AbortSignal,
  begin: (socket: Socket, decide: Decide) => void,
): Promise<CheckResult> {
  const { address, port, source, timeoutMs } = endpoint;
  return new Promise((resolve) => {
    const startedMs = performance.now();
    let result: CheckResult | null = null;
    const decide: Decide = (ok, reason) => {
      result ??= { ok, reason, durationMs: performance.now() - startedMs };
    };
    const socket = connect({
      host: address,
      port,
      ...(source === null ? {} : { localAddress: source }),
    });

    let deadlineMs = startedMs + timeoutMs;
    let timer = setTimeout(expire, timeoutMs);
    function expire(): void {
      const lateMs = performance.now() - deadlineMs;
      if (lateMs > LATE_MS) {
        const againMs = Math.min(lateMs, timeoutMs);
        deadlineMs = performance.now() + againMs;
        timer = setTimeout(expire, againMs);
        return;
      }
      decide(false, `timeout after ${durationText(timeoutMs)}`);
      socket.destroy();
    }
    const abort = (): void => {
      decide(false, "the check was ended");
      socket.destroy();
    };
    signal.addEventListener("abort", abort, { once: true });

    socket.on("error", (error) => decide(false, failureReason(error)));
    socket.once("close", () => {
      clearTimeout(timer);
      signal.removeEventListener("abort", abort);
      decide(false, "closed by the backend");
      resolve(result!);
    });
    begin(socket, decide);
    if (signal.aborted) abort();
  });
}

/** `connect ECONNREFUSED` where the system said it, the error's message elsewhere. */
export function failureReason(error: Error): string {
  const { code, syscall } = error as NodeJS.ErrnoException;
  const text = code !== undefined && syscall !== undefined ? `${syscall} ${code}` : error.message;
  return text.slice(0, REASON_CHARACTERS_MAX);
}

function durationText(ms: number): string {
  return ms % 1000 === 0 ? `${ms / 1000}s` : `${ms}ms`;
}
