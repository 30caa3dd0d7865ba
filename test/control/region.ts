import {
  backendWordOf,
  F_BACKEND,
  F_BACKEND_ADDR,
  F_BACKEND_REPLY_PORTS,
  F_CLIENT_ADDR,
  F_CLIENT_VIP_PORTS,
  F_REPLY_ADDR,
  F_STATE,
  F_VERSION,
  F_VIP_ADDR,
  FLOW_WORDS,
  MODE_FULL_NAT,
  PROTOCOL_TCP,
  STATE_ESTABLISHED,
} from "../../src/flow/flow-record.ts";
import { B_GENERATION, R_ACTIVE, R_FLOWS } from "../../src/service/backend-slots.ts";
import type { GatewayDefinition } from "../../src/service/definition.ts";
import { backendRunWord } from "../../src/service/runs.ts";
import { backendSlotWord } from "../../src/service/slots.ts";
import {
  H_BANK_PUBLISHED,
  H_SWEEP_REQUESTED,
  planRegion,
  type RegionViews,
  viewRegion,
  W_BANK_TAKEN,
  W_FLOWS_HIGH_WATER,
  W_FLOWS_USED,
  W_SWEEP_DONE,
} from "../../src/state/layout.ts";
import { address } from "./definitions.ts";

/** A region in memory, all zero: what a new state file is to the control plane. */
export function memoryRegion(definition?: GatewayDefinition, workers = 1): RegionViews {
  const limits = definition?.limits ?? { services: 8, backends: 32, hashSlots: 4096 };
  const flowCapacity = definition?.flows.capacity ?? 1024;
  const layout = planRegion({ flowCapacity, ...limits, workers });
  return viewRegion(new ArrayBuffer(layout.bytes), layout);
}

/** Takes over what is published and sweeps when asked, as a worker does between two batches. */
export interface FakeWorker {
  /** Numbers of the banks that it took, in order. */
  readonly taken: number[];
  sweeps: number;
  /** While true it takes nothing. */
  paused: boolean;
  /** One batch. */
  wake(): void;
}

export function fakeWorker(views: RegionViews, number = 0): FakeWorker {
  const { i32, layout } = views;
  const bankTaken = layout.shards[number]!.workerWord + W_BANK_TAKEN;
  const sweepDone = layout.shards[number]!.workerWord + W_SWEEP_DONE;
  const worker: FakeWorker = {
    taken: [],
    sweeps: 0,
    paused: false,
    wake() {
      if (worker.paused) return;
      if (i32[bankTaken] !== i32[H_BANK_PUBLISHED]) {
        i32[bankTaken] = i32[H_BANK_PUBLISHED]!;
        worker.taken.push(i32[bankTaken]!);
      }
      if (i32[sweepDone] !== i32[H_SWEEP_REQUESTED]) {
        i32[sweepDone] = i32[H_SWEEP_REQUESTED]!;
        worker.sweeps++;
      }
    },
  };
  return worker;
}

export interface TestFlow {
  readonly slot: number;
  readonly vip: string;
  readonly vipPort: number;
  readonly backend: string;
  readonly backendPort: number;
  readonly client?: string;
  readonly snat?: string;
  readonly state?: number;
  readonly protocol?: number;
}

/** Write a live flow into the next row, and count it. */
export function addFlow(views: RegionViews, flow: TestFlow, worker = 0): void {
  const { i32, layout } = views;
  const shard = layout.shards[worker]!;
  const used = shard.workerWord + W_FLOWS_USED;
  const highWater = shard.workerWord + W_FLOWS_HIGH_WATER;
  const row = i32[highWater]!;
  const at = (shard.flows.at >> 2) + row * FLOW_WORDS;
  const slot = backendSlotWord(views, flow.slot);
  const run = backendRunWord(views, worker, flow.slot);
  const protocol = flow.protocol ?? PROTOCOL_TCP;
  const mode = flow.snat === undefined ? 0 : MODE_FULL_NAT;
  const client = address(flow.client ?? "198.51.100.2").value;
  i32[at + F_STATE] = (flow.state ?? STATE_ESTABLISHED) | (protocol << 8) | (mode << 16);
  i32[at + F_CLIENT_ADDR] = client;
  i32[at + F_VIP_ADDR] = address(flow.vip).value;
  i32[at + F_CLIENT_VIP_PORTS] = (40_000 << 16) | flow.vipPort;
  i32[at + F_BACKEND_ADDR] = address(flow.backend).value;
  i32[at + F_REPLY_ADDR] = flow.snat === undefined ? client : address(flow.snat).value;
  i32[at + F_BACKEND_REPLY_PORTS] = (flow.backendPort << 16) | 40_000;
  i32[at + F_BACKEND] = backendWordOf(flow.slot, i32[slot + B_GENERATION]!);
  i32[at + F_VERSION] = 2;
  i32[highWater] = row + 1;
  i32[used] = i32[used]! + 1;
  i32[run + R_FLOWS] = i32[run + R_FLOWS]! + 1;
  i32[run + R_ACTIVE] = i32[run + R_ACTIVE]! + 1;
}
