import { readFileSync } from "node:fs";
import { networkInterfaces } from "node:os";
import path from "node:path";
import { AssertionError } from "../base/assert.ts";
import { monotonicMs } from "../base/clock.ts";
import { type Log, reasonOf } from "../base/log.ts";
import { OWNER_ADDRESS_ONLY } from "../flow/owner.ts";
import { loadCheckers } from "../health/checkers.ts";
import { hostAddresses } from "../host/addresses.ts";
import { requirePrivileges } from "../host/privileges.ts";
import {
  dropPrivileges,
  type HostUser,
  keptCapabilities,
  requireReadable,
  resolveUser,
} from "../host/users.ts";
import { B_CONFIGURED } from "../service/backend-slots.ts";
import type { GatewayDefinition } from "../service/definition.ts";
import { backendFlows } from "../service/runs.ts";
import { backendSlotWord, usedBackendSlots } from "../service/slots.ts";
import {
  H_CONFIG_GENERATION,
  H_OWNER_HOST_BITS,
  H_OWNER_PORT_MASK,
  type RegionViews,
} from "../state/layout.ts";
import type { Region } from "../state/region.ts";
import type { GatewayView } from "./admin/gateway-view.ts";
import { type AdminServer, readToken, serveTcp } from "./admin/server.ts";
import { type BackendStories, createBackendStories } from "./backend-stories.ts";
import { openCheckTools } from "./check-tools.ts";
import { loadConfig } from "./config/load.ts";
import { ipv6Problems, restartProblems } from "./config/restart-keys.ts";
import { type Room, roomProblems } from "./config/room-keys.ts";
import { type Devices, type Ground, hostProblems, layGround, type Undo, unwind } from "./ground.ts";
import { createHealth, type Health } from "./health.ts";
import { OTHERS_INTERVAL_MS, publishOthers } from "./others.ts";
import { createPartialChecksumWarner } from "./partial-checksums.ts";
import { createPassiveChecks, PASSIVE_LOOK_MS } from "./passive.ts";
import { compilePolicies } from "./policy/compile.ts";
import { createPolicies, type Policies } from "./policy/policies.ts";
import { createRateMeter } from "./rates.ts";
import { createReadings } from "./readings.ts";
import { type Applied, createReconciler, type Reconciler } from "./reconcile.ts";
import { createReloader } from "./reload.ts";
import { createShutdown } from "./shutdown.ts";
import { createStatelessWatch } from "./stateless-watch.ts";
import { createWatchdog, WATCHDOG_INTERVAL_MS } from "./watchdog.ts";

export interface Gateway {
  /** Fulfilled with the exit code when the gateway has ended in order. */
  readonly ended: Promise<number>;
  /** Read the configuration file again and take it over; the outcome is logged. */
  reload(): Promise<void>;
  /** End as `shutdown.mode` says. Called again: end at once. */
  stop(reason: string): void;
  /** One log line with everything that `headgate status` shows. */
  logState(): void;
}

/** How often control looks for next hops that the worker misses. */
const HOP_REQUEST_INTERVAL_MS = 10;
const RATE_INTERVAL_MS = 1000;
/** A gateway that has moved frames this long has shown that its state file is good. */
const PROVEN_AFTER_MS = 1000;
/** How often ended flows, free slots and the host's addresses are looked at. */
const HOUSEKEEPING_INTERVAL_MS = 5000;

/**
 * Start a gateway: it owns packets when the promise is fulfilled.
 *
 * Order: privileges; the admin socket and the state file (nobody else has them); the host; the
 * guard, before the first frame is handled; the device, in the worker; routes and next hops; slots
 * and bank 1; then the process becomes `user`, the worker begins, and the neighbours hear of it.
 *
 * @throws HeadgateError - nothing is left behind then
 */
export async function startGateway(
  definition: GatewayDefinition,
  log: Log,
  devices: Devices,
): Promise<Gateway> {
  requirePrivileges(definition.device.type);
  const undo: Undo = [];
  try {
    return await compose(definition, log, devices, undo);
  } catch (error) {
    if (!(error instanceof AssertionError)) await unwind(undo, log);
    throw error;
  }
}

