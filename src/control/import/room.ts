import type { Draft, Keys } from "./draft.ts";

/** Defaults of `limits`, and the most that it takes (config/schema.ts). */
const SERVICES_DEFAULT = 1024;
const SERVICES_MAX = 65_535;
const BACKENDS_DEFAULT = 4096;
const HASH_SLOTS_DEFAULT = 4_194_304;
const HASH_SLOTS_MAX = 1 << 26;

/** Slots of one maglev table unless `tableSize` says otherwise, and no source-hash table has more. */
const TABLE_SLOTS = 65_537;

/** The smaller table that LVS has (CONFIG_IP_VS_MH_TAB_INDEX 12). */
const TABLE_SLOTS_SMALL = 4093;

/** Schedulers without a table of the size of maglev's. */
const WITHOUT_TABLE = /^(weighted-)?(round-robin|least-connections)$/;

/** Ask for the room that many services need: `limits` beyond its defaults, smaller tables. */
export function fitLimits(draft: Draft): void {
  let services = 0;
  let backends = 0;
  let tables = 0;
  for (const service of draft.services) {
    const protocols = [service["protocol"]].flat().length;
    services += protocols;
    // One more for a sorry server.
    backends += ((service["backends"] as Keys[]).length + 1) * protocols;
    if (!WITHOUT_TABLE.test(String(service["scheduler"] ?? "maglev"))) tables += protocols;
  }
  const limits: Keys = {};
  if (services > SERVICES_DEFAULT) limits["services"] = Math.min(SERVICES_MAX, withSpare(services));
  if (backends > BACKENDS_DEFAULT) limits["backends"] = withSpare(backends);
  const isSmall = tables * TABLE_SLOTS > HASH_SLOTS_MAX;
  const hashSlots = tables * (isSmall ? TABLE_SLOTS_SMALL : TABLE_SLOTS);
  if (isSmall) draft.top["defaults"] = { tableSize: TABLE_SLOTS_SMALL };
  if (hashSlots > HASH_SLOTS_DEFAULT) limits["hashSlots"] = Math.min(HASH_SLOTS_MAX, hashSlots);
  if (Object.keys(limits).length > 0) draft.top["limits"] = limits;
}

/** A quarter more: reloads add services. */
function withSpare(count: number): number {
  return Math.ceil(count * 1.25);
}
