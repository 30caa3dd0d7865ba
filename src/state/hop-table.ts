import { type Address, prefixMask6 } from "../base/address.ts";
import { assert } from "../base/assert.ts";
import { HOPS_MAX, ROUTES_MAX } from "../base/limits.ts";
import {
  HOP_BYTES,
  PAGE_BYTES,
  type RegionLayout,
  type RegionViews,
  ROUTE_BYTES,
  ROUTE6_BYTES,
} from "./layout.ts";

/**
 * A hop table: where frames go on layer 2 (AF_PACKET only). Control writes the one of two that is
 * not in use, and publishes its number (H_HOPS_PUBLISHED); the worker takes it between batches.
 *
 *   header page | one row a backend slot | HOPS_MAX rows hashed by address
 *               | IPv4 routes, longest first | IPv6 routes, longest first
 */

/** Words of the header page. */
export const HT_ROUTE_COUNT = 1;
/** Routes of IPv6. */
export const HT_ROUTE6_COUNT = 2;
/** Per interface of the device, at HT_INTERFACES + 4 * index: MTU, MAC high, MAC low, up (1/0). */
export const HT_INTERFACES = 16;

/** Words of a hop row (16: a cache line). */
export const HOP_FLAGS = 0; // HOP_KNOWN | HOP_RESOLVED | HOP_IPV6
export const HOP_ADDRESS = 1; // next hop of IPv4, int32 host order; 0 for IPv6
export const HOP_INTERFACE = 2; // index in the device's list
export const HOP_MTU = 3;
export const HOP_MAC_HIGH = 4; // destination MAC: first four bytes, big-endian
export const HOP_MAC_LOW = 5; // its last two bytes
export const HOP_ADDRESS6 = 8; // next hop of IPv6, four words in host order; 0 for IPv4
export const HOP_WORDS = 16;

/** The row is in use. */
export const HOP_KNOWN = 1;
/** The MAC is known; without it frames are the drop `no_neighbour`. */
export const HOP_RESOLVED = 2;
/** The next hop is IPv6: often a link-local address, which means something on its interface only. */
export const HOP_IPV6 = 4;

/** Words of an IPv4 route (4): sorted by prefix length, longest first. */
export const ROUTE_ADDRESS = 0;
export const ROUTE_MASK = 1;
/** Next hop, or 0: the destination itself is the neighbour. */
export const ROUTE_VIA = 2;
export const ROUTE_INTERFACE = 3; // index in the device's list | mtu << 8
export const ROUTE_WORDS = 4;

/** Words of an IPv6 route (16), likewise sorted. */
export const ROUTE6_ADDRESS = 0; // four words
export const ROUTE6_MASK = 4; // four words
/** Next hop, or `::`: the destination itself is the neighbour. */
export const ROUTE6_VIA = 8; // four words
export const ROUTE6_INTERFACE = 12; // index in the device's list | mtu << 8
export const ROUTE6_WORDS = 16;

export interface Hop {
  /** Next hop. */
  readonly address: Address;
  /** Index in the device's list. */
  readonly interface: number;
  readonly mtu: number;
  /** `aa:bb:cc:dd:ee:ff`, or null while the kernel resolves it. */
  readonly mac: string | null;
}

export interface HopPlan {
  /** By backend slot. */
  readonly backends: ReadonlyMap<number, Hop>;
  /** Every other next hop. */
  readonly neighbours: readonly Hop[];
  readonly routes: readonly {
    /** No bit set behind the prefix. */
    readonly address: Address;
    /** 0..32, or 0..128. */
    readonly prefixLength: number;
    /** Of the same family; null: the destination itself is the neighbour. */
    readonly via: Address | null;
    readonly interface: number;
    readonly mtu: number;
  }[];
  /** By index in the device's list. */
  readonly interfaces: readonly {
    readonly mtu: number;
    readonly mac: string;
    readonly up: boolean;
  }[];
}

/** First word of the hashed rows, relative to the table's first word. */
export function hashedHopsAt(layout: RegionLayout): number {
  return (PAGE_BYTES + layout.backends * HOP_BYTES) >> 2;
}

/** First word of the routes, relative to the table's first word. */
export function routesAt(layout: RegionLayout): number {
  return (PAGE_BYTES + (layout.backends + HOPS_MAX) * HOP_BYTES) >> 2;
}

/** First word of the IPv6 routes, relative to the table's first word. */
export function routes6At(layout: RegionLayout): number {
  return routesAt(layout) + ROUTES_MAX * ROUTE_WORDS;
}

/** Row that a search for `address` starts at. */
export function hopHash(address: number): number {
  return Math.imul(address, 0x9e3779b1 | 0) >>> 20;
}

/** Row that a search for an IPv6 neighbour starts at: its words, and the interface's index. */
export function hopHash6(w0: number, w1: number, w2: number, w3: number, egress: number): number {
  let hash = Math.imul(w0 ^ egress, 0x9e3779b1 | 0);
  hash = Math.imul(hash ^ (hash >>> 15) ^ w1, 0x85ebca6b | 0);
  hash = Math.imul(hash ^ (hash >>> 15) ^ w2, 0xc2b2ae35 | 0);
  return Math.imul(hash ^ (hash >>> 15) ^ w3, 0x9e3779b1 | 0) >>> 20;
}
assert(HOPS_MAX === 1 << 12, "hopHash and hopHash6 give 12 bits");
assert(HOP_WORDS * 4 === HOP_BYTES && ROUTE_WORDS * 4 === ROUTE_BYTES, "rows have their size");
assert(ROUTE6_WORDS * 4 === ROUTE6_BYTES, "rows of IPv6 have their size");

