import Benchmark from "benchmark";
import { createRandom } from "../src/base/random.ts";
import { PROTOCOL_TCP, STATE_COUNT } from "../src/flow/flow-record.ts";
import type { FlowTable } from "../src/flow/flow-table.ts";
import { createFlowTable } from "../src/flow/flow-table.ts";
import { nextState, SEGMENT_KINDS } from "../src/flow/tcp-state.ts";
import { pickMaglev } from "../src/scheduler/maglev.ts";
import { buildMaglevTable } from "../src/scheduler/maglev-table.ts";
import { mix } from "../src/scheduler/mix.ts";
import { difference32, sumBytes, updateChecksum } from "../src/wire/checksum.ts";
import { checkIpv4 } from "../src/wire/ipv4.ts";
import {
  createViews,
  insertSample,
  type SampleFlow,
  sampleFlow,
} from "../test/flow/sample-flows.ts";
import { ipv4Packet } from "../test/support/frames.ts";
import { CALLS, type Pair } from "./micro-pair.ts";
import { SCHEDULER_PAIRS } from "./micro-schedulers.ts";
import { WIRE_PAIRS } from "./micro-wire.ts";
import { table } from "./statistics.ts";

/**
 * The hot functions one by one, each beside another way to do the same. Both sides do CALLS calls
 * over changing inputs in one run, so that neither the loop nor a constant input decides; each pair
 * is measured in a process of its own.
 */

export interface MicroResult {
  readonly name: string;
  readonly operationsPerSecond: number;
  /** Relative margin of error, percent (npm package benchmark). */
  readonly margin: number;
  readonly alternative: string;
  readonly alternativePerSecond: number;
  readonly alternativeMargin: number;
}

function checksumPair(): Pair {
  const packets = Array.from({ length: CALLS }, (_, at) => {
    const packet = ipv4Packet({
      source: "198.51.100.2",
      destination: `10.20.${at >> 8}.${at & 255}`,
      protocol: 17,
      payload: new Uint8Array(26),
    });
    return new DataView(packet.buffer, packet.byteOffset, packet.byteLength);
  });
  const delta = difference32(0xc6336402 | 0, 0x0a14000b);
  return {
    name: "checksum update (RFC 1624)",
    alternative: "whole sum over 20 bytes",
    same: false,
    fast: (at) => updateChecksum(packets[at]!.getUint16(10), delta),
    slow: (at) => ~sumBytes(packets[at]!, 0, 20) & 0xffff,
  };
}

/** The table with `flows` flows, the same in a Map by text, and the keys in another order. */
function tables(flows: number): { table: FlowTable; map: Map<string, number>; keys: SampleFlow[] } {
  const table = createFlowTable(createViews({ flowCapacity: flows * 2 }));
  const map = new Map<string, number>();
  const all = Array.from({ length: flows }, (_, id) =>
    sampleFlow({
      client: 0x0a000000 + ((id * 7919) % 16_000_000),
      clientPort: 1024 + (id % 60_000),
    }),
  );
  for (const flow of all) map.set(key(flow), insertSample(table, flow) * 2);
  const random = createRandom(1);
  return { table, map, keys: Array.from({ length: CALLS }, () => all[random.below(flows)]!) };
}

function key(flow: SampleFlow): string {
  return `${flow.protocol} ${flow.client} ${flow.vip} ${flow.clientPort} ${flow.vipPort}`;
}

function findPair(flows: number, hit: boolean): Pair {
  const { table, map, keys } = tables(flows);
  const wanted = hit ? keys : keys.map((flow) => ({ ...flow, vipPort: 81 }));
  const words = Int32Array.from(
    wanted.flatMap((flow) => [flow.client, flow.vip, (flow.clientPort << 16) | flow.vipPort]),
  );
  return {
    name: `flow find, ${hit ? "hit" : "miss"}, ${flows / 1000} k flows`,
    alternative: "Map by text",
    same: true,
    fast: (at) => table.find(PROTOCOL_TCP, words[at * 3]!, words[at * 3 + 1]!, words[at * 3 + 2]!),
    slow: (at) => map.get(key(wanted[at]!)) ?? -1,
  };
}

function insertPair(): Pair {
  const { table, map, keys } = tables(64_000);
  const fresh = keys.map((flow, at) => ({ ...flow, client: 0x64400000 + at, vipPort: 82 }));
  return {
    name: "flow insert and remove, 64 k flows",
    alternative: "Map by text, object each",
    same: false,
    fast(at) {
      const row = insertSample(table, fresh[at]!);
      table.remove(row);
      return row;
    },
    slow(at) {
      const name = key(fresh[at]!);
      map.set(name, at);
      map.delete(name);
      return at;
    },
  };
}

function maglevPair(): Pair {
  const backends = Array.from({ length: 10 }, (_, at) => ({
    address: 0x0a14000b + at,
    port: 8080,
    weight: 1,
  }));
  const slots = buildMaglevTable(backends, 65537, 1);
  const clients = Int32Array.from({ length: CALLS }, (_, at) => 0x0a000000 + at * 77);
  return {
    name: "maglev pick, 10 backends",
    alternative: "rendezvous hash",
    same: false,
    fast: (at) => pickMaglev(slots, 0, 65537, 0, mix(1, clients[at]!, 1, (at << 16) | 80, 6)),
    slow(at) {
      let best = 0;
      let most = -1;
      for (let index = 0; index < 10; index++) {
        const score = mix(backends[index]!.address, clients[at]!, 1, (at << 16) | 80, 6) >>> 0;
        if (score > most) {
          most = score;
          best = index;
        }
      }
      return best;
    },
  };
}

