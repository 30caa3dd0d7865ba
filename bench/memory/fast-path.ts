import { randomBytes } from "node:crypto";
import { mkdtempSync, rmSync } from "node:fs";
import path from "node:path";
import { parseConfig } from "../../src/control/config/load.ts";
import { C_DROPPED, C_FORWARDED, C_RECEIVED } from "../../src/datapath/counters.ts";
import { createDatapath, type Datapath } from "../../src/datapath/datapath.ts";
import { createRegionMapper } from "../../src/device/region.ts";
import {
  F_BACKEND_ADDR,
  F_BACKEND_REPLY_PORTS,
  F_CLIENT_ADDR,
  F_CLIENT_VIP_PORTS,
  F_REPLY_ADDR,
  F_STATE,
  F_VIP_ADDR,
  FLOW_WORDS,
  PROTOCOL_TCP,
  PROTOCOL_UDP,
} from "../../src/flow/flow-record.ts";
import { writeBank } from "../../src/service/bank-writer.ts";
import { assignSlots } from "../../src/service/slots.ts";
import { type Hop, macHigh, macLow, writeHopTable } from "../../src/state/hop-table.ts";
import {
  H_BANK_PUBLISHED,
  H_HOPS_PUBLISHED,
  type RegionSize,
  type RegionViews,
  W_FLOWS_USED,
} from "../../src/state/layout.ts";
import { attachRegion, openRegion } from "../../src/state/region.ts";
import {
  clientOf,
  createFrameStore,
  type FrameFields,
  type FrameStore,
  WINDOW_FRAMES,
  writeFrame,
} from "./frame-store.ts";
import { createReadyDevice, type ReadyDevice } from "./ready-device.ts";

/**
 * The product's fast path over a ready device: its own state file on tmpfs, its own banks and hop
 * table, flows that were opened by packets.
 */

export type MemoryMode = "nat" | "full-nat" | "dsr" | "ipip" | "gue";
export type MemoryProtocol = "tcp" | "udp";

