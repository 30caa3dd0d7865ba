import type { Random } from "../../src/base/random.ts";
import {
  backendWordOf,
  F_ACK_ORIGINAL,
  F_ACK_REPLY,
  F_BACKEND,
  F_BACKEND_ADDR,
  F_BACKEND_REPLY_PORTS,
  F_CLIENT_ADDR,
  F_CLIENT_VIP_PORTS,
  F_CREATED,
  F_DELTA,
  F_EXPIRES,
  F_HOP_MAC_HIGH,
  F_HOP_MAC_LOW,
  F_REPLY_ADDR,
  F_STATE,
  F_VIP_ADDR,
  MODE_FULL_NAT,
  MODE_NAT,
  PROTOCOL_TCP,
  STATE_ESTABLISHED,
} from "../../src/flow/flow-record.ts";
import { createFlowTable, type FlowTable } from "../../src/flow/flow-table.ts";
import {
  H_SECRET,
  planRegion,
  type RegionSize,
  type RegionViews,
  viewRegion,
} from "../../src/state/layout.ts";

/** Flows as a test writes them; what is left out is a plain TCP flow in nat mode. */
export interface SampleFlow {
  readonly protocol: number;
  readonly client: number;
  readonly clientPort: number;
  readonly vip: number;
  readonly vipPort: number;
  readonly backend: number;
  readonly backendPort: number;
  /** Full-NAT when it is there. */
  readonly snat?: { readonly address: number; readonly port: number };
  readonly state: number;
  readonly flags: number;
  readonly slot: number;
  readonly generation: number;
  readonly expires: number;
}

export const CLIENT = 0xc6336402 | 0; // 198.51.100.2
export const VIP = 0xcb00710a | 0; // 203.0.113.10
export const BACKEND = 0x0a14000b; // 10.20.0.11
export const SNAT = 0x0a140064; // 10.20.0.100

export function sampleFlow(changes: Partial<SampleFlow> = {}): SampleFlow {
  return {
    protocol: PROTOCOL_TCP,
    client: CLIENT,
    clientPort: 40_000,
    vip: VIP,
    vipPort: 80,
    backend: BACKEND,
    backendPort: 8080,
    state: STATE_ESTABLISHED,
    flags: 0,
    slot: 0,
    generation: 1,
    expires: 1_000_000,
    ...changes,
  };
}

export function replyAddress(flow: SampleFlow): number {
  return flow.snat?.address ?? flow.client;
}

export function originalPorts(flow: SampleFlow): number {
  return (flow.clientPort << 16) | flow.vipPort;
}

export function replyPorts(flow: SampleFlow): number {
  return (flow.backendPort << 16) | (flow.snat?.port ?? flow.clientPort);
}

/** Sum of 16-bit words as RFC 1071 has it, folded; independent of src/wire. */
function sum16(...words: readonly number[]): number {
  let sum = 0;
  for (const word of words) sum += (word >>> 16) + (word & 0xffff);
  while (sum > 0xffff) sum = (sum & 0xffff) + Math.floor(sum / 0x10000);
  return sum;
}

/** Write a flow's words, all but the version, at `at`. */
export function writeSample(words: Int32Array, at: number, flow: SampleFlow): void {
  const mode = flow.snat === undefined ? MODE_NAT : MODE_FULL_NAT;
  const reply = replyAddress(flow);
  words[at + F_STATE] = flow.state | (flow.protocol << 8) | (mode << 16) | flow.flags;
  words[at + F_CLIENT_ADDR] = flow.client;
  words[at + F_VIP_ADDR] = flow.vip;
  words[at + F_CLIENT_VIP_PORTS] = originalPorts(flow);
  words[at + F_BACKEND_ADDR] = flow.backend;
  words[at + F_REPLY_ADDR] = reply;
  words[at + F_BACKEND_REPLY_PORTS] = replyPorts(flow);
  words[at + F_BACKEND] = backendWordOf(flow.slot, flow.generation);
  words[at + F_EXPIRES] = flow.expires;
  const addresses = sum16(flow.backend, reply, ~flow.client, ~flow.vip);
  const all = sum16(addresses, replyPorts(flow), ~originalPorts(flow));
  words[at + F_DELTA] = (addresses << 16) | all;
  words[at + F_HOP_MAC_HIGH] = 0x02000000;
  words[at + F_HOP_MAC_LOW] = 0x01020000;
  words[at + F_CREATED] = 7;
  words[at + F_ACK_ORIGINAL] = 0x11111111;
  words[at + F_ACK_REPLY] = 0x22222222;
}

export function insertSample(table: FlowTable, flow: SampleFlow): number {
  writeSample(table.draft, 0, flow);
  return table.insert();
}

/** row << 1 | direction, or -1. */
export function findOriginal(table: FlowTable, flow: SampleFlow): number {
  return table.find(flow.protocol, flow.client, flow.vip, originalPorts(flow));
}

export function findReply(table: FlowTable, flow: SampleFlow): number {
  return table.find(flow.protocol, flow.backend, replyAddress(flow), replyPorts(flow));
}

export const SMALL: RegionSize = {
  flowCapacity: 64,
  services: 4,
  backends: 16,
  hashSlots: 64,
  workers: 1,
};

export function createViews(size: Partial<RegionSize> = {}, secret = [1, 2]): RegionViews {
  const layout = planRegion({ ...SMALL, ...size });
  const views = viewRegion(new ArrayBuffer(layout.bytes), layout);
  views.i32[H_SECRET] = secret[0]!;
  views.i32[H_SECRET + 1] = secret[1]!;
  return views;
}

/** A flow whose keys differ from those of every other `id`; ids up to 2^24. */
export function distinctFlow(id: number, changes: Partial<SampleFlow> = {}): SampleFlow {
  return sampleFlow({
    client: 0xc0000000 | (id >>> 12) | 0,
    clientPort: 1024 + (id & 0xfff),
    ...changes,
  });
}

export function pick<T>(random: Random, from: readonly T[]): T {
  return from[random.below(from.length)]!;
}

/** A region of this size with an empty table over it. */
export function createSampleTable(size: Partial<RegionSize> = {}, secret = [1, 2]) {
  const views = createViews(size, secret);
  return { views, table: createFlowTable(views) };
}
