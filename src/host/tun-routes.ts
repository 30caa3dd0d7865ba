import { readFileSync, writeFileSync } from "node:fs";
import { type Address, addressBits, formatIpv4 } from "../base/address.ts";
import { HostError } from "../base/errors.ts";
import type { Log } from "../base/log.ts";
import { listAddresses } from "./interfaces.ts";
import { ipBatch, textOf, tryCommand } from "./ip-json.ts";
import {
  belongsTo,
  deviceAddress,
  deviceNumber,
  FAMILIES,
  leftoverRules,
  METRIC_LAST,
  PORT_LAST,
  ROUTE_PROTOCOL,
  RULE_FRAGMENTS_PREFERENCE,
  RULE_GOAL_PREFERENCE,
  RULE_JUMP_PREFERENCE,
  RULE_PORTS_PREFERENCE,
  RULE_PREFERENCE,
  removeRules,
  TABLE_BASE,
} from "./tun-leftovers.ts";

/**
 * How packets find the TUN device (`device.routes: auto`):
 *
 *   VIP, SNAT address        a route in the main table, to the device; a VIP may be a prefix
 *   replies of nat backends  `ip rule from ADDRESS ipproto P sport N` to a table of our own, whose
 *                            only route is the device; port 0 (any): without sport; and their ICMP
 *   fragments of UDP         have no ports where the kernel looks, nor has the first one: what of such
 *                            a backend has a source port jumps over one more rule, and the rest,
 *                            which is fragments, goes to the table; the gateway writes back what is
 *                            not a reply
 *   what the gateway writes  back into the kernel comes in on the device and must not meet those
 *                            rules again: a rule above them jumps over them (`iif DEVICE goto`), to
 *                            a rule that does nothing, so that the host's other rules still count
 *
 * The same for IPv6, once there are IPv6 entries: until then the device has no IPv6, so that the
 * kernel says nothing on it of its own accord.
 *
 * The device gets an IPv4 address, since the kernel drops what a device without one hands it where
 * reverse path filtering is on (net/ipv4/fib_frontend.c, __fib_validate_source).
 *
 * Everything is marked with a routing protocol number, by which cleanup finds what a crash left. A
 * leftover rule leads to an empty table (the device went with its process) and does nothing; with
 * `persistent` it leads to a route that drops, and so do those to VIPs and SNAT addresses, until the
 * next process brings the device again or `headgate cleanup` removes them.
 */

const PROTOCOL_NAMES: Readonly<Record<number, string>> = { 6: "tcp", 17: "udp" };

export interface TunRouteEntries {
  /** VIP addresses and prefixes. A host's address in a prefix stays the host's. */
  readonly vips: readonly {
    readonly address: Address;
    readonly prefixLength?: number | undefined;
  }[];
  /** Addresses of the full-NAT pool. */
  readonly snat: readonly Address[];
  /** Backends of `nat` services: protocol is the IP number, port 0 any port. */
  readonly backends: readonly {
    readonly address: Address;
    readonly protocol: number;
    readonly port: number;
  }[];
}

export interface TunRoutes {
  /** What the operator should know (reverse path filtering), one sentence each. */
  readonly warnings: readonly string[];
  /**
   * Send this to the device from now on: what is new is there before what is old goes.
   *
   * @throws HostError - a VIP or SNAT address is the host's, or the kernel refused a rule or route
   */
  update(entries: TunRouteEntries): Promise<void>;
  /** Remove every rule, route and address. Closing twice is fine. */
  close(): Promise<void>;
}

export interface TunRouteOptions {
  /** Name of the TUN device; it exists. */
  readonly device: string;
  /** `none`: the operator routes; nothing is changed, and update() does nothing. */
  readonly mode: "auto" | "none";
  /**
   * Leave rules, and routes that drop, when the process ends, however it ends (`device.guard:
   * persistent`): the kernel would otherwise forward replies as they are, and clients reset them.
   */
  readonly persistent?: boolean | undefined;
  readonly log?: Log | undefined;
}

/**
 * Prepare the device and remove what a crashed process with the same device left.
 *
 * @throws HostError - `ip_forward` is 0 (with the command that sets it), the device does not exist,
 *   or another device uses the same table
 */
