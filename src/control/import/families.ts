import { type Address, parseAddress } from "../../base/address.ts";
import type { Draft, Keys } from "./draft.ts";

/** Modes that leave the client's address alone, so that VIP and backend are of one family. */
const ONE_FAMILY = new Set([undefined, "nat", "dsr"]);

function familyOf(text: unknown): Address["family"] {
  return parseAddress(String(text).split("/")[0]!)?.family === 6 ? 6 : 4;
}

/**
 * Keep VIPs and backends of one family in services whose mode asks for it: the family of the first
 * backend. What goes is named; so is a service that has no VIP left.
 */
export function fitFamilies(draft: Draft): void {
  for (let index = draft.services.length - 1; index >= 0; index--) {
    const service = draft.services[index]!;
    if (!ONE_FAMILY.has(service["mode"] as string | undefined)) continue;
    const backends = service["backends"] as Keys[];
    const vips = [service["vip"] as string | string[]].flat();
    const family = familyOf(backends[0]?.["address"] ?? vips[0]);
    const line = draft.lineOf(["services", index]);
    const title = `service ${service["name"]}`;
    const why = `is left out: mode ${service["mode"] ?? "nat"} does not translate between IPv4 and IPv6, full-nat does`;
    const kept = vips.filter((vip) => familyOf(vip) === family);
    for (const vip of vips) {
      if (!kept.includes(vip)) draft.note(line, `VIP ${vip} of ${title} ${why}`);
    }
    if (kept.length === 0) {
      draft.noteBackends(service);
      draft.services.splice(index, 1);
      continue;
    }
    if (kept.length !== vips.length) service["vip"] = kept.length === 1 ? kept[0] : kept;
    for (let at = backends.length - 1; at >= 0; at--) {
      const { address } = backends[at]!;
      if (familyOf(address) === family) continue;
      const place = draft.lineOf(["services", index, "backends", at]);
      draft.note(place, `backend ${address} of ${title} ${why}`);
      backends.splice(at, 1);
    }
  }
}
