import { createServer as createHttpServer, type RequestListener } from "node:http";
import { type AddressInfo, createServer, type Server, type Socket } from "node:net";
import {
  createHealthMonitor,
  type HealthChange,
  type HealthMonitor,
  type HealthResult,
  type HealthTarget,
} from "../../src/health/monitor.ts";
import { HEALTH_NAMES, HEALTH_STARTING } from "../../src/service/backend-slots.ts";
import type {
  HealthCommon,
  HealthDefinition,
  HttpHealth,
} from "../../src/service/health-definition.ts";
import { waitFor } from "../support/wait.ts";

/** Real servers on the loopback address, and a monitor whose reports are kept. */

export const LOOPBACK = "127.0.0.1";

const COMMON: HealthCommon = {
  intervalMs: 100,
  fastIntervalMs: 100,
  downIntervalMs: 100,
  timeoutMs: 100,
  rise: 2,
  fall: 3,
  spread: 0.1,
  port: 0,
  source: null,
  through: "direct",
};

export function definition(overrides: Partial<HealthCommon> = {}): HealthDefinition {
  const { intervalMs = COMMON.intervalMs } = overrides;
  const intervals = { intervalMs, fastIntervalMs: intervalMs, downIntervalMs: intervalMs };
  return { type: "tcp", ...COMMON, ...intervals, ...overrides };
}

export function httpDefinition(overrides: Partial<HttpHealth> = {}): HttpHealth {
  return {
    type: "http",
    ...COMMON,
    fastIntervalMs: overrides.intervalMs ?? COMMON.intervalMs,
    downIntervalMs: overrides.intervalMs ?? COMMON.intervalMs,
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

export function target(
  slot: number,
  port: number,
  overrides: Partial<HealthTarget> = {},
): HealthTarget {
  return {
    slot,
    address: LOOPBACK,
    port,
    definition: definition(),
    serviceName: "web",
    health: HEALTH_STARTING,
    ...overrides,
  };
}

export interface TestServer {
  readonly port: number;
  readonly sockets: ReadonlySet<Socket>;
  /** Connections ever accepted. */
  accepted(): number;
  close(): Promise<void>;
}

export async function listen(server: Server, port: number, address: string): Promise<TestServer> {
  const sockets = new Set<Socket>();
  let accepted = 0;
  server.on("connection", (socket: Socket) => {
    accepted++;
    sockets.add(socket);
    socket.on("error", () => undefined);
    socket.once("close", () => sockets.delete(socket));
  });
  await new Promise<void>((resolve, reject) => {
    server.once("error", reject);
    server.listen({ port, host: address }, () => resolve());
  });
  return {
    port: (server.address() as AddressInfo).port,
    sockets,
    accepted: () => accepted,
    close: () =>
      new Promise((resolve) => {
        server.close(() => resolve());
        for (const socket of sockets) socket.destroy();
      }),
  };
}

export function tcpServer(
  onConnection: (socket: Socket) => void = (socket) => socket.resume(),
  port = 0,
  address = LOOPBACK,
): Promise<TestServer> {
  return listen(createServer(onConnection), port, address);
}

export function httpServer(onRequest: RequestListener): Promise<TestServer> {
  return listen(createHttpServer(onRequest), 0, LOOPBACK);
}

/** A port on which nobody listens: one that was free a moment ago. */
export async function closedPort(): Promise<number> {
  const server = await tcpServer();
  await server.close();
  return server.port;
}

export interface Recorder {
  readonly monitor: HealthMonitor;
  readonly changes: HealthChange[];
  readonly results: HealthResult[];
  /** `slot health: reason` of every change so far. */
  story(): string[];
  waitForChanges(count: number): Promise<string[]>;
  waitForResults(slot: number, count: number): Promise<HealthResult[]>;
}

export function recorder(onChange?: (change: HealthChange) => void): Recorder {
  const changes: HealthChange[] = [];
  const results: HealthResult[] = [];
  const monitor = createHealthMonitor({
    onChange(change) {
      changes.push(change);
      onChange?.(change);
    },
    onResult: (result) => results.push(result),
  });
  const story = (): string[] =>
    changes.map(({ slot, health, reason }) => `${slot} ${HEALTH_NAMES[health]}: ${reason}`);
  return {
    monitor,
    changes,
    results,
    story,
    async waitForChanges(count) {
      await waitFor(`${count} changes`, () => changes.length >= count, { everyMs: 5 });
      return story();
    },
    async waitForResults(slot, count) {
      const of = (): HealthResult[] => results.filter((result) => result.slot === slot);
      await waitFor(`${count} results`, () => of().length >= count, { everyMs: 5 });
      return of();
    },
  };
}
