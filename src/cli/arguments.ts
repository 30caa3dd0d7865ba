import { isIPv6 } from "node:net";
import { InvalidArgumentError } from "commander";
import { parseIpv4, parsePrefix } from "../base/address.ts";
import { parseDuration } from "../control/config/duration.ts";

/**
 * Arguments and options of the commands. Each function throws commander's InvalidArgumentError,
 * which ends with exit code 2 and a sentence that names the option.
 */

/** `SERVICE/ADDRESS:PORT`, `SERVICE/ADDRESS`, IPv6 with a port in brackets. */
export interface Target {
  readonly service: string;
  /** `ADDRESS` or `ADDRESS:PORT`. */
  readonly backend: string;
}

const SERVICE_NAME = /^[a-z0-9](?:[a-z0-9./-]{0,126}[a-z0-9])?$/;

/** @returns `ADDRESS` or `ADDRESS:PORT` as it is, when it is one; else null */
function parseEndpoint(text: string): string | null {
  const parts = /^(?:\[([^\]]+)\]|([^:[\]]+))(?::(\d{1,5}))?$/.exec(text);
  if (parts === null) return isIPv6(text) && !text.includes("%") ? text : null;
  const [, six, four, port] = parts;
  if (port !== undefined && (Number(port) < 1 || Number(port) > 65_535)) return null;
  if (six !== undefined) return isIPv6(six) && !six.includes("%") ? text : null;
  return parseIpv4(four ?? "") === null ? null : text;
}

/** Service names may have slashes: the last one ends the name. */
export function parseTarget(text: string): Target {
  const slash = text.lastIndexOf("/");
  const service = text.slice(0, Math.max(0, slash));
  const backend = parseEndpoint(text.slice(slash + 1));
  if (slash < 1 || !SERVICE_NAME.test(service) || backend === null) {
    throw new InvalidArgumentError(
      `expected SERVICE/ADDRESS:PORT, such as web/10.20.0.11:8080, got "${text}"`,
    );
  }
  return { service, backend };
}

export function parseBackendOption(text: string): string {
  const backend = parseEndpoint(text);
  if (backend === null) {
    throw new InvalidArgumentError(`expected ADDRESS or ADDRESS:PORT, got "${text}"`);
  }
  return backend;
}

export function parseServiceOption(text: string): string {
  if (!SERVICE_NAME.test(text)) {
    throw new InvalidArgumentError(`expected the name of a service, got "${text}"`);
  }
  return text;
}

export function parseClientOption(text: string): string {
  if (parsePrefix(text) === null) {
    throw new InvalidArgumentError(
      `expected an address or a prefix such as 198.51.100.0/24 or 2001:db8:1::/64, got "${text}"`,
    );
  }
  return text;
}

/** A whole number, both ends included. */
export function parseWhole(low: number, high: number): (text: string) => number {
  return (text) => {
    const value = /^\d{1,9}$/.test(text) ? Number(text) : Number.NaN;
    if (!(value >= low && value <= high)) {
      throw new InvalidArgumentError(
        `expected a whole number from ${low} to ${high}, got "${text}"`,
      );
    }
    return value;
  };
}

/** The longest timer of Node: 2^31 - 1 ms. */
const DURATION_MS_MAX = 2 ** 31 - 1;

/** @returns milliseconds */
export function parseDurationOption(text: string): number {
  const durationMs = parseDuration(text);
  if (durationMs === null || durationMs > DURATION_MS_MAX) {
    throw new InvalidArgumentError(
      `expected a duration such as 500ms, 30s or 2h4m, at most 596h, got "${text}"`,
    );
  }
  return durationMs;
}
