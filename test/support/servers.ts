import { createCipheriv, createHash } from "node:crypto";
import { closeSync, mkdirSync, openSync, writeFileSync } from "node:fs";
import path from "node:path";
import type { LoadReport } from "../../lab/tools/http-load.ts";
import type { ProbeReport } from "../../lab/tools/udp-probe.ts";
import {
  LAB_BACKEND_NAMES,
  LAB_BACKENDS,
  LAB_BACKENDS6,
  LAB_VIP,
  LAB_VIP6,
  type Lab,
  type LabBackend,
  labProgram,
} from "./lab.ts";
import type { RunningProcess } from "./processes.ts";
import { waitFor } from "./wait.ts";

/** The real servers of the lab's backends, and the clients that ask them through the VIP. */

export const WEB_PORT = 8080;
export const IPERF_PORT = 5201;

/** What the lab's servers listen on. */
function bothAddresses(node: LabBackend): string {
  return `${LAB_BACKENDS[node]},${LAB_BACKENDS6[node]}`;
}

async function listensOnBoth(server: RunningProcess): Promise<void> {
  await server.waitLine(/^listening \d+\./);
  await server.waitLine(/^listening .*:/);
}

/** `ADDRESS:PORT` of a port of the VIP. */
function vipTarget(port: number, family: 4 | 6 = 4): string {
  return family === 4 ? `${LAB_VIP}:${port}` : `[${LAB_VIP6}]:${port}`;
}

/** Waits until something listens on the port of a backend, asked from the backend itself. */
async function waitListening(lab: Lab, node: LabBackend, port: number): Promise<void> {
  await waitFor(`port ${port} of ${node}`, async () => {
    const { stdout } = await lab.exec(node, ["ss", "-Hltn", `sport = :${port}`]);
    return stdout.includes(`:${port}`);
  });
}

/**
 * nginx on one backend, port 8080: `/` answers the backend's name, `/client` the address it talks to,
 * `/files/NAME` the file NAME of `files` (a folder; the lab's memory unless said). It listens on the
 * backend's addresses, and on those of `alsoOn`: VIPs that it holds.
 */
export async function startNginx(
  lab: Lab,
  node: LabBackend,
  files: string = lab.memory,
  alsoOn: readonly string[] = [],
): Promise<RunningProcess> {
  const own = path.join(lab.directory, `nginx-${node}`);
  mkdirSync(own, { recursive: true });
  const temporary = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
    .map((kind) => `${kind}_temp_path ${own}/${kind};`)
    .join(" ");
  writeFileSync(
    `${own}/nginx.conf`,
    `daemon off; master_process off; pid ${own}/pid;
events { worker_connections 4096; }
http {
  access_log off; sendfile on; tcp_nopush on; default_type text/plain; ${temporary}
  server {
    listen ${LAB_BACKENDS[node]}:${WEB_PORT} backlog=4096;
    listen [${LAB_BACKENDS6[node]}]:${WEB_PORT} backlog=4096;
${alsoOn.map((address) => `    listen ${address}:${WEB_PORT} backlog=4096;\n`).join("")}    add_header X-Backend ${node} always;
    location = / { return 200 "${node}\\n"; }
    location = /client { return 200 "$remote_addr\\n"; }
    location /files/ { alias ${files}/; }
  }
}
`,
  );
  const server = lab.spawn(node, ["nginx", "-e", `${own}/error.log`, "-c", `${own}/nginx.conf`]);
  await waitListening(lab, node, WEB_PORT);
  return server;
}

/** nginx on every backend (or those named). */
export async function startWeb(
  lab: Lab,
  nodes: readonly LabBackend[] = LAB_BACKEND_NAMES,
  files?: string,
): Promise<RunningProcess[]> {
  return Promise.all(nodes.map((node) => startNginx(lab, node, files)));
}

/** The UDP echo server on one backend. */
export async function startUdpEcho(
  lab: Lab,
  node: LabBackend,
  port: number,
): Promise<RunningProcess> {
  const server = lab.spawn(node, [
    process.execPath,
    labProgram("servers/udp-echo.js"),
    bothAddresses(node),
    String(port),
  ]);
  await listensOnBoth(server);
  return server;
}

/** A TCP server that answers the SHA-256 of what it was sent. */
export async function startHashSink(
  lab: Lab,
  node: LabBackend,
  port: number,
): Promise<RunningProcess> {
  const server = lab.spawn(node, [
    process.execPath,
    labProgram("servers/hash-sink.js"),
    bothAddresses(node),
    String(port),
  ]);
  await listensOnBoth(server);
  return server;
}

/** The TCP echo server on every backend, port 7001; it says the backend's name first. */
export async function startTcpEcho(lab: Lab, port = 7001): Promise<RunningProcess[]> {
  return Promise.all(
    LAB_BACKEND_NAMES.map(async (node) => {
      const server = lab.spawn(node, [
        process.execPath,
        labProgram("servers/tcp-echo.js"),
        node,
        bothAddresses(node),
        String(port),
      ]);
      await listensOnBoth(server);
      return server;
    }),
  );
}

