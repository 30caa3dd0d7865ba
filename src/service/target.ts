import { parseIpv4 } from "../base/address.ts";

/** What `headgate backend …` names: SERVICE/ADDRESS:PORT, or SERVICE/ADDRESS for every port. */
export interface BackendTarget {
  readonly service: string;
  readonly address: string;
  /** 0: any. */
  readonly port: number;
}

/** @returns null when the text is none; names can hold slashes, so the last one divides */
export function parseTarget(text: string): BackendTarget | null {
  const slash = text.lastIndexOf("/");
  if (slash <= 0) return null;
  const service = text.slice(0, slash);
  const found = /^([^:]+)(?::([1-9]\d{0,4}))?$/.exec(text.slice(slash + 1));
  if (found === null) return null;
  const [, address, portText] = found;
  const port = portText === undefined ? 0 : Number(portText);
  if (parseIpv4(address!) === null || port > 65_535) return null;
  return { service, address: address!, port };
}
