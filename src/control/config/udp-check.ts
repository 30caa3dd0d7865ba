import type { CheckedService, CrossCheck } from "./cross-check.ts";
import type { KeyPath } from "./source.ts";

/** What is wrong between the keys of a service about UDP and QUIC. */
export function checkUdp({ reading, report }: CrossCheck, service: CheckedService): void {
  const { path, values } = service;
  const { udp, quic, protocol } = values;
  const isUdp = protocol === undefined || protocol.includes("udp");
  const own = (key: string): boolean => reading.source.has([...path, key]);
  const at = (place: KeyPath): string =>
    reading.source.has(place) ? ` (${reading.source.reference(place)})` : "";
  // What says the default says nothing: `config show` writes it for every service.
  const isSet = {
    udp: udp.perPacket || udp.maxAge !== "off",
    quic: quic !== undefined && quic !== "off",
  };
  for (const key of ["udp", "quic"] as const) {
    if (isUdp || !own(key) || !isSet[key]) continue;
    const where = at([...path, "protocol"]);
    report(
      [...path, key],
      `expected no ${key} for a service without protocol udp${where}, got one`,
    );
  }
  if (udp.perPacket && udp.maxAge !== "off") {
    const where = at([...path, "udp", "perPacket"]);
    report(
      [...path, "udp", "maxAge"],
      `expected off with udp.perPacket${where}, which lets no flow grow old`,
    );
  }
  checkServerIds({ reading, report }, service);
}

function checkServerIds(
  { reading, report }: Pick<CrossCheck, "reading" | "report">,
  { path, values }: CheckedService,
): void {
  const { udp, quic } = values;
  const isOn = quic !== undefined && quic !== "off";
  const isUdp = values.protocol === undefined || values.protocol.includes("udp");
  if (isOn && udp.perPacket) {
    report(
      [...path, "quic"],
      "expected off with udp.perPacket, which keeps no connection together",
    );
  }
  const first = new Map<string, KeyPath>();
  for (const [index, { serverId }] of values.backends.entries()) {
    const place = [...path, "backends", index, "serverId"];
    if (reading.isBad(place) || reading.isBad([...path, "quic"])) continue;
    if (!isOn || !isUdp) {
      if (serverId !== undefined) report(place, "expected no serverId in a service without quic");
      continue;
    }
    const digits = 2 * quic.serverIdBytes;
    if (serverId?.length !== digits) {
      const got = serverId === undefined ? "none" : JSON.stringify(serverId);
      report(
        serverId === undefined ? [...path, "backends", index] : place,
        `expected a serverId of ${digits} hex digits (quic.serverIdBytes: ${quic.serverIdBytes}), got ${got}`,
      );
      continue;
    }
    const earlier = first.get(serverId);
    if (earlier === undefined) first.set(serverId, place);
    else {
      const before = reading.source.reference(earlier);
      report(place, `expected each serverId once, got ${serverId} again (first at ${before})`);
    }
  }
}
