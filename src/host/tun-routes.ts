import { readFileSync, writeFileSync } from "node:fs";
import { formatIpv4 } from "../base/address.ts";
import { HostError } from "../base/errors.ts";
import type { Log } from "../base/log.ts";
import { listAddresses } from "./interfaces.ts";
import {
  type BatchAnswer,
  type IpObject,
  ipBatch,
  ipJson,
  numberOf,
  textOf,
  tryCommand,
} from "./ip-json.ts";

/**
 * How packets find the TUN device (`device.routes: auto`):
 *
 *   VIP/32, SNAT/32          a route in the main table, to the device
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
 * The device gets an address, since the kernel drops what a device without one hands it where
 * reverse path filtering is on (net/ipv4/fib_frontend.c, __fib_validate_source).
 *
 * Everything is marked with a routing protocol number, by which cleanup finds what a crash left. A
 * leftover rule leads to an empty table (the device went with its process) and does nothing; with
 * `persistent` it leads to a route that drops, and so do those to VIPs and SNAT addresses, until the
 * next process brings the device again or `headgate cleanup` removes them.
 */

/**
 * Preference of the jump, of the rules, of those for fragments, and of the jumps' goal: before all
 * ordinary rules.
 */
export const RULE_JUMP_PREFERENCE = 4699;
export const RULE_PREFERENCE = 4700;
export const RULE_PORTS_PREFERENCE = 4701;
export const RULE_FRAGMENTS_PREFERENCE = 4702;
export const RULE_GOAL_PREFERENCE = 4703;

/** Marks our rules and routes; a number that iproute2's rt_protos gives to nobody. */
export const ROUTE_PROTOCOL = 147;

/** Table of device number N: TABLE_BASE + N; see deviceNumber(). */
export const TABLE_BASE = 47_000;
export const TABLES = 1000;

/** Device number N has the address N + 1 of 169.254.64.0/22 (link-local, RFC 3927), as a /32. */
const DEVICE_ADDRESS_BASE = 0xa9fe4001 | 0;

/** The highest port that a rule's range may end at (include/net/fib_rules.h). */
const PORT_LAST = 65_534;

const PROTOCOL_NAMES: Readonly<Record<number, string>> = { 6: "tcp", 17: "udp" };

/**
 * Number of a device, from its name, so that the next process finds the leftovers of the last: hg0
 * is 0, hg99 is 99, other names are spread over 100..999.
 */
export function deviceNumber(name: string): number {
  const simple = /^hg(0|[1-9]\d?)$/.exec(name);
  if (simple !== null) return Number(simple[1]);
  let hash = 0;
  for (const letter of name) hash = (Math.imul(hash, 31) + letter.charCodeAt(0)) >>> 0;
  return 100 + (hash % (TABLES - 100));
}

/** Address of a device's own, int32 in host order. */
export function deviceAddress(name: string): number {
  return (DEVICE_ADDRESS_BASE + deviceNumber(name)) | 0;
}

