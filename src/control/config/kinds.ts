import { isIPv6 } from "node:net";
import { addressOf4, formatIpv4, parseIpv4 } from "../../base/address.ts";
import { SNAT_ADDRESSES_MAX } from "../../base/limits.ts";
import type { Address, PortRange } from "../../service/definition.ts";
import { DURATION_PATTERN, formatDuration, parseDuration } from "./duration.ts";
import { expectedGot, Refusal, readValue, show, type ValueKind } from "./fields.ts";

/** The kinds of values that a configuration has: each reads one, and says what it expects. */

/** The sentence for what the design has and this version has not. */
export function notSupported(what: string): string {
  return `not supported yet: ${what}`;
}

/**
 * One of a few words.
 *
 * @param words - what may be written, and what it means (aliases mean the same)
 * @param later - right words that this version does not support
 * @param key - what is named when one of `later` is found
 */
export function word<const W extends Readonly<Record<string, string>>>(
  words: W,
  key = "",
  later: readonly string[] = [],
): ValueKind<W[keyof W]> {
  const aliases = new Map<string, string[]>();
  for (const [written, meant] of Object.entries(words)) {
    const known = aliases.get(meant) ?? [];
    if (written !== meant) known.push(written);
    aliases.set(meant, known);
  }
  const names = [...aliases].map(([meant, short]) =>
    short.length === 0 ? meant : `${meant} (${short.join(", ")})`,
  );
  return {
    expects:
      names.length < 2 ? (names[0] ?? "") : `${names.slice(0, -1).join(", ")} or ${names.at(-1)}`,
    json: { enum: Object.keys(words) },
    read: (input) => {
      if (typeof input !== "string") return undefined;
      if (Object.hasOwn(words, input)) return words[input as keyof W];
      return later.includes(input) ? new Refusal(notSupported(`${key} ${input}`)) : undefined;
    },
  };
}

/** Words that mean themselves. */
export function words<const W extends string>(
  list: readonly W[],
  key = "",
  later: readonly string[] = [],
): ValueKind<W> {
  const meanings = Object.fromEntries(list.map((it) => [it, it])) as { readonly [K in W]: K };
  return word(meanings, key, later) as ValueKind<W>;
}

/** A whole number, both ends included. */
export function integer(low: number, high: number): ValueKind<number> {
  return {
    expects: low === high ? String(low) : `a whole number from ${low} to ${high}`,
    json: low === high ? { const: low } : { type: "integer", minimum: low, maximum: high },
    read: (input) =>
      typeof input === "number" && Number.isInteger(input) && input >= low && input <= high
        ? input
        : undefined,
  };
}

/** A number, both ends included. */
export function fraction(low: number, high: number): ValueKind<number> {
  return {
    expects: `a number from ${low} to ${high}`,
    json: { type: "number", minimum: low, maximum: high },
    read: (input) =>
      typeof input === "number" && input >= low && input <= high ? input : undefined,
  };
}

/** A kind, or a word that says that there is none. */
export function orWord<T, const W extends string>(kind: ValueKind<T>, word: W): ValueKind<T | W> {
  return {
    expects: `${kind.expects}, or ${word}`,
    json: { anyOf: [kind.json, { const: word }] },
    read: (input) => (input === word ? word : kind.read(input)),
  };
}

export const boolean: ValueKind<boolean> = {
  expects: "true or false",
  json: { type: "boolean" },
  read: (input) => (typeof input === "boolean" ? input : undefined),
};

/** Text that matches a pattern. */
export function text(
  expects: string,
  pattern: RegExp,
  lengths: { readonly min?: number; readonly max: number },
): ValueKind<string> {
  const min = lengths.min ?? 1;
  return {
    expects,
    json: { type: "string", pattern: pattern.source, minLength: min, maxLength: lengths.max },
    read: (input) =>
      typeof input === "string" &&
      input.length >= min &&
      input.length <= lengths.max &&
      pattern.test(input)
        ? input
        : undefined,
  };
}

