import { assert } from "../base/assert.ts";
import { HOPS_MAX } from "../base/limits.ts";
import {
  F_CLIENT_ADDR,
  F_HOP_MAC_HIGH,
  F_HOP_MAC_LOW,
  F_STATE,
  KEY_IPV6,
  originalKeyOf,
  X_CLIENT,
} from "../flow/flow-record.ts";
import { BANK_LAST_HOP } from "../service/bank.ts";
import {
  HOP_ADDRESS,
  HOP_ADDRESS6,
  HOP_FLAGS,
  HOP_INTERFACE,
  HOP_IPV6,
  HOP_KNOWN,
  HOP_MAC_HIGH,
  HOP_MAC_LOW,
  HOP_MTU,
  HOP_PROBES,
  HOP_RESOLVED,
  HOP_WORDS,
  HT_INTERFACES,
  HT_ROUTE_COUNT,
  HT_ROUTE6_COUNT,
  hashedHopsAt,
  hopHash,
  hopHash6,
  ROUTE_ADDRESS,
  ROUTE_INTERFACE,
  ROUTE_MASK,
  ROUTE_VIA,
  ROUTE_WORDS,
  ROUTE6_ADDRESS,
  ROUTE6_INTERFACE,
  ROUTE6_MASK,
  ROUTE6_VIA,
  ROUTE6_WORDS,
  routes6At,
  routesAt,
} from "../state/hop-table.ts";
import {
  HOP_REQUEST_WORDS,
  HOP_REQUESTS,
  PAGE_BYTES,
  W_HOP_REQUEST_HEAD,
  W_HOP_REQUESTS,
} from "../state/layout.ts";
import {
  type Context,
  R_BANK,
  R_HOP_REQUESTS,
  R_HOPS,
  R_OUT_INTERFACE,
  R_OUT_MAC_HIGH,
  R_OUT_MAC_LOW,
  R_OUT_MTU,
} from "./context.ts";
import { DROP_NO_NEIGHBOUR, DROP_NO_ROUTE } from "./verdict.ts";

/** Requests to resolve a next hop that one batch may make: control reads them much more seldom. */
const HOP_REQUESTS_PER_BATCH = 4;
assert(HOP_REQUESTS_PER_BATCH < HOP_REQUESTS, "one batch cannot overrun the ring of requests");

/** 0, or the drop reason. */
export const HOP_FOUND = 0;
assert(
  (DROP_NO_NEIGHBOUR as number) !== HOP_FOUND && (DROP_NO_ROUTE as number) !== HOP_FOUND,
  "no drop reason of a next hop is 0",
);

/**
 * Where a frame goes on layer 2. Each function fills R_OUT_INTERFACE, R_OUT_MTU and the MAC, and
 * returns HOP_FOUND, or the drop reason. On TUN the kernel routes: only the MTU is looked up, and a
 * path that is not known is not checked.
 */
export interface Hops {
  /** Either family: the slot's row has the way to it. */
  toBackend(slot: number): number;
  /** The client of the flow at `flowWord`: its last hop, or its route (`device.replies`). */
  toClient(flowWord: number): number;
  /** Any IPv4 address (int32, host order), by the host's routes. */
  byRoute(address: number): number;
  /** Any IPv6 address: int32 index of its four words. */
  byRoute6(addressWord: number): number;
}

