import { endpointOf, isInPrefix } from "../../base/address.ts";
import type { ConfigProblem } from "../../base/errors.ts";
import type { Address } from "../../service/definition.ts";
import { accessFiles } from "./access-lists.ts";
import { checkAffinity } from "./affinity-check.ts";
import { checkFamilies } from "./family-check.ts";
import { checkHealth } from "./health-check.ts";
import { checkLimits } from "./limits-check.ts";
import { checkMode } from "./mode-check.ts";
import { checkOverlaps } from "./overlap-check.ts";
import { checkPassive } from "./passive-check.ts";
import { checkPolicy } from "./policy-check.ts";
import { checkPools } from "./pool-check.ts";
import { checkAgent, checkPath, checkProbe } from "./probe-check.ts";
import { entryPath, type Reading } from "./reading.ts";
import { checkScheduler } from "./scheduler-check.ts";
import type { ServiceValues } from "./schema.ts";
import type { KeyPath } from "./source.ts";
import { checkStateless } from "./stateless-check.ts";
import { checkUdp } from "./udp-check.ts";

/**
 * What is wrong between keys. Each message names both places; it stands at the later one, or at
 * the service when `defaults` gave the value.
 */
export interface CrossCheck {
  readonly reading: Reading;
  /** Services that are there, with their number in the file. */
  readonly services: readonly CheckedService[];
  report(path: KeyPath, message: string): void;
}

export interface CheckedService {
  readonly index: number;
  readonly path: KeyPath;
  readonly values: ServiceValues;
  /** `service "web"`, or `services[2]` while it has no name. */
  readonly title: string;
}

/** An address with the place where it stands. */
export interface PlacedAddress {
  readonly address: Address;
  readonly path: KeyPath;
  readonly owner: string;
}

export function crossCheck(reading: Reading, problems: ConfigProblem[]): void {
  const services = reading.values.services.flatMap((values, index): CheckedService[] => {
    const path = ["services", index];
    if (reading.isGone(path)) return [];
    const title =
      values.name === undefined ? `services[${index}]` : `service ${JSON.stringify(values.name)}`;
    return [{ index, path, values, title }];
  });
  const check: CrossCheck = {
    reading,
    services,
    report: (path, message) => problems.push(reading.source.problem(path, message)),
  };
  checkDevice(check);
  checkAdmin(check);
  checkNames(check);
  for (const service of services) {
    checkService(check, service);
    checkScheduler(check, service);
    checkHealth(check, service);
    checkPath(check, service);
    checkAgent(check, service);
    checkAccess(check, service);
    checkSynProxy(check, service);
    checkShares(check, service);
    checkBackends(check, service);
    checkMode(check, service);
    checkUdp(check, service);
    checkPassive(check, service);
    checkPolicy(check, service);
    checkPools(check, service);
  }
  checkProbe(check);
  checkFamilies(check);
  checkOverlaps(check);
  checkAddresses(check);
  checkLimits(check);
  checkStateless(check);
  checkAffinity(check);
}

/** Keys of the device that only some types have. */
const DEVICE_KEYS: Readonly<Record<string, readonly string[]>> = {
  name: ["tun"],
  routes: ["tun"],
  interfaces: ["packet", "xdp"],
  xdp: ["xdp"],
};

function checkDevice({ reading, report }: CrossCheck): void {
  const { type } = reading.values.device;
  if (type === undefined) return;
  for (const [key, only] of Object.entries(DEVICE_KEYS)) {
    const path = ["device", key];
    if (!only.includes(type) && reading.source.has(path)) {
      report(
        path,
        `expected no ${JSON.stringify(key)} for type ${type}, got one (only for ${only.join(", ")})`,
      );
    }
  }
}

function checkAdmin({ reading, report }: CrossCheck): void {
  const { http, tokenFile } = reading.values.admin;
  if (http === "off" || tokenFile !== undefined || reading.isBad(["admin", "tokenFile"])) return;
  if (/^127\.|^::1$/.test(http.address)) return;
  const message = `expected admin.tokenFile for an address that is not loopback, got none`;
  report(["admin", "http"], message);
}

