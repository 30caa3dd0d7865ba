import { isOneWayMode } from "../../service/definition.ts";
import type { CheckedService, CrossCheck } from "./cross-check.ts";
import type { KeyPath } from "./source.ts";

/** What is wrong between the keys of a service about passive checks and latency. */
export function checkPassive({ reading, report }: CrossCheck, service: CheckedService): void {
  const { path, values } = service;
  const { mode, passive, protocol, scheduler } = values;
  const at = (place: KeyPath): string =>
    reading.source.has(place) ? ` (${reading.source.reference(place)})` : "";
  const isOn = passive !== undefined && passive !== "off";
  const isUdp = protocol?.includes("udp") ?? false;
  const modeAt = at([...path, "mode"]);
  if (isOn && isOneWayMode(mode)) {
    report(
      [...path, "passive"],
      `expected off for mode ${mode}${modeAt}, whose replies do not come through the gateway`,
    );
  }
  if (isOn && passive.maximum < passive.ejection) {
    const where = at([...path, "passive", "ejection"]);
    report([...path, "passive", "maximum"], `expected at least passive.ejection${where}, got less`);
  }
  if (isOn && passive.answers && protocol !== undefined && !isUdp) {
    const where = at([...path, "protocol"]);
    report(
      [...path, "passive", "answers"],
      `expected false for a service without protocol udp${where}, got true`,
    );
  }
  if (scheduler !== "least-latency") return;
  if (isOneWayMode(mode)) {
    report(
      [...path, "scheduler"],
      `expected a scheduler without latencies for mode ${mode}${modeAt}, whose replies do not come through the gateway, got least-latency`,
    );
  }
  if (isUdp && !(isOn && passive.answers)) {
    const where = at([...path, "protocol"]);
    report(
      [...path, "scheduler"],
      `expected passive.answers: true for protocol udp${where} with least-latency: only the service knows what a datagram back answers`,
    );
  }
}