export async function createTunRoutes(options: TunRouteOptions): Promise<TunRoutes> {
  const { device, mode, log, persistent = false } = options;
  requireForwarding();
  if (mode === "none") {
    return { warnings: [], update: () => Promise.resolve(), close: () => Promise.resolve() };
  }
  const table = TABLE_BASE + deviceNumber(device);
  const own = `${formatIpv4(deviceAddress(device))}/32`;
  await requireFreeTable(table, device);
  for (const family of FAMILIES) {
    await removeRules(
      family,
      (rule) => belongsTo(rule, table, device) && textOf(rule, "iif") === device,
    );
  }
  setIpv6(device, false);
  const warnings = setReversePathFilter(device);
  for (const warning of warnings) log?.warn("reverse_path_filter", { reason: warning });

  const base = baseCommands(device, table, persistent);
  await runAll([`address replace ${own} dev ${device} scope link`, `link set dev ${device} up`], 4);
  await runAll(base.add, 4);
  let hasIpv6 = false;

  /** IPv6 on the device, and its own part of the base. */
  async function addIpv6(): Promise<void> {
    if (hasIpv6) return;
    requireForwarding6();
    setIpv6(device, true);
    await runAll(base.add, 6);
    hasIpv6 = true;
  }

  /**
   * What is in the kernel now: the command that removes it, by the one that made it. Rules that
   * another process left are part of it: they go in the first update, when the new ones are there,
   * so that no reply meets the time between.
   */
  const made = new Map<string, Made>();
  for (const family of FAMILIES) {
    for (const [add, remove] of await leftoverRules(family, table, device)) {
      made.set(add, { remove, family });
    }
  }
  let closed = false;

  async function update(entries: TunRouteEntries): Promise<void> {
    if (closed) throw new HostError(`the routes of ${device} are closed`);
    await refuseHostAddresses(entries);
    if (needsIpv6(entries)) await addIpv6();
    const next = commandsFor(entries, device, table, persistent);
    const fresh = [...next].filter(([add]) => !made.has(add));
    for (const [add, one] of fresh) made.set(add, one);
    for (const family of FAMILIES) {
      await runAll(
        linesOf(fresh, family, (add) => add),
        family,
      );
    }
    const gone = [...made].filter(([add]) => !next.has(add));
    for (const [add] of gone) made.delete(add);
    for (const family of FAMILIES) {
      await runAll(
        linesOf(gone, family, (_, { remove }) => remove),
        family,
      );
    }
  }

  async function close(): Promise<void> {
    if (closed) return;
    closed = true;
    // The device may be gone, and its routes with it: what is not there need not be removed.
    for (const family of persistent ? [] : FAMILIES) {
      await ipBatch(
        linesOf([...made], family, (_, { remove }) => remove),
        family,
      );
    }
    await ipBatch([...base.remove, `address del ${own} dev ${device}`], 4);
    if (hasIpv6) await ipBatch(base.remove, 6);
    made.clear();
  }

  return { warnings, update, close };
}

/** A command of a family that was run: the one that takes it back. */
interface Made {
  readonly remove: string;
  readonly family: 4 | 6;
}

function linesOf(
  commands: readonly (readonly [string, Made])[],
  family: 4 | 6,
  line: (add: string, made: Made) => string,
): string[] {
  return commands
    .filter(([, made]) => made.family === family)
    .map(([add, made]) => line(add, made));
}

/** What each family has, whatever the entries: our table's route, and the jump over the rules. */
function baseCommands(
  device: string,
  table: number,
  persistent: boolean,
): { readonly add: readonly string[]; readonly remove: readonly string[] } {
  const ours = `table ${table} protocol ${ROUTE_PROTOCOL}`;
  return {
    add: [
      ...(persistent ? [`route replace blackhole default metric ${METRIC_LAST} ${ours}`] : []),
      `route replace default dev ${device} ${ours}`,
      `rule add pref ${RULE_GOAL_PREFERENCE} iif ${device} nop protocol ${ROUTE_PROTOCOL}`,
      `rule add pref ${RULE_JUMP_PREFERENCE} iif ${device} goto ${RULE_GOAL_PREFERENCE} ` +
        `protocol ${ROUTE_PROTOCOL}`,
    ],
    remove: [
      `rule del pref ${RULE_JUMP_PREFERENCE} iif ${device} goto ${RULE_GOAL_PREFERENCE}`,
      `rule del pref ${RULE_GOAL_PREFERENCE} iif ${device} nop`,
      ...(persistent ? [] : [`route flush table ${table}`]),
    ],
  };
}

