import { type Address, parseAddress } from "../base/address.ts";
import { EXIT, HeadgateError } from "../base/errors.ts";

/**
 * What `headgate backend …` names: `SERVICE/ADDRESS:PORT`, or `SERVICE/ADDRESS`; IPv6 in brackets
 * before a port.
 */
export interface BackendTarget {
  readonly service: string;
  readonly address: Address;
  /** 0: a backend without a port of its own. */
  readonly port: number;
}

/** `[IPV6]:PORT` or `[IPV6]`, `IPV4:PORT` or `IPV4`, `IPV6` alone: then all of it is the address. */
const ENDPOINT = /^(?:\[([\da-fA-F:.]+)\]|([\d.]+)|([\da-fA-F:.]+))(?::([1-9]\d{0,4}))?$/;

/**
 * Read a target. A service's name may have slashes; what follows the last one is the backend.
 *
 * @throws HeadgateError HEADGATE_USAGE
 */
export function parseTarget(text: string): BackendTarget {
  const slash = text.lastIndexOf("/");
  const [, bracketed, four, six, digits] = ENDPOINT.exec(text.slice(slash + 1)) ?? [];
  const address = parseAddress(bracketed ?? four ?? six ?? "");
  const port = Number(digits ?? 0);
  if (slash < 1 || address === null || port > 65_535) {
    throw new HeadgateError(
      "HEADGATE_USAGE",
      `target: expected SERVICE/ADDRESS:PORT, or SERVICE/ADDRESS for a backend without a port, got ${JSON.stringify(text)}`,
      EXIT.usage,
    );
  }
  return { service: text.slice(0, slash), address, port };
}
