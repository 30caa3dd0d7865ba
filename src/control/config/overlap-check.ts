import type { PortRange } from "../../service/definition.ts";
import type { CheckedService, CrossCheck } from "./cross-check.ts";
import { entryPath } from "./reading.ts";
import type { KeyPath } from "./source.ts";

/**
 * VIPs that two services claim. A VIP is one address, protocol and entry of `port`; of two that
 * match a packet, an exact port beats a range and a range beats any, so only VIPs of equal
 * precision may not overlap. Within one service no two entries may, whatever their precision. Of two
 * prefixes the longer one beats the other, so only the same prefix is of equal precision.
 */
interface Claim {
  readonly service: CheckedService;
  readonly text: string;
  readonly ports: PortRange;
  readonly path: KeyPath;
  /** Order in the file. */
  readonly order: number;
}

const EXACT = 0;
const RANGE = 1;
const ANY = 2;

/** 0 exact, 1 range, 2 any: the smaller wins. */
export function precisionOf({ low, high }: PortRange): number {
  if (low === high) return EXACT;
  return low === 1 && high === 65_535 ? ANY : RANGE;
}

/** `80`, `8000-8099` or `any`. */
export function formatPorts(ports: PortRange): string {
  const kind = precisionOf(ports);
  if (kind === ANY) return "any";
  return kind === EXACT ? String(ports.low) : `${ports.low}-${ports.high}`;
}

export function checkOverlaps(check: CrossCheck): void {
  for (const service of check.services) {
    checkRepeatedAddresses(check, service);
    checkOwnPorts(check, service);
  }

  const byTarget = new Map<string, Claim[]>();
  for (const claim of claims(check)) {
    const [address, protocol] = claim.text.split(" ");
    const key = `${address} ${protocol} ${precisionOf(claim.ports)}`;
    const others = byTarget.get(key);
    if (others === undefined) byTarget.set(key, [claim]);
    else others.push(claim);
  }
  const reported = new Set<string>();
  for (const group of byTarget.values()) {
    for (const [earlier, later] of overlaps(group)) {
      const place = check.reading.source.reference(later.path);
      const before = check.reading.source.reference(earlier.path);
      // One entry stands for several VIPs (addresses, protocols): one problem is enough.
      if (reported.has(`${place} ${before}`)) continue;
      reported.add(`${place} ${before}`);
      const [address, protocol] = later.text.split(" ");
      const host = address?.includes(":") ? `[${address}]` : address;
      const vip = `${host}:${formatPorts(later.ports)}/${protocol}`;
      const whose = `${earlier.service.title} has ${formatPorts(earlier.ports)} there (${before})`;
      check.report(
        later.path,
        `expected VIPs of equal precision not to overlap, got ${vip}; ${whose}`,
      );
    }
  }
}

function* claims({ reading, services }: CrossCheck): Generator<Claim> {
  let order = 0;
  for (const service of services) {
    const { values, path } = service;
    for (const address of values.vip ?? []) {
      for (const protocol of values.protocol ?? []) {
        for (const [index, ports] of (values.port ?? []).entries()) {
          if (address === undefined || protocol === undefined || ports === undefined) continue;
          const at = entryPath(reading, [...path, "port"], index);
          order += 1;
          yield { service, text: `${address.text} ${protocol}`, ports, path: at, order };
        }
      }
    }
  }
}

/** Pairs that overlap, each claim with the widest one before it; earlier in the file first. */
function* overlaps(group: readonly Claim[]): Generator<readonly [Claim, Claim]> {
  const sorted = group.toSorted((a, b) => a.ports.low - b.ports.low || a.order - b.order);
  let widest: Claim | undefined;
  for (const claim of sorted) {
    if (widest !== undefined && claim.ports.low <= widest.ports.high) {
      if (claim.service !== widest.service) {
        yield claim.order < widest.order ? [claim, widest] : [widest, claim];
      }
    }
    if (widest === undefined || claim.ports.high > widest.ports.high) widest = claim;
  }
}

function checkRepeatedAddresses({ reading, report }: CrossCheck, service: CheckedService): void {
  const first = new Map<string, KeyPath>();
  for (const [index, address] of (service.values.vip ?? []).entries()) {
    if (address === undefined) continue;
    const path = entryPath(reading, [...service.path, "vip"], index);
    const earlier = first.get(address.text);
    if (earlier === undefined) first.set(address.text, path);
    else {
      const before = reading.source.reference(earlier);
      report(path, `expected each address once, got ${address.text} again (first at ${before})`);
    }
  }
}

function checkOwnPorts({ reading, report }: CrossCheck, service: CheckedService): void {
  const before: { readonly ports: PortRange; readonly path: KeyPath }[] = [];
  for (const [index, ports] of (service.values.port ?? []).entries()) {
    if (ports === undefined) continue;
    const path = entryPath(reading, [...service.path, "port"], index);
    const other = before.find((it) => it.ports.low <= ports.high && ports.low <= it.ports.high);
    if (other !== undefined) {
      const at = reading.source.reference(other.path);
      const message = `expected ports of one service not to overlap, got ${formatPorts(ports)} and ${formatPorts(other.ports)} (${at})`;
      report(path, message);
    }
    before.push({ ports, path });
  }
}
