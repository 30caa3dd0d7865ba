/**
 * HTTP requests, each on a TCP connection of its own, and who answered them.
 *
 *   node http-load.js --target ADDRESS:PORT|[ADDRESS]:PORT --requests N --concurrency N
 *                     [--rate N] [--timeout MS] [--path PATH]
 *
 * Prints one line of JSON (LoadReport). Exit code 0 when every request got a whole 200 answer, 1
 * when one did not, 2 for wrong arguments. `--rate`: at most that many new connections a second.
 * SIGTERM: no new ones; the open ones end, and then it prints what there was.
 */
import { connect } from "node:net";
import { parseArgs } from "node:util";

/** What it prints. */
export interface LoadReport {
  readonly requests: number;
  readonly ok: number;
  readonly failed: number;
  /** Answers by body: the lab's backends answer their name. */
  readonly bodies: Record<string, number>;
  /** Failures by cause. */
  readonly failures: Record<string, number>;
}

const { values } = parseArgs({
  options: {
    target: { type: "string" },
    requests: { type: "string", default: "100" },
    concurrency: { type: "string", default: "16" },
    rate: { type: "string", default: "0" },
    timeout: { type: "string", default: "15000" },
    path: { type: "string", default: "/" },
  },
});
const [, host = "", port = ""] = /^\[?(.+?)\]?:(\d+)$/.exec(values.target ?? "") ?? [];
let requests = Number(values.requests);
const concurrency = Number(values.concurrency);
const rate = Number(values.rate);
const timeout = Number(values.timeout);
if (host === "" || !(requests > 0) || !(concurrency > 0) || !(rate >= 0) || !(timeout > 0)) {
  console.error("usage: http-load --target ADDRESS:PORT --requests N --concurrency N [--rate N]");
  process.exit(2);
}

const bodies: Record<string, number> = {};
const failures: Record<string, number> = {};
const request = `GET ${values.path} HTTP/1.1\r\nHost: ${host.includes(":") ? `[${host}]` : host}\r\nConnection: close\r\n\r\n`;
const startedAt = performance.now();
let started = 0;
let open = 0;
let done = 0;

function count(of: Record<string, number>, key: string): void {
  of[key] = (of[key] ?? 0) + 1;
}

/** The body of a whole 200 answer, or null. */
function bodyOf(answer: string): string | null {
  const end = answer.indexOf("\r\n\r\n");
  const length = /\r\ncontent-length: (\d+)\r\n/i.exec(answer);
  if (end < 0 || length === null || !answer.startsWith("HTTP/1.1 200 ")) return null;
  const body = answer.slice(end + 4);
  return body.length === Number(length[1]) ? body.trim() : null;
}

function one(): void {
  started += 1;
  open += 1;
  let answer = "";
  let ended = false;
  const socket = connect({ host, port: Number(port), noDelay: true });
  const finish = (failure: string | null): void => {
    if (ended) return;
    ended = true;
    open -= 1;
    done += 1;
    socket.destroy();
    const body = failure === null ? bodyOf(answer) : null;
    if (body !== null) count(bodies, body);
    else count(failures, failure ?? "answer not whole");
    if (done === requests) report();
    else start();
  };
  socket.setEncoding("latin1");
  socket.setTimeout(timeout, () => finish(socket.connecting ? "connect timeout" : "timeout"));
  socket.on("connect", () => socket.write(request));
  socket.on("data", (chunk) => {
    answer += chunk;
  });
  socket.on("end", () => finish(null));
  socket.on("error", (error: NodeJS.ErrnoException) =>
    finish(`${error.syscall ?? ""} ${error.code ?? error.message}`.trim()),
  );
  socket.on("close", () => finish("closed"));
}

let waiting = false;

/** Starts as many as concurrency and rate allow; looks again in a moment when the rate is used up. */
function start(): void {
  while (open < concurrency && started < requests) {
    if (rate > 0 && started >= ((performance.now() - startedAt) / 1000) * rate + 1) {
      if (waiting) return;
      waiting = true;
      setTimeout(() => {
        waiting = false;
        start();
      }, 2);
      return;
    }
    one();
  }
}

function report(): void {
  const ok = Object.values(bodies).reduce((sum, n) => sum + n, 0);
  const line: LoadReport = { requests, ok, failed: requests - ok, bodies, failures };
  console.log(JSON.stringify(line));
  process.exitCode = ok === requests ? 0 : 1;
}

process.once("SIGTERM", () => {
  requests = started;
  if (done === requests) report();
});
start();
