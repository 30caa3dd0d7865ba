import type { Address } from "../../service/definition.ts";
import type { CheckedService, CrossCheck } from "./cross-check.ts";
import { entryPath } from "./reading.ts";
import type { KeyPath } from "./source.ts";

/**
 * Families of addresses: `nat` and `dsr` leave the client's address as it is, so VIP and backend are of
 * one family; `full-nat` translates between them, and needs a SNAT address of the backend's.
 */
export function checkFamilies(check: CrossCheck): void {
  checkRoom(check);
  for (const service of check.services) {
    const { mode } = service.values;
    if (mode === "full-nat") checkPool(check, service);
    else if (mode === "nat" || mode === "dsr") checkSameFamily(check, service);
    checkHealthSource(check, service);
  }
}

interface Placed {
  readonly address: Address;
  readonly path: KeyPath;
}

/** Backends, and the sorry server. */
function serversOf({ values, path }: CheckedService): Placed[] {
  const servers = values.backends.flatMap(({ address }, index): Placed[] =>
    address === undefined ? [] : [{ address, path: [...path, "backends", index, "address"] }],
  );
  const { action, address } = values.noBackend;
  if (action === "sorry" && address !== undefined) {
    servers.push({ address, path: [...path, "noBackend", "address"] });
  }
  return servers;
}

function vipsOf({ reading }: CrossCheck, { values, path }: CheckedService): Placed[] {
  return (values.vip ?? []).flatMap((address, index): Placed[] =>
    address === undefined ? [] : [{ address, path: entryPath(reading, [...path, "vip"], index) }],
  );
}

function checkSameFamily(check: CrossCheck, service: CheckedService): void {
  const { mode } = service.values;
  const vips = vipsOf(check, service);
  for (const { address, path } of serversOf(service)) {
    const other = vips.find((vip) => vip.address.family !== address.family);
    if (other === undefined) continue;
    const place = check.reading.source.reference(other.path);
    const message = `expected an IPv${other.address.family} address in mode ${mode}, like the VIP ${other.address.text} (${place}), got ${address.text}: full-nat translates between the families`;
    check.report(path, message);
    return;
  }
}

function checkPool(check: CrossCheck, service: CheckedService): void {
  const { reading } = check;
  const { addresses } = reading.values.snat;
  // No pool at all, or one that is not understood, has its own message.
  if (addresses.length === 0 || reading.isBad(["snat"])) return;
  const families = new Set(addresses.flatMap((range) => (range ?? []).map((it) => it.family)));
  const missing = serversOf(service).find(({ address }) => !families.has(address.family));
  if (missing === undefined) return;
  const place = reading.source.reference(["snat", "addresses"]);
  const { family, text } = missing.address;
  const message = `expected an IPv${family} address among snat.addresses (${place}) for the backend ${text} of mode full-nat, got none`;
  check.report(missing.path, message);
}

/** A check goes to every backend from there. */
function checkHealthSource(check: CrossCheck, service: CheckedService): void {
  const { health } = service.values;
  const source = typeof health === "object" ? health.source : undefined;
  if (source === undefined) return;
  const other = serversOf(service).find(({ address }) => address.family !== source.family);
  if (other === undefined) return;
  const place = check.reading.source.reference(other.path);
  const message = `expected a source of the backends' family, got ${source.text} for ${other.address.text} (${place})`;
  check.report([...service.path, "health", "source"], message);
}

/** `flows.ipv6: false` says that there is no IPv6 address. */
function checkRoom(check: CrossCheck): void {
  const { reading } = check;
  if (reading.values.flows.ipv6 !== false) return;
  const pool = reading.values.snat.addresses.flatMap((range, index): Placed[] =>
    (range ?? []).map((address) => ({ address, path: ["snat", "addresses", index] })),
  );
  const all = [
    ...pool,
    ...check.services.flatMap((service) => [...vipsOf(check, service), ...serversOf(service)]),
  ];
  const six = all.find(({ address }) => address.family === 6);
  if (six === undefined) return;
  const place = reading.source.reference(["flows", "ipv6"]);
  const message = `expected no IPv6 address with flows.ipv6 false (${place}), got ${six.address.text}`;
  check.report(six.path, message);
}
