import { assert } from "./assert.ts";

/** IPv4 addresses as text and as int32 in host order (198.51.100.2 = 0xC6336402 | 0). Cold. */

/** An address with a prefix length 0..32. Bits after the prefix are kept as they were written. */
export interface Cidr {
  readonly address: number;
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

/** `ADDRESS:PORT`. */
export function formatEndpoint(address: number, port: number): string {
  return `${formatIpv4(address)}:${port}`;
}