async function compose(
  definition: GatewayDefinition,
  log: Log,
  devices: Devices,
  undo: Undo,
): Promise<Gateway> {
  await compilePolicies(definition);
  const user = definition.user === null ? null : resolveUser(definition.user);
  if (user !== null) await requireReadable(user, path.resolve(definition.file));
  const ground = await layGround(definition, log, devices, user, undo);
  const { region, host, worker } = ground;
  const { views } = region;
  const shutdown = createShutdown({
    views,
    log,
    wake: ground.wake,
    settings: () => control.reconciler.current()?.definition.shutdown ?? definition.shutdown,
    finish: () => unwind(undo, log),
  });
  const version = packageVersion();
  const http = await openHttp(definition, undo);
  // The router and the metrics take a quarter of the time until frames move: they come after that,
  // but to a process that may no longer read its own files.
  const loadAdmin = () => Promise.all([import("./admin/app.ts"), import("./view.ts")]);
  const early = user === null ? null : await loadAdmin();
  await loadCheckers(definition.services.flatMap(({ health }) => health ?? []));
  const control = createControl(ground, log, undo, () => {
    if (user !== null) drop(user, definition, log);
  });
  const { reconciler } = control;
  await host.attach(worker.interfaces);
  await reconciler.apply(definition);
  views.i32[H_CONFIG_GENERATION] = 1;

  const reloader = createReloader({
    log,
    current: () => reconciler.current()?.definition ?? definition,
    load: async () => {
      const loaded = loadConfig(definition.file);
      await compilePolicies(loaded);
      return loaded;
    },
    restartProblems: (before, after) => [
      ...restartProblems(before, after),
      ...roomProblems(roomOf(views), after),
      ...ipv6Problems(after, ground.region.views.layout.ipv6),
    ],
    hostProblems,
    apply: reconciler.apply,
    readGeneration: () => views.i32[H_CONFIG_GENERATION]!,
    writeGeneration: (generation) => {
      views.i32[H_CONFIG_GENERATION] = generation;
    },
  });
  const rates = createRateMeter();
  const readings = createReadings({
    views,
    deviceType: definition.device.type,
    interfaces: worker.interfaces.map(({ name }) => name),
    tick: monotonicMs,
    current: reconciler.current,
    storyOf: control.stories.of,
    ratesOf: rates.of,
    policiesOf: control.policies.rowsOf,
  });
  const stateless = createStatelessWatch(readings.counter, definition.flows.statelessAbove, log);
  every(RATE_INTERVAL_MS, undo, stateless.look);
  const [{ createAdminApp }, { createView }] = early ?? (await loadAdmin());
  const view = createView({
    views,
    version,
    statePath: region.path,
    startedMs: ground.startedMs,
    log,
    interfaces: worker.interfaces,
    host,
    reconciler,
    reloader,
    readings,
    health: control.health,
    rates,
    isStateless: stateless.isStateless,
    // A worker that hangs takes the process with it (watch): who answers is alive.
    isLive: () => true,
    isReady: () => !shutdown.isDraining(),
    isDraining: shutdown.isDraining,
    drain: shutdown.drain,
  });
  serveAdmin(createAdminApp, view, { http, socket: ground.admin }, log, undo);

  const sampleRates = (): void => rates.sample(performance.now(), readings.totals());
  sampleRates();
  every(RATE_INTERVAL_MS, undo, sampleRates);
  if (definition.device.type !== "tun") {
    every(HOP_REQUEST_INTERVAL_MS, undo, host.serveHopRequests);
  }
  every(OTHERS_INTERVAL_MS, undo, () => publishOthers(views));
  keepHouse(ground, control, log, undo);
  watch(region, log, undo);
  logStart(definition, view, log);
  return {
    ended: shutdown.ended,
    reload: async () => {
      await reloader.reload(false);
    },
    stop: shutdown.stop,
    logState: () => log.info("state", { ...view.status() }),
  };
}

/** What turns definitions and health into banks. */
interface Control {
  readonly reconciler: Reconciler;
  readonly health: Health;
  readonly stories: BackendStories;
  readonly policies: Policies;
  /** Slot states have changed; a failure is logged. */
  readonly refresh: () => void;
}

