import { tableWords } from "../../service/hash-tables.ts";
import type { Draft, Keys } from "./draft.ts";

/** Defaults of `limits`, and the most that it takes (config/schema.ts). */
const SERVICES_DEFAULT = 1024;
const SERVICES_MAX = 65_535;
const BACKENDS_DEFAULT = 4096;
const HASH_SLOTS_DEFAULT = 4_194_304;
const HASH_SLOTS_MAX = 1 << 26;

/** `tableSize`, and the smaller one that LVS has (CONFIG_IP_VS_MH_TAB_INDEX 12). */
const TABLE_SLOTS = 65_537;
const TABLE_SLOTS_SMALL = 4093;

/** Ask for the room that many services need: `limits` beyond its defaults, smaller tables. */
export function fitLimits(draft: Draft): void {
  let services = 0;
  let backends = 0;
  for (const service of draft.services) {
    const protocols = protocolsOf(service);
    services += protocols;
    // One more for a sorry server.
    backends += ((service["backends"] as Keys[]).length + 1) * protocols;
  }
  const limits: Keys = {};
  if (services > SERVICES_DEFAULT) limits["services"] = Math.min(SERVICES_MAX, withSpare(services));
  if (backends > BACKENDS_DEFAULT) limits["backends"] = withSpare(backends);
  let hashSlots = slotsOf(draft, TABLE_SLOTS);
  if (hashSlots > HASH_SLOTS_MAX) {
    hashSlots = slotsOf(draft, TABLE_SLOTS_SMALL);
    draft.top["defaults"] = { tableSize: TABLE_SLOTS_SMALL };
  }
  if (hashSlots > HASH_SLOTS_DEFAULT) limits["hashSlots"] = Math.min(HASH_SLOTS_MAX, hashSlots);
  if (Object.keys(limits).length > 0) draft.top["limits"] = limits;
}

function protocolsOf(service: Keys): number {
  return [service["protocol"]].flat().length;
}

/** Slots of all tables, with maglev's of this size. */
function slotsOf(draft: Draft, tableSize: number): number {
  return draft.services.reduce((sum, service) => {
    const scheduler = (service["scheduler"] ?? "maglev") as Parameters<typeof tableWords>[0];
    const weights = (service["backends"] as Keys[]).map(({ weight }) =>
      Math.max(1, Number(weight)),
    );
    return sum + tableWords(scheduler, weights, tableSize) * protocolsOf(service);
  }, 0);
}

/** A quarter more: reloads add services. */
function withSpare(count: number): number {
  return Math.ceil(count * 1.25);
}
