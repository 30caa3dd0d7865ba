import { LOAD_UNIT, pickBoundedMaglev } from "../src/scheduler/bounded-maglev.ts";
import { pickFailover } from "../src/scheduler/failover.ts";
import { pickLeastConnections } from "../src/scheduler/least-connections.ts";
import { backendKey, buildMaglevTable } from "../src/scheduler/maglev-table.ts";
import { finish, mix } from "../src/scheduler/mix.ts";
import { pickNeverQueue } from "../src/scheduler/never-queue.ts";
import { pickOverflow } from "../src/scheduler/overflow.ts";
import { pickPowerOfTwo } from "../src/scheduler/power-of-two.ts";
import { pickRandom } from "../src/scheduler/random.ts";
import { pickRendezvous } from "../src/scheduler/rendezvous.ts";
import { buildRendezvousKeys } from "../src/scheduler/rendezvous-keys.ts";
import { pickRoundRobin } from "../src/scheduler/round-robin.ts";
import { pickShortestExpectedDelay } from "../src/scheduler/shortest-expected-delay.ts";
import { pickSourceHash } from "../src/scheduler/source-hash.ts";
import { buildSourceHashTable, sourceHashSize } from "../src/scheduler/source-hash-table.ts";
import { buildWeightOrder } from "../src/scheduler/weight-order.ts";
import { buildWeightRanges } from "../src/scheduler/weight-ranges.ts";
import { pickWeightedLeastConnections } from "../src/scheduler/weighted-least-connections.ts";
import { pickWeightedRoundRobin } from "../src/scheduler/weighted-round-robin.ts";
import {
  BACKEND_RUN_WORDS,
  R_ACTIVE,
  R_FLOWS,
  V_LOAD,
  V_LOAD_ADDED,
} from "../src/service/backend-slots.ts";
import { E_SLOT, E_WEIGHT, ENTRY_WORDS } from "../src/service/bank.ts";
import type { Pair } from "./micro-pair.ts";

/** The schedulers, each beside the plain way to say it. */

const BACKENDS = 10;
const LIST = 64;
const SLOTS = 256;

interface PlainBackend {
  readonly weight: number;
  readonly active: number;
  readonly flows: number;
  readonly entry: number;
}

/** A service slot at 0, its list, and its backend slots, in one array; and the same as objects. */
function world(): { i32: Int32Array; backends: PlainBackend[] } {
  const i32 = new Int32Array(SLOTS + BACKENDS * BACKEND_RUN_WORDS);
  const backends = Array.from({ length: BACKENDS }, (_, at): PlainBackend => {
    const entry = LIST + at * ENTRY_WORDS;
    const one = { weight: 1 + ((at * 3) % 5), active: (at * 37) % 11, flows: 12 + at, entry };
    i32[entry + E_SLOT] = at;
    i32[entry + E_WEIGHT] = one.weight;
    i32[SLOTS + at * BACKEND_RUN_WORDS + R_ACTIVE] = one.active;
    i32[SLOTS + at * BACKEND_RUN_WORDS + R_FLOWS] = one.flows;
    return one;
  });
  return { i32, backends };
}

const load = (one: PlainBackend): number => one.active * 256 + (one.flows - one.active);

function roundRobinPair(): Pair {
  const { i32, backends } = world();
  let next = 0;
  return {
    name: `round robin, ${BACKENDS} backends`,
    alternative: "a list of objects in turn",
    // Each side has a turn of its own.
    same: false,
    fast: () => pickRoundRobin(i32, 0, LIST, BACKENDS, 0),
    slow() {
      const { entry } = backends[next]!;
      next = (next + 1) % backends.length;
      return entry;
    },
  };
}

function leastPair(): Pair {
  const { i32, backends } = world();
  return {
    name: `least connections, ${BACKENDS} backends`,
    alternative: "objects sorted by load",
    same: true,
    fast: () => pickLeastConnections(i32, SLOTS, LIST, BACKENDS, 0),
    slow: () => [...backends].sort((a, b) => load(a) - load(b))[0]!.entry,
  };
}

