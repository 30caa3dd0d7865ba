import { mkdtempSync, rmSync } from "node:fs";
import { createServer, type IncomingMessage } from "node:http";
import { tmpdir } from "node:os";
import path from "node:path";
import type {
  AffinityList,
  BackendRow,
  DropList,
  FlowList,
  ReloadReport,
  ServiceRow,
  Status,
  WorkerRow,
} from "../../src/base/admin-types.ts";
import { runCli } from "../../src/cli/program.ts";

/** A gateway's admin socket without a gateway, and a command line whose output is kept. */

const RATES = {
  packetsInPerSecond: 1234,
  packetsOutPerSecond: 1200.4,
  bytesInPerSecond: 8_100_000,
  bytesOutPerSecond: 0,
  connectionsPerSecond: 2.5,
};

export const SERVICES: readonly ServiceRow[] = [
  {
    name: "web",
    vips: ["203.0.113.10", "203.0.113.11"],
    ports: ["80", "443"],
    protocols: ["tcp"],
    mode: "nat",
    scheduler: "maglev",
    policies: [],
    flags: ["persistent 300", "mask 255.255.255.0"],
    backends: { total: 3, available: 2 },
    active: 12,
    inactive: 3,
    drops: 7,
    rates: RATES,
    connections: 123_456,
    packetsIn: 1_500_000,
    bytesIn: 2_000_000_000,
    packetsOut: 99_999,
    bytesOut: 5_000_000_000_000,
  },
  {
    name: "dns",
    vips: ["203.0.113.12", "2001:db8:ff::12"],
    ports: ["any"],
    protocols: ["tcp", "udp"],
    mode: "full-nat",
    scheduler: "round-robin",
    policies: [],
    flags: [],
    backends: { total: 0, available: 0 },
    active: 0,
    inactive: 0,
    drops: 0,
    rates: { ...RATES, packetsInPerSecond: 0, packetsOutPerSecond: 0, bytesInPerSecond: 0 },
    connections: 0,
    packetsIn: 0,
    bytesIn: 0,
    packetsOut: 0,
    bytesOut: 0,
  },
];

const BACKEND: BackendRow = {
  service: "web",
  protocol: "tcp",
  address: "10.20.0.11",
  port: 8080,
  mode: "nat",
  weight: 10,
  weightOverride: null,
  slowStart: null,
  priority: 0,
  maxConnections: null,
  state: "up",
  health: "up",
  reason: "",
  since: "2025-01-02T03:04:05.000Z",
  takesNewFlows: true,
  remaining: null,
  deadlineInMs: null,
  active: 12,
  inactive: 3,
  slot: 0,
  passive: {
    latencyUs: 840,
    failures: { silent: 2, refused: 1, unreachable: 0, unanswered: 0 },
    ejections: 1,
    ejectedForMs: null,
  },
  connections: 100,
  packetsIn: 1000,
  bytesIn: 64_000,
  packetsOut: 900,
  bytesOut: 1_500_000,
};

export const BACKENDS: readonly BackendRow[] = [
  BACKEND,
  {
    ...BACKEND,
    address: "10.20.0.12",
    port: 0,
    weightOverride: 0,
    takesNewFlows: false,
    remaining: 15,
    deadlineInMs: 90_000,
    state: "draining",
    reason: "weight 0",
    slot: 1,
  },
  {
    ...BACKEND,
    address: "10.20.0.13",
    takesNewFlows: false,
    remaining: 15,
    weight: 1,
    state: "down",
    health: "down",
    reason: "connect ECONNREFUSED",
    since: "",
    slot: 2,
  },
];

export const FLOWS: FlowList = {
  flows: [
    {
      service: "web",
      protocol: "tcp",
      state: "ESTABLISHED",
      expiresInMs: 7_199_500,
      ageMs: 500,
      client: "198.51.100.2:40000",
      vip: "203.0.113.10:80",
      backend: "10.20.0.11:8080",
      snat: null,
      flags: ["replied"],
    },
    {
      service: "dns",
      protocol: "udp",
      state: "ONE_WAY",
      expiresInMs: 61_000,
      ageMs: 59_000,
      client: "198.51.100.3:5353",
      vip: "203.0.113.12:53",
      backend: "10.20.0.21:53",
      snat: "10.20.0.100:1024",
      flags: [],
    },
  ],
  total: 2,
  truncated: false,
};

export const AFFINITY: AffinityList = {
  entries: [
    {
      client: "198.51.100.0/24",
      group: "shop",
      service: null,
      backend: "10.20.0.11:8080",
      flows: 3,
      expiresInMs: null,
      answered: true,
    },
    {
      client: "2001:db8:1::7",
      group: null,
      service: "dns",
      backend: "[2001:db8:2::11]:53",
      flows: 0,
      expiresInMs: 61_000,
      answered: false,
    },
    {
      client: "198.51.100.9",
      group: null,
      service: null,
      backend: "10.20.0.12",
      flows: 0,
      expiresInMs: 500,
      answered: true,
    },
  ],
  total: 3,
  truncated: false,
};

export const DROPS: DropList = {
  reasons: [
    { reason: "frame_too_short", count: 0 },
    { reason: "no_service", count: 12 },
    { reason: "out_of_state", count: 1_234_567 },
  ],
  samples: [
    {
      at: "2025-01-02T03:04:05.000Z",
      reason: "no_service",
      interface: "eth0",
      bytes: 60,
      header: "00",
      summary: "tcp 198.51.100.2:40000 > 203.0.113.10:81",
    },
    {
      at: "2025-01-02T03:04:06.000Z",
      reason: "frame_too_short",
      interface: "eth1",
      bytes: 9,
      header: "02005e000001",
      summary: "",
    },
  ],
};