function checkPair(): Pair {
  const views = Array.from({ length: CALLS }, (_, at) => {
    const packet = ipv4Packet({
      source: "198.51.100.2",
      destination: `10.20.${at >> 8}.${at & 255}`,
      protocol: 6,
      payload: new Uint8Array(26),
    });
    return new DataView(packet.buffer, packet.byteOffset, packet.byteLength);
  });
  return {
    name: "checkIpv4",
    alternative: "header parsed to an object",
    same: true,
    fast: (at) => checkIpv4(views[at]!, 0, 46),
    slow(at) {
      const view = views[at]!;
      const header = {
        version: view.getUint8(0) >> 4,
        headerBytes: (view.getUint8(0) & 15) * 4,
        totalBytes: view.getUint16(2),
        source: [12, 13, 14, 15].map((byte) => view.getUint8(byte)),
        sum: sumBytes(view, 0, 20),
      };
      const first = header.source[0]!;
      const good =
        header.version === 4 &&
        header.headerBytes >= 20 &&
        header.totalBytes <= 46 &&
        header.sum === 0xffff &&
        first !== 0 &&
        first !== 127 &&
        first < 224;
      return good ? 0 : 1;
    },
  };
}

function statePair(): Pair {
  const cells = new Map<string, number>();
  for (let state = 0; state < STATE_COUNT; state++) {
    for (let direction = 0; direction < 2; direction++) {
      for (let kind = 0; kind < SEGMENT_KINDS; kind++) {
        if (state === 0 || state > 8) continue;
        cells.set(`${state} ${direction} ${kind}`, nextState(state, direction, kind));
      }
    }
  }
  const inputs = Array.from({ length: CALLS }, (_, at) => ({
    state: 1 + (at % 8),
    direction: (at >> 3) & 1,
    kind: at % SEGMENT_KINDS,
  }));
  return {
    name: "nextState",
    alternative: "Map by text",
    same: true,
    fast(at) {
      const { state, direction, kind } = inputs[at]!;
      return nextState(state, direction, kind);
    },
    slow(at) {
      const { state, direction, kind } = inputs[at]!;
      return cells.get(`${state} ${direction} ${kind}`) ?? -9;
    },
  };
}

const PAIRS: Readonly<Record<string, () => Pair>> = {
  checksum: checksumPair,
  "find-hit-1k": () => findPair(1000, true),
  "find-hit-64k": () => findPair(64_000, true),
  "find-miss-64k": () => findPair(64_000, false),
  insert: insertPair,
  maglev: maglevPair,
  ipv4: checkPair,
  state: statePair,
  ...WIRE_PAIRS,
  ...SCHEDULER_PAIRS,
};

export const MICRO_NAMES = Object.keys(PAIRS);

/** Where sums go, so that no loop is without effect. */
const sink = new Int32Array(1);

function looped(one: (at: number) => number): () => void {
  return () => {
    let sum = 0;
    for (let at = 0; at < CALLS; at++) sum = (sum + one(at)) | 0;
    sink[0]! ^= sum;
  };
}

/** @throws Error when both sides of a pair ought to agree and do not, without measuring it */
export function checkMicro(name: string): void {
  agree(PAIRS[name]!());
}

/** @throws Error when both sides ought to agree and do not */
function agree(pair: Pair): void {
  for (let at = 0; at < CALLS; at++) {
    const [fast, slow] = [pair.fast(at), pair.slow(at)];
    if (pair.same && fast !== slow) throw new Error(`${pair.name}: ${fast} is not ${slow}`);
  }
}

/**
 * Measure one pair.
 *
 * @param seconds - longest time for one side
 * @throws Error when both sides ought to agree and do not
 */
export function measureMicro(name: string, seconds: number): MicroResult {
  const pair = PAIRS[name]!();
  agree(pair);
  const settings = { maxTime: seconds, minTime: Math.min(0.05, seconds / 20), minSamples: 5 };
  const fast = new Benchmark(pair.name, looped(pair.fast), settings).run();
  const slow = new Benchmark(pair.alternative, looped(pair.slow), settings).run();
  return {
    name: pair.name,
    operationsPerSecond: fast.hz * CALLS,
    margin: fast.stats.rme,
    alternative: pair.alternative,
    alternativePerSecond: slow.hz * CALLS,
    alternativeMargin: slow.stats.rme,
  };
}

/** The table of it. */
export function formatMicro(results: readonly MicroResult[]): string {
  const rate = (perSecond: number, margin: number): string =>
    `${(perSecond / 1e6).toFixed(1)} ±${margin.toFixed(0)}%`;
  return table(
    ["function", "M/s", "ns", "beside", "M/s", "ratio"],
    results.map((one) => [
      one.name,
      rate(one.operationsPerSecond, one.margin),
      (1e9 / one.operationsPerSecond).toFixed(1),
      one.alternative,
      rate(one.alternativePerSecond, one.alternativeMargin),
      (one.operationsPerSecond / one.alternativePerSecond).toFixed(1),
    ]),
  );
}