/** A duration between two others (text, both included), in milliseconds. */
export function duration(low: string, high: string): ValueKind<number> {
  const lowMs = parseDuration(low) ?? 0;
  const highMs = parseDuration(high) ?? 0;
  const expects = `a duration from ${formatDuration(lowMs)} to ${formatDuration(highMs)}`;
  return {
    expects,
    json: { type: "string", pattern: DURATION_PATTERN, examples: ["500ms", "2s", "5m", "2h4m"] },
    read: (input) => {
      const durationMs = typeof input === "string" ? parseDuration(input) : null;
      if (durationMs === null) {
        return new Refusal(expectedGot(`${expects}, such as 500ms, 2s or 2h4m`, input));
      }
      return durationMs >= lowMs && durationMs <= highMs ? durationMs : undefined;
    },
  };
}

const PORT_EXPECTS = '1-65535, a range, or "any"';
export const ANY_PORT: PortRange = { low: 1, high: 65_535 };

/** One entry of `port`: 80, "8000-8099" or any. */
export const portRange: ValueKind<PortRange> = {
  expects: PORT_EXPECTS,
  json: {
    anyOf: [
      { type: "integer", minimum: 1, maximum: 65_535 },
      { type: "string", pattern: "^\\d{1,5}(-\\d{1,5})?$" },
      { const: "any" },
    ],
  },
  read: (input) => {
    if (input === "any") return ANY_PORT;
    return readRange(input, 1, 65_535);
  },
};

/** "LOW-HIGH", "N" or N within two bounds; undefined when it is not. */
function readRange(input: unknown, low: number, high: number): PortRange | Refusal | undefined {
  const parts = /^(\d{1,5})(?:-(\d{1,5}))?$/.exec(
    typeof input === "number" ? `${input}` : textOrNothing(input),
  );
  if (parts === null) return undefined;
  const first = Number(parts[1]);
  const last = Number(parts[2] ?? parts[1]);
  if (first < low || last > high || first > high || last < low) return undefined;
  if (first > last) return new Refusal(expectedGot("a range with its lower end first", input));
  return { low: first, high: last };
}

function textOrNothing(input: unknown): string {
  return typeof input === "string" ? input : "";
}

/** A range of whole numbers as text, such as "1024-65535". */
export function numberRange(low: number, high: number): ValueKind<PortRange> {
  return {
    expects: `a range within ${low}-${high}`,
    json: {
      anyOf: [
        { type: "integer", minimum: low, maximum: high },
        { type: "string", pattern: "^\\d{1,5}(-\\d{1,5})?$" },
      ],
    },
    read: (input) => readRange(input, low, high),
  };
}

/** A backend's or a check's port. */
export const port: ValueKind<number> = {
  expects: "a port from 1 to 65535",
  json: { type: "integer", minimum: 1, maximum: 65_535 },
  read: integer(1, 65_535).read,
};

/**
 * One value or a list of them; the result has the places of the list, with holes for entries that
 * were taken out because they are wrong.
 */
export function oneOrMany<T>(kind: ValueKind<T>, distinct = false): ValueKind<(T | undefined)[]> {
  return {
    expects: `${kind.expects}; one or a list`,
    json: { anyOf: [kind.json, { type: "array", items: kind.json, minItems: 1 }] },
    read: (input) => {
      if (!Array.isArray(input)) return readMany(kind, [input], false, distinct);
      if (input.length === 0) return new Refusal(expectedGot(`${kind.expects}, or a list`, input));
      return readMany(kind, input, true, distinct);
    },
  };
}

/** A list of values; see {@link oneOrMany}. */
export function listOf<T>(
  kind: ValueKind<T>,
  bounds: { readonly min: number; readonly max: number; readonly distinct: boolean },
): ValueKind<(T | undefined)[]> {
  const expects = `a list (each ${kind.expects})`;
  return {
    expects,
    json: { type: "array", items: kind.json, minItems: bounds.min, maxItems: bounds.max },
    read: (input) => {
      if (!Array.isArray(input) || input.length < bounds.min) return undefined;
      if (input.length > bounds.max) {
        return new Refusal(`expected at most ${bounds.max} entries, got ${input.length}`);
      }
      return readMany(kind, input, true, bounds.distinct);
    },
  };
}

