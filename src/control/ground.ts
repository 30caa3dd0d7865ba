import { randomBytes } from "node:crypto";
import { mkdirSync, statfsSync } from "node:fs";
import path from "node:path";
import type { Address } from "../base/address.ts";
import { monotonicMs } from "../base/clock.ts";
import { ConfigError, type ConfigProblem, HostError } from "../base/errors.ts";
import { type Log, reasonOf } from "../base/log.ts";
import {
  C_AFFINITY_TAKE_OVER_LOST,
  C_AFFINITY_TAKEN_OVER,
  C_FLOWS_TAKE_OVER_DROPPED,
  C_FLOWS_TAKE_OVER_NO_ROOM,
  C_FLOWS_TAKEN_OVER,
} from "../datapath/counters.ts";
import { receiveQueues } from "../device/xdp.ts";
import { hostAddresses } from "../host/addresses.ts";
import { findInterfaces } from "../host/interfaces.ts";
import { createProbeDevice, strictInterfaces } from "../host/probe-device.ts";
import { createSteering, type Steering } from "../host/steering.ts";
import type { HostUser } from "../host/users.ts";
import type { GatewayDefinition } from "../service/definition.ts";
import {
  H_ANNOUNCE_REQUESTED,
  H_NODE_DRAINED,
  H_OWNER_HOST_BITS,
  H_OWNER_PORT_MASK,
  H_SECRET,
  type RegionSize,
  type RegionViews,
} from "../state/layout.ts";
import type { RegionMapper } from "../state/mapper.ts";
import { defaultStateFile, openRegion, type Region } from "../state/region.ts";
import { type AdminServer, claimAdminSocket } from "./admin/server.ts";
import { checkHost } from "./config/host-check.ts";
import { startCrew } from "./crew.ts";
import { createHostParts, type HostParts } from "./host-side.ts";
import { clientHostBits, ownerPortMask, regionSizeOf } from "./region-size.ts";
import { startWorker, type WorkerHandle } from "./worker-host.ts";
import type { WorkerOptions } from "./worker-protocol.ts";

/** What a gateway stands on before it has services: everything that only one process can have. */
export interface Ground {
  /** Wall clock. */
  readonly startedMs: number;
  readonly admin: AdminServer;
  readonly region: Region;
  /** End the wait of every worker for frames. */
  readonly wake: () => void;
  readonly host: HostParts;
  /** All workers. Their devices are open; they handle nothing before `go()`. */
  readonly worker: WorkerHandle;
  /** The host's addresses, as last read. */
  readonly hosts: { addresses: readonly Address[] };
  /** Have the neighbours hear of our addresses; nothing where `announce` is off or no ARP is. */
  announce(): void;
}

/** What the gateway needs of the device folder; main.ts brings it. */
export interface Devices {
  readonly mapper: RegionMapper;
  readonly createWake: () => Wake;
}

export interface Wake {
  readonly fd: number;
  wake(): void;
  close(): void;
}

/** What has to be undone at the end, newest first. */
export type Undo = (() => Promise<void> | void)[];

/**
 * Take all that only one process can have, in the order that leaves a running gateway alone: admin
 * socket, state file, then the guard (before the first frame is handled), then the device.
 *
 * @param user - whom the process becomes before the workers begin; null: nobody
 * @param undo - gets a step for everything taken, also when this is rejected half-way
 * @throws HeadgateError
 */
