import { setTimeout as pause } from "node:timers/promises";
import { type Address, addressOf4, addressOfWords } from "../base/address.ts";
import { type Log, reasonOf } from "../base/log.ts";
import type { DeviceInterface } from "../device/device.ts";
import { createSolicitedGroups } from "../host/groups.ts";
import { createGuard, createSocketGuard, type Guard } from "../host/guard.ts";
import type { XdpGuard } from "../host/guard-xdp.ts";
import { createHopPlanner, type HopPlanner, type HostHopPlan } from "../host/hop-planner.ts";
import type { Steering } from "../host/steering.ts";
import { createTunRoutes, type TunRoutes } from "../host/tun-routes.ts";
import { B_ADDRESS, B_ADDRESS6, B_USED, BACKEND_WORDS } from "../service/backend-slots.ts";
import type { GatewayDefinition } from "../service/definition.ts";
import {
  HOP_REQUEST_WORDS,
  HOP_REQUESTS,
  type RegionViews,
  W_HOP_REQUEST_HEAD,
  W_HOP_REQUESTS,
} from "../state/layout.ts";
import { flowsUsed } from "../state/shards.ts";
import { flowEndpoints, NO_FLOW_ENDPOINTS } from "./flow-endpoints.ts";
import { createHopPublisher } from "./hop-publisher.ts";
import { type Ownership, ownershipOf } from "./ownership.ts";
import type { HostSide } from "./reconcile.ts";

/** What the kernel has to know, by device type: a guard and next hops, or routes into the TUN. */
export interface HostParts extends HostSide {
  /** "tcx", "nftables", "xdp" with its modes, or "none" on TUN. */
  readonly guardKind: string;
  /** The XDP program's socket map and modes; null on other devices. */
  readonly xdp: XdpGuard | null;
  /** Link state by index in the device's list, as last heard. */
  interfaces(): readonly { readonly mtu: number; readonly up: boolean }[];
  /** The device is open: begin to follow its next hops, or make its routes. */
  attach(interfaces: readonly DeviceInterface[]): Promise<void>;
  /** Ask the kernel for next hops that the worker misses. Call every few milliseconds. */
  serveHopRequests(): void;
  /** The host's addresses have changed. */
  setHostAddresses(addresses: readonly Address[]): Promise<void>;
  /** Let go of what ended flows needed. Call every few seconds. */
  trim(): Promise<void>;
  close(): Promise<void>;
}

export interface HostOptions {
  readonly device: GatewayDefinition["device"];
  readonly views: RegionViews;
  readonly log: Log;
  readonly wake: () => void;
  /** Several workers: what divides the frames among them. */
  readonly steering: Steering | null;
  readonly hostAddresses: readonly Address[];
  /** An interface came up (again): neighbours have to hear of our addresses. */
  readonly onLinkUp: () => void;
  /** Whose the process soon is: a child that it has to end must be the same user's. */
  readonly user?: { readonly uid: number; readonly gid: number } | null;
}

/** The host's routes are read within this, or a change goes on without (frames: `no_route`). */
const PLAN_TIMEOUT_MS = 2000;
/** And the neighbours of new backends are resolved (frames: `no_neighbour` until they are). */
const RESOLVE_TIMEOUT_MS = 500;
const PLAN_POLL_MS = 5;