function readMany<T>(
  kind: ValueKind<T>,
  inputs: readonly unknown[],
  isList: boolean,
  distinct: boolean,
): (T | undefined)[] | readonly Refusal[] {
  const values: (T | undefined)[] = [];
  const refusals: Refusal[] = [];
  const seen = new Map<unknown, number>();
  for (const [index, input] of inputs.entries()) {
    if (input === undefined) {
      values.push(undefined);
      continue;
    }
    const value = readValue(kind, input);
    if (Array.isArray(value) && value[0] instanceof Refusal) {
      for (const it of value as readonly Refusal[]) {
        refusals.push(new Refusal(it.message, isList ? [index, ...it.at] : it.at));
      }
      continue;
    }
    const earlier = seen.get(value);
    if (distinct && earlier !== undefined) {
      const message = `expected each once, got ${show(input)} again (first at [${earlier}])`;
      refusals.push(new Refusal(message, [index]));
      continue;
    }
    seen.set(value, index);
    values.push(value as T);
  }
  return refusals.length > 0 ? refusals : values;
}

/** RFC 5952 form of a valid IPv6 address without zone, as the URL parser writes it. */
function canonicalIpv6(address: string): string {
  return new URL(`http://[${address}]`).hostname.slice(1, -1);
}

/** Why an IPv6 text, a zone or an octal-looking part is no address here; null: it is none of them. */
function refuseAddress(input: string): Refusal | null {
  if (input.includes("%")) return new Refusal(expectedGot("an address without a zone", input));
  if (isIPv6(input)) {
    return canonicalIpv6(input).startsWith("::ffff:")
      ? new Refusal(expectedGot("an address that is not IPv4-mapped", input))
      : new Refusal(notSupported(`IPv6 addresses (${input})`));
  }
  if (/^\[.*\]$/.test(input) && isIPv6(input.slice(1, -1))) {
    return new Refusal(expectedGot("an IPv6 address without brackets", input));
  }
  const parts = input.split(".");
  if (parts.length === 4 && parts.every((part) => /^\d+$/.test(part))) {
    if (parts.some((part) => part.length > 1 && part.startsWith("0"))) {
      return new Refusal(expectedGot("an IPv4 address without leading zeros", input));
    }
  }
  return null;
}

/** An IPv4 address of one host: not 0.0.0.0/8, 127.0.0.0/8, multicast or broadcast. */
export const hostAddress: ValueKind<Address> = {
  expects: "an IPv4 address",
  json: { type: "string", format: "ipv4" },
  read: (input) => {
    if (typeof input !== "string") return undefined;
    const value = parseIpv4(input);
    if (value === null) return refuseAddress(input) ?? undefined;
    const first = value >>> 24;
    if (first === 0 || first === 127 || first >= 224) {
      return new Refusal(expectedGot("the IPv4 address of a host", input));
    }
    return addressOf4(value);
  },
};

/** A VIP address; prefixes and IPv6 are known and not supported yet. */
export const vipAddress: ValueKind<Address> = {
  ...hostAddress,
  read: (input) => {
    const prefix = typeof input === "string" ? /^(.+)\/(\d{1,3})$/.exec(input) : null;
    if (prefix === null) return hostAddress.read(input);
    const address = hostAddress.read(prefix[1]);
    if (address instanceof Refusal) return address;
    if (address === undefined || Number(prefix[2]) > 32) return undefined;
    return new Refusal(notSupported(`VIP prefixes (${input})`));
  },
};