function weightedLeastPair(): Pair {
  const { i32, backends } = world();
  return {
    name: `weighted least connections, ${BACKENDS} backends`,
    alternative: "objects sorted by load a weight",
    same: true,
    fast: () => pickWeightedLeastConnections(i32, SLOTS, LIST, BACKENDS, 0),
    slow: () => [...backends].sort((a, b) => load(a) / a.weight - load(b) / b.weight)[0]!.entry,
  };
}

function sourceHashPair(): Pair {
  const weights = world().backends.map(({ weight }) => weight);
  const size = sourceHashSize(weights);
  const slots = buildSourceHashTable(weights, size);
  const places = new Map(Array.from(slots, (backend, slot) => [slot, backend]));
  return {
    name: `source hash, ${BACKENDS} backends`,
    alternative: "the table as a Map",
    same: true,
    fast: (at) => pickSourceHash(slots, 0, size, LIST, 1, 0x0a000000 + at * 77),
    slow(at) {
      const slot = (mix(1, 0x0a000000 + at * 77, 0, 0, 0) >>> 0) % size;
      return LIST + places.get(slot)! * ENTRY_WORDS;
    },
  };
}

function weightedPair(): Pair {
  const { i32, backends } = world();
  const total = backends.reduce((sum, { weight }) => sum + weight, 0);
  const current = backends.map(() => 0);
  return {
    name: `weighted round robin, ${BACKENDS} backends`,
    alternative: "the same over objects",
    // Each side has a round of its own.
    same: false,
    fast: () => pickWeightedRoundRobin(i32, 0, SLOTS, LIST, BACKENDS, 1, 0, 0),
    slow() {
      let best = 0;
      backends.forEach(({ weight }, at) => {
        current[at]! += weight;
        if (current[at]! > current[best]!) best = at;
      });
      current[best]! -= total;
      return backends[best]!.entry;
    },
  };
}

function expectedDelayPair(): Pair {
  const { i32, backends } = world();
  const delay = (one: PlainBackend): number => (load(one) + 256) / one.weight;
  return {
    name: `shortest expected delay, ${BACKENDS} backends`,
    alternative: "objects sorted by delay",
    same: true,
    fast: () => pickShortestExpectedDelay(i32, SLOTS, LIST, BACKENDS, 0),
    slow: () => [...backends].sort((a, b) => delay(a) - delay(b))[0]!.entry,
  };
}

function neverQueuePair(): Pair {
  const { i32, backends } = world();
  const delay = (one: PlainBackend): number => (load(one) + 256) / one.weight;
  return {
    name: `never queue, ${BACKENDS} backends`,
    alternative: "objects filtered and sorted",
    same: true,
    fast: () => pickNeverQueue(i32, SLOTS, LIST, BACKENDS, 0),
    slow() {
      const idle = backends.filter(({ active }) => active === 0);
      return (idle.length > 0 ? idle : [...backends]).sort((a, b) => delay(a) - delay(b))[0]!.entry;
    },
  };
}

/** Rendezvous hashing, whose cost grows with the backends. */
function rendezvousPair(count: number): Pair {
  const weights = Array.from({ length: count }, (_, at) => 1 + ((at * 3) % 5));
  const i32 = new Int32Array(LIST + count * ENTRY_WORDS);
  weights.forEach((weight, at) => {
    i32[LIST + at * ENTRY_WORDS + E_WEIGHT] = weight;
  });
  const backends = weights.map((weight, at) => ({ address: 0x0a140001 + at, port: 80, weight }));
  const table = buildRendezvousKeys(backends, 1);
  const keys = backends.map((one) => backendKey(one, 1));
  return {
    name: `rendezvous, ${count} backends`,
    alternative: "-w / ln(h) of each with Math.log",
    // The series and Math.log may differ in the last bits, hardly ever in the choice.
    same: false,
    fast: (at) => pickRendezvous(i32, table, 0, LIST, count, mix(1, at, 2, 3, 6)),
    slow(at) {
      const hash = mix(1, at, 2, 3, 6);
      let best = 0;
      let most = 0;
      keys.forEach((key, position) => {
        const uniform = 1 - (finish(key ^ hash) >>> 0) / 2 ** 32;
        const score = -weights[position]! / Math.log(uniform);
        if (score > most) {
          most = score;
          best = position;
        }
      });
      return LIST + best * ENTRY_WORDS;
    },
  };
}

