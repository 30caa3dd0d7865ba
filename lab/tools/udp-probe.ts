/**
 * Sends numbered UDP datagrams of several sizes to an echo server and compares what comes back.
 *
 *   node udp-probe.js --target ADDRESS:PORT|[ADDRESS]:PORT --count N [--sockets N] [--sizes 1,64,1472]
 *
 * Each socket has one datagram under way at a time, so that none is lost to a full buffer; one that
 * is not answered within 5 s is missing. Prints one line of JSON (ProbeReport); exit code 0 when
 * every datagram came back equal, 1 when one did not, 2 for wrong arguments.
 */
import { createHash } from "node:crypto";
import { createSocket, type Socket } from "node:dgram";
import { once } from "node:events";
import { parseArgs } from "node:util";

/** What it prints. */
export interface ProbeReport {
  readonly sent: number;
  readonly equal: number;
  readonly different: number;
  readonly missing: number;
}

const ANSWER_MS_MAX = 5000;

const { values } = parseArgs({
  options: {
    target: { type: "string" },
    count: { type: "string", default: "100" },
    sockets: { type: "string", default: "10" },
    sizes: { type: "string", default: "0,1,2,9,64,511,1200,1471,1472" },
  },
});
const [, host = "", port = ""] = /^\[?(.+?)\]?:(\d+)$/.exec(values.target ?? "") ?? [];
const total = Number(values.count);
const sockets = Number(values.sockets);
const sizes = values.sizes.split(",").map(Number);
if (host === "" || !(total > 0) || !(sockets > 0) || sizes.some((size) => !(size >= 0))) {
  console.error("usage: udp-probe --target ADDRESS:PORT --count N [--sockets N] [--sizes N,N]");
  process.exit(2);
}

/** `bytes` bytes that differ from datagram to datagram. */
function content(number: number, bytes: number): Buffer {
  return createHash("shake256", { outputLength: Math.max(bytes, 1) })
    .update(String(number))
    .digest()
    .subarray(0, bytes);
}

/** Sends one datagram; resolves to its answer, or null when none came in time. */
function ask(socket: Socket, datagram: Buffer): Promise<Buffer | null> {
  return new Promise((resolve) => {
    const timer = setTimeout(() => {
      socket.removeAllListeners("message");
      resolve(null);
    }, ANSWER_MS_MAX);
    socket.once("message", (answer) => {
      clearTimeout(timer);
      resolve(answer);
    });
    socket.send(datagram);
  });
}

let number = 0;
let equal = 0;
let different = 0;
let missing = 0;

async function oneSocket(): Promise<void> {
  const socket = createSocket(host.includes(":") ? "udp6" : "udp4");
  socket.on("error", () => undefined); // counted as missing
  socket.connect(Number(port), host);
  await once(socket, "connect");
  while (number < total) {
    const datagram = content(number, sizes[number % sizes.length]!);
    number += 1;
    const answer = await ask(socket, datagram);
    if (answer === null) missing += 1;
    else if (answer.equals(datagram)) equal += 1;
    else different += 1;
  }
  socket.close();
}

await Promise.all(Array.from({ length: sockets }, oneSocket));
const report: ProbeReport = { sent: total, equal, different, missing };
console.log(JSON.stringify(report));
process.exitCode = equal === total ? 0 : 1;
