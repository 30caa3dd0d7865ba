import { readFileSync, writeFileSync } from "node:fs";
import type { Address } from "../base/address.ts";
import { HostError } from "../base/errors.ts";
import { findInterfaces } from "./interfaces.ts";
import { ipBatch, ipJson, textOf, tryCommand } from "./ip-json.ts";
import { deviceNumber, ROUTE_PROTOCOL } from "./tun-leftovers.ts";

/**
 * The host as a client of its own gateway, for health checks through the data path.
 *
 * A gateway takes what comes in on its interfaces, so what the host sends itself never meets it. A veth
 * pair makes the host come in like everybody else:
 *
 *   a check's socket, bound to 198.18.S.S
 *     -> `ip rule from 198.18.0.0/16` -> a table whose only route is NAME, by a neighbour that is
 *        written down and never asked for
 *     -> NAME | NAME-gw, one more interface of the gateway -> data plane -> backend
 *   backend -> data plane, which knows the flow's last hop -> NAME-gw | NAME -> the socket
 *
 * Every address of the range is local (a local route on NAME), and none is an address of the host as
 * `ip address` lists them: replies of backends to it are the gateway's, as those to any client are. The
 * source's last 16 bits name the backend (datapath/probes.ts); nobody but this host can come in there.
 *
 * IPv6 is off on both ends: the kernel would announce itself there.
 */

export interface ProbeDevice {
  /** The gateway's end, which is one more interface of its device. */
  readonly gatewayEnd: string;
  /** Remove both ends, and with them every route. Closing twice is fine. */
  close(): Promise<void>;
}

/** `ifalias` of both ends, with the process that made them. */
const ALIAS = "headgate probe";
/** Before ordinary rules, after the host's own addresses (0). */
const RULE_PREFERENCE = 4690;
const TABLE_BASE = 46_000;
/** The neighbour on the way to every VIP; link-local, on this cable alone. */
const NEIGHBOUR = "169.254.104.103";

/** Bits of a probe source range that are the same for all sources. */
export const PROBE_PREFIX4 = 16;

/**
 * Make the pair, after what a crashed process left of it is gone.
 *
 * @param name - of the host's end
 * @param sources - first address of the range
 * @throws HostError - something else has the name, another gateway runs with it, or `ip` failed
 */
export async function createProbeDevice(name: string, sources: Address): Promise<ProbeDevice> {
  const gatewayEnd = probeGatewayEnd(name);
  for (const each of [name, gatewayEnd]) await removeLeftover(each);
  const range = `${sources.text}/${PROBE_PREFIX4}`;
  const table = TABLE_BASE + deviceNumber(name);
  const rule = `pref ${RULE_PREFERENCE} from ${range} lookup ${table} protocol ${ROUTE_PROTOCOL}`;
  // A rule of a process that was killed leads to an empty table.
  await ipBatch([`rule del ${rule}`], 4);
  let closed = false;
  const close = async (): Promise<void> => {
    if (closed) return;
    closed = true;
    await ipBatch([`rule del ${rule}`, `link del ${name}`], 4);
  };
  await runAll([
    `link add ${name} type veth peer name ${gatewayEnd}`,
    `link set ${name} alias "${ALIAS} ${process.pid}"`,
    `link set ${gatewayEnd} alias "${ALIAS} ${process.pid}"`,
  ]);
  try {
    for (const each of [name, gatewayEnd]) turnIpv6Off(each);
    await runAll([`link set ${name} up`, `link set ${gatewayEnd} up`]);
    const [end] = await findInterfaces([gatewayEnd]);
    await runAll([
      `neighbour replace ${NEIGHBOUR} lladdr ${end!.mac} dev ${name} nud permanent`,
      `route replace local ${range} dev ${name} table local protocol ${ROUTE_PROTOCOL}`,
      `route replace default via ${NEIGHBOUR} dev ${name} onlink table ${table} protocol ${ROUTE_PROTOCOL}`,
      `rule add ${rule}`,
    ]);
  } catch (error) {
    await close();
    throw error;
  }
  return { gatewayEnd, close };
}

/**
 * Interfaces on which strict reverse path filtering drops what backends of one-way modes answer: it has
 * a VIP for its source, which no client's network has. The larger of `all` and the interface's counts.
 */
export function strictInterfaces(names: readonly string[]): string[] {
  const read = (name: string): number =>
    Number(readFileSync(`/proc/sys/net/ipv4/conf/${name}/rp_filter`, "utf8"));
  const all = read("all");
  return names.filter((name) => Math.max(all, read(name)) === 1);
}

/** Name of the gateway's end of a pair. */
export function probeGatewayEnd(name: string): string {
  return `${name}-gw`;
}

/**
 * Remove the pairs of processes that are gone; with none running, that is all of them.
 *
 * @returns what was removed, one phrase each
 * @throws HostError - `ip` is missing or fails
 */
export async function removeProbeDevices(): Promise<string[]> {
  const removed: string[] = [];
  for (const link of await ipJson(["link", "show", "type", "veth"], "any")) {
    const name = textOf(link, "ifname");
    if (ownerOf(textOf(link, "ifalias")) === null) continue;
    // The first end takes the second with it.
    if ((await tryCommand("ip", ["link", "del", name])) !== null) removed.push(`interface ${name}`);
  }
  return removed;
}

async function removeLeftover(name: string): Promise<void> {
  const links = await ipJson(["link", "show"], "any");
  const link = links.find((one) => textOf(one, "ifname") === name);
  if (link === undefined) return;
  const owner = ownerOf(textOf(link, "ifalias"));
  if (owner === null) {
    throw new HostError(
      `probe.interface: there is an interface ${name} already, which is no gateway's; choose another name`,
    );
  }
  if (owner !== process.pid && isAlive(owner)) {
    throw new HostError(
      `probe.interface: ${name} is in use by the gateway of process ${owner}; choose another name`,
    );
  }
  await ipBatch([`link del ${name}`], 4);
}

/** Process that made an interface with this alias; null: none of ours. */
function ownerOf(alias: string): number | null {
  const match = /^headgate probe (\d+)$/.exec(alias);
  return match === null ? null : Number(match[1]);
}

function isAlive(processId: number): boolean {
  try {
    process.kill(processId, 0);
    return true;
  } catch (error) {
    return (error as NodeJS.ErrnoException).code === "EPERM";
  }
}

function turnIpv6Off(name: string): void {
  try {
    writeFileSync(`/proc/sys/net/ipv6/conf/${name}/disable_ipv6`, "1");
  } catch (error) {
    const { code } = error as NodeJS.ErrnoException;
    // A kernel without IPv6 announces nothing.
    if (code === "ENOENT") return;
    throw new HostError(`cannot turn IPv6 off on ${name}: ${code}`, { cause: error });
  }
}

async function runAll(lines: readonly string[]): Promise<void> {
  const [failure] = (await ipBatch(lines, 4)).failures;
  if (failure === undefined) return;
  throw new HostError(`\`ip ${lines[failure.line] ?? ""}\` failed: ${failure.reason}`);
}