function checkNames({ reading, services, report }: CrossCheck): void {
  const first = new Map<string, CheckedService>();
  for (const service of services) {
    const { name } = service.values;
    if (name === undefined) continue;
    const earlier = first.get(name);
    if (earlier === undefined) first.set(name, service);
    else {
      const before = reading.source.reference([...earlier.path, "name"]);
      const message = `expected a name that no other service has, got ${JSON.stringify(name)} again (first at ${before})`;
      report([...service.path, "name"], message);
    }
  }
}

function checkService({ reading, report }: CrossCheck, service: CheckedService): void {
  const { path, values } = service;
  const hasPool = reading.values.snat.addresses.length > 0 || reading.isBad(["snat"]);
  if (values.mode === "full-nat" && !hasPool) {
    const at = placeOf(reading, ["snat"]);
    report([...path, "mode"], `expected snat.addresses for mode full-nat, got none${at}`);
  }
}

/** ` (file:line:column)` when the file has it. */
export function placeOf(reading: Reading, path: KeyPath): string {
  return reading.source.has(path) ? ` (${reading.source.reference(path)})` : "";
}

function checkBackends({ reading, report }: CrossCheck, service: CheckedService): void {
  const { values } = service;
  const first = new Map<string, KeyPath>();
  const once = (path: KeyPath, address: Address | undefined, port: number | undefined): void => {
    if (address === undefined) return;
    const text = endpointOf(address, port ?? 0);
    const earlier = first.get(text);
    if (earlier === undefined) first.set(text, path);
    else {
      const before = reading.source.reference(earlier);
      report(path, `expected each backend once, got ${text} again (first at ${before})`);
    }
  };
  for (const [index, { address, port }] of values.backends.entries()) {
    const path = [...service.path, "backends", index];
    if (!reading.isBad(path)) once(path, address, port);
  }

  const path = [...service.path, "noBackend"];
  const { action, address, port } = values.noBackend;
  if (reading.isBad(path)) return;
  if (action === "sorry") {
    if (address === undefined)
      report(path, 'expected the key "address" for action sorry, got none');
    else once(path, address, port);
    return;
  }
  for (const key of ["address", "port"] as const) {
    if (values.noBackend[key] === undefined) continue;
    report(
      [...path, key],
      `expected no ${JSON.stringify(key)} for action ${action}, got one (only for sorry)`,
    );
  }
}

/** The files of access lists are part of the configuration: what is wrong in them is wrong here. */
function checkAccess({ reading, report }: CrossCheck, { path, values }: CheckedService): void {
  const at = [...path, "access"];
  if (reading.isBad(at)) return;
  const files = accessFiles(values);
  if (files.allow.problem !== null) report([...at, "allowFile"], files.allow.problem);
  if (files.deny.problem !== null) report([...at, "denyFile"], files.deny.problem);
}

/** A limit that some worker has no share of would shut out the clients that it has. */
function checkShares({ reading, report }: CrossCheck, { path, values }: CheckedService): void {
  const { workers } = reading.values.device;
  const at = [...path, "limits"];
  if (reading.isBad(at) || reading.isBad(["device", "workers"])) return;
  const { connections, packetsPerSecond, perBackend } = values.limits;
  const place = placeOf(reading, ["device", "workers"]);
  const check = (key: KeyPath, limit: number | undefined): void => {
    if (limit === undefined || limit >= workers) return;
    const message = `expected at least one for each of ${workers} workers${place}, got ${limit}`;
    report([...at, ...key], message);
  };
  check(["connections"], connections);
  check(["packetsPerSecond"], packetsPerSecond);
  check(["perBackend", "connections"], perBackend.connections);
}