/** First four bytes of a MAC, big-endian, as int32. */
export function macHigh(mac: string): number {
  return Number.parseInt(mac.replaceAll(":", "").slice(0, 8), 16) | 0;
}

/** Last two bytes of a MAC. */
export function macLow(mac: string): number {
  return Number.parseInt(mac.replaceAll(":", "").slice(8, 12), 16);
}

/**
 * Write a whole table.
 *
 * @param which - 0 or 1; not the one that is published or taken
 * @returns neighbours and routes that found no room (0 when all is well); the longest prefixes and
 *   the first neighbours are kept
 */
export function writeHopTable(views: RegionViews, which: 0 | 1, plan: HopPlan): number {
  const { i32, layout } = views;
  const section = layout.hops[which];
  const base = section.at >> 2;
  i32.fill(0, base, base + (section.bytes >> 2));
  let left = 0;
  plan.interfaces.forEach((entry, index) => {
    const at = base + HT_INTERFACES + 4 * index;
    i32[at] = entry.mtu;
    i32[at + 1] = macHigh(entry.mac);
    i32[at + 2] = macLow(entry.mac);
    i32[at + 3] = entry.up ? 1 : 0;
  });
  for (const [slot, hop] of plan.backends) {
    assert(slot >= 0 && slot < layout.backends, "a hop belongs to a backend slot");
    writeHop(i32, base + (PAGE_BYTES >> 2) + slot * HOP_WORDS, hop);
  }
  const hashed = base + hashedHopsAt(layout);
  for (const hop of plan.neighbours) {
    const { address } = hop;
    let row =
      address.family === 4 ? hopHash(address.value) : hopHash6(...address.words, hop.interface);
    let looked = 0;
    // Eight rows, as the reader looks: a longer search would be time that a packet pays.
    while (looked < HOP_PROBES && i32[hashed + row * HOP_WORDS] !== 0) {
      row = (row + 1) & (HOPS_MAX - 1);
      looked++;
    }
    if (looked === HOP_PROBES) left++;
    else writeHop(i32, hashed + row * HOP_WORDS, hop);
  }
  return left + writeRoutes(i32, base, layout, plan.routes);
}

function writeHop(i32: Int32Array, at: number, hop: Hop): void {
  const family = hop.address.family === 6 ? HOP_IPV6 : 0;
  i32[at + HOP_FLAGS] = HOP_KNOWN | (hop.mac === null ? 0 : HOP_RESOLVED) | family;
  i32[at + HOP_ADDRESS] = hop.address.value;
  i32[at + HOP_INTERFACE] = hop.interface;
  i32[at + HOP_MTU] = hop.mtu;
  i32[at + HOP_MAC_HIGH] = hop.mac === null ? 0 : macHigh(hop.mac);
  i32[at + HOP_MAC_LOW] = hop.mac === null ? 0 : macLow(hop.mac);
  if (family !== 0) i32.set(hop.address.words, at + HOP_ADDRESS6);
}

/** @returns routes that found no room */
function writeRoutes(
  i32: Int32Array,
  base: number,
  layout: RegionLayout,
  routes: HopPlan["routes"],
): number {
  const sorted = [...routes].sort((a, b) => b.prefixLength - a.prefixLength);
  const four = sorted.filter(({ address }) => address.family === 4);
  const six = sorted.filter(({ address }) => address.family === 6);
  four.slice(0, ROUTES_MAX).forEach((route, index) => {
    const at = base + routesAt(layout) + index * ROUTE_WORDS;
    i32[at + ROUTE_ADDRESS] = route.address.value;
    i32[at + ROUTE_MASK] = route.prefixLength === 0 ? 0 : -1 << (32 - route.prefixLength);
    i32[at + ROUTE_VIA] = route.via?.value ?? 0;
    i32[at + ROUTE_INTERFACE] = route.interface | (route.mtu << 8);
  });
  six.slice(0, ROUTES_MAX).forEach((route, index) => {
    const at = base + routes6At(layout) + index * ROUTE6_WORDS;
    i32.set(route.address.words, at + ROUTE6_ADDRESS);
    i32.set(prefixMask6(route.prefixLength), at + ROUTE6_MASK);
    if (route.via !== null) i32.set(route.via.words, at + ROUTE6_VIA);
    i32[at + ROUTE6_INTERFACE] = route.interface | (route.mtu << 8);
  });
  i32[base + HT_ROUTE_COUNT] = Math.min(four.length, ROUTES_MAX);
  i32[base + HT_ROUTE6_COUNT] = Math.min(six.length, ROUTES_MAX);
  return Math.max(0, four.length - ROUTES_MAX) + Math.max(0, six.length - ROUTES_MAX);
}

/** Rows looked at for a hashed next hop. */
export const HOP_PROBES = 8;
