import { endpointOf } from "../../src/base/address.ts";
import { createScheduler } from "../../src/scheduler/schedule.ts";
import { R_ACTIVE, R_FLOWS } from "../../src/service/backend-slots.ts";
import { BANK_SERVICES_AT, E_SLOT, NO_BACKEND, SERVICE_WORDS } from "../../src/service/bank.ts";
import { writeBank } from "../../src/service/bank-writer.ts";
import type { BackendDefinition, ServiceDefinition } from "../../src/service/definition.ts";
import { backendRunWord } from "../../src/service/runs.ts";
import { assignSlots, type SlotAssignment } from "../../src/service/slots.ts";
import {
  H_BANK_PUBLISHED,
  type RegionSize,
  type RegionViews,
  viewShard,
} from "../../src/state/layout.ts";
import { address, gateway, service } from "../control/definitions.ts";
import { memoryRegion } from "../service/regions.ts";

/** Who asks for a backend: what the scheduler is told of a new flow. */
export interface Flow {
  readonly client?: number;
  readonly clientPort?: number;
  readonly protocol?: number;
  /** Of a worker that is not the first. */
  readonly worker?: number;
}

/** One service on a region in memory, and what its scheduler picks. */
export interface World {
  readonly views: RegionViews;
  /** Take over the service with changes, in the next bank. */
  configure(overrides: Partial<ServiceDefinition>): void;
  /** Write the next bank: slot words have changed. */
  rewrite(): void;
  /** `ADDRESS:PORT` of the backend of a new flow, or "" when none takes it. */
  pick(client?: number, clientPort?: number, protocol?: number): string;
  /** Its position in the order by address and port, or -1. */
  position(flow?: Flow): number;
  /** Positions of the further choices for the flow, after `count` refusals. */
  choices(flow: Flow, count: number): number[];
  /** Slot of the backend at a position. */
  slot(index: number): number;
  /** First word of the service in the bank in use. */
  serviceWord(): number;
  /** What the worker would count: all flows, and the active ones. */
  setFlows(index: number, flows: number, active: number, worker?: number): void;
}

const VIP = 0xcb00710a | 0;

export function createWorld(
  first: Partial<ServiceDefinition>,
  seed = "",
  size: Partial<RegionSize> = {},
): World {
  const views = memoryRegion({ hashSlots: 262_144, ...size });
  const schedulers = views.layout.shards.map(({ worker }) =>
    createScheduler(viewShard(views, worker)),
  );
  const { i32, layout } = views;
  let definition = service("web", first);
  let assignment: SlotAssignment = { services: [] };
  let positions = new Map<number, number>();
  let number = 0;

  const bankWord = (): number => layout.banks[(number & 1) as 0 | 1].at >> 2;
  function entryOf({ client, clientPort, protocol, worker }: Required<Flow>): number {
    const { slot } = assignment.services[0]!;
    const scheduler = schedulers[worker]!;
    const word = world.serviceWord();
    return scheduler.pick(bankWord(), word, slot, client, clientPort, VIP, 80, protocol);
  }
  const whole = (flow: Flow): Required<Flow> => ({
    client: 0xc6336402 | 0,
    clientPort: 40_000,
    protocol: 6,
    worker: 0,
    ...flow,
  });
  function positionOf(entry: number): number {
    if (entry === NO_BACKEND) return -1;
    const position = positions.get(i32[entry + E_SLOT]!);
    if (position === undefined) throw new Error("a pick is a backend of the service");
    return position;
  }

  const world: World = {
    views,
    configure(overrides) {
      definition = { ...definition, ...overrides };
      world.rewrite();
    },
    rewrite() {
      const all = gateway([definition], { hash: { seed } });
      assignment = assignSlots(views, all, 0);
      number++;
      writeBank(views, number, all, assignment, []);
      i32[H_BANK_PUBLISHED] = number;
      positions = new Map(assignment.services[0]!.backends.map(({ slot }, at) => [slot, at]));
    },
    pick(client = 0xc6336402 | 0, clientPort = 40_000, protocol = 6) {
      const position = world.position({ client, clientPort, protocol });
      if (position < 0) return "";
      const chosen = assignment.services[0]!.backends[position]!.definition;
      return endpointOf(chosen.address, chosen.port);
    },
    position: (flow = {}) => positionOf(entryOf(whole(flow))),
    choices(flow, count) {
      const asked = whole(flow);
      const { client, clientPort, protocol } = asked;
      const found: number[] = [];
      let entry = entryOf(asked);
      for (let attempt = 1; attempt <= count; attempt++) {
        entry = schedulers[asked.worker]!.next(
          ...([bankWord(), world.serviceWord(), entry, attempt] as const),
          ...([client, clientPort, VIP, 80, protocol] as const),
        );
        found.push(positionOf(entry));
      }
      return found;
    },
    slot: (index) => assignment.services[0]!.backends[index]!.slot,
    serviceWord() {
      const bank = bankWord();
      const { slot } = assignment.services[0]!;
      return bank + (i32[bank + BANK_SERVICES_AT]! >> 2) + slot * SERVICE_WORDS;
    },
    setFlows(index, flows, active, worker = 0) {
      const at = backendRunWord(views, worker, world.slot(index));
      i32[at + R_FLOWS] = flows;
      i32[at + R_ACTIVE] = active;
    },
  };
  world.rewrite();
  return world;
}

/** Backends 10.20.0.1:80 and on, in the order of the list; over IPv6 2001:db8:2::1 and on. */
export function backendList(weights: readonly number[], family: 4 | 6 = 4): BackendDefinition[] {
  return weights.map((weight, index) => {
    const low = index + 1;
    const text =
      family === 4 ? `10.20.${low >> 8}.${low & 255}` : `2001:db8:2::${low.toString(16)}`;
    return {
      address: address(text),
      port: 80,
      weight,
      serverId: null,
      priority: 0,
      maxConnections: null,
    };
  });
}

/** How often each text is in a list. */
export function tally(texts: readonly string[]): Map<string, number> {
  const counts = new Map<string, number>();
  for (const text of texts) counts.set(text, (counts.get(text) ?? 0) + 1);
  return counts;
}

/**
 * Pearson's statistic of counts against expected ones, over its degrees of freedom: about 1 when
 * chance alone made the difference, and above 3 for less than one in a thousand from 9 degrees on.
 */
export function chiSquared(counts: readonly number[], expected: readonly number[]): number {
  const sum = counts.reduce((total, count, index) => {
    return total + (count - expected[index]!) ** 2 / expected[index]!;
  }, 0);
  return sum / (counts.length - 1);
}

/**
 * The value that chiSquared() of this many counts exceeds by chance once in 10,000 times (Wilson and
 * Hilferty's approximation).
 */
export function chiSquaredMost(count: number): number {
  const spread = 2 / (9 * (count - 1));
  return (1 - spread + 3.719 * Math.sqrt(spread)) ** 3;
}