export async function layGround(
  definition: GatewayDefinition,
  log: Log,
  devices: Devices,
  user: HostUser | null,
  undo: Undo,
): Promise<Ground> {
  const startedMs = Date.now();
  const { announce: announces, interfaces, type, workers } = definition.device;
  const admin = await claimAdminSocket(
    definition.admin.socket,
    user === null ? undefined : { ...user, log },
  );
  undo.push(() => admin.close());
  const size = regionSizeOf(definition);
  const region = openState(definition, size, devices.mapper, log);
  undo.push(() => {
    region.markClean();
    region.close();
  });
  const { views } = region;
  // What nobody catches is a defect, and it may have come from what is in the file.
  process.on("uncaughtExceptionMonitor", region.markDoubtful);
  undo.push(() => {
    process.off("uncaughtExceptionMonitor", region.markDoubtful);
  });
  await requireHost(definition);

  const wakes = Array.from({ length: workers }, () => devices.createWake());
  undo.push(() => {
    for (const each of wakes) each.close();
  });
  const wake = (): void => {
    for (const each of wakes) each.wake();
  };
  const steering = workers > 1 ? steeringOf(views) : null;
  undo.push(() => steering?.close());
  const announce = (): void => {
    if (type === "tun" || !announces || views.i32[H_NODE_DRAINED] !== 0) return;
    Atomics.add(views.i32, H_ANNOUNCE_REQUESTED, 1);
    wake();
  };
  const hosts = { addresses: await hostAddresses() };
  const { probe: wanted } = definition;
  const probe = wanted == null ? null : await createProbeDevice(wanted.interface, wanted.ipv4);
  undo.push(() => probe?.close());
  warnOfStrictFilter(definition, log);
  // The data plane's list: what the host sends as its own client comes in by the last one.
  const probed = probe === null ? [] : [probe.gatewayEnd];
  const device = { ...definition.device, interfaces: [...interfaces, ...probed] };
  const host = await createHostParts({
    device,
    views,
    log,
    wake,
    steering,
    hostAddresses: hosts.addresses,
    onLinkUp: announce,
    user,
  });
  undo.push(() => host.close());
  const worker = await startCrew({
    statePath: region.path,
    views,
    device: workerDevice(device, host),
    limited: user !== null,
    cpus: device.cpus,
    wakeFds: wakes.map(({ fd }) => fd),
    programFd: steering?.programFd ?? null,
    wake,
    onDeath: (reason) => dieWithWorker(region, log, reason),
    startWorker,
  });
  undo.push(() => worker.stop());
  if (device.type === "xdp") log.info("xdp_opened", { ...worker.about });
  return { startedMs, admin, region, wake, host, worker, hosts, announce };
}

/**
 * What each worker has to open. Of AF_XDP, worker w owns the receive queues that are w modulo the
 * number of workers, so that every queue has an owner; one without a queue is handed frames.
 */
function workerDevice(
  device: GatewayDefinition["device"],
  host: HostParts,
): (worker: number, wakeFd: number) => WorkerOptions["device"] {
  const { type, interfaces, name, spinUs, workers, xdp } = device;
  if (type === "tun") return (_, wakeFd) => ({ type, name, wakeFd, spinUs });
  if (type === "packet") return (_, wakeFd) => ({ type, interfaces, wakeFd, spinUs });
  const queues = interfaces.map(receiveQueues);
  const ownQueues = (index: number, worker: number): number[] =>
    Array.from({ length: queues[index]! }, (_, queue) => queue).filter(
      (queue) => queue % workers === worker,
    );
  return (worker, wakeFd) => ({
    type,
    interfaces: interfaces.map((each, index) => ({
      name: each,
      queues: ownQueues(index, worker),
      generic: host.xdp?.generic[index] ?? false,
    })),
    wakeFd,
    socketMap: host.xdp?.sockets ?? -1,
    zeroCopy: xdp.zeroCopy,
    busyPollUs: xdp.busyPollUs,
    spinUs,
  });
}

/** Answers of dsr, ipip and gue backends to checks through the data path come to the host itself. */
function warnOfStrictFilter({ device, probe, services }: GatewayDefinition, log: Log): void {
  const isNeeded = services.some(
    ({ health, mode }) =>
      health?.through === "path" && (mode === "dsr" || mode === "ipip" || mode === "gue"),
  );
  if (probe == null || !isNeeded) return;
  for (const name of strictInterfaces(device.interfaces)) {
    log.warn("reverse_path_filter", {
      interface: name,
      reason:
        `answers to checks through the data path that come in by ${name} have a VIP for their source, ` +
        `and its rp_filter is 1, which drops them; run \`sysctl -w net.ipv4.conf.${name}.rp_filter=2\`, ` +
        "and the same for net.ipv4.conf.all where that is 1",
    });
  }
}

