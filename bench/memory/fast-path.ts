import { randomBytes } from "node:crypto";
import { mkdtempSync, rmSync } from "node:fs";
import path from "node:path";
import { formatIpv4, formatIpv6, type Words6 } from "../../src/base/address.ts";
import { parseConfig } from "../../src/control/config/load.ts";
import { C_DROPPED, C_FORWARDED, C_RECEIVED } from "../../src/datapath/counters.ts";
import { createDatapath, type Datapath } from "../../src/datapath/datapath.ts";
import { createRegionMapper } from "../../src/device/region.ts";
import { writeBank } from "../../src/service/bank-writer.ts";
import { assignSlots } from "../../src/service/slots.ts";
import { type Hop, writeHopTable } from "../../src/state/hop-table.ts";
import {
  H_BANK_PUBLISHED,
  H_HOPS_PUBLISHED,
  type RegionSize,
  type RegionViews,
} from "../../src/state/layout.ts";
import { attachRegion, openRegion } from "../../src/state/region.ts";
import type { FrameStore } from "./frame-store.ts";
import { createReadyDevice, type ReadyDevice } from "./ready-device.ts";

/**
 * The product's fast path over a ready device: its own state file on tmpfs, its own banks and hop
 * table, flows that were opened by packets.
 */

export type MemoryMode = "nat" | "full-nat" | "dsr" | "ipip" | "gue";
export type MemoryProtocol = "tcp" | "udp";

/** IPv4 unless said; "ipv6-ipv4" is IPv6 on the clients' side and IPv4 on the backends'. */
export type MemoryFamily = "ipv6" | "ipv6-ipv4";

export interface MemoryCase {
  readonly mode: MemoryMode;
  readonly protocol: MemoryProtocol;
  readonly family?: MemoryFamily;
  readonly flows: number;
  /** 1: one service with `backends` backends. More: each has three of them. */
  readonly services: number;
  /** Backend addresses. */
  readonly backends: number;
  /** Backends of each of several services; 3 unless said. */
  readonly each?: number;
  /** Table slots that the region has room for; 256 unless said. */
  readonly hashSlots?: number;
  /** Prefixes that the region has room for; none unless said. */
  readonly accessPrefixes?: number;
}

export interface FastPath {
  readonly device: ReadyDevice;
  readonly views: RegionViews;
  readonly datapath: Datapath;
  readonly statePath: string;
  /** Publish a configuration; the next batch takes it. */
  configure(yaml: string): void;
  /** Runs one window of a store, whole. */
  runWindow(store: FrameStore, first: number, count: number): void;
  /** @throws Error when the fast path did anything but forward what it got */
  checkForwarded(): void;
  /** Forget what was received, forwarded and dropped so far. */
  resetCounters(): void;
  close(): void;
}

export const GATEWAY_MACS = ["02:00:00:00:01:01", "02:00:00:00:02:01"] as const;
/** The router behind which all clients are. */
export const CLIENT_MAC = "02:00:00:00:01:02";
const MTU = 1500;
const SNAT6 = "2001:db8:2:1::-2001:db8:2:1::3f";
export const VIP_PORT = 80;
export const BACKEND_PORT = 8080;

/** Only the client's half passes: one frame a flow, and no port but the service's. */
export function isOneWayCase({ mode }: MemoryCase): boolean {
  return mode !== "nat" && mode !== "full-nat";
}

function eachOf(one: MemoryCase): number {
  return one.each ?? 3;
}

const INTERFACES = GATEWAY_MACS.map((mac, index) => ({
  name: `eth${index}`,
  index: index + 1,
  mac,
  mtu: MTU,
}));

/** VIP address of service `index`: from 203.0.112.0 on. */
export function vipOf(index: number): number {
  return (0xcb007000 | 0) + index;
}

/** Its IPv6 address: the same in the last word. */
export function vip6Of(index: number): Words6 {
  return [0x20010db8, 0x00ff0000, 0, vipOf(index)];
}

/** Words of an IPv6 client's address before the last one, which is as an IPv4 client's. */
export const CLIENT6 = [0x20010db8, 0x00010000, 0] as const;

/** Address of backend `index`: from 10.20.0.10 on. */
export function backendOf(index: number): number {
  return 0x0a14000a + index;
}

/** Its IPv6 address: the same in the last word. */
export function backend6Of(index: number): Words6 {
  return [0x20010db8, 0x00020000, 0, backendOf(index)];
}

/** MAC of a backend: 02:00 and its address, of IPv6 the last word. */
export function backendMac(address: number): string {
  const hex = (address >>> 0).toString(16).padStart(8, "0");
  return `02:00:${hex.slice(0, 2)}:${hex.slice(2, 4)}:${hex.slice(4, 6)}:${hex.slice(6)}`;
}

