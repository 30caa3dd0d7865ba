import { type Address, addressOf4 } from "../../src/base/address.ts";
import { parseConfig } from "../../src/control/config/load.ts";
import { clientHostBits, ownerPortMask, usesAffinity } from "../../src/control/region-size.ts";
import {
  C_DROPS,
  C_FORWARDED,
  C_HANDED_IN,
  C_HELD,
  C_RECEIVED,
} from "../../src/datapath/counters.ts";
import { createDatapath, type Datapath } from "../../src/datapath/datapath.ts";
import { DROP_REASONS, VERDICT_NAMES } from "../../src/datapath/verdict.ts";
import type { DeviceInterface, FrameDevice } from "../../src/device/device.ts";
import { createMemoryDevice, type MemoryDevice } from "../../src/device/memory.ts";
import { writeBank } from "../../src/service/bank-writer.ts";
import { type GatewayDefinition, needsIpv6 } from "../../src/service/definition.ts";
import { assignSlots } from "../../src/service/slots.ts";
import { type Hop, type HopPlan, writeHopTable } from "../../src/state/hop-table.ts";
import {
  H_BANK_PUBLISHED,
  H_HOPS_PUBLISHED,
  H_OWNER_HOST_BITS,
  H_OWNER_PORT_MASK,
  H_SECRET,
  planRegion,
  type RegionSize,
  type RegionViews,
  type Shard,
  viewRegion,
  viewShard,
  W_BANK_TAKEN,
} from "../../src/state/layout.ts";
import { allWorkersHave } from "../../src/state/shards.ts";
import { addressOf } from "./frames.ts";

/** One worker of it: its device, its datapath, and the region as it sees it. */
export interface MemoryWorker {
  readonly device: MemoryDevice;
  readonly views: RegionViews;
  readonly datapath: Datapath;
}

/**
 * A whole data plane on frames in memory: two interfaces, clients on the first, backends behind the
 * second. `device`, `views` and `datapath` are worker 0's.
 */
export interface MemoryGateway {
  readonly device: MemoryDevice;
  readonly views: RegionViews;
  readonly datapath: Datapath;
  /** All of them, by number; they run one after the other, when the test has them run. */
  readonly workers: readonly MemoryWorker[];
  readonly definition: GatewayDefinition;
  /** Publish another configuration, as a reload does. */
  configure(yaml: string): void;
  /** Publish the bank again, after slot words were changed. */
  publish(): void;
  hops(plan: HopPlan): void;
  /** Run batches until no worker has a frame left, its own or one handed over. */
  settle(): void;
  /** Sums over the workers by name: received, the verdicts, every drop reason that is not 0. */
  counters(): Record<string, number>;
  /**
   * The conservation law, for each worker: received + handed in = sum of verdicts + held, and
   * dropped = sum of the reasons.
   */
  checkLaw(): void;
  close(): void;
}

export const GATEWAY_MACS = ["02:00:00:00:01:01", "02:00:00:00:02:01"] as const;
export const CLIENT_MAC = "02:00:00:00:01:02";

/** MAC of the backend with this address: 02:00 and the address. */
export function backendMac(address: number): string {
  const bytes = [address >>> 24, (address >>> 16) & 0xff, (address >>> 8) & 0xff, address & 0xff];
  return ["02", "00", ...bytes.map((byte) => byte.toString(16).padStart(2, "0"))].join(":");
}

export interface MemoryGatewayOptions {
  readonly yaml: string;
  readonly linkHeaderBytes?: 0 | 14;
  readonly size?: Partial<RegionSize>;
  readonly secret?: readonly [number, number];
  readonly mtu?: readonly [number, number];
  readonly slots?: number;
  readonly slotBytes?: number;
  /** Bytes before each frame for an outer header. Default 0: packets are copied into spares. */
  readonly headroomBytes?: number;
  readonly keepSent?: boolean;
  readonly hostAddresses?: readonly (number | string)[];
  readonly fastLane?: boolean;
  /** The data plane takes the device for AF_XDP. */
  readonly asXdp?: boolean;
}

function hostAddress(address: number | string): Address {
  return typeof address === "number" ? addressOf4(address) : addressOf(address);
}

