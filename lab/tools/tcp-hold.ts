/**
 * Holds TCP connections to an echo server (servers/tcp-echo) open and in use: every connection
 * sends a numbered line again and again, and every line must come back, whole and in order.
 *
 *   node tcp-hold.js --target ADDRESS:PORT|[ADDRESS]:PORT --connections N [--every MS] [--bytes N]
 *
 * Prints "holding N" when all are open. On SIGTERM it stops sending, waits until what is underway
 * has come back, and prints one line of JSON (HoldReport). Exit code 0 when nothing was lost.
 */
import { connect, type Socket } from "node:net";
import { parseArgs } from "node:util";

/** What it prints. */
export interface HoldReport {
  readonly connections: number;
  /** Still open, and every line came back. */
  readonly whole: number;
  /** Connections that ended, by cause. */
  readonly ended: Record<string, number>;
  /** Bytes that came back different. */
  readonly wrong: number;
  readonly lines: number;
  /** The longest time that a connection waited for a line, in ms. */
  readonly longestGapMs: number;
  /** Connections by the name that the server said. */
  readonly servers: Record<string, number>;
}

const { values } = parseArgs({
  options: {
    target: { type: "string" },
    connections: { type: "string", default: "100" },
    every: { type: "string", default: "50" },
    bytes: { type: "string", default: "64" },
  },
});
const [, host = "", port = ""] = /^\[?(.+?)\]?:(\d+)$/.exec(values.target ?? "") ?? [];
const count = Number(values.connections);
const everyMs = Number(values.every);
const bytes = Number(values.bytes);
if (host === "" || !(count > 0) || !(everyMs > 0) || !(bytes >= 32)) {
  console.error("usage: tcp-hold --target ADDRESS:PORT --connections N [--every MS] [--bytes N]");
  process.exit(2);
}

interface Held {
  readonly socket: Socket;
  name: string | null;
  sent: number;
  received: number;
  pending: string;
  waitingSince: number | null;
  ended: string | null;
}

let wrong = 0;
let longestGapMs = 0;
let opened = 0;

/** Line `number` of a connection: its number, padded with itself. */
function lineOf(index: number, number: number): string {
  const text = `${index} ${number} `;
  return `${text.repeat(Math.ceil(bytes / text.length)).slice(0, bytes - 1)}\n`;
}

function take(held: Held, index: number, chunk: string): void {
  held.pending += chunk;
  for (let end = held.pending.indexOf("\n"); end >= 0; end = held.pending.indexOf("\n")) {
    const line = held.pending.slice(0, end + 1);
    held.pending = held.pending.slice(end + 1);
    if (held.name === null) {
      held.name = line.trim();
      opened++;
      if (opened === count) console.log(`holding ${count}`);
      continue;
    }
    if (line !== lineOf(index, held.received)) wrong++;
    held.received++;
    const now = performance.now();
    if (held.waitingSince !== null) longestGapMs = Math.max(longestGapMs, now - held.waitingSince);
    held.waitingSince = held.received === held.sent ? null : now;
  }
}

const all: Held[] = Array.from({ length: count }, (_, index) => {
  const socket = connect(Number(port), host);
  const held: Held = {
    socket,
    name: null,
    sent: 0,
    received: 0,
    pending: "",
    waitingSince: null,
    ended: null,
  };
  socket.setNoDelay(true);
  socket.setEncoding("utf8");
  socket.on("data", (chunk) => take(held, index, chunk.toString()));
  socket.on("error", (error: NodeJS.ErrnoException) => {
    held.ended ??= error.code ?? error.message;
  });
  socket.on("close", () => {
    held.ended ??= "closed";
  });
  return held;
});

const sender = setInterval(() => {
  all.forEach((held, index) => {
    // One line at a time while it waits: a gap is then not hidden by what was queued before it.
    if (held.name === null || held.ended !== null || held.sent - held.received >= 4) return;
    held.waitingSince ??= performance.now();
    held.socket.write(lineOf(index, held.sent));
    held.sent++;
  });
}, everyMs);

function report(): void {
  const ended: Record<string, number> = {};
  const servers: Record<string, number> = {};
  for (const held of all) {
    if (held.ended !== null) ended[held.ended] = (ended[held.ended] ?? 0) + 1;
    const name = held.name ?? "none";
    servers[name] = (servers[name] ?? 0) + 1;
  }
  const whole = all.filter((held) => held.ended === null && held.received === held.sent).length;
  const lines = all.reduce((sum, held) => sum + held.received, 0);
  const longest = Math.round(longestGapMs);
  const result: HoldReport = {
    connections: count,
    whole,
    ended,
    wrong,
    lines,
    longestGapMs: longest,
    servers,
  };
  console.log(JSON.stringify(result));
  process.exit(whole === count && wrong === 0 ? 0 : 1);
}

process.on("SIGTERM", () => {
  clearInterval(sender);
  const until = performance.now() + 10_000;
  const wait = setInterval(() => {
    const quiet = all.every((held) => held.ended !== null || held.received === held.sent);
    if (!quiet && performance.now() < until) return;
    clearInterval(wait);
    report();
  }, 20);
});