/** Make the kernel's side; on AF_PACKET the guard stands when the promise is fulfilled. */
export async function createHostParts(options: HostOptions): Promise<HostParts> {
  const { device, views, log } = options;
  const guardOptions = { interfaces: [...device.interfaces], mode: device.guard, log };
  const xdp =
    device.type === "xdp"
      ? await createSocketGuard({ ...guardOptions, xdpMode: device.xdp.mode })
      : null;
  const guard: Guard | null = device.type === "packet" ? await createGuard(guardOptions) : xdp;
  const groups =
    device.type !== "tun" && device.announce ? createSolicitedGroups(device.interfaces, log) : null;
  const publisher = createHopPublisher(views, options.wake, log);
  let tunRoutes: TunRoutes | null = null;
  let planner: HopPlanner | null = null;
  let plan: HostHopPlan | null = null;
  let deviceInterfaces: readonly DeviceInterface[] = [];
  let hosts = options.hostAddresses;
  let last: { definition: GatewayDefinition; ownership: Ownership; text: string } | null = null;
  let planned: ReadonlyMap<number, Address> = new Map();
  let narrowed: GatewayDefinition | null = null;
  let published = false;
  const hopRequestTails = new Int32Array(views.layout.workers);
  let closed = false;

  // One change at a time: the reconciler's, the trimmer's and the host's own come as they like.
  let tail: Promise<unknown> = Promise.resolve();
  function serially(job: () => Promise<void>): Promise<void> {
    const result = tail.then(job);
    tail = result.catch(() => {});
    return result;
  }

  /**
   * Tunnel sources that are not the host's are the gateway's alone, as SNAT addresses are: errors about
   * outer packets come to them. AF_PACKET sees those to an address of the host too, AF_XDP does not.
   */
  function tunnelSources({ tunnel }: GatewayDefinition): Address[] {
    return [tunnel.sourceIpv4, tunnel.sourceIpv6].flatMap((source) => {
      if (source === null) return [];
      const isHosts = hosts.some(({ text }) => text === source.text);
      if (isHosts && device.type === "xdp") {
        const reason = "path MTU to ipip and gue backends is not learnt on xdp with such a source";
        log.warn("tunnel_source_is_host_address", { address: source.text, reason });
      }
      return isHosts && device.type !== "tun" ? [] : [source];
    });
  }

  async function own(definition: GatewayDefinition, wanted: Ownership): Promise<void> {
    const snat = [...wanted.snat, ...tunnelSources(definition)];
    const ownership = { ...wanted, snat };
    const text = JSON.stringify([ownership, hosts]);
    if (text === last?.text) {
      last = { definition, ownership: wanted, text };
      return;
    }
    options.steering?.update(ownership.vips, ownership.snat);
    await guard?.update({ ...ownership, hosts });
    await groups?.update(askedFor(ownership, hosts));
    await tunRoutes?.update(ownership);
    last = { definition, ownership: wanted, text };
  }

  /** Have the ways to all backends in the hop table, as far as they can be known in short time. */
  async function planBackends(): Promise<void> {
    if (planner === null) return;
    const addresses = backendAddresses(views);
    const fresh = [...addresses].filter(
      ([slot, address]) => planned.get(slot)?.text !== address.text,
    );
    planned = addresses;
    planner.setBackends(addresses);
    const until = (timeoutMs: number, isDone: (slot: number, address: Address) => boolean) =>
      waitUntil(timeoutMs, () => fresh.every(([slot, address]) => isDone(slot, address)));
    const isUnreachable = ({ text }: Address): boolean =>
      plan?.unreachable.some((entry) => entry.address.text === text) ?? false;
    await until(PLAN_TIMEOUT_MS, (slot, address) => {
      return plan?.backends.has(slot) === true || isUnreachable(address);
    });
    if (device.type !== "tun") {
      await until(RESOLVE_TIMEOUT_MS, (slot, address) => {
        const mac = plan?.backends.get(slot)?.mac ?? null;
        return mac !== null || isUnreachable(address);
      });
    }
    // Before the worker runs it takes no table: the first one has to be whole.
    if (!published && plan !== null) publisher.publish(plan);
    published = true;
    await waitUntil(PLAN_TIMEOUT_MS, () => publisher.isSettled());
  }

  async function waitUntil(timeoutMs: number, isDone: () => boolean): Promise<void> {
    const giveUpAt = performance.now() + timeoutMs;
    while (!closed && !isDone() && performance.now() < giveUpAt) await pause(PLAN_POLL_MS);
  }

  function liveEndpoints() {
    return flowsUsed(views) > 0 ? flowEndpoints(views) : NO_FLOW_ENDPOINTS;
  }

  function onPlan(next: HostHopPlan): void {
    const before = plan;
    plan = next;
    if (published) publisher.publish(next);
    const known = new Set(before?.unreachable.map(({ address }) => address.text));
    for (const { address, reason } of next.unreachable) {
      if (known.has(address.text)) continue;
      log.warn("backend_unreachable", { backend: address.text, reason });
    }
    // A TUN device is ours: it comes and goes with the worker.
    if (device.type === "tun") return;
    next.interfaces.forEach((entry, index) => {
      const was = before?.interfaces[index]?.up;
      if (was === undefined || was === entry.up) return;
      const name = deviceInterfaces[index]?.name ?? "";
      log.info(entry.up ? "interface_up" : "interface_down", { interface: name });
      if (entry.up) options.onLinkUp();
    });
  }

  return {
    guardKind: xdp === null ? (guard?.kind ?? "none") : describeXdp(xdp),
    xdp,
    interfaces: () =>
      deviceInterfaces.map(({ mtu }, index) => plan?.interfaces[index] ?? { mtu, up: true }),
    async attach(interfaces) {
      deviceInterfaces = interfaces;
      if (device.type === "tun") {
        tunRoutes = await createTunRoutes({
          device: device.name,
          mode: device.routes,
          persistent: device.guard === "persistent",
          log,
        });
      }
      planner = createHopPlanner({
        interfaces,
        log,
        user: options.user ?? null,
        onChange: (next) => {
          if (!closed) onPlan(next);
        },
      });
      await planner.ready;
    },
    widen: (before, after) =>
      serially(async () => {
        await planBackends();
        if (before?.definition === after.definition) return;
        narrowed = null;
        const definitions =
          before === null ? [after.definition] : [before.definition, after.definition];
        await own(after.definition, ownershipOf(definitions, liveEndpoints()));
      }),
    narrow: (after) =>
      serially(async () => {
        // A change of slot states alone changes nothing here; ended flows are trim()'s.
        if (narrowed === after.definition) return;
        await own(after.definition, ownershipOf([after.definition], liveEndpoints()));
        narrowed = after.definition;
      }),
    serveHopRequests() {
      const asked = new Map<string, readonly [Address, number]>();
      for (const { worker, workerWord } of views.layout.shards) {
        const head = Atomics.load(views.i32, workerWord + W_HOP_REQUEST_HEAD);
        let tail = hopRequestTails[worker]!;
        if (((head - tail) | 0) > HOP_REQUESTS) tail = (head - HOP_REQUESTS) | 0;
        for (; tail !== head; tail = (tail + 1) | 0) {
          const row = HOP_REQUEST_WORDS * (tail & (HOP_REQUESTS - 1));
          const at = workerWord + W_HOP_REQUESTS + row;
          const address = addressAt(views.i32, at + 1);
          asked.set(`${address.text}/${views.i32[at]}`, [address, views.i32[at]!]);
        }
        hopRequestTails[worker] = head;
      }
      for (const [address, index] of asked.values()) planner?.request(address, index);
    },
    setHostAddresses: (addresses) =>
      serially(async () => {
        hosts = addresses;
        if (last !== null) await own(last.definition, last.ownership);
      }),
    trim: () =>
      serially(async () => {
        // While a change is taken over, old and new hold together.
        if (narrowed === null) return;
        await own(narrowed, ownershipOf([narrowed], liveEndpoints()));
      }),
    async close() {
      closed = true;
      publisher.close();
      await tail;
      const steps = [planner?.close(), guard?.close(), groups?.close(), tunRoutes?.close()];
      for (const outcome of await Promise.allSettled(steps)) {
        if (outcome.status === "rejected") {
          log.warn("host_cleanup_failed", { reason: reasonOf(outcome.reason) });
        }
      }
    },
  };
}

