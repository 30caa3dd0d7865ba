import { connect, isIPv6, type Socket } from "node:net";

/** What one check goes to. */
export interface CheckEndpoint {
  /** Text of an IP address. */
  readonly address: string;
  readonly port: number;
  /** Source address, or null: the host's choice. */
  readonly source: string | null;
  readonly timeoutMs: number;
  /** Name of the service that the backend belongs to. */
  readonly service?: string;
}

/** What a check can say beside up and down. */
export interface CheckExtras {
  /** Share of its weight that the backend wants, in percent. */
  readonly weight?: number;
  /** End of the certificate that the backend showed, in ms since 1970. */
  readonly certificateExpiresMs?: number;
}

export interface CheckResult extends CheckExtras {
  readonly ok: boolean;
  /** `connected`, `status 200`; `connect ECONNREFUSED`, `timeout after 1s`, `status 503`. */
  readonly reason: string;
  /** Until the result was known; the connection's end is not in it. */
  readonly durationMs: number;
}

/** Says what a check found; the first word counts. */
export type Decide = (ok: boolean, reason: string, extras?: CheckExtras) => void;

/** What a check that runs has open. */
export interface Running {
  /** Close it all, at once; that leads to `done`. Called at the timeout and at the signal. */
  readonly stop: () => void;
  /** What a check that got no further than its timeout has found; left out: a failure. */
  readonly atTimeout?: (decide: Decide, timeoutText: string) => void;
}

/** A timer that comes later than this says that the thread was busy, not that the backend is slow. */
const LATE_MS = 20;
const REASON_CHARACTERS_MAX = 200;

/**
 * Run one check, whatever it is made of.
 *
 * Time in which this thread did not look at its sockets does not count against the backend: where
 * the timer comes late, the check is given that time again.
 *
 * @param signal - ends the check: the result is then a failure that says nothing about the backend
 * @param begin - opens what the check needs; `done` is to be called once when all of it is closed
 * @returns fulfilled by `done`; never rejected
 */
export function runTimed(
  timeoutMs: number,
  signal: AbortSignal,
  begin: (decide: Decide, done: () => void) => Running,
): Promise<CheckResult> {
  return new Promise((resolve) => {
    const startedMs = performance.now();
    let result: CheckResult | null = null;
    let running: Running | null = null;
    const decide: Decide = (ok, reason, extras = {}) => {
      const text = reason.slice(0, REASON_CHARACTERS_MAX);
      result ??= { ok, reason: text, durationMs: performance.now() - startedMs, ...extras };
    };

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
      const text = `timeout after ${durationText(timeoutMs)}`;
      running?.atTimeout?.(decide, text);
      decide(false, text);
      running?.stop();
    }
    const abort = (): void => {
      decide(false, "the check was ended");
      running?.stop();
    };
    signal.addEventListener("abort", abort, { once: true });
    const done = (): void => {
      clearTimeout(timer);
      signal.removeEventListener("abort", abort);
      decide(false, "closed by the backend");
      resolve(result!);
    };
    try {
      running = begin(decide, done);
      if (signal.aborted) abort();
    } catch (error) {
      decide(false, failureReason(error as Error));
      done();
    }
  });
}

/**
 * Run one check over one TCP connection; see {@link runTimed}.
 *
 * @param begin - called with the connecting socket; it has to destroy the socket once it has decided
 * @param open - gives a socket that connects; left out: TCP
 * @returns fulfilled when the connection is closed; never rejected
 */
export function runCheck(
  endpoint: CheckEndpoint,
  signal: AbortSignal,
  begin: (socket: Socket, decide: Decide) => Pick<Running, "atTimeout"> | undefined,
  open: (endpoint: CheckEndpoint) => Socket = connectTcp,
): Promise<CheckResult> {
  return runTimed(endpoint.timeoutMs, signal, (decide, done) => {
    const socket = open(endpoint);
    socket.on("error", (error) => decide(false, failureReason(error)));
    socket.once("close", done);
    return { ...begin(socket, decide), stop: () => socket.destroy() };
  });
}

/** Where a socket of a check connects to, for `connect` of node:net and node:tls. */
export function connectOptions({ address, port, source }: CheckEndpoint): {
  host: string;
  port: number;
  localAddress?: string;
} {
  return { host: address, port, ...(source === null ? {} : { localAddress: source }) };
}

/** `ADDRESS:PORT`, an IPv6 address in brackets: what a request names when the question does not. */
export function authorityOf({ address, port }: CheckEndpoint): string {
  return isIPv6(address) ? `[${address}]:${port}` : `${address}:${port}`;
}

function connectTcp(endpoint: CheckEndpoint): Socket {
  return connect(connectOptions(endpoint));
}

/**
 * `connect ECONNREFUSED` where the system said it, `tls: …` where the TLS library did, the error's
 * message elsewhere.
 */
export function failureReason(error: Error): string {
  const { code, syscall } = error as NodeJS.ErrnoException;
  const { reason, library } = error as { readonly reason?: unknown; readonly library?: unknown };
  let text = error.message;
  if (typeof library === "string" && typeof reason === "string") text = `tls: ${reason}`;
  else if (code !== undefined && syscall !== undefined) text = `${syscall} ${code}`;
  return text.slice(0, REASON_CHARACTERS_MAX);
}

function durationText(ms: number): string {
  return ms % 1000 === 0 ? `${ms / 1000}s` : `${ms}ms`;
}
