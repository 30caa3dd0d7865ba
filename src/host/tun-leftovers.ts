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

/** How a TUN gateway's rules, routes and addresses are known, and removed again. */

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

/** The last resort among routes to one destination: it counts when the device's route is gone. */
export const METRIC_LAST = 4_294_967_295;

/** The highest port that a rule's range may end at (include/net/fib_rules.h). */
export const PORT_LAST = 65_534;

export const FAMILIES = [4, 6] as const;

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

/** The rules for replies that lead to our table, as the commands that make and remove them. */
export async function leftoverRules(
  family: 4 | 6,
  table: number,
  device: string,
): Promise<Map<string, string>> {
  const rules = (await ipJson(["rule", "show"], family)).filter(
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

export function belongsTo(rule: IpObject, table: number, device: string): boolean {
  return (
    textOf(rule, "protocol") === String(ROUTE_PROTOCOL) &&
    (textOf(rule, "table") === String(table) || textOf(rule, "iif") === device)
  );
}

/** The arguments of `ip rule del` for a rule of ours. */
function ruleText(rule: IpObject): string {
  const words = [`pref ${numberOf(rule, "priority")}`];
  const source = textOf(rule, "src");
  // A prefix has its length beside it; an address has none.
  const length = numberOf(rule, "srclen") === 0 ? "" : `/${numberOf(rule, "srclen")}`;
  if (source !== "" && source !== "all") words.push(`from ${source}${length}`);
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
export async function removeRules(
  family: 4 | 6,
  choose: (rule: IpObject) => boolean,
): Promise<string[]> {
  const rules = (await ipJson(["rule", "show"], family)).filter(choose).map(ruleText);
  const answer: BatchAnswer = await ipBatch(
    rules.map((rule) => `rule del ${rule}`),
    family,
  );
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
  const removed: string[] = [];
  for (const family of FAMILIES) removed.push(...(await removeFamily(family)));
  for (const { address, interface: name } of await listAddresses()) {
    if (address.family !== 4 || !isDeviceAddress(address.value)) continue;
    const text = `${address.text}/32`;
    if ((await tryCommand("ip", ["address", "del", text, "dev", name])) !== null) {
      removed.push(`address ${text} of ${name}`);
    }
  }
  return removed;
}

async function removeFamily(family: 4 | 6): Promise<string[]> {
  const flag = family === 6 ? "-6 " : "";
  const removed = (
    await removeRules(family, (rule) => textOf(rule, "protocol") === String(ROUTE_PROTOCOL))
  ).map((rule) => `ip ${flag}rule ${rule}`);
  for (const route of await ipJson(["route", "show", "table", "all"], family)) {
    if (textOf(route, "protocol") !== String(ROUTE_PROTOCOL)) continue;
    const destination = textOf(route, "dst");
    const type = textOf(route, "type");
    const words =
      type === "blackhole" ? [type, destination] : [destination, `dev ${textOf(route, "dev")}`];
    if (numberOf(route, "metric") !== 0) words.push(`metric ${numberOf(route, "metric")}`);
    if (textOf(route, "table") !== "") words.push(`table ${textOf(route, "table")}`);
    words.push(`protocol ${ROUTE_PROTOCOL}`);
    const argv = [`-${family}`, "route", "del", ...words.join(" ").split(" ")];
    if ((await tryCommand("ip", argv)) !== null) {
      removed.push(`ip ${flag}route ${words.join(" ")}`);
    }
  }
  return removed;
}

function isDeviceAddress(address: number): boolean {
  const number = (address - DEVICE_ADDRESS_BASE) | 0;
  return number >= 0 && number < TABLES;
}
