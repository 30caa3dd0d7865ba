import { type Address, addressBits, isInPrefix } from "../base/address.ts";
import {
  A_IS_BACKEND,
  A_IS_HOST,
  A_IS_IPV6,
  A_IS_PREFIX,
  A_IS_SNAT,
  A_IS_TUNNEL,
  A_IS_VIP,
} from "./bank.ts";
import type { BackendDefinition, GatewayDefinition, PortRange, VipAddress } from "./definition.ts";
import type { AssignedService, SlotAssignment } from "./slots.ts";

/** Ports of an address that belong to one service. */
export interface Interval extends PortRange {
  /** Service slot. */
  readonly service: number;
}

/** What a bank says of one address or prefix. */
export interface KnownAddress {
  readonly address: Address;
  /** A prefix where it is less than the bits of the address. */
  readonly prefixLength: number;
  /** A_IS_…, without A_USED. */
  flags: number;
  answersPing: boolean;
  /** As configured; may overlap. */
  readonly tcp: Interval[];
  readonly udp: Interval[];
}

const ANY_PORT: PortRange = { low: 0, high: 65_535 };

/**
 * Every address that the gateway knows: VIPs, SNAT addresses, `nat` backends and the host's own; and
 * every prefix. What is in a prefix has its ports too, as far as no longer prefix or the address
 * itself has them: so the first entry that a search finds says all.
 *
 * @param isAlive - whether a backend of the service takes new flows without need of panic
 */
export function knownAddresses(
  definition: GatewayDefinition,
  assignment: SlotAssignment,
  isAlive: (service: AssignedService) => boolean,
  hostAddresses: readonly Address[],
): KnownAddress[] {
  const known = new Map<string, KnownAddress>();
  const at = (address: VipAddress): KnownAddress => {
    const found = known.get(address.text) ?? newAddress(address);
    known.set(address.text, found);
    return found;
  };
  for (const service of assignment.services) {
    const { definition: one, protocol, slot } = service;
    const answers = one.ping === "always" || (one.ping === "healthy" && isAlive(service));
    for (const vip of one.vips) {
      const address = at(vip);
      address.flags |= A_IS_VIP;
      address.answersPing ||= answers;
      for (const { low, high } of one.ports) address[protocol].push({ low, high, service: slot });
    }
    if (one.mode !== "nat") continue;
    const { sorry } = one.noBackend;
    const servers: Pick<BackendDefinition, "address" | "port">[] = [...one.backends];
    if (sorry !== null) servers.push(sorry);
    for (const { address: server, port } of servers) {
      const address = at(server);
      address.flags |= A_IS_BACKEND;
      const ports = port === 0 ? ANY_PORT : { low: port, high: port };
      address[protocol].push({ ...ports, service: slot });
    }
  }
  for (const address of definition.snat.addresses) at(address).flags |= A_IS_SNAT;
  const { sourceIpv4, sourceIpv6 } = definition.tunnel;
  for (const address of [sourceIpv4, sourceIpv6]) {
    if (address !== null) at(address).flags |= A_IS_TUNNEL;
  }
  for (const address of hostAddresses) at(address).flags |= A_IS_HOST;
  const all = [...known.values()];
  inheritFromPrefixes(all);
  return all;
}

function newAddress(address: VipAddress): KnownAddress {
  const prefixLength = address.prefixLength ?? addressBits(address);
  const flags =
    (address.family === 6 ? A_IS_IPV6 : 0) |
    (prefixLength < addressBits(address) ? A_IS_PREFIX : 0);
  return { address, prefixLength, flags, answersPing: false, tcp: [], udp: [] };
}

/** A VIP in a prefix, or an address of the host there, is also what the prefix is. */
function inheritFromPrefixes(all: readonly KnownAddress[]): void {
  const prefixes = all
    .filter(({ flags }) => (flags & A_IS_PREFIX) !== 0)
    .toSorted((a, b) => b.prefixLength - a.prefixLength);
  if (prefixes.length === 0) return;
  const own = new Map(prefixes.map((it) => [it, { tcp: [...it.tcp], udp: [...it.udp] }]));
  for (const one of all) {
    if ((one.flags & (A_IS_VIP | A_IS_HOST)) === 0) continue;
    for (const prefix of prefixes) {
      if (prefix.prefixLength >= one.prefixLength) continue;
      if (!isInPrefix(one.address, prefix.address, prefix.prefixLength)) continue;
      // Each is cut by itself first: an exact port of a shorter prefix does not beat a range of a
      // longer one.
      for (const protocol of ["tcp", "udp"] as const) {
        const merged = fillGaps(flattenIntervals(one[protocol]), own.get(prefix)![protocol]);
        one[protocol].splice(0, Infinity, ...merged);
      }
      if ((one.flags & A_IS_VIP) === 0) one.answersPing = prefix.answersPing;
      one.flags |= A_IS_VIP;
    }
  }
}

/** @returns `first`, and of `second` what lies between */
function fillGaps(first: readonly Interval[], second: readonly Interval[]): Interval[] {
  const filled: Interval[] = [...first];
  for (const { low, high, service } of flattenIntervals(second)) {
    let from = low;
    for (const taken of first) {
      if (taken.high < from || taken.low > high) continue;
      if (taken.low > from) filled.push({ low: from, high: taken.low - 1, service });
      from = taken.high + 1;
    }
    if (from <= high) filled.push({ low: from, high, service });
  }
  return filled.toSorted((a, b) => a.low - b.low);
}

const EXACT = 0;
const RANGE = 1;
const ANY = 2;

function precisionOf({ low, high }: PortRange): number {
  if (low === high) return EXACT;
  return low <= 1 && high === 65_535 ? ANY : RANGE;
}

/**
 * Cut intervals so that none overlap: an exact port beats a range, and a range beats any (design
 * section 3). Of equal precision, which the configuration refuses for VIPs, the first one wins.
 *
 * @returns sorted by port; neighbours of one service are one interval
 */
export function flattenIntervals(intervals: readonly Interval[]): Interval[] {
  const edges = intervals.flatMap((interval, order) => [
    { at: interval.low, order, interval, opens: true },
    { at: interval.high + 1, order, interval, opens: false },
  ]);
  edges.sort((a, b) => a.at - b.at);
  // Open intervals by precision; each holds one but where backends are shared between services.
  const open: { order: number; interval: Interval }[][] = [[], [], []];
  const flat: Interval[] = [];
  edges.forEach((edge, index) => {
    const level = open[precisionOf(edge.interval)]!;
    if (edge.opens) level.push(edge);
    else
      level.splice(
        level.findIndex(({ order }) => order === edge.order),
        1,
      );
    const end = edges[index + 1]?.at ?? edge.at;
    const holders = open.find((candidates) => candidates.length > 0);
    if (end === edge.at || holders === undefined) return;
    const holder = holders.reduce((first, other) => (other.order < first.order ? other : first));
    const last = flat.at(-1);
    const { service } = holder.interval;
    if (last !== undefined && last.service === service && last.high + 1 === edge.at) {
      flat[flat.length - 1] = { ...last, high: end - 1 };
    } else flat.push({ low: edge.at, high: end - 1, service });
  });
  return flat;
}