function needsIpv6({ vips, snat, backends }: TunRouteEntries): boolean {
  const isSix = ({ family }: Address): boolean => family === 6;
  return snat.some(isSix) || [...vips, ...backends].some(({ address }) => isSix(address));
}

/** `ip` commands that make each entry, and remove it again. */
function commandsFor(
  entries: TunRouteEntries,
  device: string,
  table: number,
  persistent: boolean,
): ReadonlyMap<string, Made> {
  const commands = new Map<string, Made>();
  const addRoute = (family: 4 | 6, text: string): void => {
    const route = `${text} protocol ${ROUTE_PROTOCOL}`;
    commands.set(`route replace ${route}`, { remove: `route del ${route}`, family });
  };
  for (const prefix of [...entries.vips, ...entries.snat.map((address) => ({ address }))]) {
    const { family } = prefix.address;
    addRoute(family, `${prefixText(prefix)} dev ${device}`);
    if (persistent) addRoute(family, `blackhole ${prefixText(prefix)} metric ${METRIC_LAST}`);
  }
  const addRule = (address: Address, what: string): void => {
    const rule =
      `pref ${RULE_PREFERENCE} from ${address.text} ${what} ` +
      `lookup ${table} protocol ${ROUTE_PROTOCOL}`;
    commands.set(`rule add ${rule}`, { remove: `rule del ${rule}`, family: address.family });
  };
  for (const { address, protocol, port } of entries.backends) {
    // A backend's own errors (port unreachable) are about flows too.
    addRule(address, address.family === 4 ? "ipproto icmp" : "ipproto ipv6-icmp");
    const name = PROTOCOL_NAMES[protocol] ?? String(protocol);
    addRule(address, port === 0 ? `ipproto ${name}` : `ipproto ${name} sport ${port}`);
    // Segments of TCP are not cut: their ends keep them within the path's MTU.
    if (port === 0 || name !== "udp") continue;
    for (const rule of fragmentRules(address.text, name, device, table)) {
      commands.set(`rule add ${rule}`, { remove: `rule del ${rule}`, family: address.family });
    }
  }
  return commands;
}

/**
 * Two rules for the fragments of a backend's replies. The jump's range ends at a port that says whose
 * it is: two devices with one backend may not have the same rule, and what lies above the range only
 * takes the way through the device.
 */
function fragmentRules(address: string, protocol: string, device: string, table: number): string[] {
  const from = `from ${address} ipproto ${protocol}`;
  const last = PORT_LAST - deviceNumber(device);
  return [
    `pref ${RULE_PORTS_PREFERENCE} ${from} sport 1-${last} goto ${RULE_GOAL_PREFERENCE} ` +
      `protocol ${ROUTE_PROTOCOL}`,
    `pref ${RULE_FRAGMENTS_PREFERENCE} ${from} lookup ${table} protocol ${ROUTE_PROTOCOL}`,
  ];
}

function prefixText({ address, prefixLength }: TunRouteEntries["vips"][number]): string {
  return `${address.text}/${prefixLength ?? addressBits(address)}`;
}

/** Run a batch whose every command has to succeed. */
async function runAll(lines: readonly string[], family: 4 | 6): Promise<void> {
  const answer = await ipBatch(lines, family);
  const [failure] = answer.failures;
  if (failure === undefined) return;
  const flag = family === 6 ? "-6 " : "";
  throw new HostError(`\`ip ${flag}${lines[failure.line] ?? ""}\` failed: ${failure.reason}`);
}

function readSetting(name: string): number {
  try {
    return Number(readFileSync(`/proc/sys/net/ipv4/${name}`, "utf8"));
  } catch (error) {
    throw new HostError(`cannot read the setting net.ipv4.${name.replaceAll("/", ".")}`, {
      cause: error,
    });
  }
}

function requireForwarding(): void {
  if (readSetting("ip_forward") !== 0) return;
  throw new HostError(
    "device.type: tun needs the kernel to forward, and net.ipv4.ip_forward is 0; " +
      "run `sysctl -w net.ipv4.ip_forward=1`",
  );
}

