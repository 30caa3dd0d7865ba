import { formatEndpoint } from "../../src/base/address.ts";
import { createScheduler } from "../../src/scheduler/schedule.ts";
import { R_ACTIVE, R_FLOWS } from "../../src/service/backend-slots.ts";
import {
  BANK_SERVICES_AT,
  E_ADDRESS,
  E_PORT,
  E_SLOT,
  NO_BACKEND,
  SERVICE_WORDS,
} from "../../src/service/bank.ts";
import { writeBank } from "../../src/service/bank-writer.ts";
import type { ServiceDefinition } from "../../src/service/definition.ts";
import { backendRunWord } from "../../src/service/runs.ts";
import { assignSlots, type SlotAssignment } from "../../src/service/slots.ts";
import type { RegionViews } from "../../src/state/layout.ts";
import { gateway, service } from "../control/definitions.ts";
import { memoryRegion } from "../service/regions.ts";

/** One service on a region in memory, and what its scheduler picks. */
export interface World {
  readonly views: RegionViews;
  /** Take over the service with changes, in the next bank. */
  configure(overrides: Partial<ServiceDefinition>): void;
  /** Write the next bank: slot words have changed. */
  rewrite(): void;
  /** `ADDRESS:PORT` of the backend of a new flow, or "" when none takes it. */
  pick(client?: number, clientPort?: number, protocol?: number): string;
  /** Slot of the backend at a position of the definition's order by address and port. */
  slot(index: number): number;
  /** What the worker would count: all flows, and the active ones. */
  setFlows(index: number, flows: number, active: number): void;
}

const VIP = 0xcb00710a | 0;

export function createWorld(
  first: Partial<ServiceDefinition>,
  seed = "",
  hashSlots = 262_144,
): World {
  const views = memoryRegion({ hashSlots });
  const scheduler = createScheduler(views);
  let definition = service("web", first);
  let assignment: SlotAssignment = { services: [] };
  let number = 0;
  const world: World = {
    views,
    configure(overrides) {
      definition = { ...definition, ...overrides };
      world.rewrite();
    },
    rewrite() {
      const whole = gateway([definition], { hash: { seed } });
      assignment = assignSlots(views, whole, 0);
      number++;
      writeBank(views, number, whole, assignment, []);
    },
    pick(client = 0xc6336402 | 0, clientPort = 40_000, protocol = 6) {
      const { i32, layout } = views;
      const bank = layout.banks[(number & 1) as 0 | 1].at >> 2;
      const { slot } = assignment.services[0]!;
      const word = bank + (i32[bank + BANK_SERVICES_AT]! >> 2) + slot * SERVICE_WORDS;
      const entry = scheduler.pick(bank, word, slot, client, clientPort, VIP, 80, protocol);
      if (entry === NO_BACKEND) return "";
      const at = assignment.services[0]!.backends.findIndex(
        (one) => one.slot === i32[entry + E_SLOT],
      );
      if (at < 0) throw new Error("a pick is a backend of the service");
      return formatEndpoint(i32[entry + E_ADDRESS]!, i32[entry + E_PORT]!);
    },
    slot: (index) => assignment.services[0]!.backends[index]!.slot,
    setFlows(index, flows, active) {
      const at = backendRunWord(views, 0, world.slot(index));
      views.i32[at + R_FLOWS] = flows;
      views.i32[at + R_ACTIVE] = active;
    },
  };
  world.rewrite();
  return world;
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
