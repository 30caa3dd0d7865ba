import { type Address, compareAddresses } from "../base/address.ts";
import { monotonicMs } from "../base/clock.ts";
import { HOPS_MAX } from "../base/limits.ts";
import { type Log, reasonOf } from "../base/log.ts";
import type { DeviceInterface } from "../device/device.ts";
import type { Hop, HopPlan } from "../state/hop-table.ts";
import { type HostInterface, listInterfaces } from "./interfaces.ts";
import { type Monitor, startMonitor } from "./monitor.ts";
import { listNeighbours, type Neighbour, probeNeighbours } from "./neighbours.ts";
import { findPaths, type HostPath, type HostRoute, listRoutes } from "./routes.ts";

/**
 * Next hops for the fast path, from the host's routes and neighbours.
 *
 * Everything is read with `ip -json`, again whenever `ip monitor` says that something changed; the
 * kernel resolves (ARP, or neighbour discovery). It does not see the traffic of an AF_PACKET gateway,
 * so its neighbour entries grow stale under load: those in use are confirmed every PROBE_MS. A stale
 * MAC is used meanwhile.
 *
 * On TUN the kernel routes: a plan then holds only the MTU of each way, all on interface 0.
 */

/** Interface of a route that leaves where the device is not: no frame can go there. */
export const NO_INTERFACE = 0xff;

/** Neighbours in use are confirmed this often (the kernel's own reachable time is 15-45 s). */
const PROBE_MS = 30_000;
/** A neighbour asked for by the fast path counts as in use for so long. */
const IN_USE_MS = 10 * 60_000;
/** The same neighbour is not asked for again within this: the kernel sends one ARP a second. */
const REQUEST_AGAIN_MS = 1000;
/** Requests gather for this long, so that a burst is one command. */
const REQUEST_GATHER_MS = 5;
/** Requests of one command; what is beyond comes back with the next packet. */
const REQUESTS_AT_ONCE = 64;
/** After a failure to read. */
const RETRY_MS = 1000;

export interface Unreachable {
  /** The backend's address. */
  readonly address: Address;
  readonly reason: string;
}

export interface HostHopPlan extends HopPlan {
  /** Backends without a next hop: frames to them are the drop `no_route`. */
  readonly unreachable: readonly Unreachable[];
}

export interface HopPlannerOptions {
  /** The device's list: hops name interfaces by their index in it. */
  readonly interfaces: readonly DeviceInterface[];
  /** A plan that differs from the one before. */
  readonly onChange: (plan: HostHopPlan) => void;
  readonly log?: Log | undefined;
  /** Who runs the monitor; null: whoever this process is. */
  readonly user?: { readonly uid: number; readonly gid: number } | null;
}

export interface HopPlanner {
  /** Resolved when the first plan was handed over, or the planner is closed. */
  readonly ready: Promise<void>;
  /** Backend slot -> address. */
  setBackends(backends: ReadonlyMap<number, Address>): void;
  /**
   * Have the kernel resolve a next hop. Bounded: the same one at most once a second.
   *
   * @param interfaceIndex - index in the device's list; others are ignored
   */
  request(address: Address, interfaceIndex: number): void;
  /** Process id of `ip monitor`, for tests. */
  monitorProcessId(): number | undefined;
  close(): void;
}

/** What was read, and is put together to a plan. */
export interface HostFacts {
  readonly links: readonly HostInterface[];
  readonly routes: readonly HostRoute[];
  /** By address of a backend, as text. */
  readonly paths: ReadonlyMap<string, HostPath>;
  readonly neighbours: readonly Neighbour[];
}

/** How much of the facts must be read again. */
const NOTHING = 0;
const NEIGHBOURS = 1;
const EVERYTHING = 2;

