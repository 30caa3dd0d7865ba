import type { Address } from "../../service/definition.ts";
import { singlePort } from "./build-health.ts";
import type { CheckedService, CrossCheck } from "./cross-check.ts";
import { entryPath, type Reading } from "./reading.ts";
import type { KeyPath } from "./source.ts";

/**
 * What the one-way modes ask for (dsr, ipip, gue): the device, the ports, the tunnel's source, and no
 * key that means nothing.
 */
export function checkMode(check: CrossCheck, service: CheckedService): void {
  const { values } = service;
  if (check.reading.isBad([...service.path, "mode"])) return;
  if (values.mode === "dsr" || values.mode === "ipip" || values.mode === "gue") {
    checkPorts(check, service);
    if (values.mode === "dsr") checkLink(check, service);
    else checkSource(check, service);
  }
  checkTooBig(check, service);
  checkSegments(check, service);
}

/** ` (file:line:column)` when the file has it. */
function placeOf(reading: Reading, path: KeyPath): string {
  return reading.source.has(path) ? ` (${reading.source.reference(path)})` : "";
}

/** TUN has no link layer, so no MAC address to change. */
function checkLink({ reading, report }: CrossCheck, { path }: CheckedService): void {
  if (reading.values.device.type !== "tun") return;
  const at = placeOf(reading, ["device", "type"]);
  report([...path, "mode"], `expected a mode other than dsr with device.type tun${at}, got dsr`);
}

/** The packet reaches the backend with the port that the client sent it to. */
function checkPorts({ reading, report }: CrossCheck, { path, values }: CheckedService): void {
  if (values.port === undefined || reading.isBad([...path, "port"])) return;
  const only = singlePort(values.port);
  const at = placeOf(reading, [...path, "port"]);
  const right = only === 0 ? "no port" : `no port, or ${only}`;
  const complain = (where: KeyPath, port: number): void => {
    report(
      where,
      `expected ${right} with mode ${values.mode}, as the service has${at}, got ${port}`,
    );
  };
  for (const [index, { port }] of values.backends.entries()) {
    const where = [...path, "backends", index];
    if (port === undefined || port === only || reading.isBad(where)) continue;
    complain([...where, "port"], port);
  }
  const { action, port } = values.noBackend;
  if (action === "sorry" && port !== undefined && port !== only) {
    complain([...path, "noBackend", "port"], port);
  }
}

/** A tunnel needs an outer source of the family of its backends. */
function checkSource({ reading, report }: CrossCheck, { path, values }: CheckedService): void {
  const { source } = reading.values.tunnel;
  const check = (where: KeyPath, address: Address | undefined): boolean => {
    if (address === undefined || reading.isBad(where)) return false;
    const key = address.family === 4 ? "ipv4" : "ipv6";
    if (source[key] !== undefined || reading.isBad(["tunnel", "source", key])) return false;
    const at = placeOf(reading, where);
    report(
      [...path, "mode"],
      `expected tunnel.source.${key} for mode ${values.mode} and ${address.text}${at}, got none`,
    );
    return true;
  };
  for (const [index, { address }] of values.backends.entries()) {
    if (check([...path, "backends", index], address)) return;
  }
  if (values.noBackend.action === "sorry") check([...path, "noBackend"], values.noBackend.address);
}

function checkTooBig({ reading, report }: CrossCheck, { path, values }: CheckedService): void {
  if (values.mtu.tooBig !== "fragment" || values.mode === "ipip" || values.mode === "gue") return;
  const at = placeOf(reading, [...path, "mode"]);
  report(
    [...path, "mtu", "tooBig"],
    `expected icmp with mode ${values.mode}${at}, got fragment (only ipip and gue have an outer packet)`,
  );
}

function checkSegments({ reading, report }: CrossCheck, { path, values }: CheckedService): void {
  const protocols = values.protocol ?? [];
  if (values.mss === "off" || protocols.length === 0 || protocols.includes("tcp")) return;
  if (!reading.source.has([...path, "mss"])) return;
  const at = entryPath(reading, [...path, "protocol"], 0);
  report(
    [...path, "mss"],
    `expected off for a service without tcp${placeOf(reading, at)}, got ${values.mss}`,
  );
}
