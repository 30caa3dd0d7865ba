import { parseAddress } from "../../base/address.ts";
import { Draft, type ImportOptions, type Keys } from "./draft.ts";

/** A draft with what the options say: device, SNAT pool, tunnel source. */
export function startDraft(options: ImportOptions): Draft {
  const draft = new Draft(options);
  const { device, interfaces, snat, tunnelSources } = options;
  draft.top["device"] =
    device === "tun" ? { type: device } : { type: device, interfaces: [...interfaces] };
  if (snat.length > 0) draft.top["snat"] = { addresses: [...snat] };
  const source: Keys = {};
  for (const text of tunnelSources) {
    source[parseAddress(text)?.family === 6 ? "ipv6" : "ipv4"] = text;
  }
  if (tunnelSources.length > 0) draft.top["tunnel"] = { source };
  return draft;
}