/** Needed as soon as something is IPv6. */
function requireForwarding6(): void {
  if (readFileSync("/proc/sys/net/ipv6/conf/all/forwarding", "utf8").trim() !== "0") return;
  throw new HostError(
    "device.type: tun with IPv6 addresses needs the kernel to forward IPv6, and " +
      "net.ipv6.conf.all.forwarding is 0; run `sysctl -w net.ipv6.conf.all.forwarding=1` (an " +
      "interface that has its addresses from router advertisements then needs accept_ra=2)",
  );
}

/**
 * Give the device IPv6, or take it. Without, the kernel's own router solicitations would come as
 * frames that tell nobody anything; with it, there is no link-local address that could send them.
 */
function setIpv6(device: string, enabled: boolean): void {
  const folder = `/proc/sys/net/ipv6/conf/${device}`;
  try {
    // No router of its own: it would report again and again that it is in the routers' group. What
    // lets the kernel forward is `all`.
    writeFileSync(`${folder}/forwarding`, "0");
    writeFileSync(`${folder}/addr_gen_mode`, "1"); // none
    writeFileSync(`${folder}/accept_ra`, "0");
    writeFileSync(`${folder}/disable_ipv6`, enabled ? "0" : "1");
  } catch (error) {
    const { code } = error as NodeJS.ErrnoException;
    // A kernel without IPv6 says nothing in the first place.
    if (code === "ENOENT" && !enabled) return;
    throw new HostError(`cannot set ${folder}: ${code}`, { cause: error });
  }
}

/**
 * Turn reverse path filtering off on the device. What the gateway writes back has sources that are
 * reached through other interfaces, which the strict filter (1) would drop. The larger of `all` and
 * the device's own value counts (Documentation/networking/ip-sysctl.rst, rp_filter), so under
 * `all=1` the device is set to 2 (loose), which is larger and lets those pass.
 *
 * @returns warnings
 */
function setReversePathFilter(device: string): string[] {
  const all = readSetting("conf/all/rp_filter");
  const value = all === 0 ? 0 : 2;
  const file = `/proc/sys/net/ipv4/conf/${device}/rp_filter`;
  try {
    writeFileSync(file, String(value));
  } catch (error) {
    const { code } = error as NodeJS.ErrnoException;
    if (code === "ENOENT") throw new HostError(`there is no device ${device}`, { cause: error });
    throw new HostError(`cannot write ${file}: ${code}`, { cause: error });
  }
  if (all === 0) return [];
  return [
    `net.ipv4.conf.all.rp_filter is ${all}, and the larger of it and the device's counts: ` +
      `${device} is set to 2 (loose); packets whose source has no route are dropped; ` +
      "`sysctl -w net.ipv4.conf.all.rp_filter=0` turns that off",
  ];
}

/** Two devices whose names give the same number would take each other's replies. */
async function requireFreeTable(table: number, device: string): Promise<void> {
  const show = (family: string): Promise<string | null> =>
    tryCommand("ip", [family, "-oneline", "route", "show", "table", String(table)]);
  const text = `${await show("-4")}\n${await show("-6")}`;
  const other = /\bdev (\S+)/.exec(text)?.[1];
  if (other === undefined || other === device) return;
  throw new HostError(
    `routing table ${table} of ${device} is in use for ${other}; choose another device.name ` +
      "(hg0, hg1, … never share one), or empty the table if it is not a gateway's",
  );
}

async function refuseHostAddresses(entries: TunRouteEntries): Promise<void> {
  const hosts = new Map(
    (await listAddresses()).map(({ address, interface: name }) => [address.text, name]),
  );
  const vips = entries.vips.filter(
    ({ address, prefixLength }) => (prefixLength ?? 128) >= addressBits(address),
  );
  for (const [what, addresses] of [
    ["VIP", vips.map(({ address }) => address)],
    ["SNAT address or tunnel source", entries.snat],
  ] as const) {
    for (const { text } of addresses) {
      const owner = hosts.get(text);
      if (owner === undefined) continue;
      throw new HostError(
        `the ${what} ${text} is an address of this host (${owner}); with ` +
          `device.type: tun it must not be: \`ip address del ${text} dev ${owner}\``,
      );
    }
  }
}
