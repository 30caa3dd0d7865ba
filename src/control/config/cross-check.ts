import type { ConfigProblem } from "../../base/errors.ts";
import type { Address } from "../../service/definition.ts";
import { accessFiles } from "./access-lists.ts";
import { canAdopt, checkedPort, checkTimeout } from "./build.ts";
import { formatDuration } from "./duration.ts";
import { checkLimits } from "./limits-check.ts";
import { checkOverlaps } from "./overlap-check.ts";
import { entryPath, type Reading } from "./reading.ts";
import type { ServiceValues } from "./schema.ts";
import type { KeyPath } from "./source.ts";
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
  checkUnsupported(check);
  checkDevice(check);
  checkAdmin(check);
  checkNames(check);
  for (const service of services) {
    checkService(check, service);
    checkHealth(check, service);
    checkAccess(check, service);
    checkBackends(check, service);
    checkUdp(check, service);
  }
  checkOverlaps(check);
  checkAddresses(check);
  checkLimits(check);
}

function checkUnsupported({ reading, report }: CrossCheck): void {
  const { source, values } = reading;
  if (values.tunnel !== undefined) report(["tunnel"], "not supported yet: tunnel");
  const holders: KeyPath[] = [["defaults"]];
  for (const index of values.services.keys()) holders.push(["services", index]);
  for (const holder of holders) {
    const path = [...holder, "affinity"];
    if (source.has(path) && reading.isWritten(path) && valueIsMap(reading, path)) {
      report(path, "not supported yet: affinity");
    }
  }
}

/** `affinity: off` is what there is without it. */
function valueIsMap(reading: Reading, path: KeyPath): boolean {
  const { defaults, services } = reading.values;
  const holder = path[0] === "services" ? services[Number(path[1])] : defaults;
  return typeof holder?.affinity === "object";
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
  if (values.outOfState === "adopt" && !canAdopt(values)) {
    const why = values.mode === "full-nat" ? "mode full-nat" : `scheduler ${values.scheduler}`;
    const other = values.mode === "full-nat" ? "mode" : "scheduler";
    const at = placeOf(reading, [...path, other]);
    const message = `expected reset or drop with ${why}${at}, got "adopt" (only source-hash and maglev, outside full-nat)`;
    report([...path, "outOfState"], message);
  }
  const hasPool = reading.values.snat.addresses.length > 0 || reading.isBad(["snat"]);
  if (values.mode === "full-nat" && !hasPool) {
    const at = placeOf(reading, ["snat"]);
    report([...path, "mode"], `expected snat.addresses for mode full-nat, got none${at}`);
  }
}

/** ` (file:line:column)` when the file has it. */
function placeOf(reading: Reading, path: KeyPath): string {
  return reading.source.has(path) ? ` (${reading.source.reference(path)})` : "";
}

function checkHealth({ reading, report }: CrossCheck, service: CheckedService): void {
  const { values } = service;
  const { health } = values;
  if (health === undefined || health === "none") return;
  const path = [...service.path, "health"];
  if (health.type === "tcp" && !reading.isBad([...path, "type"])) {
    for (const key of ["path", "host", "status"] as const) {
      if (health[key] === undefined) continue;
      report(
        [...path, key],
        `expected no ${JSON.stringify(key)} for type tcp, got one (only for http)`,
      );
    }
  }
  const isBad = reading.isBad([...path, "interval"]) || reading.isBad([...path, "timeout"]);
  if (!isBad && checkTimeout(health) > health.interval) {
    const at = placeOf(reading, [...path, "interval"]);
    const message = `expected at most the interval of ${formatDuration(health.interval)}${at}, got ${formatDuration(checkTimeout(health))}`;
    report([...path, "timeout"], message);
  }
  const portless = values.backends.findIndex((it) => it.port === undefined);
  if (portless < 0 || reading.isBad([...service.path, "backends"])) return;
  if (reading.isBad([...service.path, "port"]) || values.port === undefined) return;
  if (checkedPort(values, values.port) === 0) {
    const at = placeOf(reading, [...service.path, "backends", portless]);
    const message = `expected a port to check for backends[${portless}]${at}, got none: give health or the backend a port`;
    report(path, message);
  }
}

function checkBackends({ reading, report }: CrossCheck, service: CheckedService): void {
  const { values } = service;
  const first = new Map<string, KeyPath>();
  const once = (path: KeyPath, address: Address | undefined, port: number | undefined): void => {
    if (address === undefined) return;
    const text = port === undefined ? address.text : `${address.text}:${port}`;
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

/** Addresses that one host has cannot be those of another, nor of the gateway's own traffic. */
function checkAddresses(check: CrossCheck): void {
  const { reading, services, report } = check;
  const vips = new Map<number, PlacedAddress>();
  for (const { path, values, title } of services) {
    for (const [index, address] of (values.vip ?? []).entries()) {
      if (address === undefined || vips.has(address.value)) continue;
      const at = entryPath(reading, [...path, "vip"], index);
      vips.set(address.value, { address, path: at, owner: `a VIP of ${title}` });
    }
  }

  const snat = new Map<number, PlacedAddress>();
  for (const [index, addresses] of reading.values.snat.addresses.entries()) {
    const path = ["snat", "addresses", index];
    for (const address of addresses ?? []) {
      const earlier = snat.get(address.value);
      if (earlier !== undefined) {
        const before = reading.source.reference(earlier.path);
        report(path, `expected each address once, got ${address.text} again (first at ${before})`);
        break;
      }
      snat.set(address.value, { address, path, owner: "a SNAT address" });
      const vip = vips.get(address.value);
      if (vip !== undefined) report(path, conflict(check, "a SNAT address that is no VIP", vip));
    }
  }

  for (const { path, values } of services) {
    const distinct = (at: KeyPath, what: string, address: Address | undefined): void => {
      const other =
        address === undefined ? undefined : (vips.get(address.value) ?? snat.get(address.value));
      if (other !== undefined)
        report(at, conflict(check, `${what} that is no VIP or SNAT address`, other));
    };
    for (const [index, { address }] of values.backends.entries()) {
      distinct([...path, "backends", index, "address"], "a backend", address);
    }
    distinct([...path, "noBackend", "address"], "a sorry server", values.noBackend.address);
  }
}

function conflict({ reading }: CrossCheck, what: string, other: PlacedAddress): string {
  const at = reading.source.reference(other.path);
  return `expected ${what}, got ${other.address.text}, ${other.owner} (${at})`;
}
