import { parseIpv4 } from "../base/address.ts";
import { EXIT, HeadgateError } from "../base/errors.ts";

/** What `headgate backend …` names: `SERVICE/ADDRESS:PORT`, or `SERVICE/ADDRESS`. */
export interface BackendTarget {
  readonly service: string;
  /** int32, host order. */
  readonly address: number;
  /** 0: a backend without a port of its own. */
  readonly port: number;
}

/**
 * Read a target. A service's name may have slashes; what follows the last one is the backend.
 *
 * @throws HeadgateError HEADGATE_USAGE
 */
export function parseTarget(text: string): BackendTarget {
  const slash = text.lastIndexOf("/");
  const endpoint = /^([\d.]+)(?::([1-9]\d{0,4}))?$/.exec(text.slice(slash + 1));
  const address = endpoint === null ? null : parseIpv4(endpoint[1]!);
  const port = Number(endpoint?.[2] ?? 0);
  if (slash < 1 || address === null || port > 65_535) {
    throw new HeadgateError(
      "HEADGATE_USAGE",
      `target: expected SERVICE/ADDRESS:PORT, or SERVICE/ADDRESS for a backend without a port, got ${JSON.stringify(text)}`,
      EXIT.usage,
    );
  }
  return { service: text.slice(0, slash), address, port };
}