function createControl(ground: Ground, log: Log, undo: Undo, beforeFrames: () => void): Control {
  const { region, host, worker, wake } = ground;
  const { views } = region;
  const refresh = (): void => {
    reconciler.refresh().catch((error: unknown) => {
      if (error instanceof AssertionError) throw error;
      log.error("refresh_failed", { reason: reasonOf(error) });
    });
  };
  const tools = openCheckTools();
  undo.push(() => tools.close());
  const passive = createPassiveChecks({ views, tick: monotonicMs, refresh });
  const health = createHealth(views, log, tools, refresh, passive.checked);
  const whyOf = (slot: number): string => passive.reasonOf(slot) || health.reasonOf(slot);
  const stories = createBackendStories(views, log, whyOf);
  const policies = createPolicies(views, log, refresh);
  const isNewAddress = createAddressMemory();
  let isRunning = false;
  const reconciler = createReconciler({
    views,
    host,
    log,
    tick: monotonicMs,
    wake: () => {
      // The first bank is there: now, and not before, the worker may handle frames.
      if (!isRunning) {
        beforeFrames();
        worker.go();
      }
      isRunning = true;
      wake();
    },
    hostAddresses: () => ground.hosts.addresses,
    decisions: policies,
    onApplied: (applied) => {
      log.setLevel(applied.definition.log.level);
      passive.follow(applied);
      stories.update();
      health.follow(applied);
      policies.follow(applied);
      if (isNewAddress(applied)) ground.announce();
    },
  });
  undo.push(() => health.close());
  undo.push(() => policies.close());
  undo.push(() => reconciler.close());
  every(PASSIVE_LOOK_MS, undo, passive.look);
  return { reconciler, health, stories, policies, refresh };
}

function every(ms: number, undo: Undo, job: () => void): void {
  const timer = setInterval(job, ms);
  undo.push(() => clearInterval(timer));
}

/** Follow what changes without anybody's doing: flows that end, addresses of the host. */
function keepHouse(ground: Ground, control: Control, log: Log, undo: Undo): void {
  const { host, hosts, region } = ground;
  let hostText = interfaceText();
  const warn = createPartialChecksumWarner(
    region.views,
    // Of our own pair nobody needs to hear: it is the last, and the others keep their places.
    ground.worker.interfaces
      .map(({ name }) => name)
      .filter((name) => name !== ground.probeInterface),
    log,
  );
  const keep = async (): Promise<void> => {
    warn();
    await host.trim();
    if (hasUnusedSlots(region.views)) control.refresh();
    const text = interfaceText();
    if (text === hostText) return;
    hosts.addresses = await hostAddresses();
    hostText = text;
    await host.setHostAddresses(hosts.addresses);
    control.refresh();
  };
  every(HOUSEKEEPING_INTERVAL_MS, undo, () => {
    keep().catch((error: unknown) => {
      if (error instanceof AssertionError) throw error;
      log.warn("housekeeping_failed", { reason: reasonOf(error) });
    });
  });
}

/** End a process of which a worker hangs, and trust the state file once it does not. */
function watch(region: Region, log: Log, undo: Undo): void {
  const watchdog = createWatchdog(region.views);
  every(WATCHDOG_INTERVAL_MS, undo, () => {
    if (!watchdog.look()) return;
    log.error("worker_hangs", { reason: "a worker has handled no batch for 2 s" });
    region.markDoubtful();
    process.abort();
  });
  const proven = setTimeout(region.markProven, PROVEN_AFTER_MS);
  undo.push(() => clearTimeout(proven));
}

/** Root's last act: what is kept is for the children that change routes (host/users.ts). */
function drop(user: HostUser, { device }: GatewayDefinition, log: Log): void {
  const kept = keptCapabilities(device);
  dropPrivileges(user, kept);
  log.info("privileges_dropped", { user: user.name, uid: user.uid, gid: user.gid, kept });
}

/** The HTTP address, and the token that it asks for. */
interface Http {
  readonly server: AdminServer;
  readonly token: string | null;
}