export function createMemoryGateway(options: MemoryGatewayOptions): MemoryGateway {
  const link = options.linkHeaderBytes ?? 14;
  const mtu = options.mtu ?? [1500, 1500];
  const interfaces: DeviceInterface[] =
    link === 0
      ? [{ name: "hg0", index: 1, mac: "", mtu: 1500 }]
      : GATEWAY_MACS.map((mac, index) => ({
          name: `eth${index}`,
          index: index + 1,
          mac,
          mtu: mtu[index]!,
        }));
  let definition = parseConfig(options.yaml, "test.yaml");
  const size = {
    ipv6: needsIpv6(definition),
    flowCapacity: 1024,
    services: 64,
    backends: 256,
    hashSlots: 262144,
    accessPrefixes: 256,
    sources: 1024,
    splices: 1,
    affinity: usesAffinity(definition) ? 1000 : 0,
    workers: 1,
    ...options.size,
  };
  const layout = planRegion(size);
  const views = viewRegion(new ArrayBuffer(layout.bytes), layout);
  const devices = layout.shards.map(() =>
    createMemoryDevice({
      linkHeaderBytes: link,
      interfaces,
      slots: options.slots ?? 256,
      slotBytes: options.slotBytes ?? 2048,
      headroomBytes: options.headroomBytes ?? 0,
      inletSlots: layout.workers > 1 ? 128 : 0,
      keepSent: options.keepSent ?? true,
    }),
  );
  const secret = options.secret ?? [0x12345678, 0x0badcafe];
  views.i32[H_SECRET] = secret[0];
  views.i32[H_SECRET + 1] = secret[1];
  views.i32[H_OWNER_PORT_MASK] = ownerPortMask(definition);
  views.i32[H_OWNER_HOST_BITS] = clientHostBits(definition);
  let bank = 0;
  let hopTable = 0;
  let lastHops: ReadonlyMap<number, Hop> = new Map();

  function publish(): void {
    bank++;
    const assignment = assignSlots(views, definition, 0);
    writeBank(views, bank, definition, assignment, (options.hostAddresses ?? []).map(hostAddress));
    views.i32[H_BANK_PUBLISHED] = bank;
    const hops = new Map<number, Hop>();
    for (const service of assignment.services) {
      for (const { slot, definition: one } of service.backends) {
        const { address } = one;
        hops.set(slot, {
          address,
          interface: 1,
          mtu: mtu[1]!,
          mac: backendMac(address.words[3]),
        });
      }
    }
    // Those that are gone from the configuration and have flows keep their hops.
    for (const [slot, hop] of lastHops) if (!hops.has(slot)) hops.set(slot, hop);
    lastHops = hops;
    publishHops({
      backends: link === 0 ? new Map() : hops,
      neighbours: [],
      routes: [],
      interfaces: interfaces.map((entry) => ({
        mtu: entry.mtu,
        mac: entry.mac || "00:00:00:00:00:00",
        up: true,
      })),
    });
  }

  function publishHops(plan: HopPlan): void {
    hopTable++;
    writeHopTable(views, (hopTable & 1) as 0 | 1, plan);
    views.i32[H_HOPS_PUBLISHED] = hopTable;
  }

  /** Counters of some shards by name, summed. */
  function read(shards: readonly Shard[]): Record<string, number> {
    const sum = (index: number): number =>
      shards.reduce((total, shard) => total + views.f64[(shard.counters.at >> 3) + index]!, 0);
    const all: Record<string, number> = { received: sum(C_RECEIVED) };
    VERDICT_NAMES.forEach((name, index) => {
      all[name] = sum(C_FORWARDED + index);
    });
    if (layout.workers > 1) all["handed_in"] = sum(C_HANDED_IN);
    else delete all["handed_over"];
    if (sum(C_HELD) !== 0) all["held"] = sum(C_HELD);
    DROP_REASONS.forEach((name, index) => {
      const count = sum(C_DROPS + index);
      if (count !== 0) all[name] = count;
    });
    return all;
  }

  function checkLaw(): void {
    for (const shard of layout.shards) {
      const all = read([shard]);
      const verdicts = VERDICT_NAMES.reduce((sum, name) => sum + (all[name] ?? 0), 0);
      const drops = DROP_REASONS.reduce((sum, name) => sum + (all[name] ?? 0), 0);
      const came = all["received"]! + (all["handed_in"] ?? 0);
      if (came !== verdicts + (all["held"] ?? 0) || all["dropped"] !== drops) {
        throw new Error(`worker ${shard.worker} breaks the verdict law: ${JSON.stringify(all)}`);
      }
    }
  }

  publish();
  const workers = devices.map((device, worker): MemoryWorker => {
    const own = viewShard(views, worker);
    const seen: FrameDevice = options.asXdp === true ? { ...device, type: "xdp" } : device;
    const fastLane = options.fastLane ?? true;
    return { device, views: own, datapath: createDatapath({ device: seen, views: own, fastLane }) };
  });
  /** One batch of each worker. @returns frames */
  const runAll = (): number => workers.reduce((sum, { datapath }) => sum + datapath.runBatch(0), 0);
  runAll();
  if (!allWorkersHave(views, W_BANK_TAKEN, bank)) throw new Error("the bank was not taken");
  const { device, datapath } = workers[0]!;
  return {
    device,
    views,
    datapath,
    workers,
    settle() {
      // A worker looks at handed frames in every other batch.
      for (let idle = 0; idle < 2; ) idle = runAll() === 0 ? idle + 1 : 0;
    },
    get definition() {
      return definition;
    },
    configure(yaml) {
      definition = parseConfig(yaml, "test.yaml");
      publish();
      runAll();
    },
    publish() {
      publish();
      runAll();
    },
    hops(plan) {
      publishHops(plan);
      runAll();
    },
    counters: () => read(layout.shards),
    checkLaw,
    close() {
      for (const each of devices) each.close();
    },
  };
}
