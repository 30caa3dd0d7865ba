import { formatIpv4, parseCidr, parseIpv4 } from "../base/address.ts";
import { type IpObject, ipBatch, ipJson, numberOf, textOf, wordsOf } from "./ip-json.ts";

/** A route of the main table. */
export interface HostRoute {
  /** Network, int32 in host order. */
  readonly address: number;
  readonly prefixLength: number;
  /** Next hop, or 0: the destination is on the link. */
  readonly via: number;
  /** Name of the interface; "" for a route that leads nowhere (blackhole, unreachable, prohibit). */
  readonly interface: string;
  /** Bytes, or 0: the interface's. */
  readonly mtu: number;
}

/** The way to one address. */
export type HostPath =
  | { readonly via: number; readonly interface: string; readonly mtu: number }
  | { readonly unreachable: string };

/** MTU of a route's metrics, which iproute2 prints as `metrics: [{ mtu }]`; 0 when not set. */
function mtuOf(object: IpObject): number {
  const metrics = object["metrics"];
  if (!Array.isArray(metrics)) return 0;
  return (metrics as IpObject[]).map((entry) => numberOf(entry, "mtu")).find((mtu) => mtu > 0) ?? 0;
}

/** First usable next hop of a multipath route, or the route itself. */
function legOf(object: IpObject): IpObject {
  const legs = object["nexthops"];
  if (!Array.isArray(legs) || legs.length === 0) return object;
  const alive = (legs as IpObject[]).find((leg) => !wordsOf(leg, "flags").includes("dead"));
  return alive ?? (legs[0] as IpObject);
}

function isNowhere(object: IpObject): boolean {
  return ["blackhole", "unreachable", "prohibit"].includes(textOf(object, "type"));
}

function readRoute(object: IpObject): (HostRoute & { metric: number }) | null {
  const destination = textOf(object, "dst");
  const prefix =
    destination === "default" ? { address: 0, prefixLength: 0 } : parseCidr(destination);
  if (prefix === null || wordsOf(object, "flags").includes("dead")) return null;
  const { address, prefixLength } = prefix;
  const metric = numberOf(object, "metric");
  if (isNowhere(object)) {
    return { address, prefixLength, via: 0, interface: "", mtu: 0, metric };
  }
  const leg = legOf(object);
  const device = textOf(leg, "dev");
  if (device === "" || !["", "unicast"].includes(textOf(object, "type"))) return null;
  // A next hop of another family (`via inet6 …`) has no ARP entry: the frame cannot go there.
  const otherFamily = leg["via"] !== undefined;
  return {
    address,
    prefixLength,
    via: parseIpv4(textOf(leg, "gateway")) ?? 0,
    interface: otherFamily ? "" : device,
    mtu: mtuOf(object),
    metric,
  };
}

/**
 * Routes of the main table, one a prefix: the one with the lowest metric. Of a multipath route the
 * first next hop that is alive.
 *
 * @throws HostError - `ip` is missing or fails
 */
export async function listRoutes(): Promise<HostRoute[]> {
  const best = new Map<string, HostRoute & { metric: number }>();
  for (const object of await ipJson(["route", "show", "table", "main"])) {
    const route = readRoute(object);
    if (route === null) continue;
    const key = `${route.address}/${route.prefixLength}`;
    const known = best.get(key);
    if (known === undefined || route.metric < known.metric) best.set(key, route);
  }
  return [...best.values()].map(({ metric: _metric, ...route }) => route);
}

function readPath(object: IpObject): HostPath {
  const type = textOf(object, "type");
  if (type === "local") return { unreachable: "it is an address of this host" };
  if (type !== "" && type !== "unicast") return { unreachable: `its route is of type ${type}` };
  if (object["via"] !== undefined) return { unreachable: "its next hop is not IPv4" };
  return {
    via: parseIpv4(textOf(object, "gateway")) ?? 0,
    interface: textOf(object, "dev"),
    mtu: mtuOf(object),
  };
}

/**
 * Ask the kernel which way it would send to each address (`ip route get`: rules, routes, metrics).
 *
 * @param addresses - int32 in host order
 * @returns an entry for each address
 * @throws HostError - `ip` is missing or gives no answer
 */
export async function findPaths(addresses: readonly number[]): Promise<Map<number, HostPath>> {
  const wanted = [...new Set(addresses)];
  const answer = await ipBatch(wanted.map((address) => `route get ${formatIpv4(address)}`));
  const paths = new Map<number, HostPath>();
  for (const { line, reason } of answer.failures) {
    const address = wanted[line];
    if (address !== undefined) paths.set(address, { unreachable: reason });
  }
  for (const object of answer.objects) {
    const address = parseIpv4(textOf(object, "dst"));
    if (address !== null) paths.set(address, readPath(object));
  }
  for (const address of wanted) {
    if (!paths.has(address)) paths.set(address, { unreachable: "the kernel gave no route" });
  }
  return paths;
}