function randomPair(): Pair {
  const { i32, backends } = world();
  const table = buildWeightRanges(backends.map(({ weight }) => weight));
  const each = backends.flatMap(({ weight, entry }) => Array.from({ length: weight }, () => entry));
  return {
    name: `random, ${BACKENDS} backends`,
    alternative: "Math.random over a list of every share",
    same: false,
    fast: () => pickRandom(i32, table, 0, 0, LIST, BACKENDS, 1, 0),
    slow: () => each[Math.floor(Math.random() * each.length)]!,
  };
}

function powerOfTwoPair(): Pair {
  const { i32, backends } = world();
  const table = buildWeightRanges(backends.map(({ weight }) => weight));
  const each = backends.flatMap((one) => Array.from({ length: one.weight }, () => one));
  const draw = (): PlainBackend => each[Math.floor(Math.random() * each.length)]!;
  return {
    name: `power of two choices, ${BACKENDS} backends`,
    alternative: "Math.random twice, objects compared",
    same: false,
    fast: () => pickPowerOfTwo(i32, table, 0, 0, SLOTS, LIST, BACKENDS, 1, 0),
    slow() {
      const [one, two] = [draw(), draw()];
      return (load(two) / two.weight < load(one) / one.weight ? two : one).entry;
    },
  };
}

function failoverPair(): Pair {
  const { backends } = world();
  const table = buildWeightOrder(backends.map(({ weight }) => weight));
  return {
    name: `failover, ${BACKENDS} backends`,
    alternative: "objects sorted by weight",
    same: true,
    fast: () => pickFailover(table, 0, LIST),
    slow: () => [...backends].sort((a, b) => b.weight - a.weight)[0]!.entry,
  };
}

function overflowPair(): Pair {
  const { i32, backends } = world();
  const table = buildWeightOrder(backends.map(({ weight }) => weight));
  return {
    name: `overflow, ${BACKENDS} backends`,
    alternative: "objects sorted and filtered",
    same: true,
    fast: () => pickOverflow(i32, table, 0, SLOTS, LIST, BACKENDS),
    slow() {
      const open = backends.filter(({ active, weight }) => active <= weight);
      return open.sort((a, b) => b.weight - a.weight)[0]?.entry ?? -1;
    },
  };
}

function boundedPair(): Pair {
  const { i32, backends } = world();
  const members = backends.map(({ weight }, at) => ({
    address: 0x0a140001 + at,
    port: 80,
    weight,
  }));
  const slots = buildMaglevTable(members, 4093, 1);
  const sum = backends.reduce((total, { weight }) => total + weight, 0);
  const all = backends.reduce((total, one) => total + load(one), 0);
  return {
    name: `bounded loads, ${BACKENDS} backends`,
    alternative: "objects, loads summed for each flow",
    same: false,
    fast(at) {
      // The service's load as it is, whatever was sent before.
      i32[V_LOAD] = all / LOAD_UNIT - i32[V_LOAD_ADDED]!;
      const hash = mix(1, at, 2, 3, 6);
      return pickBoundedMaglev(i32, slots, 0, 4093, 0, SLOTS, LIST, BACKENDS, hash, 1250, sum, 0);
    },
    slow(at) {
      const total = backends.reduce((loads, one) => loads + load(one), 256);
      let slot = (mix(1, at, 2, 3, 6) >>> 1) % 4093;
      for (;;) {
        const one = backends[slots[slot]!]!;
        if (load(one) < (1.25 * total * one.weight) / sum) return one.entry;
        slot = (slot + 1) % 4093;
      }
    },
  };
}

export const SCHEDULER_PAIRS: Readonly<Record<string, () => Pair>> = {
  rr: roundRobinPair,
  wrr: weightedPair,
  lc: leastPair,
  wlc: weightedLeastPair,
  sed: expectedDelayPair,
  nq: neverQueuePair,
  sh: sourceHashPair,
  rendezvous: () => rendezvousPair(BACKENDS),
  "rendezvous-1000": () => rendezvousPair(1000),
  random: randomPair,
  twos: powerOfTwoPair,
  fo: failoverPair,
  ovf: overflowPair,
  bounded: boundedPair,
};
