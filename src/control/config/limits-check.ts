import { SNAT_ADDRESSES_MAX } from "../../base/limits.ts";
import type { PortRange } from "../../service/definition.ts";
import { tableWords } from "../../service/hash-tables.ts";
import { bankSize, VIP_INTERVALS_PER_SERVICE } from "../../state/layout.ts";
import { accessPrefixes } from "./access-lists.ts";
import { schedulerOf } from "./build.ts";
import type { CheckedService, CrossCheck } from "./cross-check.ts";
import { precisionOf } from "./overlap-check.ts";

/** Does everything fit in the room that `limits` takes at start? */
export function checkLimits({ reading, services, report }: CrossCheck): void {
  const { device, limits, snat } = reading.values;
  const limitAt = (key: keyof typeof limits): string => {
    const path = ["limits", key];
    const place = reading.source.has(path) ? reading.source.reference(path) : "the default";
    return `limits.${key} is ${limits[key]} (${place})`;
  };

  const pool = snat.addresses.reduce((sum, addresses) => sum + (addresses?.length ?? 0), 0);
  if (pool > SNAT_ADDRESSES_MAX) {
    const message = `expected at most ${SNAT_ADDRESSES_MAX} addresses in all, got ${pool}`;
    report(["snat", "addresses"], message);
  }
  // Worker w takes the ports that are w modulo the workers.
  const ports = snat.ports.high - snat.ports.low + 1;
  if (pool > 0 && ports < device.workers) {
    const message = `expected a port for each of ${device.workers} workers (device.workers), got ${ports}`;
    report(["snat", "ports"], message);
  }
  if (device.cpus.length !== 0 && device.cpus.length !== device.workers) {
    const message = `expected a processor for each of ${device.workers} workers (device.workers), got ${device.cpus.length}`;
    report(["device", "cpus"], message);
  }
  // The first service that does not fit any more is named, once for each limit.
  const bank = bankSize(limits);
  const room = [
    { key: "services", path: "protocol", what: "service slots", need: protocolCount },
    { key: "backends", path: "backends", what: "backend slots", need: backendSlots },
    { key: "hashSlots", path: "scheduler", what: "table slots", need: tableSlots },
    { key: "accessPrefixes", path: "access", what: "access prefixes", need: prefixCount },
  ] as const;
  for (const { key, path, what, need } of room) {
    const most = limits[key];
    const all = services.reduce((sum, service) => sum + need(service), 0);
    if (all <= most) continue;
    let used = 0;
    const first = services.find((service) => (used += need(service)) > most);
    const message = `expected at most ${most} ${what} in all services, got ${all}: ${limitAt(key)}`;
    if (first !== undefined) report([...first.path, path], message);
  }

  const intervals = countIntervals(services);
  const intervalsMost = VIP_INTERVALS_PER_SERVICE * limits.services;
  if (intervals > intervalsMost) {
    const message = `expected at most ${intervalsMost} port intervals in all VIPs (${VIP_INTERVALS_PER_SERVICE} a service), got ${intervals}: ${limitAt("services")}`;
    report(["services"], message);
  }
  const addresses = new Set(
    services.flatMap(({ values }) => (values.vip ?? []).map((it) => it?.text)),
  ).size;
  // Half of the table, less what SNAT and the host itself need.
  const addressesMost = bank.addressEntries / 2 - 2 * SNAT_ADDRESSES_MAX;
  if (addresses > addressesMost) {
    const message = `expected at most ${addressesMost} VIP addresses, got ${addresses}: ${limitAt("services")}`;
    report(["services"], message);
  }
}

/** A service has a slot, a backend list and a table for each of its protocols. */
function protocolCount({ values }: CheckedService): number {
  return values.protocol?.length ?? 1;
}

function prefixCount({ values }: CheckedService): number {
  return accessPrefixes(values);
}

/** One for each protocol and backend, the sorry server included. */
function backendSlots(service: CheckedService): number {
  const { values } = service;
  const sorry = values.noBackend.action === "sorry" ? 1 : 0;
  return (values.backends.length + sorry) * protocolCount(service);
}

function tableSlots(service: CheckedService): number {
  const { values } = service;
  const protocols = protocolCount(service);
  const weights = values.backends.map((backend) => Math.max(1, backend.weight));
  const words = tableWords(schedulerOf(values), weights, values.tableSize);
  // A policy's own table has at most as many.
  const least = typeof values.scheduler === "object" ? values.tableSize : 0;
  return Math.max(words, least) * protocols;
}

/** Port intervals that the VIPs become once an exact port is cut out of the range around it. */
function countIntervals(services: readonly CheckedService[]): number {
  const byTarget = new Map<string, PortRange[]>();
  for (const { values } of services) {
    const ports = (values.port ?? []).filter((it) => it !== undefined);
    for (const address of values.vip ?? []) {
      for (const protocol of values.protocol ?? []) {
        const key = `${address?.text} ${protocol}`;
        const list = byTarget.get(key);
        if (list === undefined) byTarget.set(key, [...ports]);
        else list.push(...ports);
      }
    }
  }
  let count = 0;
  for (const ports of byTarget.values()) count += flattened(ports);
  return count;
}

function flattened(ports: readonly PortRange[]): number {
  if (ports.every((it) => precisionOf(it) === 0)) return ports.length;
  const edges = ports.flatMap((it) => [
    { at: it.low, precision: precisionOf(it), opens: 1 },
    { at: it.high + 1, precision: precisionOf(it), opens: -1 },
  ]);
  edges.sort((a, b) => a.at - b.at);
  const open = [0, 0, 0];
  let count = 0;
  for (const [index, { at, precision, opens }] of edges.entries()) {
    open[precision] = open[precision]! + opens;
    const isLastHere = edges[index + 1]?.at !== at;
    if (isLastHere && open.some((it) => it > 0)) count += 1;
  }
  return count;
}
