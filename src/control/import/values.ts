import { isIPv4 } from "node:net";
import { type Address, parseAddress } from "../../base/address.ts";
import { formatDuration } from "../config/duration.ts";

/** Values that several programs write alike. */

export interface Endpoint {
  readonly address: Address;
  /** 0: none was written. */
  readonly port: number;
}

/**
 * `ADDRESS:PORT`, `[ADDRESS]:PORT`, or an address alone.
 *
 * @returns null when it is none: also for a host name, or a port by its name
 */
export function parseEndpoint(text: string): Endpoint | null {
  const parts = /^(?:\[([^\]]*)\]|([^:]*))(?::(\d{1,5}))?$/.exec(text);
  const address = parseAddress(parts === null ? text : (parts[1] ?? parts[2] ?? ""));
  const port = Number(parts?.[3] ?? 0);
  return address === null || port > 65_535 ? null : { address, port };
}

/**
 * Bits of a network mask: dotted for IPv4, a length for either family.
 *
 * @returns null when the text is neither, or its bits are not together at the left
 */
export function maskBits(text: string, family: 4 | 6): number | null {
  if (isIPv4(text)) {
    const value = text.split(".").reduce((sum, part) => sum * 256 + Number(part), 0);
    const ones = 32 - Math.clz32(~value >>> 0);
    const bits = 32 - ones;
    return family === 4 && value === 2 ** 32 - 2 ** ones ? bits : null;
  }
  const bits = wholeNumber(text, family === 4 ? 32 : 128);
  return bits;
}

/** A whole number from 0 to `most`, or null. */
export function wholeNumber(text: string | undefined, most: number): number | null {
  if (text === undefined || !/^\d{1,10}$/.test(text)) return null;
  const value = Number(text);
  return value <= most ? value : null;
}

/** A duration in a range, as the configuration writes it. */
export function clampedDuration(durationMs: number, lowMs: number, highMs: number): string {
  return formatDuration(Math.round(Math.min(highMs, Math.max(lowMs, durationMs))));
}

/** The bounds of `timeouts` and `affinity.timeout`. */
export const TIMEOUT_MS_MIN = 10;
export const TIMEOUT_MS_MAX = 168 * 3_600_000;

/** A timeout as the configuration writes it, at least and at most what it takes. */
export function timeoutText(durationMs: number): string {
  return clampedDuration(durationMs, TIMEOUT_MS_MIN, TIMEOUT_MS_MAX);
}
