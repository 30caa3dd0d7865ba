import { A_IS_BACKEND, A_IS_HOST, A_IS_SNAT, A_IS_TUNNEL, A_IS_VIP } from "./bank.ts";
import type { BackendDefinition, GatewayDefinition, PortRange } from "./definition.ts";
import type { AssignedService, SlotAssignment } from "./slots.ts";

/** Ports of an address that belong to one service. */
export interface Interval extends PortRange {
  /** Service slot. */
  readonly service: number;
}

/** What a bank says of one address. */
export interface KnownAddress {
  /** A_IS_…, without A_USED. */
  flags: number;
  answersPing: boolean;
  /** As configured; may overlap. */
  readonly tcp: Interval[];
  readonly udp: Interval[];
}

const ANY_PORT: PortRange = { low: 0, high: 65_535 };

/**
 * Every address that the gateway knows, by its value: VIPs, SNAT addresses, `nat` backends and the
 * host's own.
 *
 * @param isAlive - whether a backend of the service takes new flows without need of panic
 */
export function knownAddresses(
  definition: GatewayDefinition,
  assignment: SlotAssignment,
  isAlive: (service: AssignedService) => boolean,
  hostAddresses: readonly number[],
): Map<number, KnownAddress> {
  const known = new Map<number, KnownAddress>();
  const at = (value: number): KnownAddress => {
    const found = known.get(value) ?? { flags: 0, answersPing: false, tcp: [], udp: [] };
    known.set(value, found);
    return found;
  };
  for (const service of assignment.services) {
    const { definition: one, protocol, slot } = service;
    const answers = one.ping === "always" || (one.ping === "healthy" && isAlive(service));
    for (const vip of one.vips) {
      const address = at(vip.value);
      address.flags |= A_IS_VIP;
      address.answersPing ||= answers;
      for (const { low, high } of one.ports) address[protocol].push({ low, high, service: slot });
    }
    if (one.mode !== "nat") continue;
    const { sorry } = one.noBackend;
    const servers: Pick<BackendDefinition, "address" | "port">[] = [...one.backends];
    if (sorry !== null) servers.push(sorry);
    for (const { address: server, port } of servers) {
      const address = at(server.value);
      address.flags |= A_IS_BACKEND;
      const ports = port === 0 ? ANY_PORT : { low: port, high: port };
      address[protocol].push({ ...ports, service: slot });
    }
  }
  for (const address of definition.snat.addresses) at(address.value).flags |= A_IS_SNAT;
  if (definition.tunnel.sourceIpv4 !== null) {
    at(definition.tunnel.sourceIpv4.value).flags |= A_IS_TUNNEL;
  }
  for (const value of hostAddresses) at(value).flags |= A_IS_HOST;
  return known;
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
