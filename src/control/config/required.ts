import type { ConfigProblem } from "../../base/errors.ts";
import { isPlain } from "./merge.ts";
import type { KeyPath, Source } from "./source.ts";

/** Keys that a service must have, itself or from `defaults`. */
const SERVICE_REQUIRED = ["vip", "port", "protocol", "backends"] as const;

/**
 * Keys that have to be there. A key that is there with a wrong value is another problem, and no
 * concern of this check.
 */
export function checkRequired(source: Source, problems: ConfigProblem[]): void {
  const root = source.value;
  const need = (map: Readonly<Record<string, unknown>>, path: KeyPath, key: string): void => {
    if (!Object.hasOwn(map, key)) {
      problems.push(source.problem(path, `expected the key ${JSON.stringify(key)}, got none`));
    }
  };

  if (!isPlain(root)) {
    if (root === null || root === undefined) {
      problems.push(source.problem([], 'expected the key "device", got an empty file'));
    }
    return;
  }
  need(root, [], "device");
  const device = root["device"];
  if (isPlain(device)) {
    need(device, ["device"], "type");
    if (device["type"] === "packet" || device["type"] === "xdp") {
      need(device, ["device"], "interfaces");
    }
  }

  const defaults = isPlain(root["defaults"]) ? root["defaults"] : {};
  needBackendAddresses(defaults["backends"], ["defaults", "backends"], need);
  const services = root["services"];
  if (!Array.isArray(services)) return;
  for (const [index, service] of services.entries()) {
    if (!isPlain(service)) continue;
    const path = ["services", index];
    need(service, path, "name");
    for (const key of SERVICE_REQUIRED) {
      if (!Object.hasOwn(defaults, key)) need(service, path, key);
    }
    needBackendAddresses(service["backends"], [...path, "backends"], need);
  }
}

function needBackendAddresses(
  backends: unknown,
  path: KeyPath,
  need: (map: Readonly<Record<string, unknown>>, path: KeyPath, key: string) => void,
): void {
  if (!Array.isArray(backends)) return;
  for (const [index, backend] of backends.entries()) {
    if (isPlain(backend)) need(backend, [...path, index], "address");
  }
}