function checkSynProxy({ reading, report }: CrossCheck, { path, values }: CheckedService): void {
  const at = [...path, "synProxy"];
  const { mode, sack, timestamps, windowScale } = values.synProxy;
  if (reading.isBad(at)) return;
  if (mode !== "off" && values.mode !== "nat" && values.mode !== "full-nat") {
    const place = placeOf(reading, [...path, "mode"]);
    report([...at, "mode"], `expected off with mode ${values.mode}${place}, got ${mode}`);
  }
  const protocols = values.protocol ?? [];
  // What `defaults` says is for those that have TCP.
  const isOwn = reading.source.has([...at, "mode"]);
  if (mode !== "off" && isOwn && protocols.length > 0 && !protocols.includes("tcp")) {
    const place = placeOf(reading, [...path, "protocol"]);
    report([...at, "mode"], `expected off without protocol tcp${place}, got ${mode}`);
  }
  if (timestamps !== false) return;
  const place = placeOf(reading, [...at, "timestamps"]);
  if (sack === true) {
    report([...at, "sack"], `expected timestamps, which keep it in a cookie, got false${place}`);
  }
  if (typeof windowScale === "number") {
    const key = [...at, "windowScale"];
    report(key, `expected timestamps, which keep it in a cookie, got false${place}`);
  }
}

/** Addresses that one host has cannot be those of another, nor of the gateway's own traffic. */
function checkAddresses(check: CrossCheck): void {
  const { reading, services, report } = check;
  const vips = placedVips(check);
  const snat = new Map<string, PlacedAddress>();
  for (const [index, addresses] of reading.values.snat.addresses.entries()) {
    const path = ["snat", "addresses", index];
    for (const address of addresses ?? []) {
      const earlier = snat.get(address.text);
      if (earlier !== undefined) {
        const before = reading.source.reference(earlier.path);
        report(path, `expected each address once, got ${address.text} again (first at ${before})`);
        break;
      }
      snat.set(address.text, { address, path, owner: "a SNAT address" });
      const vip = vips.find(address);
      if (vip !== undefined) {
        report(path, conflict(check, "a SNAT address that is no VIP", address, vip));
      }
    }
  }

  const { source } = reading.values.tunnel;
  for (const key of ["ipv4", "ipv6"] as const) {
    const address = source[key];
    const vip = address === undefined ? undefined : vips.find(address);
    if (address === undefined || vip === undefined) continue;
    const message = conflict(check, "a tunnel source that is no VIP", address, vip);
    report(["tunnel", "source", key], message);
  }

  for (const { path, values } of services) {
    const distinct = (at: KeyPath, what: string, address: Address | undefined): void => {
      if (address === undefined) return;
      const other = vips.find(address) ?? snat.get(address.text);
      if (other === undefined) return;
      report(at, conflict(check, `${what} that is no VIP or SNAT address`, address, other));
    };
    for (const [index, { address }] of values.backends.entries()) {
      distinct([...path, "backends", index, "address"], "a backend", address);
    }
    distinct([...path, "noBackend", "address"], "a sorry server", values.noBackend.address);
  }
}

/** The VIPs by address; a prefix has all of its own. */
function placedVips({ reading, services }: CrossCheck): {
  find(address: Address): PlacedAddress | undefined;
} {
  const whole = new Map<string, PlacedAddress>();
  const prefixes: { vip: Address; length: number; placed: PlacedAddress }[] = [];
  for (const { path, values, title } of services) {
    for (const [index, vip] of (values.vip ?? []).entries()) {
      if (vip === undefined) continue;
      const at = entryPath(reading, [...path, "vip"], index);
      const placed = { address: vip, path: at, owner: `a VIP of ${title}` };
      if (vip.prefixLength !== undefined) prefixes.push({ vip, length: vip.prefixLength, placed });
      else if (!whole.has(vip.text)) whole.set(vip.text, placed);
    }
  }
  return {
    find: (address) =>
      whole.get(address.text) ??
      prefixes.find(({ vip, length }) => isInPrefix(address, vip, length))?.placed,
  };
}

function conflict(
  { reading }: CrossCheck,
  what: string,
  address: Address,
  other: PlacedAddress,
): string {
  const at = reading.source.reference(other.path);
  const inPrefix = other.address.text === address.text ? "" : ` ${other.address.text}`;
  return `expected ${what}, got ${address.text}, ${other.owner}${inPrefix} (${at})`;
}