export interface MemoryCase {
  readonly mode: MemoryMode;
  readonly protocol: MemoryProtocol;
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
const VIP_PORT = 80;
const BACKEND_PORT = 8080;

/** Only the client's half passes: one frame a flow, and no port but the service's. */
export function isOneWayCase({ mode }: MemoryCase): boolean {
  return mode !== "nat" && mode !== "full-nat";
}

function eachOf(one: MemoryCase): number {
  return one.each ?? 3;
}

const SYN = 2;
const ACK = 16;

const INTERFACES = GATEWAY_MACS.map((mac, index) => ({
  name: `eth${index}`,
  index: index + 1,
  mac,
  mtu: MTU,
}));

function dotted(address: number): string {
  return [24, 16, 8, 0].map((shift) => (address >>> shift) & 0xff).join(".");
}

/** VIP address of service `index`: from 203.0.112.0 on. */
function vipOf(index: number): number {
  return (0xcb007000 | 0) + index;
}

/** Address of backend `index`: from 10.20.0.10 on. */
function backendOf(index: number): number {
  return 0x0a14000a + index;
}

/** MAC of a backend: 02:00 and its address. */
function backendMac(address: number): string {
  const hex = (address >>> 0).toString(16).padStart(8, "0");
  return `02:00:${hex.slice(0, 2)}:${hex.slice(2, 4)}:${hex.slice(4, 6)}:${hex.slice(6)}`;
}

/** The configuration of a case. */
export function memoryYaml(one: MemoryCase): string {
  const services = Array.from({ length: one.services }, (_, service) => {
    const count = one.services === 1 ? one.backends : Math.min(eachOf(one), one.backends);
    return {
      name: `s${service}`,
      vip: dotted(vipOf(service)),
      port: VIP_PORT,
      protocol: one.protocol,
      mode: one.mode,
      scheduler: "rr",
      backends: Array.from({ length: count }, (_unused, at) => ({
        address: dotted(backendOf((service * count + at) % one.backends)),
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
    snat: { addresses: ["10.21.0.0-10.21.0.63"] },
    tunnel: { source: { ipv4: "10.20.255.1" } },
    services,
  });
}

/** Opens a region and a data path on it. One an isolate: the fast path is one closure. */
export function createFastPath(one: MemoryCase, capacity: number): FastPath {
  const folder = mkdtempSync("/dev/shm/headgate-bench-");
  const region = openRegion(createRegionMapper(), {
    path: path.join(folder, "state"),
    size: {
      workers: 1,
      flowCapacity: capacity,
      services: Math.max(32, one.services),
      backends: Math.max(256, one.services * eachOf(one), one.backends),
      hashSlots: one.hashSlots ?? 256,
      accessPrefixes: one.accessPrefixes ?? 0,
    },
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
        backends.set(slot, { address, interface: 1, mtu: MTU, mac: backendMac(address.value) });
      }
    }
    const interfaces = INTERFACES.map(({ mac, mtu }) => ({ mac, mtu, up: true }));
    const which = (published & 1) as 0 | 1;
    writeHopTable(views, which, { backends, neighbours: [], routes: [], interfaces });
    views.i32[H_HOPS_PUBLISHED] = published;
  }

  configure(memoryYaml(one));
  const datapath = createDatapath({ device, views });
  datapath.runBatch(0);
  return over(region.path, views, device, datapath, configure, () => {
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
      device.load(store.words, first, count);
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

const PROTOCOLS = { tcp: PROTOCOL_TCP, udp: PROTOCOL_UDP } as const;

/** The fields of frames, made once and changed for each frame: a million objects would be garbage. */
function blankFields(protocol: MemoryProtocol): FrameFields {
  return {
    side: 0,
    destinationMacHigh: 0,
    destinationMacLow: 0,
    sourceMacHigh: 0,
    sourceMacLow: 0,
    protocol: PROTOCOLS[protocol],
    source: 0,
    destination: 0,
    ports: 0,
    tcpFlags: ACK,
  };
}

/** The fields of SYNs to the first service; source and ports are the caller's. */
export function synFields(): FrameFields {
  const fields = blankFields("tcp");
  fromClient(fields);
  fields.destination = vipOf(0);
  fields.tcpFlags = SYN;
  return fields;
}

/** MACs and side of a frame that comes from the client's side. */
function fromClient(fields: FrameFields): void {
  fields.side = 0;
  fields.destinationMacHigh = macHigh(GATEWAY_MACS[0]);
  fields.destinationMacLow = macLow(GATEWAY_MACS[0]);
  fields.sourceMacHigh = macHigh(CLIENT_MAC);
  fields.sourceMacLow = macLow(CLIENT_MAC);
}

/** MACs and side of a frame that comes from a backend. */
function fromBackend(fields: FrameFields, address: number): void {
  fields.side = 1;
  fields.destinationMacHigh = macHigh(GATEWAY_MACS[1]);
  fields.destinationMacLow = macLow(GATEWAY_MACS[1]);
  fields.sourceMacHigh = 0x02000000 | ((address >>> 16) & 0xffff);
  fields.sourceMacLow = address & 0xffff;
}

/**
 * Write the frame that flow `row` sends in a direction, as its record says.
 *
 * @param direction - 0 ORIGINAL, 1 REPLY
 */
function flowFrame(
  path: FastPath,
  store: FrameStore,
  index: number,
  fields: FrameFields,
  row: number,
  direction: number,
): void {
  const { i32, layout } = path.views;
  const at = (layout.flows.at >> 2) + row * FLOW_WORDS;
  if (direction === 0) {
    fromClient(fields);
    fields.source = i32[at + F_CLIENT_ADDR]!;
    fields.destination = i32[at + F_VIP_ADDR]!;
    fields.ports = i32[at + F_CLIENT_VIP_PORTS]!;
  } else {
    fields.source = i32[at + F_BACKEND_ADDR]!;
    fromBackend(fields, fields.source);
    fields.destination = i32[at + F_REPLY_ADDR]!;
    fields.ports = i32[at + F_BACKEND_REPLY_PORTS]!;
  }
  writeFrame(store, index, fields);
}

/** Writes frames 0..count-1 window by window and runs them; for opening, so nothing is timed. */
function runAll(
  path: FastPath,
  store: FrameStore,
  count: number,
  write: (frame: number, index: number) => void,
): void {
  for (let first = 0; first < count; first += WINDOW_FRAMES) {
    const part = Math.min(WINDOW_FRAMES, count - first);
    for (let index = 0; index < part; index++) write(first + index, index);
    path.runWindow(store, 0, part);
  }
}

/**
 * Open the flows of a case, each by packets of its own: SYN, SYN-ACK, ACK, or a datagram each way.
 *
 * @throws Error when one was refused
 */
export function openFlows(path: FastPath, one: MemoryCase): void {
  const store = createFrameStore(WINDOW_FRAMES);
  const fields = blankFields(one.protocol);
  const client = new Int32Array(2);
  fields.tcpFlags = SYN;
  runAll(path, store, one.flows, (id, index) => {
    clientOf(id, client);
    fromClient(fields);
    fields.source = client[0]!;
    fields.destination = vipOf(id % one.services);
    fields.ports = (client[1]! << 16) | VIP_PORT;
    writeFrame(store, index, fields);
  });
  const used = path.views.i32[path.views.layout.workerWord + W_FLOWS_USED]!;
  if (used !== one.flows) throw new Error(`${used} of ${one.flows} flows were opened`);
  fields.tcpFlags = SYN | ACK;
  if (!isOneWayCase(one)) {
    runAll(path, store, used, (row, index) => flowFrame(path, store, index, fields, row, 1));
  }
  fields.tcpFlags = ACK;
  runAll(path, store, used, (row, index) => flowFrame(path, store, index, fields, row, 0));
  path.checkForwarded();
  const { i32, layout } = path.views;
  const states = new Set<number>();
  for (let row = 0; row < used; row++) {
    states.add(i32[(layout.flows.at >> 2) + row * FLOW_WORDS + F_STATE]! & 0xff);
  }
  if (states.size !== 1) throw new Error(`flows are in states ${[...states].join(", ")}`);
}

/**
 * The frames to measure with: both directions of every flow, in an order without order; again from
 * the start when there are fewer than `framesMin`.
 *
 * @param seed - of the order
 */
export function steadyFrames(
  path: FastPath,
  one: MemoryCase,
  framesMin: number,
  seed: number,
): FrameStore & { readonly frames: number } {
  const sides = isOneWayCase(one) ? 1 : 2;
  const ends = one.flows * sides;
  const order = new Uint32Array(ends);
  for (let end = 0; end < ends; end++) order[end] = end;
  // Fisher and Yates, with a generator that makes no garbage.
  let state = seed | 1;
  for (let left = ends - 1; left > 0; left--) {
    state ^= state << 13;
    state ^= state >>> 17;
    state ^= state << 5;
    const other = (state >>> 0) % (left + 1);
    const kept = order[left]!;
    order[left] = order[other]!;
    order[other] = kept;
  }
  const frames = Math.ceil(Math.max(ends, framesMin) / WINDOW_FRAMES) * WINDOW_FRAMES;
  const store = createFrameStore(frames);
  const fields = blankFields(one.protocol);
  for (let frame = 0; frame < frames; frame++) {
    const end = order[frame % ends]!;
    const row = sides === 1 ? end : end >>> 1;
    flowFrame(path, store, frame, fields, row, sides === 1 ? 0 : end & 1);
  }
  return { ...store, frames };
}