/** Give everything back, newest first; what fails is logged. */
export async function unwind(undo: Undo, log: Log): Promise<void> {
  for (let step = undo.pop(); step !== undefined; step = undo.pop()) {
    try {
      await step();
    } catch (error) {
      log.warn("cleanup_failed", { reason: reasonOf(error) });
    }
  }
}

/** The workers' shares, by the words of the region that the workers go by too. */
function steeringOf({ i32, layout }: RegionViews): Steering {
  return createSteering({
    key: [i32[H_SECRET]!, i32[H_SECRET + 1]!],
    portMask: i32[H_OWNER_PORT_MASK]!,
    hostBits: i32[H_OWNER_HOST_BITS]!,
    workers: layout.workers,
  });
}

function dieWithWorker(region: Region, log: Log, reason: string): void {
  // The state file stays marked as in use, so that the next process knows of the death.
  region.markDoubtful();
  log.error("worker_died", { reason });
  process.exit(1);
}

function isTmpfs(folder: string): boolean {
  const TMPFS_MAGIC = 0x01021994; // include/uapi/linux/magic.h
  return statfsSync(folder).type === TMPFS_MAGIC;
}

/** @throws StateError, AlreadyRunningError */
function openState(
  definition: GatewayDefinition,
  size: RegionSize,
  mapper: RegionMapper,
  log: Log,
): Region {
  const file = definition.flows.stateFile ?? defaultStateFile(isTmpfs);
  try {
    mkdirSync(path.dirname(file), { recursive: true });
  } catch (error) {
    throw new HostError(`cannot make the folder of the state file ${file}: ${reasonOf(error)}`, {
      cause: error,
    });
  }
  const region = openRegion(mapper, {
    path: file,
    size,
    tick: monotonicMs(),
    random: randomBytes,
    ownerPortMask: ownerPortMask(definition),
    ownerHostBits: clientHostBits(definition),
  });
  const { report, views } = region;
  const counters = views.layout.counters.at >> 3;
  const add = (counter: number, count: number): void => {
    views.f64[counters + counter] = views.f64[counters + counter]! + count;
  };
  add(C_FLOWS_TAKEN_OVER, report.flowsKept);
  add(C_FLOWS_TAKE_OVER_DROPPED, report.flowsDropped);
  add(C_FLOWS_TAKE_OVER_NO_ROOM, report.flowsNoRoom);
  add(C_AFFINITY_TAKEN_OVER, report.affinityKept);
  add(C_AFFINITY_TAKE_OVER_LOST, report.affinityDropped + report.affinityNoRoom);
  if (report.setAside !== null) log.warn("state_set_aside", { ...report.setAside });
  log.info("state_opened", {
    file,
    kind: report.kind,
    previous_process: report.previousProcessId,
    previous_clean: report.previousClean,
    flows_kept: report.flowsKept,
    flows_dropped: report.flowsDropped,
    flows_no_room: report.flowsNoRoom,
    affinity_kept: report.affinityKept,
    affinity_dropped: report.affinityDropped,
    affinity_no_room: report.affinityNoRoom,
  });
  return region;
}

/**
 * @throws HostError when an interface is missing
 * @throws ConfigError when the host speaks against the definition
 */
async function requireHost(definition: GatewayDefinition): Promise<void> {
  if (definition.device.type !== "tun") await findInterfaces(definition.device.interfaces);
  const problems = await hostProblems(definition);
  if (problems.length > 0) throw new ConfigError(problems);
}

/**
 * What the host says against a definition. Interfaces may be down for now, room was taken when the
 * state file was opened, and privileges may have been given up since the start: those are for
 * `headgate check --host`.
 */
export async function hostProblems(definition: GatewayDefinition): Promise<ConfigProblem[]> {
  const problems = await checkHost(definition);
  return problems.filter(({ path: key }) => !/^(device\.(interfaces|type)|flows)\b/.test(key));
}