export function createHops(context: Context): Hops {
  const { i32, layout, link, registers, table: flowTable } = context;
  const hashed = hashedHopsAt(layout);
  const routes = routesAt(layout);
  const routes6 = routes6At(layout);
  const requestHead = layout.workerWord + W_HOP_REQUEST_HEAD;
  const requests = layout.workerWord + W_HOP_REQUESTS;
  const interfaceCount = context.device.interfaces.length;

  function request(w0: number, w1: number, w2: number, w3: number, interfaceIndex: number): void {
    const made = registers[R_HOP_REQUESTS]!;
    if (made >= HOP_REQUESTS_PER_BATCH) return;
    registers[R_HOP_REQUESTS] = made + 1;
    const head = i32[requestHead]!;
    const at = requests + HOP_REQUEST_WORDS * (head & (HOP_REQUESTS - 1));
    i32[at] = interfaceIndex;
    i32[at + 1] = w0;
    i32[at + 2] = w1;
    i32[at + 3] = w2;
    i32[at + 4] = w3;
    Atomics.store(i32, requestHead, (head + 1) | 0);
  }

  function request4(address: number, interfaceIndex: number): void {
    request(0, 0, 0xffff, address, interfaceIndex);
  }

  /** The address of four words at `word`. */
  function request6(word: number, interfaceIndex: number): void {
    request(i32[word]!, i32[word + 1]!, i32[word + 2]!, i32[word + 3]!, interfaceIndex);
  }

  function take(row: number): number {
    registers[R_OUT_INTERFACE] = i32[row + HOP_INTERFACE]!;
    registers[R_OUT_MTU] = i32[row + HOP_MTU]!;
    registers[R_OUT_MAC_HIGH] = i32[row + HOP_MAC_HIGH]!;
    registers[R_OUT_MAC_LOW] = i32[row + HOP_MAC_LOW]!;
    if ((i32[row + HOP_FLAGS]! & HOP_RESOLVED) !== 0 || link === 0) return HOP_FOUND;
    if ((i32[row + HOP_FLAGS]! & HOP_IPV6) === 0) {
      request4(i32[row + HOP_ADDRESS]!, i32[row + HOP_INTERFACE]!);
    } else request6(row + HOP_ADDRESS6, i32[row + HOP_INTERFACE]!);
    return DROP_NO_NEIGHBOUR;
  }

  function unknown(): number {
    registers[R_OUT_INTERFACE] = 0;
    registers[R_OUT_MTU] = 0;
    return link === 0 ? HOP_FOUND : DROP_NO_ROUTE;
  }

  function toBackend(slot: number): number {
    const table = registers[R_HOPS]!;
    if (table === 0) return unknown();
    const row = table + (PAGE_BYTES >> 2) + slot * HOP_WORDS;
    if ((i32[row + HOP_FLAGS]! & HOP_KNOWN) === 0) return unknown();
    return take(row);
  }

  function toClient(flowWord: number): number {
    if (lastHop(flowWord)) return HOP_FOUND;
    if ((originalKeyOf(i32[flowWord + F_STATE]!) & KEY_IPV6) === 0) {
      return byRoute(i32[flowWord + F_CLIENT_ADDR]!);
    }
    return byRoute6(flowTable.extensionOf(flowWord) + X_CLIENT);
  }

  /** Takes the hop that the flow's client last came by. @returns whether it is to be taken */
  function lastHop(flowWord: number): boolean {
    const low = i32[flowWord + F_HOP_MAC_LOW]!;
    const egress = low & 0xffff;
    if (link === 0 || i32[registers[R_BANK]! + BANK_LAST_HOP] === 0 || egress >= interfaceCount) {
      return false;
    }
    registers[R_OUT_INTERFACE] = egress;
    registers[R_OUT_MTU] = i32[registers[R_HOPS]! + HT_INTERFACES + 4 * egress]!;
    registers[R_OUT_MAC_HIGH] = i32[flowWord + F_HOP_MAC_HIGH]!;
    registers[R_OUT_MAC_LOW] = low >>> 16;
    return true;
  }

  function byRoute(address: number): number {
    const table = registers[R_HOPS]!;
    if (table === 0) return unknown();
    const count = i32[table + HT_ROUTE_COUNT]!;
    for (let index = 0, at = table + routes; index < count; index++, at += ROUTE_WORDS) {
      if ((address & i32[at + ROUTE_MASK]!) !== i32[at + ROUTE_ADDRESS]) continue;
      const via = i32[at + ROUTE_VIA]!;
      const egress = i32[at + ROUTE_INTERFACE]! & 0xff;
      const mtu = i32[at + ROUTE_INTERFACE]! >>> 8;
      registers[R_OUT_INTERFACE] = egress;
      registers[R_OUT_MTU] = mtu;
      if (link === 0) return HOP_FOUND;
      // A route that leaves by an interface that is not the device's hides the wider ones.
      if (egress >= interfaceCount) return DROP_NO_ROUTE;
      const found = neighbour(table, via === 0 ? address : via, egress);
      if (mtu < registers[R_OUT_MTU]!) registers[R_OUT_MTU] = mtu;
      return found;
    }
    return unknown();
  }

  function neighbour(table: number, address: number, egress: number): number {
    let index = hopHash(address);
    for (let looked = 0; looked < HOP_PROBES; looked++) {
      const row = table + hashed + index * HOP_WORDS;
      if (i32[row + HOP_FLAGS] === 0) break;
      // An IPv6 neighbour has 0 there, which is no neighbour of IPv4.
      if (i32[row + HOP_ADDRESS] === address) return take(row);
      index = (index + 1) & (HOPS_MAX - 1);
    }
    request4(address, egress);
    return DROP_NO_NEIGHBOUR;
  }

  function byRoute6(address: number): number {
    const table = registers[R_HOPS]!;
    if (table === 0) return unknown();
    const w0 = i32[address]!;
    const w1 = i32[address + 1]!;
    const w2 = i32[address + 2]!;
    const w3 = i32[address + 3]!;
    const count = i32[table + HT_ROUTE6_COUNT]!;
    for (let index = 0, at = table + routes6; index < count; index++, at += ROUTE6_WORDS) {
      const differs =
        ((w0 & i32[at + ROUTE6_MASK]!) ^ i32[at + ROUTE6_ADDRESS]!) |
        ((w1 & i32[at + ROUTE6_MASK + 1]!) ^ i32[at + ROUTE6_ADDRESS + 1]!) |
        ((w2 & i32[at + ROUTE6_MASK + 2]!) ^ i32[at + ROUTE6_ADDRESS + 2]!) |
        ((w3 & i32[at + ROUTE6_MASK + 3]!) ^ i32[at + ROUTE6_ADDRESS + 3]!);
      if (differs !== 0) continue;
      const via = at + ROUTE6_VIA;
      const egress = i32[at + ROUTE6_INTERFACE]! & 0xff;
      const mtu = i32[at + ROUTE6_INTERFACE]! >>> 8;
      registers[R_OUT_INTERFACE] = egress;
      registers[R_OUT_MTU] = mtu;
      if (link === 0) return HOP_FOUND;
      if (egress >= interfaceCount) return DROP_NO_ROUTE;
      const onLink = (i32[via]! | i32[via + 1]! | i32[via + 2]! | i32[via + 3]!) === 0;
      const found = neighbour6(table, onLink ? address : via, egress);
      if (mtu < registers[R_OUT_MTU]!) registers[R_OUT_MTU] = mtu;
      return found;
    }
    return unknown();
  }

  function neighbour6(table: number, address: number, egress: number): number {
    const w0 = i32[address]!;
    const w1 = i32[address + 1]!;
    const w2 = i32[address + 2]!;
    const w3 = i32[address + 3]!;
    let index = hopHash6(w0, w1, w2, w3, egress);
    for (let looked = 0; looked < HOP_PROBES; looked++) {
      const row = table + hashed + index * HOP_WORDS;
      if (i32[row + HOP_FLAGS] === 0) break;
      const differs =
        (i32[row + HOP_ADDRESS6]! ^ w0) |
        (i32[row + HOP_ADDRESS6 + 1]! ^ w1) |
        (i32[row + HOP_ADDRESS6 + 2]! ^ w2) |
        (i32[row + HOP_ADDRESS6 + 3]! ^ w3) |
        (i32[row + HOP_INTERFACE]! ^ egress);
      if (differs === 0) return take(row);
      index = (index + 1) & (HOPS_MAX - 1);
    }
    request6(address, egress);
    return DROP_NO_NEIGHBOUR;
  }

  return { toBackend, toClient, byRoute, byRoute6 };
}
