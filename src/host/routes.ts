import { type Address, parseAddress } from "../base/address.ts";
import { type IpObject, ipBatch, ipJson, numberOf, textOf, wordsOf } from "./ip-json.ts";

/** A route of the main table. */
export interface HostRoute {
  /** Network: no bit set behind the prefix. */
  readonly address: Address;
  readonly prefixLength: number;
  /** Next hop of the same family; null: the destination is on the link. */
  readonly via: Address | null;
  /** Name of the interface; "" for a route that leads nowhere (blackhole, unreachable, prohibit). */
  readonly interface: string;
  /** Bytes, or 0: the interface's. */
  readonly mtu: number;
}

/** The way to one address. */
export type HostPath =
  | {
      /** Next hop, of IPv6 often link-local; an IPv4 address may have one of IPv6 (RFC 8950). */
      readonly via: Address | null;
      readonly interface: string;
      readonly mtu: number;
    }
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

/** `default`, `ADDRESS` or `ADDRESS/LENGTH`. */
function readPrefix(
  text: string,
  family: 4 | 6,
): { address: Address; prefixLength: number } | null {
  const whole = text === "default" ? (family === 4 ? "0.0.0.0/0" : "::/0") : text;
  const [address, length] = whole.split("/");
  const parsed = parseAddress(address ?? "");
  if (parsed === null || parsed.family !== family) return null;
  return { address: parsed, prefixLength: Number(length ?? (family === 4 ? 32 : 128)) };
}

/** Link-local and multicast destinations: no flow goes there, and each interface has the same. */
function isOfOneLink({ family, words }: Address): boolean {
  return family === 6 && (words[0] >>> 22 === 0x3fa || words[0] >>> 24 === 0xff);
}

function readRoute(object: IpObject, family: 4 | 6): (HostRoute & { metric: number }) | null {
  const prefix = readPrefix(textOf(object, "dst"), family);
  if (prefix === null || wordsOf(object, "flags").includes("dead")) return null;
  const { address, prefixLength } = prefix;
  if (isOfOneLink(address)) return null;
  const metric = numberOf(object, "metric");
  if (isNowhere(object)) {
    return { address, prefixLength, via: null, interface: "", mtu: 0, metric };
  }
  const leg = legOf(object);
  const device = textOf(leg, "dev");
  if (device === "" || !["", "unicast"].includes(textOf(object, "type"))) return null;
  // A next hop of another family (`via inet6 …`) is not looked for among the neighbours of this one.
  const otherFamily = leg["via"] !== undefined;
  return {
    address,
    prefixLength,
    via: parseAddress(textOf(leg, "gateway")),
    interface: otherFamily ? "" : device,
    mtu: mtuOf(object),
    metric,
  };
}

/**
 * Routes of the main tables of both families, one a prefix: the one with the lowest metric. Of a
 * multipath route the first next hop that is alive.
 *
 * @throws HostError - `ip` is missing or fails
 */
export async function listRoutes(): Promise<HostRoute[]> {
  const best = new Map<string, HostRoute & { metric: number }>();
  const ask = ["route", "show", "table", "main"];
  const [four, six] = await Promise.all([ipJson(ask, 4), ipJson(ask, 6)]);
  const read = [...four.map((object) => readRoute(object, 4)), ...six.map((o) => readRoute(o, 6))];
  for (const route of read) {
    if (route === null) continue;
    const key = `${route.address.text}/${route.prefixLength}`;
    const known = best.get(key);
    if (known === undefined || route.metric < known.metric) best.set(key, route);
  }
  return [...best.values()].map(({ metric: _metric, ...route }) => route);
}

function readPath(object: IpObject): HostPath {
  const type = textOf(object, "type");
  if (type === "local") return { unreachable: "it is an address of this host" };
  if (type !== "" && type !== "unicast") return { unreachable: `its route is of type ${type}` };
  const other = object["via"] as IpObject | undefined;
  return {
    via: parseAddress(other === undefined ? textOf(object, "gateway") : textOf(other, "host")),
    interface: textOf(object, "dev"),
    mtu: mtuOf(object),
  };
}

/**
 * Ask the kernel which way it would send to each address (`ip route get`: rules, routes, metrics).
 *
 * @returns an entry for each address, by its text
 * @throws HostError - `ip` is missing or gives no answer
 */
export async function findPaths(addresses: readonly Address[]): Promise<Map<string, HostPath>> {
  const wanted = [...new Set(addresses.map(({ text }) => text))];
  const answer = await ipBatch(wanted.map((address) => `route get ${address}`));
  const paths = new Map<string, HostPath>();
  for (const { line, reason } of answer.failures) {
    const address = wanted[line];
    if (address !== undefined) paths.set(address, { unreachable: reason });
  }
  for (const object of answer.objects) {
    const address = parseAddress(textOf(object, "dst"));
    if (address !== null) paths.set(address.text, readPath(object));
  }
  for (const address of wanted) {
    if (!paths.has(address)) paths.set(address, { unreachable: "the kernel gave no route" });
  }
  return paths;
}