/** One address or "FIRST-LAST" of the SNAT pool. */
export const addressRange: ValueKind<readonly Address[]> = {
  expects: "an IPv4 address or a range of them",
  json: { type: "string" },
  read: (input) => {
    if (typeof input !== "string") return undefined;
    const ends = input.split("-");
    if (ends.length > 2) return undefined;
    const addresses: Address[] = [];
    for (const end of ends) {
      const address = hostAddress.read(end.trim());
      if (address instanceof Refusal) return address;
      if (address === undefined) return undefined;
      addresses.push(address as Address);
    }
    const first = addresses[0]!.value >>> 0;
    const last = addresses.at(-1)!.value >>> 0;
    if (last < first) return new Refusal(expectedGot("a range with its lower end first", input));
    const count = last - first + 1;
    if (count > SNAT_ADDRESSES_MAX) {
      return new Refusal(`expected at most ${SNAT_ADDRESSES_MAX} addresses, got ${count}`);
    }
    return Array.from({ length: count }, (_, index) => {
      return addressOf4((first + index) | 0);
    });
  },
};

/** An absolute path. */
export function absolutePath(what: string, bytesMax: number): ValueKind<string> {
  return {
    expects: `the absolute path of ${what}, at most ${bytesMax} bytes`,
    json: { type: "string", pattern: "^/", maxLength: bytesMax },
    read: (input) =>
      typeof input === "string" &&
      /^\/[^\0\n]*[^\0\n/]$/.test(input) &&
      Buffer.byteLength(input) <= bytesMax
        ? input
        : undefined,
  };
}

/** `NAME`, `UID` or `UID:GID`; numbers below 2^32 - 1, which means "no change" (chown(2)). */
export const userName: ValueKind<string> = {
  expects: "a user name, UID or UID:GID",
  json: {
    anyOf: [
      {
        type: "string",
        pattern: "^([a-z_][a-z0-9_-]*\\$?|\\d{1,10}(:\\d{1,10})?)$",
        maxLength: 32,
      },
      { type: "integer", minimum: 0, maximum: 4_294_967_294 },
    ],
  },
  read: (input) => {
    const written = typeof input === "number" && Number.isInteger(input) ? `${input}` : input;
    if (typeof written !== "string") return undefined;
    if (/^\d{1,10}(:\d{1,10})?$/.test(written)) {
      return written.split(":").every((id) => Number(id) < 4_294_967_295) ? written : undefined;
    }
    return /^[a-z_][a-z0-9_-]{0,30}\$?$/.test(written) ? written : undefined;
  },
};

export interface HttpEndpoint {
  readonly address: string;
  readonly port: number;
}

/** `ADDRESS:PORT`, `[IPV6]:PORT` or off. */
export const httpEndpoint: ValueKind<HttpEndpoint | "off"> = {
  expects: "off or ADDRESS:PORT",
  json: { type: "string", pattern: "^(off|.+:\\d{1,5})$" },
  read: (input) => {
    if (input === "off") return "off";
    const parts =
      typeof input === "string" ? /^(?:\[(.+)\]|([^[\]:]+)):(\d{1,5})$/.exec(input) : null;
    if (parts === null) return undefined;
    const number = Number(parts[3]);
    if (number < 1 || number > 65_535) return undefined;
    const [, six, four] = parts;
    if (six !== undefined) {
      if (six.includes("%")) return refuseAddress(six) ?? undefined;
      return isIPv6(six) ? { address: six, port: number } : undefined;
    }
    const value = parseIpv4(four ?? "");
    if (value === null) return refuseAddress(four ?? "") ?? undefined;
    return { address: formatIpv4(value), port: number };
  },
};

function isPrime(value: number): boolean {
  if (value < 2) return false;
  for (let divisor = 2; divisor * divisor <= value; divisor += 1) {
    if (value % divisor === 0) return false;
  }
  return true;
}

/** A prime between two others. */
export function prime(low: number, high: number): ValueKind<number> {
  return {
    expects: `a prime from ${low} to ${high}`,
    json: { type: "integer", minimum: low, maximum: high },
    read: (input) => {
      if (typeof input !== "number" || !Number.isInteger(input)) return undefined;
      return input >= low && input <= high && isPrime(input) ? input : undefined;
    },
  };
}
