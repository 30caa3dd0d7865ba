import {
  ACCESS_WORDS_PER_PREFIX,
  ACCESS_WORDS_PER_SERVICE,
  writeAccess4,
  writeAccess6,
} from "../admission/access-table.ts";
import { assert } from "../base/assert.ts";
import {
  ACCESS_PREFIX_BYTES,
  ACCESS_SERVICE_BYTES,
  H_BANK_PUBLISHED,
  type RegionViews,
} from "../state/layout.ts";
import type { AccessRules } from "./access-rules.ts";
import { BANK_ACCESS } from "./bank.ts";
import type { SlotAssignment } from "./slots.ts";

/**
 * The access lists of a region: two buffers, of which a bank names one. Banks are written far more
 * often (health, weights) than lists change, so a bank that has the lists of the one before names
 * the same buffer.
 */
export interface AccessBuffers {
  /**
   * Have a buffer with the lists of an assignment.
   *
   * @returns which buffer, and the tables of each service slot that has lists, in words from its
   *   start; null when there is too little room
   */
  place(assignment: SlotAssignment): PlacedAccess | null;
}

export interface PlacedAccess {
  readonly which: 0 | 1;
  readonly tables: ReadonlyMap<number, AccessTables>;
}

export interface AccessTables {
  readonly four: number;
  readonly six: number;
}

assert(ACCESS_WORDS_PER_PREFIX * 4 === ACCESS_PREFIX_BYTES, "a prefix has its room");
assert(ACCESS_WORDS_PER_SERVICE * 4 === ACCESS_SERVICE_BYTES, "a service's tables have heads");

/** What was written into a buffer last. */
interface Written {
  readonly rules: ReadonlyMap<number, AccessRules>;
  readonly tables: ReadonlyMap<number, AccessTables>;
}

export function createAccessBuffers(views: RegionViews): AccessBuffers {
  const { i32, layout } = views;
  const written: [Written | null, Written | null] = [null, null];

  function place(assignment: SlotAssignment): PlacedAccess | null {
    const rules = rulesBySlot(assignment);
    const inUse = bufferInUse();
    for (const which of inUse === 1 ? ([1, 0] as const) : ([0, 1] as const)) {
      const found = written[which];
      if (found !== null && isSame(found.rules, rules)) return { which, tables: found.tables };
    }
    const which = inUse === 0 ? 1 : 0;
    written[which] = null;
    const tables = write(which, rules);
    if (tables === null) return null;
    written[which] = { rules, tables };
    return { which, tables };
  }

  /** The buffer of the bank that the workers have, or -1. */
  function bufferInUse(): number {
    const published = i32[H_BANK_PUBLISHED]!;
    if (published === 0) return -1;
    return i32[(layout.banks[(published & 1) as 0 | 1].at >> 2) + BANK_ACCESS]!;
  }

  function write(
    which: 0 | 1,
    rules: ReadonlyMap<number, AccessRules>,
  ): ReadonlyMap<number, AccessTables> | null {
    const { at, bytes } = layout.access[which];
    let needed = 0;
    for (const one of rules.values()) {
      needed += one.count * ACCESS_WORDS_PER_PREFIX + ACCESS_WORDS_PER_SERVICE;
    }
    if (needed * 4 > bytes) return null;
    const first = at >> 2;
    const tables = new Map<number, AccessTables>();
    let next = 0;
    for (const [slot, one] of rules) {
      const four = next;
      next += writeAccess4(i32, first + four, one);
      const six = next;
      next += writeAccess6(i32, first + six, one);
      tables.set(slot, { four, six });
    }
    assert(next * 4 <= bytes, "tables are no larger than was reckoned");
    return tables;
  }

  return { place };
}

function rulesBySlot({ services }: SlotAssignment): Map<number, AccessRules> {
  const rules = new Map<number, AccessRules>();
  for (const { slot, definition } of services) {
    if (definition.access.rules !== null) rules.set(slot, definition.access.rules);
  }
  return rules;
}

function isSame(a: ReadonlyMap<number, AccessRules>, b: ReadonlyMap<number, AccessRules>): boolean {
  if (a.size !== b.size) return false;
  for (const [slot, rules] of a) if (b.get(slot)?.digest !== rules.digest) return false;
  return true;
}
