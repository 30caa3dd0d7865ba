import { assert } from "./assert.ts";

/**
 * IPv4 addresses as text and as int32 in host order (198.51.100.2 = 0xC6336402 | 0); IPv6 addresses
 * as text (RFC 5952) and as four such words. Cold.
 */

/** The words of an IPv6 address, first word first, each int32 in host order. */
export type Words6 = readonly [number, number, number, number];

/** An address of either family. */
export interface Address {
  readonly family: 4 | 6;
  /** Canonical text. */
  readonly text: string;
  /** IPv4: int32 in host order. IPv6: 0. */
  readonly value: number;
  /** IPv6: its words. IPv4: the mapped address ::ffff:a.b.c.d. */
  readonly words: Words6;
}

/** An address with a prefix length 0..32. Bits after the prefix are kept as they were written. */
export interface Cidr {
  readonly address: number;
  readonly prefixLength: number;
}

/** The same for IPv6: 0..128 bits. */
export interface Cidr6 {
  readonly words: Words6;
  readonly prefixLength: number;
}

const PART = /^(?:0|[1-9]\d{0,2})$/;

/**
 * Read a dotted quad: four decimal numbers 0..255, no leading zero (RFC 6943 3.1.1: a leading zero
 * reads as octal elsewhere), no blanks, no short forms.
 *
 * @returns int32 in host order, or null when the text is anything else
 */
export function parseIpv4(text: string): number | null {
  const parts = text.split(".");
  if (parts.length !== 4) return null;
  let address = 0;
  for (const part of parts) {
    if (!PART.test(part)) return null;
    const value = Number(part);
    if (value > 255) return null;
    address = (address << 8) | value;
  }
  return address;
}

/** Write an address (int32 or uint32, host order) as a dotted quad. */
export function formatIpv4(value: number): string {
  return `${value >>> 24}.${(value >>> 16) & 255}.${(value >>> 8) & 255}.${value & 255}`;
}

/**
 * Read `ADDRESS/LENGTH` (RFC 4632 3.1), or `ADDRESS` alone as a prefix of 32.
 *
 * @returns null when the text is anything else; bits after the prefix may be set
 */
export function parseCidr(text: string): Cidr | null {
  const slash = text.indexOf("/");
  const address = parseIpv4(slash < 0 ? text : text.slice(0, slash));
  if (address === null) return null;
  if (slash < 0) return { address, prefixLength: 32 };
  const length = text.slice(slash + 1);
  if (!PART.test(length) || Number(length) > 32) return null;
  return { address, prefixLength: Number(length) };
}

/**
 * The bits that a prefix compares: `((a ^ b) & prefixMask(length)) === 0`.
 *
 * @param prefixLength - 0..32
 * @returns int32 in host order
 */
export function prefixMask(prefixLength: number): number {
  assert(prefixLength >= 0 && prefixLength <= 32, "a prefix of IPv4 has 0..32 bits");
  return prefixLength === 0 ? 0 : (-1 << (32 - prefixLength)) | 0;
}

/** The same for IPv6. @param prefixLength - 0..128 */
export function prefixMask6(prefixLength: number): Words6 {
  assert(prefixLength >= 0 && prefixLength <= 128, "a prefix of IPv6 has 0..128 bits");
  const word = (index: number): number =>
    prefixMask(Math.min(32, Math.max(0, prefixLength - 32 * index)));
  return [word(0), word(1), word(2), word(3)];
}

/** Bits of an address: 32 or 128. */
export function addressBits({ family }: Address): 32 | 128 {
  return family === 4 ? 32 : 128;
}

/** Whether an address is of a prefix's family and has its first `prefixLength` bits. */
export function isInPrefix(address: Address, prefix: Address, prefixLength: number): boolean {
  if (address.family !== prefix.family) return false;
  const mask = prefixMask6(prefixLength + 128 - addressBits(prefix));
  return mask.every((bits, word) => ((address.words[word]! ^ prefix.words[word]!) & bits) === 0);
}

/** For sorting: IPv4 before global IPv6, each in numeric order. */
export function compareAddresses(a: Address, b: Address): number {
  for (let word = 0; word < 4; word++) {
    const difference = (a.words[word]! >>> 0) - (b.words[word]! >>> 0);
    if (difference !== 0) return difference;
  }
  return 0;
}

/** Read a prefix of either family, or an address as one of all its bits; null: it is neither. */
export function parsePrefix(text: string): Cidr | Cidr6 | null {
  if (!text.includes(":")) return parseCidr(text);
  const [address = "", length = "128", more] = text.split("/");
  const words = parseIpv6(address);
  const isLength = PART.test(length) && Number(length) <= 128;
  if (words === null || more !== undefined || !isLength) return null;
  return { words, prefixLength: Number(length) };
}

/** `ADDRESS:PORT`. */
export function formatEndpoint(address: number, port: number): string {
  return `${formatIpv4(address)}:${port}`;
}

