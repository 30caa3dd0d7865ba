import { formatIpv4, formatIpv6, parseIpv4, parseIpv6, type Words6 } from "./address.ts";

/** Prefixes of either family as text and as words. Cold. */

export interface Prefix {
  readonly family: 4 | 6;
  /** Canonical text, `ADDRESS/LENGTH`. */
  readonly text: string;
  /** First address: the words of IPv6; of IPv4 the first word, and zeros. */
  readonly words: Words6;
  /** 0..32 or 0..128. */
  readonly bits: number;
}

const LENGTH = /^(?:0|[1-9]\d{0,2})$/;

/** Bits of word `index` of an address that a prefix of `bits` compares, int32. */
export function maskWord(bits: number, index: number): number {
  const left = bits - 32 * index;
  if (left >= 32) return -1;
  return left <= 0 ? 0 : (-1 << (32 - left)) | 0;
}

/**
 * Read `ADDRESS/LENGTH`, or an address alone as the prefix of all its bits.
 *
 * @returns null when the text is neither; bits behind the prefix are cleared, and `isExact` is
 *   false when some were set
 */
export function parsePrefix(text: string): { prefix: Prefix; isExact: boolean } | null {
  const slash = text.indexOf("/");
  const head = slash < 0 ? text : text.slice(0, slash);
  const four = parseIpv4(head);
  const six = four === null ? parseIpv6(head) : null;
  if (four === null && six === null) return null;
  const family = four === null ? 6 : 4;
  const most = family === 4 ? 32 : 128;
  const length = slash < 0 ? String(most) : text.slice(slash + 1);
  if (!LENGTH.test(length) || Number(length) > most) return null;
  const bits = Number(length);
  const written: Words6 = six ?? [four ?? 0, 0, 0, 0];
  const words = written.map((word, index) => word & maskWord(bits, index)) as unknown as Words6;
  const isExact = words.every((word, index) => word === (written[index]! | 0));
  const address = family === 4 ? formatIpv4(words[0]) : formatIpv6(words);
  return { prefix: { family, text: `${address}/${bits}`, words, bits }, isExact };
}