export interface TunRouteEntries {
  /** VIP addresses, int32 in host order. */
  readonly vips: readonly number[];
  /** Addresses of the full-NAT pool. */
  readonly snat: readonly number[];
  /** Backends of `nat` services: protocol is the IP number, port 0 any port. */
  readonly backends: readonly {
    readonly address: number;
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

/** The last resort among routes to one destination: it counts when the device's route is gone. */
const METRIC_LAST = 4_294_967_295;

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
  await removeRules((rule) => belongsTo(rule, table, device) && textOf(rule, "iif") === device);
  silenceIpv6(device);
  const warnings = setReversePathFilter(device);
  for (const warning of warnings) log?.warn("reverse_path_filter", { reason: warning });

  const base = {
    add: [
      `address replace ${own} dev ${device} scope link`,
      `link set dev ${device} up`,
      ...(persistent
        ? [
            `route replace blackhole default table ${table} metric ${METRIC_LAST} protocol ${ROUTE_PROTOCOL}`,
          ]
        : []),
      `route replace default dev ${device} table ${table} protocol ${ROUTE_PROTOCOL}`,
      `rule add pref ${RULE_GOAL_PREFERENCE} iif ${device} nop protocol ${ROUTE_PROTOCOL}`,
      `rule add pref ${RULE_JUMP_PREFERENCE} iif ${device} goto ${RULE_GOAL_PREFERENCE} ` +
        `protocol ${ROUTE_PROTOCOL}`,
    ],
    remove: [
      `rule del pref ${RULE_JUMP_PREFERENCE} iif ${device} goto ${RULE_GOAL_PREFERENCE}`,
      `rule del pref ${RULE_GOAL_PREFERENCE} iif ${device} nop`,
      ...(persistent ? [] : [`route flush table ${table}`]),
      `address del ${own} dev ${device}`,
    ],
  };
  await runAll(base.add);

  /**
   * What is in the kernel now: the command that removes it, by the one that made it. Rules that
   * another process left are part of it: they go in the first update, when the new ones are there,
   * so that no reply meets the time between.
   */
  const made = await leftoverRules(table, device);
  let closed = false;

  async function update(entries: TunRouteEntries): Promise<void> {
    if (closed) throw new HostError(`the routes of ${device} are closed`);
    await refuseHostAddresses(entries);
    const next = commandsFor(entries, device, table, persistent);
    const fresh = [...next].filter(([add]) => !made.has(add));
    for (const [add, remove] of fresh) made.set(add, remove);
    await runAll(fresh.map(([add]) => add));
    const gone = [...made].filter(([add]) => !next.has(add));
    for (const [add] of gone) made.delete(add);
    await runAll(gone.map(([, remove]) => remove));
  }

  async function close(): Promise<void> {
    if (closed) return;
    closed = true;
    // The device may be gone, and its routes with it: what is not there need not be removed.
    await ipBatch([...(persistent ? [] : made.values()), ...base.remove]);
    made.clear();
  }

  return { warnings, update, close };
}

/** `ip` commands that make each entry, and remove it again. */
function commandsFor(
  entries: TunRouteEntries,
  device: string,
  table: number,
  persistent: boolean,
): ReadonlyMap<string, string> {
  const commands = new Map<string, string>();
  for (const address of [...entries.vips, ...entries.snat]) {
    const route = `${formatIpv4(address)}/32 dev ${device}`;
    commands.set(
      `route replace ${route} protocol ${ROUTE_PROTOCOL}`,
      `route del ${route} protocol ${ROUTE_PROTOCOL}`,
    );
    if (!persistent) continue;
    const drop = `blackhole ${formatIpv4(address)}/32 metric ${METRIC_LAST}`;
    commands.set(
      `route replace ${drop} protocol ${ROUTE_PROTOCOL}`,
      `route del ${drop} protocol ${ROUTE_PROTOCOL}`,
    );
  }
  // A backend's own errors (port unreachable) are about flows too.
  for (const address of new Set(entries.backends.map((backend) => backend.address))) {
    const rule =
      `pref ${RULE_PREFERENCE} from ${formatIpv4(address)} ipproto icmp ` +
      `lookup ${table} protocol ${ROUTE_PROTOCOL}`;
    commands.set(`rule add ${rule}`, `rule del ${rule}`);
  }
  for (const { address, protocol, port } of entries.backends) {
    const name = PROTOCOL_NAMES[protocol] ?? String(protocol);
    const rule =
      `pref ${RULE_PREFERENCE} from ${formatIpv4(address)} ipproto ${name} ` +
      `${port === 0 ? "" : `sport ${port} `}lookup ${table} protocol ${ROUTE_PROTOCOL}`;
    commands.set(`rule add ${rule}`, `rule del ${rule}`);
    // Segments of TCP are not cut: their ends keep them within the path's MTU.
    if (port === 0 || name !== "udp") continue;
    for (const each of fragmentRules(formatIpv4(address), name, device, table)) {
      commands.set(`rule add ${each}`, `rule del ${each}`);
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

/** Run a batch whose every command has to succeed. */
async function runAll(lines: readonly string[]): Promise<void> {
  const answer = await ipBatch(lines);
  const [failure] = answer.failures;
  if (failure === undefined) return;
  throw new HostError(`\`ip ${lines[failure.line] ?? ""}\` failed: ${failure.reason}`);
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

/** The kernel's own router solicitations on the device would be drops that tell nobody anything. */
function silenceIpv6(device: string): void {
  try {
    writeFileSync(`/proc/sys/net/ipv6/conf/${device}/disable_ipv6`, "1");
  } catch (error) {
    // A kernel without IPv6 says nothing in the first place.
    if ((error as NodeJS.ErrnoException).code !== "ENOENT") throw error;
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
  const text = await tryCommand("ip", ["-4", "-oneline", "route", "show", "table", String(table)]);
  const other = /\bdev (\S+)/.exec(text ?? "")?.[1];
  if (other === undefined || other === device) return;
  throw new HostError(
    `routing table ${table} of ${device} is in use for ${other}; choose another device.name ` +
      "(hg0, hg1, … never share one), or empty the table if it is not a gateway's",
  );
}

async function refuseHostAddresses(entries: TunRouteEntries): Promise<void> {
  const hosts = new Map(
    (await listAddresses()).map(({ address, interface: name }) => [address.value, name]),
  );
  for (const [what, addresses] of [
    ["VIP", entries.vips],
    ["SNAT address or tunnel source", entries.snat],
  ] as const) {
    for (const address of addresses) {
      const owner = hosts.get(address);
      if (owner === undefined) continue;
      throw new HostError(
        `the ${what} ${formatIpv4(address)} is an address of this host (${owner}); with ` +
          `device.type: tun it must not be: \`ip address del ${formatIpv4(address)} dev ${owner}\``,
      );
    }
  }
}

/** The rules for replies that lead to our table, as the commands that make and remove them. */
async function leftoverRules(table: number, device: string): Promise<Map<string, string>> {
  const rules = (await ipJson(["rule", "show"])).filter(
    (rule) =>
      textOf(rule, "protocol") === String(ROUTE_PROTOCOL) &&
      (textOf(rule, "table") === String(table) ||
        numberOf(rule, "sport_end") === PORT_LAST - deviceNumber(device)),
  );
  return new Map(
    rules.map((rule) => {
      const text = `${ruleText(rule)} protocol ${ROUTE_PROTOCOL}`;
      return [`rule add ${text}`, `rule del ${text}`];
    }),
  );
}

function belongsTo(rule: IpObject, table: number, device: string): boolean {
  return (
    textOf(rule, "protocol") === String(ROUTE_PROTOCOL) &&
    (textOf(rule, "table") === String(table) || textOf(rule, "iif") === device)
  );
}

/** The arguments of `ip rule del` for a rule of ours. */
function ruleText(rule: IpObject): string {
  const words = [`pref ${numberOf(rule, "priority")}`];
  const source = textOf(rule, "src");
  if (source !== "" && source !== "all") words.push(`from ${source}`);
  for (const key of ["iif", "ipproto"]) {
    if (textOf(rule, key) !== "") words.push(`${key} ${textOf(rule, key)}`);
  }
  if (numberOf(rule, "sport_end") !== 0) {
    words.push(`sport ${numberOf(rule, "sport_start")}-${numberOf(rule, "sport_end")}`);
  }
  if (numberOf(rule, "sport") !== 0) words.push(`sport ${numberOf(rule, "sport")}`);
  if (textOf(rule, "table") !== "") words.push(`lookup ${textOf(rule, "table")}`);
  else if (numberOf(rule, "goto") !== 0) words.push(`goto ${numberOf(rule, "goto")}`);
  else words.push("nop");
  return words.join(" ");
}

/** Remove our rules that `choose` picks. @returns their texts */
async function removeRules(choose: (rule: IpObject) => boolean): Promise<string[]> {
  const rules = (await ipJson(["rule", "show"])).filter(choose).map(ruleText);
  const answer: BatchAnswer = await ipBatch(rules.map((rule) => `rule del ${rule}`));
  const failed = new Set(answer.failures.map(({ line }) => line));
  return rules.filter((_, index) => !failed.has(index));
}

/**
 * Remove every rule, table and route of TUN gateways in this network namespace.
 *
 * @returns what was removed, one sentence each
 * @throws HostError - `ip` is missing or fails
 */
export async function removeTunRoutes(): Promise<string[]> {
  const removed = (
    await removeRules((rule) => textOf(rule, "protocol") === String(ROUTE_PROTOCOL))
  ).map((rule) => `ip rule ${rule}`);
  for (const route of await ipJson(["route", "show", "table", "all"])) {
    if (textOf(route, "protocol") !== String(ROUTE_PROTOCOL)) continue;
    const destination = textOf(route, "dst");
    const type = textOf(route, "type");
    const words =
      type === "blackhole" ? [type, destination] : [destination, `dev ${textOf(route, "dev")}`];
    if (numberOf(route, "metric") !== 0) words.push(`metric ${numberOf(route, "metric")}`);
    if (textOf(route, "table") !== "") words.push(`table ${textOf(route, "table")}`);
    words.push(`protocol ${ROUTE_PROTOCOL}`);
    if ((await tryCommand("ip", ["route", "del", ...words.join(" ").split(" ")])) !== null) {
      removed.push(`ip route ${words.join(" ")}`);
    }
  }
  for (const { address, interface: name } of await listAddresses()) {
    if (!isDeviceAddress(address.value)) continue;
    const text = `${address.text}/32`;
    if ((await tryCommand("ip", ["address", "del", text, "dev", name])) !== null) {
      removed.push(`address ${text} of ${name}`);
    }
  }
  return removed;
}

function isDeviceAddress(address: number): boolean {
  const number = (address - DEVICE_ADDRESS_BASE) | 0;
  return number >= 0 && number < TABLES;
}