export function createHopPlanner(options: HopPlannerOptions): HopPlanner {
  const { interfaces, log } = options;
  const isTun = isTunDevice(interfaces);
  let backends: ReadonlyMap<number, Address> = new Map();
  let facts: HostFacts = { links: [], routes: [], paths: new Map(), neighbours: [] };
  let last = "";
  let stale = NOTHING;
  let reading = false;
  let closed = false;
  let retry: NodeJS.Timeout | undefined;
  let gather: NodeJS.Timeout | undefined;
  let again: NodeJS.Timeout | undefined;
  let becomeReady: () => void = () => {};
  const ready = new Promise<void>((resolve) => {
    becomeReady = resolve;
  });
  /** Neighbours that the fast path asked for: tick of the last request, by `address/interface`. */
  const requested = new Map<string, { address: Address; interface: number; tick: number }>();
  const wanted = new Map<string, { address: Address; interface: string }>();

  function refresh(level: number): void {
    stale = Math.max(stale, level);
    if (reading || closed) return;
    reading = true;
    void readAndPlan();
  }

  async function readAndPlan(): Promise<void> {
    try {
      while (stale !== NOTHING && !closed) {
        const level = stale;
        stale = NOTHING;
        facts = await readFacts(level);
        if (!closed) publish();
      }
    } catch (error) {
      log?.warn("hops_unread", { reason: reasonOf(error) });
      stale = EVERYTHING;
      retry = setTimeout(() => refresh(EVERYTHING), RETRY_MS);
    } finally {
      reading = false;
    }
  }

  async function readFacts(level: number): Promise<HostFacts> {
    const neighbours = isTun ? [] : await listNeighbours();
    if (level === NEIGHBOURS) return { ...facts, neighbours };
    const addresses = [...backends.values()];
    const [links, routes, paths] = await Promise.all([
      listInterfaces(),
      listRoutes(),
      findPaths(addresses),
    ]);
    return { links, routes, paths, neighbours };
  }

  function publish(): void {
    // A backend that came after the reading has no path yet: it is being read again.
    if ([...backends.values()].some(({ text }) => !facts.paths.has(text))) return;
    const plan = planHops(interfaces, backends, facts);
    requestUnresolved(plan);
    const text = JSON.stringify({ ...plan, backends: [...plan.backends] });
    if (text !== last) {
      last = text;
      options.onChange(plan);
    }
    becomeReady();
  }

  /** Backends without a MAC are asked for until they have one: no packet may be there to ask. */
  function requestUnresolved(plan: HostHopPlan): void {
    clearTimeout(again);
    const unresolved = [...plan.backends.values()].filter(({ mac }) => mac === null);
    if (isTun || unresolved.length === 0) return;
    for (const hop of unresolved) request(hop.address, hop.interface);
    again = setTimeout(() => requestUnresolved(plan), REQUEST_AGAIN_MS);
  }

  function request(address: Address, index: number): void {
    const name = interfaces[index]?.name;
    if (isTun || closed || name === undefined) return;
    const key = `${address.text}/${index}`;
    const now = monotonicMs();
    const known = requested.get(key);
    if (known !== undefined && ((now - known.tick) | 0) < REQUEST_AGAIN_MS) return;
    if (wanted.size >= REQUESTS_AT_ONCE) return;
    if (known === undefined && requested.size >= HOPS_MAX) forgetUnused(now);
    if (known === undefined && requested.size >= HOPS_MAX) return;
    requested.set(key, { address, interface: index, tick: now });
    wanted.set(key, { address, interface: name });
    gather ??= setTimeout(sendRequests, REQUEST_GATHER_MS);
  }

  function sendRequests(): void {
    gather = undefined;
    const neighbours = [...wanted.values()];
    wanted.clear();
    if (closed) return;
    probeNeighbours(neighbours).then(
      ({ failures }) => {
        for (const { line, reason } of failures) {
          const address = neighbours[line]?.address.text ?? "";
          log?.debug("probe_refused", { address, reason });
        }
      },
      (error) => log?.warn("probe_failed", { reason: reasonOf(error) }),
    );
  }

  function forgetUnused(now: number): void {
    for (const [key, { tick }] of requested) {
      if (((now - tick) | 0) > IN_USE_MS) requested.delete(key);
    }
  }

  /** Confirm what is in use and not confirmed. Being asked for by us is no use: ticks stay. */
  function confirm(): void {
    const now = monotonicMs();
    forgetUnused(now);
    const confirmed = new Set(
      facts.neighbours
        .filter((entry) => entry.confirmed)
        .map((entry) => `${entry.address.text}/${entry.interface}`),
    );
    const used = new Map<string, { address: Address; interface: string }>();
    const use = (address: Address, index: number): void => {
      const name = interfaces[index]?.name ?? "";
      const key = `${address.text}/${name}`;
      if (name !== "" && !confirmed.has(key)) used.set(key, { address, interface: name });
    };
    for (const { address, interface: index } of requested.values()) use(address, index);
    for (const hop of planHops(interfaces, backends, facts).backends.values()) {
      use(hop.address, hop.interface);
    }
    if (isTun || used.size === 0) return;
    probeNeighbours([...used.values()]).catch((error) =>
      log?.warn("probe_failed", { reason: reasonOf(error) }),
    );
  }

  const timer = setInterval(confirm, PROBE_MS);
  const monitor: Monitor = startMonitor({
    log,
    user: options.user ?? null,
    onChange: (topics) => {
      const onlyNeighbours = topics.size === 1 && topics.has("neigh");
      if (!(isTun && onlyNeighbours)) refresh(onlyNeighbours ? NEIGHBOURS : EVERYTHING);
    },
  });
  refresh(EVERYTHING);

  return {
    ready,
    setBackends(next) {
      backends = new Map(next);
      refresh(EVERYTHING);
    },
    request,
    monitorProcessId: () => monitor.processId(),
    close() {
      closed = true;
      monitor.close();
      clearInterval(timer);
      clearTimeout(retry);
      clearTimeout(gather);
      clearTimeout(again);
      becomeReady();
    },
  };
}

