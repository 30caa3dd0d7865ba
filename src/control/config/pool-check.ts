import type { CheckedService, CrossCheck } from "./cross-check.ts";
import type { KeyPath } from "./source.ts";

/** Schedulers that know no shares of a weight, and why. */
const WITHOUT_SHARES: Readonly<Record<string, string>> = {
  "round-robin": "heeds no weights",
  "least-connections": "heeds no weights",
  "source-hash": "gives clients of other backends to another one at every step",
  failover: "takes weights as an order",
  policy: "has weights of its own",
};

/** What is wrong between the keys of a service about priorities, pools and slow start. */
export function checkPools({ reading, report }: CrossCheck, service: CheckedService): void {
  const { path, values } = service;
  const at = (place: KeyPath): string =>
    reading.source.has(place) ? ` (${reading.source.reference(place)})` : "";
  const isOwn = (key: string): boolean =>
    reading.source.has([...path, key]) && !reading.isBad([...path, key]);
  // A map instead of a word is a policy module.
  const scheduler = typeof values.scheduler === "string" ? values.scheduler : "policy";
  const whereScheduler = at([...path, "scheduler"]);

  const why = WITHOUT_SHARES[scheduler];
  const isSlow = values.slowStart !== undefined && values.slowStart !== "off";
  if (isSlow && isOwn("slowStart") && why !== undefined) {
    const message = `expected off with scheduler ${scheduler}${whereScheduler}, which ${why}`;
    report([...path, "slowStart"], message);
  }

  if (reading.isBad([...path, "backends"])) return;
  for (const [index, { priority }] of values.backends.entries()) {
    const place = [...path, "backends", index, "priority"];
    if (priority === 0 || scheduler !== "failover") continue;
    const message = `expected 0 with scheduler failover${whereScheduler}, which orders backends by weight, got ${priority}`;
    report(place, message);
  }
  const { minimumHealthy } = values;
  const most = values.backends.length;
  if (isOwn("minimumHealthy") && "count" in minimumHealthy && minimumHealthy.count > most) {
    const where = at([...path, "backends"]);
    const message = `expected at most the ${most} backends${where}, got ${minimumHealthy.count}`;
    if (most > 0) report([...path, "minimumHealthy"], message);
  }
  checkCaps({ reading, report }, service);
}

/** A cap that some worker has no share of would shut out the clients that it has. */
function checkCaps(
  { reading, report }: Pick<CrossCheck, "reading" | "report">,
  { path, values }: CheckedService,
): void {
  const { workers } = reading.values.device;
  if (reading.isBad(["device", "workers"])) return;
  const place = ["device", "workers"];
  const where = reading.source.has(place) ? ` (${reading.source.reference(place)})` : "";
  for (const [index, { maxConnections }] of values.backends.entries()) {
    if (maxConnections === undefined || maxConnections >= workers) continue;
    const message = `expected at least one for each of ${workers} workers${where}, got ${maxConnections}`;
    report([...path, "backends", index, "maxConnections"], message);
  }
}