export const WORKERS: readonly WorkerRow[] = [
  {
    worker: 0,
    device: "packet",
    flows: 1000,
    received: 200_000,
    forwarded: 190_000,
    dropped: 10_000,
    handedIn: 6,
    handedOut: 5,
    batches: 5000,
    nativeCalls: 10_000,
    missed: 4,
    framesPerBatch: 40,
  },
];

export const STATUS: Status = {
  version: "0.1.0",
  processId: 4242,
  uptimeMs: 7_440_000,
  ready: true,
  draining: false,
  configuration: {
    file: "/etc/headgate/gw.yaml",
    generation: 3,
    lastReload: "2025-01-02T03:04:05.000Z",
    lastReloadOk: true,
  },
  device: {
    type: "packet",
    interfaces: [
      { name: "eth0", mac: "02:00:00:00:00:01", mtu: 1500, up: true },
      { name: "eth1", mac: "02:00:00:00:00:02", mtu: 9000, up: false },
    ],
    guard: "tcx",
  },
  flows: {
    live: 15,
    capacity: 1000,
    created: 100,
    expired: 80,
    evicted: 1,
    reset: 4,
    takenOver: 6,
    takeOverDropped: 2,
    statelessPackets: 0,
    stateless: false,
  },
  services: 2,
  backends: { total: 3, up: 1 },
  frames: {
    received: 200_000,
    forwarded: 190_000,
    replied: 5,
    passed: 0,
    consumed: 0,
    dropped: 9_995,
    originated: 3,
    missed: 4,
  },
  rates: RATES,
  stateFile: "/run/headgate/state",
};

export const RELOADED: ReloadReport = {
  ok: true,
  dryRun: false,
  generation: 4,
  added: ["service api"],
  changed: ["service web: scheduler"],
  removed: ["backend web/10.20.0.13:8080"],
  problems: [],
};

export interface Asked {
  readonly method: string;
  readonly url: string;
  readonly body: unknown;
}
export interface Reply {
  readonly status?: number;
  readonly body: unknown;
  /** Sent as it is, instead of JSON. */
  readonly raw?: string;
}

async function readJson(message: IncomingMessage): Promise<unknown> {
  const chunks: Buffer[] = [];
  for await (const chunk of message) chunks.push(chunk as Buffer);
  const text = Buffer.concat(chunks).toString("utf8");
  return text === "" ? null : JSON.parse(text);
}

function usual({ method, url }: Asked): Reply {
  switch (`${method} ${url.replace(/\?.*/, "")}`) {
    case "GET /api/v1/status":
      return { body: STATUS };
    case "GET /api/v1/services":
      return { body: SERVICES };
    case "GET /api/v1/backends":
      return { body: BACKENDS };
    case "GET /api/v1/flows":
      return { body: FLOWS };
    case "GET /api/v1/drops":
      return { body: DROPS };
    case "GET /api/v1/affinity":
      return { body: AFFINITY };
    case "GET /api/v1/workers":
      return { body: WORKERS };
    case "POST /api/v1/backends/action":
      return { body: [BACKEND] };
    case "POST /api/v1/reload":
      return { body: RELOADED };
    default:
      return { status: 404, body: { error: `there is no ${method} ${url}` } };
  }
}

export interface FakeGateway {
  readonly socket: string;
  readonly asked: Asked[];
  /** Stops answering; the socket goes. */
  end(): Promise<void>;
}

/** @param answer - what is not usual; undefined for the usual answer */
export async function startFakeGateway(
  answer: (asked: Asked) => Reply | undefined = () => undefined,
): Promise<FakeGateway> {
  const folder = mkdtempSync(path.join(tmpdir(), "headgate-cli-"));
  const socket = path.join(folder, "admin.sock");
  const asked: Asked[] = [];
  const server = createServer(async (message, response) => {
    const it = {
      method: message.method ?? "",
      url: message.url ?? "",
      body: await readJson(message),
    };
    asked.push(it);
    const { status = 200, body, raw } = answer(it) ?? usual(it);
    response.writeHead(status, { "content-type": "application/json" });
    response.end(raw ?? JSON.stringify(body));
  });
  await new Promise<void>((resolve) => server.listen(socket, resolve));
  let hasEnded = false;
  return {
    socket,
    asked,
    end: async () => {
      if (hasEnded) return;
      hasEnded = true;
      server.closeAllConnections();
      await new Promise((resolve) => server.close(resolve));
      rmSync(folder, { recursive: true, force: true });
    },
  };
}

export interface Ran {
  readonly code: number;
  readonly out: string;
  readonly err: string;
  /** What the actions of main.ts were asked for. */
  readonly actions: readonly string[];
}

export interface RunOptions {
  readonly isTerminal?: boolean;
  readonly interrupted?: AbortSignal;
  readonly run?: (file: string) => Promise<number>;
  readonly onOut?: (text: string) => void;
}

/** Run one command line in this process. */
export async function headgate(argv: readonly string[], options: RunOptions = {}): Promise<Ran> {
  let out = "";
  let err = "";
  const actions: string[] = [];
  const code = await runCli(
    argv,
    {
      run: async (file) => {
        actions.push(`run ${file}`);
        return options.run === undefined ? 0 : options.run(file);
      },
      cleanup: async () => {
        actions.push("cleanup");
        return 0;
      },
      decap: async (file) => {
        actions.push(`decap ${file}`);
        return 0;
      },
    },
    {
      out: (text) => {
        out += text;
        options.onOut?.(text);
      },
      err: (text) => {
        err += text;
      },
      isTerminal: options.isTerminal ?? false,
      interrupted: () => options.interrupted ?? new AbortController().signal,
    },
  );
  return { code, out, err, actions };
}