function isTunDevice(interfaces: readonly DeviceInterface[]): boolean {
  return interfaces.length === 1 && interfaces[0]?.mac === "";
}

/**
 * Put facts together to a plan. Pure.
 *
 * @param interfaces - the device's list
 * @param backends - slot -> address; each has an entry in `facts.paths`
 */
export function planHops(
  interfaces: readonly DeviceInterface[],
  backends: ReadonlyMap<number, Address>,
  facts: HostFacts,
): HostHopPlan {
  const isTun = isTunDevice(interfaces);
  const links = new Map(facts.links.map((link) => [link.name, link]));
  const indexes = new Map(interfaces.map(({ name }, index) => [name, index]));
  const macs = new Map(
    facts.neighbours.map((entry) => [`${entry.address.text}/${entry.interface}`, entry.mac]),
  );
  const mtuOf = (name: string, routeMtu: number): number =>
    routeMtu > 0 ? routeMtu : (links.get(name)?.mtu ?? 0);

  const hops = new Map<number, Hop>();
  const unreachable = new Map<string, Unreachable>();
  for (const [slot, address] of backends) {
    const path = facts.paths.get(address.text) ?? { unreachable: "its route is not known yet" };
    const reason = reasonAgainst(path, isTun ? null : indexes);
    if (reason !== null || "unreachable" in path) {
      unreachable.set(address.text, { address, reason: reason ?? "" });
      continue;
    }
    const nextHop = path.via ?? address;
    hops.set(slot, {
      address: nextHop,
      interface: isTun ? 0 : (indexes.get(path.interface) as number),
      mtu: mtuOf(path.interface, path.mtu),
      mac: macs.get(`${nextHop.text}/${path.interface}`) ?? null,
    });
  }

  const neighbours: Hop[] = [];
  for (const { address, interface: name, mac } of facts.neighbours) {
    const index = indexes.get(name);
    if (index === undefined || mac === null) continue;
    neighbours.push({ address, interface: index, mtu: mtuOf(name, 0), mac });
  }
  neighbours.sort((a, b) => a.interface - b.interface || compareAddresses(a.address, b.address));

  return {
    backends: hops,
    neighbours,
    routes: planRoutes(facts.routes, isTun ? null : indexes, interfaces, mtuOf),
    interfaces: interfaces.map(({ name, mac, mtu }) => {
      const link = links.get(name);
      return { mtu: link?.mtu ?? mtu, mac: link?.mac ?? mac, up: link?.up ?? false };
    }),
    unreachable: [...unreachable.values()],
  };
}

/** Why a path cannot be used, or null. `indexes` null: any interface will do (TUN). */
function reasonAgainst(path: HostPath, indexes: ReadonlyMap<string, number> | null): string | null {
  if ("unreachable" in path) return path.unreachable;
  if (indexes === null || indexes.has(path.interface)) return null;
  return `its route leaves through ${path.interface}, which is not in device.interfaces`;
}

function planRoutes(
  routes: readonly HostRoute[],
  indexes: ReadonlyMap<string, number> | null,
  interfaces: readonly DeviceInterface[],
  mtuOf: (name: string, routeMtu: number) => number,
): HopPlan["routes"] {
  return routes
    .filter((route) => indexes !== null || route.interface !== interfaces[0]?.name)
    .map(({ address, prefixLength, via, interface: name, mtu }) => ({
      address,
      prefixLength,
      via,
      // A more specific route that we cannot take must still hide the wider one.
      interface:
        name === "" ? NO_INTERFACE : indexes === null ? 0 : (indexes.get(name) ?? NO_INTERFACE),
      mtu: mtuOf(name, mtu),
    }))
    .sort((a, b) => b.prefixLength - a.prefixLength || compareAddresses(a.address, b.address));
}
