import { assert } from "../base/assert.ts";
import { HOPS_MAX, ROUTES_MAX } from "../base/limits.ts";
import {
  HOP_BYTES,
  PAGE_BYTES,
  type RegionLayout,
  type RegionViews,
  ROUTE_BYTES,
} from "./layout.ts";

/**
 * A hop table: where frames go on layer 2 (AF_PACKET only). Control writes the one of two that is
 * not in use, and publishes its number (H_HOPS_PUBLISHED); the worker takes it between batches.
 *
 *   header page | one row a backend slot | HOPS_MAX rows hashed by address | routes, longest first
 */

/** Words of the header page. */
export const HT_ROUTE_COUNT = 1;
/** Per interface of the device, at HT_INTERFACES + 4 * index: MTU, MAC high, MAC low, up (1/0). */
export const HT_INTERFACES = 16;

/** Words of a hop row (8). */
export const HOP_FLAGS = 0; // HOP_KNOWN | HOP_RESOLVED
export const HOP_ADDRESS = 1; // next hop, int32 host order
export const HOP_INTERFACE = 2; // index in the device's list
export const HOP_MTU = 3;
export const HOP_MAC_HIGH = 4; // destination MAC: first four bytes, big-endian
export const HOP_MAC_LOW = 5; // its last two bytes
export const HOP_WORDS = 8;

/** The row is in use. */
export const HOP_KNOWN = 1;
/** The MAC is known; without it frames are the drop `no_neighbour`. */
export const HOP_RESOLVED = 2;

/** Words of a route (4): sorted by prefix length, longest first. */
export const ROUTE_ADDRESS = 0;
export const ROUTE_MASK = 1;
/** Next hop, or 0: the destination itself is the neighbour. */
export const ROUTE_VIA = 2;
export const ROUTE_INTERFACE = 3; // index in the device's list | mtu << 8
export const ROUTE_WORDS = 4;

export interface Hop {
  /** Next hop, int32 host order. */
  readonly address: number;
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
    readonly address: number;
    readonly prefixLength: number;
    readonly via: number;
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

/** Row that a search for `address` starts at. */
export function hopHash(address: number): number {
  return Math.imul(address, 0x9e3779b1 | 0) >>> 20;
}
assert(HOPS_MAX === 1 << 12, "hopHash gives 12 bits");
assert(HOP_WORDS * 4 === HOP_BYTES && ROUTE_WORDS * 4 === ROUTE_BYTES, "rows have their size");

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
  const writeHop = (at: number, hop: Hop): void => {
    i32[at + HOP_FLAGS] = HOP_KNOWN | (hop.mac === null ? 0 : HOP_RESOLVED);
    i32[at + HOP_ADDRESS] = hop.address;
    i32[at + HOP_INTERFACE] = hop.interface;
    i32[at + HOP_MTU] = hop.mtu;
    i32[at + HOP_MAC_HIGH] = hop.mac === null ? 0 : macHigh(hop.mac);
    i32[at + HOP_MAC_LOW] = hop.mac === null ? 0 : macLow(hop.mac);
  };
  for (const [slot, hop] of plan.backends) {
    assert(slot >= 0 && slot < layout.backends, "a hop belongs to a backend slot");
    writeHop(base + (PAGE_BYTES >> 2) + slot * HOP_WORDS, hop);
  }
  const hashed = base + hashedHopsAt(layout);
  for (const hop of plan.neighbours) {
    let row = hopHash(hop.address);
    let looked = 0;
    // Eight rows, as the reader looks: a longer search would be time that a packet pays.
    while (looked < HOP_PROBES && i32[hashed + row * HOP_WORDS] !== 0) {
      row = (row + 1) & (HOPS_MAX - 1);
      looked++;
    }
    if (looked === HOP_PROBES) left++;
    else writeHop(hashed + row * HOP_WORDS, hop);
  }
  const routes = [...plan.routes].sort((a, b) => b.prefixLength - a.prefixLength);
  left += Math.max(0, routes.length - ROUTES_MAX);
  const routesFrom = base + routesAt(layout);
  routes.slice(0, ROUTES_MAX).forEach((route, index) => {
    const at = routesFrom + index * ROUTE_WORDS;
    i32[at + ROUTE_ADDRESS] = route.address;
    i32[at + ROUTE_MASK] = route.prefixLength === 0 ? 0 : -1 << (32 - route.prefixLength);
    i32[at + ROUTE_VIA] = route.via;
    i32[at + ROUTE_INTERFACE] = route.interface | (route.mtu << 8);
  });
  i32[base + HT_ROUTE_COUNT] = Math.min(routes.length, ROUTES_MAX);
  return left;
}

/** Rows looked at for a hashed next hop. */
export const HOP_PROBES = 8;