/** iperf3 on one backend, port 5201. */
export async function startIperf3(lab: Lab, node: LabBackend): Promise<RunningProcess> {
  const server = lab.spawn(node, [
    "iperf3",
    "-s",
    "-B",
    LAB_BACKENDS[node],
    "-p",
    String(IPERF_PORT),
  ]);
  await waitListening(lab, node, IPERF_PORT);
  return server;
}

export interface LoadOptions {
  readonly requests: number;
  readonly concurrency?: number;
  /** New connections a second at most; 0: as fast as it goes. */
  readonly rate?: number;
  readonly port?: number;
  /** Of the VIP: 4 unless said. */
  readonly family?: 4 | 6;
  readonly path?: string;
  /** How long one request may take; 15,000 unless said. */
  readonly requestMs?: number;
  /** How long all of it may take. */
  readonly timeoutMs?: number;
}

/** The command line of the HTTP client, for tests that spawn it. */
export function httpLoadCommand(options: LoadOptions): string[] {
  return [
    process.execPath,
    labProgram("tools/http-load.js"),
    "--target",
    vipTarget(options.port ?? 80, options.family),
    "--requests",
    String(options.requests),
    "--concurrency",
    String(options.concurrency ?? 32),
    "--rate",
    String(options.rate ?? 0),
    "--path",
    options.path ?? "/",
    "--timeout",
    String(options.requestMs ?? 15_000),
  ];
}

/** HTTP requests from the client through the VIP, each on a connection of its own. */
export async function httpLoad(lab: Lab, options: LoadOptions): Promise<LoadReport> {
  const { stdout, stderr, code } = await lab.exec("client", httpLoadCommand(options), {
    check: false,
    timeoutMs: options.timeoutMs ?? 120_000,
  });
  if (code === null || code > 1) throw new Error(`http-load ended with ${code}\n${stderr}`);
  return JSON.parse(stdout) as LoadReport;
}

/** UDP datagrams from the client to an echo server behind the VIP, and back. */
export async function udpProbe(
  lab: Lab,
  options: {
    readonly port: number;
    readonly count: number;
    readonly sockets?: number;
    readonly family?: 4 | 6;
    /** Bytes of data, in turns. */
    readonly sizes?: readonly number[];
  },
): Promise<ProbeReport> {
  const { stdout, stderr, code } = await lab.exec(
    "client",
    [
      process.execPath,
      labProgram("tools/udp-probe.js"),
      "--target",
      vipTarget(options.port, options.family),
      "--count",
      String(options.count),
      "--sockets",
      String(options.sockets ?? 10),
      ...(options.sizes === undefined ? [] : ["--sizes", options.sizes.join(",")]),
    ],
    { check: false, timeoutMs: 120_000 },
  );
  if (code === null || code > 1) throw new Error(`udp-probe ended with ${code}\n${stderr}`);
  return JSON.parse(stdout) as ProbeReport;
}

/** What iperf3 prints with -J, as far as tests look at it. */
export interface IperfReport {
  readonly error?: string;
  readonly end: {
    readonly sum_sent?: { readonly bytes: number };
    readonly sum_received?: { readonly bytes: number };
    readonly sum?: {
      readonly bytes: number;
      readonly packets: number;
      readonly lost_packets: number;
    };
    readonly streams: readonly { readonly udp?: { readonly out_of_order: number } }[];
  };
}

/** iperf3 from the client to the VIP; `args` beside the address, such as ["-n", "64M", "-R"]. */
export async function iperf3(lab: Lab, args: readonly string[]): Promise<IperfReport> {
  const { stdout } = await lab.exec(
    "client",
    ["iperf3", "-c", LAB_VIP, "-p", String(IPERF_PORT), "-J", "--connect-timeout", "5000", ...args],
    { check: false, timeoutMs: 120_000 },
  );
  const report = JSON.parse(stdout) as IperfReport;
  if (report.error !== undefined) throw new Error(`iperf3: ${report.error}`);
  return report;
}

/**
 * Writes `bytes` bytes of content that is the same in every run and does not compress (an AES-CTR
 * key stream); returns their SHA-256 in hexadecimal.
 */
export function writeContent(file: string, bytes: number): string {
  const cipher = createCipheriv("aes-128-ctr", Buffer.alloc(16, 7), Buffer.alloc(16));
  const hash = createHash("sha256");
  const zeros = Buffer.alloc(4 * 1024 * 1024);
  const descriptor = openSync(file, "w");
  try {
    for (let left = bytes; left > 0; left -= zeros.length) {
      const piece = cipher.update(left < zeros.length ? zeros.subarray(0, left) : zeros);
      hash.update(piece);
      writeFileSync(descriptor, piece);
    }
  } finally {
    closeSync(descriptor);
  }
  return hash.digest("hex");
}
