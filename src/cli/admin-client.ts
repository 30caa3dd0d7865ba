import { request } from "node:http";
import { EXIT, HeadgateError, NoGatewayError, PrivilegeError } from "../base/errors.ts";

/** Answers within this, or no gateway is there; all but a drain are answered in milliseconds. */
const ANSWER_TIMEOUT_MS = 10_000;

/** Largest answer read: 100,000 flows are some 40 MB. */
const ANSWER_BYTES_MAX = 256 * 1024 * 1024;

export interface Answer<T> {
  readonly status: number;
  readonly body: T;
}

/** The admin API of one gateway (base/admin-types.ts), over its unix socket. */
export interface AdminClient {
  readonly socket: string;
  /**
   * @param path - with query, such as `/api/v1/flows?limit=10`
   * @throws NoGatewayError when nobody answers
   * @throws PrivilegeError when the socket is not ours to use
   * @throws HeadgateError with the gateway's own sentence for any status but 2xx
   */
  get<T>(path: string): Promise<T>;
  /** Like get; statuses of `accepted` are answers too. */
  post<T>(path: string, body: object, accepted?: readonly number[]): Promise<Answer<T>>;
}

/** @param timeoutMs - how long an answer may take */
export function createAdminClient(socket: string, timeoutMs = ANSWER_TIMEOUT_MS): AdminClient {
  const ask = async <T>(
    method: "GET" | "POST",
    path: string,
    body: object | null,
    accepted: readonly number[],
  ): Promise<Answer<T>> => {
    const { status, text } = await exchange(socket, timeoutMs, method, path, body);
    const value = parse(text, socket);
    if ((status >= 200 && status < 300) || accepted.includes(status)) {
      return { status, body: value as T };
    }
    throw refusal(status, value, socket);
  };
  return {
    socket,
    get: async <T>(path: string) => (await ask<T>("GET", path, null, [])).body,
    post: (path, body, accepted = []) => ask("POST", path, body, accepted),
  };
}

interface Exchanged {
  readonly status: number;
  readonly text: string;
}

function exchange(
  socketPath: string,
  timeoutMs: number,
  method: string,
  path: string,
  body: object | null,
): Promise<Exchanged> {
  return new Promise((resolve, reject) => {
    const payload = body === null ? "" : JSON.stringify(body);
    const headers: Record<string, string | number> = { accept: "application/json" };
    if (body !== null) {
      headers["content-type"] = "application/json";
      headers["content-length"] = Buffer.byteLength(payload);
    }
    const signal = AbortSignal.timeout(timeoutMs);
    const fail = (error: Error): void => reject(unanswered(socketPath, timeoutMs, error));
    const asked = request(
      { socketPath, method, path, headers, host: "localhost", signal, agent: false },
      (response) => {
        const chunks: Buffer[] = [];
        let bytes = 0;
        response.on("data", (chunk: Buffer) => {
          bytes += chunk.length;
          if (bytes > ANSWER_BYTES_MAX) response.destroy(new Error("the answer is too long"));
          else chunks.push(chunk);
        });
        response.on("error", fail);
        response.on("end", () => {
          const text = Buffer.concat(chunks).toString("utf8");
          resolve({ status: response.statusCode ?? 0, text });
        });
      },
    );
    asked.on("error", fail);
    asked.end(payload);
  });
}

function unanswered(socket: string, timeoutMs: number, error: Error): HeadgateError {
  const { code } = error as NodeJS.ErrnoException;
  if (code === "EACCES" || code === "EPERM") {
    return new PrivilegeError(`the socket ${socket} may not be used (${code}): run this as root`);
  }
  const why =
    error.name === "TimeoutError" || error.name === "AbortError" || code === "ABORT_ERR"
      ? `nothing within ${timeoutMs / 1000} s`
      : (code ?? error.message);
  return new NoGatewayError(
    `no gateway answers at ${socket} (${why}): start one with \`headgate run -c FILE\`, or name its socket with --socket`,
    { cause: error },
  );
}

function parse(text: string, socket: string): unknown {
  try {
    return JSON.parse(text);
  } catch (cause) {
    throw new HeadgateError(
      "HEADGATE_HOST",
      `expected a headgate gateway at ${socket}, got an answer that is not JSON`,
      EXIT.failed,
      { cause },
    );
  }
}

function refusal(status: number, body: unknown, socket: string): HeadgateError {
  const error = (body as { readonly error?: unknown } | null)?.error;
  const message = typeof error === "string" ? error : `the gateway answered with status ${status}`;
  if (status === 503) return new NoGatewayError(`no gateway is ready at ${socket}: ${message}`);
  const code = status === 404 ? "HEADGATE_NOT_FOUND" : "HEADGATE_HOST";
  return new HeadgateError(code, message, EXIT.failed);
}