/** Take the HTTP address: a low port and the token's file may be root's. Until later it answers 503. */
async function openHttp({ admin }: GatewayDefinition, undo: Undo): Promise<Http | null> {
  const { http, tokenFile } = admin;
  if (http === null) return null;
  const token = tokenFile === null ? null : readToken(tokenFile);
  const starting = (): Response =>
    Response.json({ error: "the gateway is starting" }, { status: 503 });
  const server = await serveTcp(http.address, http.port, starting);
  undo.push(() => server.close());
  return { server, token };
}

function serveAdmin(
  createAdminApp: typeof import("./admin/app.ts").createAdminApp,
  view: GatewayView,
  { http, socket }: { readonly http: Http | null; readonly socket: AdminServer },
  log: Log,
  undo: Undo,
): void {
  const onDefect = (error: Error): void =>
    log.error("admin_defect", { reason: error.stack ?? error.message });
  if (http !== null) {
    const app = createAdminApp(view, { access: "read", token: http.token, onDefect });
    http.server.setHandler((request) => app.fetch(request));
  }
  const app = createAdminApp(view, { access: "all", token: null, onDefect });
  socket.setHandler((request) => app.fetch(request));
  // The first step of the end: what an answer reads is given back from here on.
  undo.push(() =>
    socket.setHandler(() => Response.json({ error: "the gateway is stopping" }, { status: 503 })),
  );
}

/** Says whether a definition has an address to announce that the one before had not. */
function createAddressMemory(): (applied: Applied) => boolean {
  let known = new Set<string>();
  return ({ definition }) => {
    const now = new Set([
      ...definition.services.flatMap(({ vips }) => vips.map(({ text }) => text)),
      ...definition.snat.addresses.map(({ text }) => text),
      ...[definition.tunnel.sourceIpv4, definition.tunnel.sourceIpv6].map((it) => it?.text ?? ""),
    ]);
    const isNew = [...now].some((address) => !known.has(address));
    known = now;
    return isNew;
  };
}

/** The addresses of this host, cheap enough to look at often. */
function interfaceText(): string {
  return JSON.stringify(networkInterfaces());
}

/** Backends that left the configuration, and whose last flow has ended. */
function hasUnusedSlots(views: RegionViews): boolean {
  return usedBackendSlots(views).some((slot) => {
    const at = backendSlotWord(views, slot);
    return views.i32[at + B_CONFIGURED] === 0 && backendFlows(views, slot) === 0;
  });
}

function logStart(definition: GatewayDefinition, view: GatewayView, log: Log): void {
  const { version, device, services, backends, stateFile } = view.status();
  log.info("started", {
    version,
    device: device.type,
    interfaces: device.interfaces.map(({ name }) => name),
    guard: device.guard,
    workers: definition.device.workers,
    services,
    backends: backends.total,
    state_file: stateFile,
    admin_socket: definition.admin.socket,
  });
  if (process.getuid?.() === 0) {
    log.warn("runs_as_root", {
      reason: "the process keeps root's privileges; `user` in the configuration gives them up",
    });
  }
}

/** What only a restart gives more of. */
function roomOf({ i32, layout }: RegionViews): Room {
  return {
    splices: layout.splices.bytes > 0,
    affinity: layout.affinity.bytes > 0,
    clientsTogether: clientsTogether(i32, layout.workers),
  };
}

function clientsTogether(i32: Int32Array, workers: number): Room["clientsTogether"] {
  if (workers === 1) return { ipv4: 0, ipv6: 0 };
  if (i32[H_OWNER_PORT_MASK] !== OWNER_ADDRESS_ONLY) return null;
  const hostBits = i32[H_OWNER_HOST_BITS]!;
  return { ipv4: 32 - (hostBits & 0xff), ipv6: 128 - (hostBits >>> 8) };
}

/** Version of the package that this file is part of (`dist/src/control` is three folders down). */
function packageVersion(): string {
  const file = new URL("../../../package.json", import.meta.url);
  return (JSON.parse(readFileSync(file, "utf8")) as { version: string }).version;
}
