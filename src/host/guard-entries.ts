import { type Address, addressBits, compareAddresses, isInPrefix } from "../base/address.ts";
import { portPrefixes } from "./port-prefixes.ts";

/** IP protocol numbers that services have. */
export const TCP = 6;
export const UDP = 17;

/**
 * What the gateway owns (design 1.9): packets that it takes from the wire, so that the kernel must
 * not handle its own copy of them. Protocols are IP numbers.
 */
export interface GuardEntries {
  /** Every VIP: address, protocol, and ports `low..high` (both included; `any` is 1..65535). */
  readonly vips: readonly {
    readonly address: Address;
    /** Of a VIP that is a prefix; left out: the address alone. */
    readonly prefixLength?: number | undefined;
    readonly protocol: number;
    readonly low: number;
    readonly high: number;
  }[];
  /** Backends of `nat` services; port 0 means every port. */
  readonly backends: readonly {
    readonly address: Address;
    readonly protocol: number;
    readonly port: number;
  }[];
  /** Addresses of the full-NAT pool. */
  readonly snat: readonly Address[];
  /** Addresses of the host, see hostAddresses(). */
  readonly hosts: readonly Address[];
}

/** Address flags: the values of the guard's address map, addon/guard.cc has the same numbers. */
/** An address of a VIP that is also the host's: owned by port, and ICMP echo requests. */
export const GUARD_VIP = 1;
/** A SNAT address, or a VIP that is not the host's: every packet to it is owned. */
export const GUARD_WHOLE = 2;
/** An address of the host: packets to it are never a backend's replies to a client. */
export const GUARD_HOST = 4;
/** An address of a `nat` backend. */
export const GUARD_BACKEND = 8;

/** What a port entry says: ports of a VIP, or ports that a backend answers from. */
export const PORTS_OF_VIP = 0;
export const PORTS_OF_BACKEND = 1;

export interface PortRangeEntry {
  readonly kind: typeof PORTS_OF_VIP | typeof PORTS_OF_BACKEND;
  readonly protocol: number;
  readonly address: Address;
  readonly low: number;
  readonly high: number;
}

export interface AddressEntry {
  readonly address: Address;
  /** All of the address's, or fewer: a prefix. */
  readonly prefixLength: number;
  /** GUARD_…; those of an address count alone, without what prefixes say of it. */
  readonly flags: number;
}

export interface CompiledGuard {
  /** By `ADDRESS/LENGTH`. */
  readonly addresses: ReadonlyMap<string, AddressEntry>;
  /** Not overlapping for one kind, protocol and address; ascending. */
  readonly ranges: readonly PortRangeEntry[];
}

type Vip = GuardEntries["vips"][number];

function isWhole({ address, prefixLength }: Vip): boolean {
  return prefixLength === undefined || prefixLength === addressBits(address);
}

/** Work out flags per address and merged port ranges. Pure. */
export function compileGuard(entries: GuardEntries): CompiledGuard {
  const addresses = new Map<string, AddressEntry>();
  const mark = (address: Address, flag: number, length?: number): void => {
    const prefixLength = length ?? addressBits(address);
    const key = `${address.text}/${prefixLength}`;
    const flags = (addresses.get(key)?.flags ?? 0) | flag;
    addresses.set(key, { address, prefixLength, flags });
  };
  const hosts = new Map(entries.hosts.map((address) => [address.text, address]));
  const prefixes = entries.vips.filter((vip) => !isWhole(vip));
  // Only a host's VIP has packets that are not owned: its ports are looked at.
  const vipRanges: PortRangeEntry[] = [];
  const markVip = (address: Address, { protocol, low, high }: Vip): void => {
    mark(address, hosts.has(address.text) ? GUARD_VIP : GUARD_WHOLE);
    vipRanges.push({ kind: PORTS_OF_VIP, address, protocol, low, high });
  };
  for (const address of hosts.values()) mark(address, GUARD_HOST);
  for (const vip of entries.vips) if (isWhole(vip)) markVip(vip.address, vip);
  for (const address of entries.snat) mark(address, GUARD_WHOLE);
  for (const { address } of entries.backends) mark(address, GUARD_BACKEND);
  // An address that is looked up for its own sake has to say what prefixes say of it, too.
  const known = [...addresses.values()].map(({ address }) => address);
  for (const vip of prefixes) {
    const length = vip.prefixLength as number;
    mark(vip.address, GUARD_WHOLE, length);
    for (const address of known)
      if (isInPrefix(address, vip.address, length)) markVip(address, vip);
  }
  const ranges = [
    ...vipRanges,
    ...entries.backends.map(
      ({ address, protocol, port }) =>
        ({
          kind: PORTS_OF_BACKEND,
          address,
          protocol,
          low: port,
          high: port === 0 ? 65_535 : port,
        }) as const,
    ),
  ];
  return { addresses, ranges: mergeRanges(ranges) };
}

function compareRanges(a: PortRangeEntry, b: PortRangeEntry): number {
  return (
    a.kind - b.kind ||
    a.protocol - b.protocol ||
    compareAddresses(a.address, b.address) ||
    a.low - b.low ||
    a.high - b.high
  );
}

/** Ranges of one kind, protocol and address that touch or overlap become one. */
function mergeRanges(ranges: readonly PortRangeEntry[]): PortRangeEntry[] {
  const merged: PortRangeEntry[] = [];
  for (const range of [...ranges].sort(compareRanges)) {
    const last = merged.at(-1);
    const joins =
      last !== undefined &&
      last.kind === range.kind &&
      last.protocol === range.protocol &&
      last.address.text === range.address.text &&
      range.low <= last.high + 1;
    if (joins) merged[merged.length - 1] = { ...last, high: Math.max(last.high, range.high) };
    else merged.push(range);
  }
  return merged;
}

/** One entry of the port map: a range is up to 30 of them. */
export interface PortEntry {
  readonly kind: number;
  readonly protocol: number;
  readonly address: Address;
  readonly port: number;
  readonly bits: number;
}

/** Port entries by a key that is the same for the same entry. */
export function portEntries(ranges: readonly PortRangeEntry[]): Map<string, PortEntry> {
  const entries = new Map<string, PortEntry>();
  for (const { kind, protocol, address, low, high } of ranges) {
    for (const { port, bits } of portPrefixes(low, high)) {
      entries.set(`${kind}/${protocol}/${address.text}/${port}/${bits}`, {
        kind,
        protocol,
        address,
        port,
        bits,
      });
    }
  }
  return entries;
}
