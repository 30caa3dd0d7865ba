import type { BackendRow, ServiceRow, Status } from "../../../src/base/admin-types.ts";
import type { GatewayView } from "../../../src/control/admin/gateway-view.ts";
import { NO_RATES } from "../../../src/control/rates.ts";

/** A gateway as the admin server sees one, with one service and one backend. */

export const STATUS: Status = {
  version: "0.1.0",
  processId: 1,
  uptimeMs: 5000,
  ready: true,
  draining: false,
  configuration: { file: "gw.yaml", generation: 3, lastReload: "", lastReloadOk: true },
  device: {
    type: "tun",
    interfaces: [{ name: "hg0", mac: "", mtu: 1500, up: true }],
    guard: "none",
  },
  flows: {
    live: 7,
    capacity: 1024,
    created: 9,
    expired: 1,
    evicted: 1,
    reset: 0,
    takenOver: 0,
    takeOverDropped: 0,
    statelessPackets: 0,
    stateless: false,
  },
  services: 1,
  backends: { total: 1, up: 1 },
  frames: {
    received: 10,
    forwarded: 8,
    replied: 1,
    passed: 0,
    consumed: 0,
    dropped: 1,
    originated: 0,
    missed: 0,
  },
  rates: NO_RATES,
  stateFile: "/run/headgate/state",
};

const TRAFFIC = { connections: 9, packetsIn: 4, bytesIn: 400, packetsOut: 5, bytesOut: 5000 };

export const SERVICE: ServiceRow = {
  ...TRAFFIC,
  name: "web",
  vips: ["203.0.113.10"],
  ports: ["80"],
  protocols: ["tcp"],
  mode: "nat",
  scheduler: "round-robin",
  policies: [
    {
      protocol: "tcp",
      module: "/etc/headgate/policy.ts",
      fallback: "round-robin",
      shadow: true,
      state: "shadow",
      reason: "",
      since: "2025-01-02T03:04:05.000Z",
      answer: "weights",
      durationMs: 0.5,
      failures: { throws: 2, timeout: 0 },
      differenceRatio: 0.125,
      backends: [{ backend: "10.20.0.11:8080", share: 0.5, policyShare: 0.375 }],
    },
  ],
  flags: [],
  backends: { total: 1, available: 1 },
  active: 3,
  inactive: 4,
  drops: 2,
  rates: NO_RATES,
};

export const BACKEND: BackendRow = {
  ...TRAFFIC,
  service: "web",
  protocol: "tcp",
  address: "10.20.0.11",
  port: 8080,
  mode: "nat",
  weight: 10,
  weightOverride: 0,
  slowStart: null,
  priority: 0,
  maxConnections: null,
  state: "draining",
  health: "up",
  reason: "weight 0",
  since: "",
  takesNewFlows: false,
  remaining: 7,
  deadlineInMs: null,
  active: 3,
  inactive: 4,
  slot: 0,
  passive: {
    latencyUs: 1240,
    failures: { silent: 2, refused: 1, unreachable: 0, unanswered: 0 },
    ejections: 3,
    ejectedForMs: null,
  },
};

/** Every call is written down in `calls`, so that a test sees what reached the gateway. */
export function fakeView(
  overrides: Partial<GatewayView> = {},
): GatewayView & { calls: unknown[][] } {
  const calls: unknown[][] = [];
  const record =
    <Result>(name: string, result: Result) =>
    (...values: unknown[]): Result => {
      calls.push([name, ...values]);
      return result;
    };
  const report = { dryRun: false, generation: 4, added: [], changed: [], removed: [] };
  return {
    calls,
    status: record("status", STATUS),
    services: record("services", [SERVICE]),
    backends: record("backends", [BACKEND]),
    flows: record("flows", { flows: [], total: 0, truncated: false }),
    affinity: record("affinity", { entries: [], total: 0, truncated: false }),
    drops: record("drops", { reasons: [], samples: [] }),
    workers: record("workers", []),
    configuration: record("configuration", { version: 1 }),
    backendAction: record("backendAction", Promise.resolve([BACKEND])),
    reload: record("reload", Promise.resolve({ ...report, ok: true, problems: [] })),
    drain: record("drain", { liveFlows: 7 }),
    metrics: record("metrics", Promise.resolve("# EOF\n")),
    isLive: () => true,
    isReady: () => true,
    ...overrides,
  };
}