/** The configuration of a case. */
export function memoryYaml(one: MemoryCase): string {
  const backendText = (index: number): string =>
    one.family === "ipv6" ? formatIpv6(backend6Of(index)) : formatIpv4(backendOf(index));
  const services = Array.from({ length: one.services }, (_, service) => {
    const count = one.services === 1 ? one.backends : Math.min(eachOf(one), one.backends);
    return {
      name: `s${service}`,
      vip: one.family === undefined ? formatIpv4(vipOf(service)) : formatIpv6(vip6Of(service)),
      port: VIP_PORT,
      protocol: one.protocol,
      mode: one.mode,
      scheduler: "rr",
      backends: Array.from({ length: count }, (_unused, at) => ({
        address: backendText((service * count + at) % one.backends),
        ...(isOneWayCase(one) ? {} : { port: BACKEND_PORT }),
      })),
    };
  });
  return JSON.stringify({
    version: 1,
    device: { type: "packet", interfaces: ["eth0", "eth1"] },
    limits: {
      backends: Math.max(65_536, one.services * eachOf(one)),
      hashSlots: Math.max(4_194_304, one.hashSlots ?? 0),
    },
    // 64 addresses: a backend has room for four million flows.
    snat: {
      addresses: ["10.21.0.0-10.21.0.63", ...(one.family === "ipv6" ? [SNAT6] : [])],
    },
    tunnel: { source: { ipv4: "10.20.255.1" } },
    services,
  });
}

/**
 * Opens a region, and a data path on it that has attached it as a worker does. One an isolate: the
 * fast path is one closure.
 */
export function createFastPath(one: MemoryCase, capacity: number): FastPath {
  const folder = mkdtempSync("/dev/shm/headgate-bench-");
  const size = {
    workers: 1,
    flowCapacity: capacity,
    services: Math.max(32, one.services),
    backends: Math.max(256, one.services * eachOf(one), one.backends),
    hashSlots: one.hashSlots ?? 256,
    accessPrefixes: one.accessPrefixes ?? 0,
    ipv6: one.family !== undefined,
  };
  const region = openRegion(createRegionMapper(), {
    path: path.join(folder, "state"),
    size,
    tick: 0,
    random: (count) => randomBytes(count),
  });
  const { views } = region;
  const device = createReadyDevice(INTERFACES);
  let published = 0;

  function configure(yaml: string): void {
    published++;
    const definition = parseConfig(yaml, "bench.yaml");
    const assignment = assignSlots(views, definition, 0);
    writeBank(views, published, definition, assignment, []);
    views.i32[H_BANK_PUBLISHED] = published;
    const backends = new Map<number, Hop>();
    for (const service of assignment.services) {
      for (const { slot, definition: backend } of service.backends) {
        const { address } = backend;
        const mac = backendMac(address.words[3]);
        backends.set(slot, { address, interface: 1, mtu: MTU, mac });
      }
    }
    const interfaces = INTERFACES.map(({ mac, mtu }) => ({ mac, mtu, up: true }));
    const which = (published & 1) as 0 | 1;
    writeHopTable(views, which, { backends, neighbours: [], routes: [], interfaces });
    views.i32[H_HOPS_PUBLISHED] = published;
  }

  configure(memoryYaml(one));
  const attached = attachRegion(createRegionMapper(), region.path, size, 0);
  const datapath = createDatapath({ device, views: attached.views });
  datapath.runBatch(0);
  return over(region.path, attached.views, device, datapath, configure, () => {
    attached.close();
    region.close();
    rmSync(folder, { recursive: true, force: true });
  });
}

/**
 * A data path of this isolate on a region that another thread of the process has opened, with the
 * banks that are published there.
 */
export function attachFastPath(statePath: string, size: RegionSize): FastPath {
  const { views, close } = attachRegion(createRegionMapper(), statePath, size, 0);
  const device = createReadyDevice(INTERFACES);
  const datapath = createDatapath({ device, views });
  datapath.runBatch(0);
  const refuse = (): never => {
    throw new Error("only the thread that opened the region configures");
  };
  return over(statePath, views, device, datapath, refuse, close);
}

function over(
  statePath: string,
  views: RegionViews,
  device: ReadyDevice,
  datapath: Datapath,
  configure: (yaml: string) => void,
  close: () => void,
): FastPath {
  const counters = views.layout.counters.at >> 3;
  return {
    device,
    views,
    datapath,
    statePath,
    configure,
    runWindow(store, first, count) {
      device.load(store, first, count);
      let left = count;
      while (left > 0) left -= datapath.runBatch(0);
    },
    checkForwarded() {
      const { f64 } = views;
      const received = f64[counters + C_RECEIVED]!;
      const forwarded = f64[counters + C_FORWARDED]!;
      if (received !== forwarded || f64[counters + C_DROPPED] !== 0) {
        throw new Error(`of ${received} frames ${forwarded} were forwarded`);
      }
    },
    resetCounters: () => views.f64.fill(0, counters + C_RECEIVED, counters + C_DROPPED + 1),
    close,
  };
}
