import { pickLeastConnections } from "../src/scheduler/least-connections.ts";
import { mix } from "../src/scheduler/mix.ts";
import { pickRoundRobin } from "../src/scheduler/round-robin.ts";
import { pickSourceHash } from "../src/scheduler/source-hash.ts";
import { buildSourceHashTable, sourceHashSize } from "../src/scheduler/source-hash-table.ts";
import { pickWeightedLeastConnections } from "../src/scheduler/weighted-least-connections.ts";
import { BACKEND_RUN_WORDS, R_ACTIVE, R_FLOWS } from "../src/service/backend-slots.ts";
import { E_SLOT, E_WEIGHT, ENTRY_WORDS } from "../src/service/bank.ts";
import type { Pair } from "./micro-pair.ts";

/** The schedulers that look at nothing but their list, each beside the plain way to say it. */

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
    fast: () => pickRoundRobin(i32, 0, LIST, BACKENDS),
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
    fast: () => pickLeastConnections(i32, SLOTS, LIST, BACKENDS),
    slow: () => [...backends].sort((a, b) => load(a) - load(b))[0]!.entry,
  };
}

function weightedLeastPair(): Pair {
  const { i32, backends } = world();
  return {
    name: `weighted least connections, ${BACKENDS} backends`,
    alternative: "objects sorted by load a weight",
    same: true,
    fast: () => pickWeightedLeastConnections(i32, SLOTS, LIST, BACKENDS),
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

export const SCHEDULER_PAIRS: Readonly<Record<string, () => Pair>> = {
  rr: roundRobinPair,
  lc: leastPair,
  wlc: weightedLeastPair,
  sh: sourceHashPair,
};
