import { isIPv6 } from "node:net";
import {
  addressBits,
  addressOf4,
  addressOfNumber,
  addressOfPrefix,
  formatIpv4,
  numberOf,
  parseAddress,
  parseIpv4,
  type Words6,
} from "../../base/address.ts";
import { SNAT_ADDRESSES_MAX } from "../../base/limits.ts";
import type { Address, PortRange, VipAddress } from "../../service/definition.ts";
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

export const boolean: ValueKind<boolean> = {
  expects: "true or false",
  json: { type: "boolean" },
  read: (input) => (typeof input === "boolean" ? input : undefined),
};

/** Another kind's values, or the word off. */
export function offOr<T>(kind: ValueKind<T>): ValueKind<T | "off"> {
  return {
    expects: `${kind.expects}, or off`,
    json: { anyOf: [kind.json, { const: "off" }] },
    read: (input) => (input === "off" ? "off" : kind.read(input)),
  };
}
/** true, false or auto. */
export const autoOrBoolean: ValueKind<"auto" | boolean> = {
  expects: "auto, true or false",
  json: { enum: ["auto", true, false] },
  read: (input) => (input === "auto" || typeof input === "boolean" ? input : undefined),
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

/** Why a zone, brackets or an octal-looking part make a text no address here; null: none is there. */
function refuseAddress(input: string): Refusal | null {
  if (input.includes("%")) return new Refusal(expectedGot("an address without a zone", input));
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

/** Not this network, loopback, a group or above. */
function isHostIpv4(value: number): boolean {
  const first = value >>> 24;
  return first !== 0 && first !== 127 && first < 224;
}

/** Neither unspecified, loopback or IPv4-compatible (::/96), nor link-local, nor multicast. */
function isHostIpv6([w0, w1, w2]: Words6): boolean {
  const isLow = w0 === 0 && w1 === 0 && w2 === 0;
  return !isLow && w0 >>> 22 !== 0x3fa && w0 >>> 24 !== 0xff;
}

/**
 * An address of one host, of either family: IPv4 not 0.0.0.0/8, 127.0.0.0/8, multicast or broadcast;
 * IPv6 not unspecified, loopback, link-local (it means something on one link only), multicast or
 * IPv4-mapped. Without zone and brackets.
 */
export const hostAddress: ValueKind<Address> = {
  expects: "an IPv4 or IPv6 address",
  json: {
    anyOf: [
      { type: "string", format: "ipv4" },
      { type: "string", format: "ipv6" },
    ],
  },
  read: (input) => {
    if (typeof input !== "string") return undefined;
    const address = parseAddress(input);
    if (address === null) return refuseAddress(input) ?? undefined;
    const { family, value, words } = address;
    if (family === 4) {
      if (isHostIpv4(value)) return address;
      return new Refusal(expectedGot("the IPv4 address of a host", input));
    }
    if (words[0] === 0 && words[1] === 0 && words[2] === 0xffff) {
      return new Refusal(expectedGot("an address that is not IPv4-mapped", input));
    }
    if (isHostIpv6(words)) return address;
    return new Refusal(expectedGot("the IPv6 address of a host", input));
  },
};

/** An address of one family alone, such as the source of a tunnel. */
export function addressOfFamily(family: 4 | 6): ValueKind<Address> {
  return {
    expects: `an IPv${family} address`,
    json: { type: "string", format: `ipv${family}` },
    read: (input) => {
      const address = hostAddress.read(input) as Address | Refusal | undefined;
      if (address instanceof Refusal || address?.family === family) return address;
      return undefined;
    },
  };
}

/** A VIP: an address, or a prefix (`203.0.113.0/28`, `2001:db8:ff::/64`), whose addresses are all VIPs. */
export const vipAddress: ValueKind<VipAddress> = {
  expects: "an IPv4 or IPv6 address, or a prefix",
  json: { type: "string", pattern: "^[0-9a-fA-F:.]+(/\\d{1,3})?$" },
  read: (input) => {
    if (typeof input !== "string") return undefined;
    const [text = "", written, more] = input.split("/");
    const address = hostAddress.read(text) as Address | Refusal | undefined;
    if (address instanceof Refusal || address === undefined || more !== undefined) {
      return address instanceof Refusal ? address : undefined;
    }
    const bits = addressBits(address);
    if (written === undefined) return address;
    const prefixLength = /^(?:0|[1-9]\d{0,2})$/.test(written) ? Number(written) : -1;
    if (prefixLength < VIP_PREFIX_MIN || prefixLength > bits) {
      return new Refusal(expectedGot(`a prefix of ${VIP_PREFIX_MIN}-${bits} bits`, input));
    }
    if (prefixLength === bits) return address;
    const first = addressOfPrefix(address, prefixLength);
    if (first.text !== address.text) {
      const wanted = `no bits behind the prefix (${first.text}/${prefixLength})`;
      return new Refusal(expectedGot(wanted, input));
    }
    return { ...first, text: `${first.text}/${prefixLength}`, prefixLength };
  },
};

/** Shorter ones would be half of the Internet: a slip. */
const VIP_PREFIX_MIN = 8;

/** The sources of health checks through the data path: their last 16 bits say which backend. */
export const probeRange: ValueKind<Address> = {
  expects: "an IPv4 prefix of 16 bits",
  json: { type: "string", pattern: "^[0-9.]+/16$" },
  read: (input) => {
    const prefix = vipAddress.read(input);
    if (prefix === undefined || prefix instanceof Refusal || Array.isArray(prefix)) {
      return prefix as Refusal | undefined;
    }
    const { family, value, prefixLength } = prefix as VipAddress;
    return family === 4 && prefixLength === 16 ? addressOf4(value) : undefined;
  },
};

/** One address or "FIRST-LAST" of the SNAT pool. */
export const addressRange: ValueKind<readonly Address[]> = {
  expects: "an IPv4 or IPv6 address or a range of them",
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
    const [first, last] = [addresses[0]!, addresses.at(-1)!];
    if (first.family !== last.family) {
      return new Refusal(expectedGot("a range of addresses of one family", input));
    }
    if (numberOf(last) < numberOf(first)) {
      return new Refusal(expectedGot("a range with its lower end first", input));
    }
    const count = numberOf(last) - numberOf(first) + 1n;
    if (count > BigInt(SNAT_ADDRESSES_MAX)) {
      return new Refusal(`expected at most ${SNAT_ADDRESSES_MAX} addresses, got ${count}`);
    }
    return Array.from({ length: Number(count) }, (_, index) =>
      addressOfNumber(first.family, numberOf(first) + BigInt(index)),
    );
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
