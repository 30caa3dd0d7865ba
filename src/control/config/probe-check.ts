import { type Address, isInPrefix } from "../../base/address.ts";
import { INTERFACES_MAX } from "../../base/limits.ts";
import type { HealthType } from "../../service/health-definition.ts";
import { type CheckedService, type CrossCheck, placeOf } from "./cross-check.ts";
import { checkTiming } from "./health-check.ts";
import { entryPath } from "./reading.ts";
import type { KeyPath } from "./source.ts";

/** Protocol with which a type of check can come to a VIP; one that is not here cannot. */
const PROTOCOL_OF_TYPE: { readonly [type in HealthType]?: "tcp" | "udp" } = {
  tcp: "tcp",
  http: "tcp",
};

/** A slot's number and one are the last 16 bits of a source. */
const PROBED_SLOTS_MAX = 65_534;

/** What is wrong between `probe`, checks through the data path, and all that these need. */
export function checkProbe(check: CrossCheck): void {
  const { reading, report } = check;
  const { device, limits, probe } = reading.values;
  if (probe === undefined || probe === "off" || reading.isBad(["probe"])) return;
  const type = placeOf(reading, ["device", "type"]);
  if (device.type === "tun") {
    report(
      ["probe"],
      `expected off with device.type tun${type}, where checks through the data path are not possible: what the gateway's own host sends to a VIP would come back from the device as a packet with the host's own source, which the kernel drops`,
    );
  }
  if (device.replies === "route") {
    const at = placeOf(reading, ["device", "replies"]);
    report(["probe"], `expected off with device.replies route${at}: a check has no route back`);
  }
  if ((device.interfaces?.length ?? 0) >= INTERFACES_MAX) {
    const at = placeOf(reading, ["device", "interfaces"]);
    const message = `expected off with ${INTERFACES_MAX} interfaces${at}, since it takes one more`;
    report(["probe"], message);
  }
  if (limits.backends > PROBED_SLOTS_MAX) {
    const at = placeOf(reading, ["probe"]);
    report(
      ["limits", "backends"],
      `expected at most ${PROBED_SLOTS_MAX} with probe${at}, which has a source for each, got ${limits.backends}`,
    );
  }
  checkRange(check, probe.ipv4);
}

/** Backends would never answer to an address that another one of this configuration has. */
function checkRange({ reading, services, report }: CrossCheck, range: Address): void {
  const own = (address: Address | undefined): boolean =>
    address !== undefined && isInPrefix(address, range, 16);
  const wrong = (path: KeyPath, address: Address): void => {
    const at = placeOf(reading, ["probe", "ipv4"]);
    report(
      path,
      `expected an address outside ${range.text}/16, the sources of probe.ipv4${at}, got ${address.text}`,
    );
  };
  for (const { path, values } of services) {
    for (const [index, vip] of (values.vip ?? []).entries()) {
      if (vip !== undefined && own(vip)) wrong(entryPath(reading, [...path, "vip"], index), vip);
    }
    for (const [index, { address }] of values.backends.entries()) {
      if (own(address)) wrong([...path, "backends", index, "address"], address!);
    }
  }
}

/** What is wrong between `health.through: path` of a service and its other keys. */
export function checkPath({ reading, report }: CrossCheck, service: CheckedService): void {
  const { path, values } = service;
  const { health } = values;
  if (health === undefined || health === "none" || health.through !== "path") return;
  const key = [...path, "health", "through"];
  if (reading.isBad([...path, "health"])) return;
  const { probe } = reading.values;
  if (probe === undefined || probe === "off") {
    if (reading.isBad(["probe"])) return;
    report(key, `expected direct without probe${placeOf(reading, ["probe"])}, got path`);
    return;
  }
  const protocol = PROTOCOL_OF_TYPE[health.type];
  const type = placeOf(reading, [...path, "health", "type"]);
  if (protocol === undefined) {
    report(
      key,
      `expected direct for type ${health.type}${type}, which cannot ask for a VIP, got path`,
    );
  } else if (values.protocol?.includes(protocol) === false) {
    const at = placeOf(reading, [...path, "protocol"]);
    const message = `expected direct for type ${health.type}${type} in a service without protocol ${protocol}${at}, got path`;
    report(key, message);
  }
  if (values.vip?.every((vip) => vip?.family === 6) === true) {
    const at = placeOf(reading, [...path, "vip"]);
    report(key, `expected direct without an IPv4 VIP${at}, since checks come from IPv4, got path`);
  }
  checkOthers({ reading, report }, service);
}

/** The VIP and its port are where such a check goes, from a source that says which backend. */
function checkOthers(
  { reading, report }: Pick<CrossCheck, "reading" | "report">,
  { path, values }: CheckedService,
): void {
  const at = placeOf(reading, [...path, "health", "through"]);
  const refuse = (key: KeyPath): void => {
    if (!reading.source.has(key)) return;
    report(key, `expected no ${String(key.at(-1))} for checks through the data path${at}, got one`);
  };
  checkVipPort({ reading, report }, { path, values });
  refuse([...path, "health", "source"]);
  for (const [index, { address }] of values.backends.entries()) {
    refuse([...path, "backends", index, "check", "port"]);
    // The agent may be at an address of its own.
    if (typeof values.agent !== "object") refuse([...path, "backends", index, "check", "address"]);
    if (address?.family !== 6 || values.mode === "full-nat") continue;
    const message = `expected an IPv4 backend for checks through the data path${at}, got ${address.text}`;
    report([...path, "backends", index, "address"], message);
  }
}

/** `health.port` is one of the VIP's. */
function checkVipPort(
  { reading, report }: Pick<CrossCheck, "reading" | "report">,
  { path, values }: Pick<CheckedService, "path" | "values">,
): void {
  const { health, port: ports = [] } = values;
  if (typeof health !== "object" || reading.isBad([...path, "port"])) return;
  const at = placeOf(reading, [...path, "port"]);
  const key = [...path, "health", "port"];
  if (health.port === undefined) {
    const first = ports[0];
    if (first === undefined || first.low === first.high) return;
    report([...path, "health"], `expected a port of the VIP${at} to check, got none`);
  } else if (!ports.some((range) => range!.low <= health.port! && health.port! <= range!.high)) {
    report(key, `expected a port of the VIP${at}, got ${health.port}`);
  }
}

/** Every backend has an agent, or the service has none. */
export function checkAgent({ reading, report }: CrossCheck, service: CheckedService): void {
  const { path, values } = service;
  const { agent } = values;
  const hasAgent = agent !== undefined && agent !== "none";
  if (reading.isBad([...path, "agent"])) return;
  if (hasAgent) checkTiming({ reading, report }, [...path, "agent"], agent);
  for (const [index, { check }] of values.backends.entries()) {
    const place = [...path, "backends", index];
    if (reading.isBad([...place, "check"])) continue;
    if (!hasAgent && check.agentPort !== undefined) {
      report([...place, "check", "agentPort"], "expected no agentPort in a service without agent");
    } else if (hasAgent && agent.port === undefined && check.agentPort === undefined) {
      const at = placeOf(reading, [...path, "agent"]);
      report(place, `expected a check.agentPort, since agent has no port${at}, got none`);
    }
  }
}