/** Addresses that neighbours ask for and the kernel does not answer for. */
function askedFor({ vips, snat }: Ownership, hosts: readonly Address[]): Address[] {
  const own = new Set(hosts.map(({ text }) => text));
  const single = vips.filter(({ prefixLength }) => prefixLength === undefined);
  return [...single.map(({ address }) => address), ...snat].filter(({ text }) => !own.has(text));
}

/** "xdp native", or "xdp native/generic" where the interfaces differ. */
function describeXdp(guard: XdpGuard): string {
  const modes = new Set(guard.generic.map((generic) => (generic ? "generic" : "native")));
  return `xdp ${[...modes].join("/")}`;
}

/** Address of every backend slot in use, also of one that left the configuration. */
function backendAddresses(views: RegionViews): Map<number, Address> {
  const { i32, layout } = views;
  const first = layout.backendSlots.at >> 2;
  const addresses = new Map<number, Address>();
  for (let slot = 0; slot < layout.backends; slot++) {
    const at = first + slot * BACKEND_WORDS;
    if (i32[at + B_USED] === 0) continue;
    const value = i32[at + B_ADDRESS]!;
    addresses.set(slot, value !== 0 ? addressOf4(value) : addressAt(i32, at + B_ADDRESS6));
  }
  return addresses;
}

function addressAt(i32: Int32Array, at: number): Address {
  return addressOfWords([i32[at]!, i32[at + 1]!, i32[at + 2]!, i32[at + 3]!]);
}