/** @param value - IPv4, int32 or uint32 in host order */
export function addressOf4(value: number): Address {
  const signed = value | 0;
  return { family: 4, text: formatIpv4(value), value: signed, words: [0, 0, 0xffff, signed] };
}

export function addressOf6(words: Words6): Address {
  return { family: 6, text: formatIpv6(words), value: 0, words };
}

/** The address of four words; a mapped one (::ffff:a.b.c.d) is IPv4. */
export function addressOfWords(words: Words6): Address {
  const isMapped = words[0] === 0 && words[1] === 0 && words[2] === 0xffff;
  return isMapped ? addressOf4(words[3]) : addressOf6(words);
}

/**
 * An address of either family, without brackets.
 *
 * @returns null when the text is neither: also for a zone (`fe80::1%eth0`) and for IPv4 in a form
 *   that is octal elsewhere
 */
export function parseAddress(text: string): Address | null {
  const four = parseIpv4(text);
  if (four !== null) return addressOf4(four);
  const six = parseIpv6(text);
  return six === null ? null : addressOf6(six);
}

const GROUP = /^[0-9a-fA-F]{1,4}$/;

/**
 * Read an IPv6 address (RFC 4291 section 2.2): groups of hexadecimal digits, at most one `::`, and
 * a dotted quad as the last two groups.
 *
 * @returns null when the text is anything else; a zone is
 */
export function parseIpv6(text: string): Words6 | null {
  const halves = text.split("::");
  if (halves.length > 2) return null;
  const head = groupsOf(halves[0]!, halves.length === 1);
  const tail = halves.length === 2 ? groupsOf(halves[1]!, true) : [];
  if (head === null || tail === null) return null;
  const missing = 8 - head.length - tail.length;
  // "::" stands for at least one group (RFC 5952 section 4.2.2 only advises two, so one is read).
  if (halves.length === 2 ? missing < 1 : missing !== 0) return null;
  const groups = [...head, ...new Array<number>(missing).fill(0), ...tail];
  const word = (at: number): number => (groups[at]! << 16) | groups[at + 1]!;
  return [word(0), word(2), word(4), word(6)];
}

/** @param mayEndInQuad - the groups are the last of the address */
function groupsOf(text: string, mayEndInQuad: boolean): number[] | null {
  if (text === "") return [];
  const groups: number[] = [];
  const parts = text.split(":");
  for (const [index, part] of parts.entries()) {
    if (part.includes(".")) {
      const quad = mayEndInQuad && index === parts.length - 1 ? parseIpv4(part) : null;
      if (quad === null) return null;
      groups.push(quad >>> 16, quad & 0xffff);
    } else {
      if (!GROUP.test(part)) return null;
      groups.push(Number.parseInt(part, 16));
    }
  }
  return groups;
}

/** Write an IPv6 address as RFC 5952 section 4 has it: lower case, the longest run of zeros as `::`. */
export function formatIpv6(words: Words6): string {
  const groups = words.flatMap((word) => [word >>> 16, word & 0xffff]);
  if (words[0] === 0 && words[1] === 0 && words[2] === 0xffff) {
    return `::ffff:${formatIpv4(words[3])}`;
  }
  let best = -1;
  let bestLength = 1;
  for (let from = 0; from < 8; from++) {
    let length = 0;
    while (from + length < 8 && groups[from + length] === 0) length++;
    if (length > bestLength) [best, bestLength] = [from, length];
  }
  const text = (part: readonly number[]): string => part.map((g) => g.toString(16)).join(":");
  if (best < 0) return text(groups);
  return `${text(groups.slice(0, best))}::${text(groups.slice(best + bestLength))}`;
}

/** The first address of the prefix that an address lies in. @param prefixLength - 0..32, or 0..128 */
export function addressOfPrefix(address: Address, prefixLength: number): Address {
  const { family, value, words } = address;
  if (family === 4) return addressOf4(value & prefixMask(prefixLength));
  const mask = prefixMask6(prefixLength);
  return addressOf6([
    words[0] & mask[0],
    words[1] & mask[1],
    words[2] & mask[2],
    words[3] & mask[3],
  ]);
}

/** An address as one number, to count with. */
export function numberOf({ family, value, words }: Address): bigint {
  if (family === 4) return BigInt(value >>> 0);
  return words.reduce((number, word) => (number << 32n) | BigInt(word >>> 0), 0n);
}

/** The other way. */
export function addressOfNumber(family: 4 | 6, number: bigint): Address {
  const word = (shift: bigint): number => Number(BigInt.asIntN(32, number >> shift));
  return family === 4
    ? addressOf4(word(0n))
    : addressOf6([word(96n), word(64n), word(32n), word(0n)]);
}

/** `ADDRESS:PORT`, `[ADDRESS]:PORT` for IPv6; without the port where it is 0. */
export function endpointOf({ family, text }: Address, port: number): string {
  if (port === 0) return text;
  return family === 6 ? `[${text}]:${port}` : `${text}:${port}`;
}
