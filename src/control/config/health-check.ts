import { HEALTH_TYPES, type HealthType } from "../../service/health-definition.ts";
import { checkedPort, checkTimeout, type HealthValues, speaksTls } from "./build-health.ts";
import { type CheckedService, type CrossCheck, placeOf } from "./cross-check.ts";
import { formatDuration } from "./duration.ts";
import type { KeyPath } from "./source.ts";

const HTTP: readonly HealthType[] = ["http", "https", "http2"];
const TLS: readonly HealthType[] = ["tls", "https", "http2", "grpc", "script"];
const OVER_TCP: readonly HealthType[] = [...HTTP, "tcp", "tls", "grpc", "script"];
const WITH_PORT = HEALTH_TYPES.filter((type) => type !== "icmp");
const WITH_SOURCE = HEALTH_TYPES.filter((type) => type !== "exec");

interface TimingValues {
  readonly timeout?: number | undefined;
  readonly interval: number;
  readonly fastInterval?: number | undefined;
  readonly downInterval?: number | undefined;
}

/** Keys of `health` that only some types have. */
const TYPES_OF_KEY: { readonly [key in keyof HealthValues]?: readonly HealthType[] } = {
  port: WITH_PORT,
  source: WITH_SOURCE,
  method: HTTP,
  path: HTTP,
  host: [...HTTP, "grpc"],
  headers: HTTP,
  status: HTTP,
  bodyContains: HTTP,
  bodyMatches: HTTP,
  bodyBytes: HTTP,
  tls: ["http2", "grpc", "script"],
  serverName: TLS,
  verify: TLS,
  caFile: TLS,
  expiryWarning: TLS,
  grpcService: ["grpc"],
  send: ["udp"],
  sendHex: ["udp"],
  expect: ["udp"],
  expectHex: ["udp"],
  query: ["dns"],
  queryType: ["dns"],
  rcode: ["dns"],
  answers: ["dns"],
  payloadBytes: ["icmp"],
  command: ["exec"],
  user: ["exec"],
  dynamicWeight: ["exec"],
  steps: ["script"],
};

/** Keys that say the same in two ways. */
const EITHER: readonly (readonly [keyof HealthValues, keyof HealthValues])[] = [
  ["bodyContains", "bodyMatches"],
  ["send", "sendHex"],
  ["expect", "expectHex"],
];

const NEEDED: readonly (readonly [type: HealthType, key: keyof HealthValues])[] = [
  ["exec", "command"],
  ["script", "steps"],
];

/** What is wrong between the keys of a service's `health`, and between them and its backends. */
export function checkHealth(check: CrossCheck, service: CheckedService): void {
  const { health } = service.values;
  if (health === undefined || health === "none") return;
  const path = [...service.path, "health"];
  if (!check.reading.isBad([...path, "type"])) {
    checkKeys(check, path, health);
    checkTlsKeys(check, path, health);
    checkTogether(check, path, health);
    checkUser(check, path, health);
    checkWeight(check, service, path, health);
    checkPath(check, path, health);
    if (health.through === "direct" && health.type !== "icmp") checkPort(check, service, path);
  }
  checkTiming(check, path, health);
}

function checkKeys({ reading, report }: CrossCheck, path: KeyPath, health: HealthValues): void {
  const { type } = health;
  const at = placeOf(reading, [...path, "type"]);
  for (const [key, only] of Object.entries(TYPES_OF_KEY)) {
    if (health[key as keyof HealthValues] === undefined || only.includes(type)) continue;
    const others = only.length > 5 ? "" : ` (only for ${only.join(", ")})`;
    report(
      [...path, key],
      `expected no ${JSON.stringify(key)} for type ${type}${at}, got one${others}`,
    );
  }
  for (const [needs, key] of NEEDED) {
    if (type !== needs || health[key] !== undefined || reading.isBad([...path, key])) continue;
    report(path, `expected the key ${JSON.stringify(key)} for type ${type}${at}, got none`);
  }
}

/** Keys of TLS where the type could speak it, but does not. */
function checkTlsKeys({ reading, report }: CrossCheck, path: KeyPath, health: HealthValues): void {
  if (speaksTls(health) || !TLS.includes(health.type) || reading.isBad([...path, "tls"])) return;
  const at = placeOf(reading, [...path, "tls"]);
  for (const key of ["serverName", "verify", "caFile", "expiryWarning"] as const) {
    if (health[key] === undefined) continue;
    report([...path, key], `expected no ${JSON.stringify(key)} without tls: true${at}, got one`);
  }
}

function checkTogether({ reading, report }: CrossCheck, path: KeyPath, health: HealthValues): void {
  for (const [one, other] of EITHER) {
    if (health[one] === undefined || health[other] === undefined) continue;
    const at = placeOf(reading, [...path, one]);
    const message = `expected either ${JSON.stringify(one)}${at} or ${JSON.stringify(other)}, got both`;
    report([...path, other], message);
  }
  for (const key of ["bodyContains", "bodyMatches"] as const) {
    if (health.method !== "HEAD" || health[key] === undefined) continue;
    const at = placeOf(reading, [...path, "method"]);
    report(
      [...path, key],
      `expected no ${JSON.stringify(key)} with method HEAD${at}, whose answers have no body, got one`,
    );
  }
  if (health.caFile !== undefined && health.verify !== true && speaksTls(health)) {
    const at = placeOf(reading, [...path, "verify"]);
    report([...path, "caFile"], `expected verify: true with caFile${at}, got false`);
  }
}

/** Who has become a user at the start cannot become another one for a check. */
function checkUser({ reading, report }: CrossCheck, path: KeyPath, health: HealthValues): void {
  const { user } = reading.values;
  if (health.type !== "exec" || health.user === undefined || user === undefined) return;
  if (health.user === user || reading.isBad(["user"])) return;
  const at = placeOf(reading, ["user"]);
  const message = `expected the gateway's own user ${user}${at}, which can become no other, got ${health.user}`;
  report([...path, "user"], message);
}

/** A weight has one owner. */
function checkWeight(
  { reading, report }: CrossCheck,
  service: CheckedService,
  path: KeyPath,
  health: HealthValues,
): void {
  if (health.dynamicWeight !== true || typeof service.values.agent !== "object") return;
  const at = placeOf(reading, [...service.path, "agent"]);
  report([...path, "dynamicWeight"], `expected false with an agent${at}, got true`);
}

/** What comes to the VIP as a client is pinned to a backend by TCP alone. */
function checkPath({ reading, report }: CrossCheck, path: KeyPath, health: HealthValues): void {
  if (health.through === "direct" || OVER_TCP.includes(health.type)) return;
  const at = placeOf(reading, [...path, "type"]);
  const message = `expected direct for type ${health.type}${at}, got ${health.through} (only for ${OVER_TCP.join(", ")})`;
  report([...path, "through"], message);
}

/** A check that may take longer than its interval would be late by its own rule. */
export function checkTiming(
  { reading, report }: Pick<CrossCheck, "reading" | "report">,
  path: KeyPath,
  health: TimingValues,
): void {
  const timeoutMs = checkTimeout(health);
  for (const key of ["interval", "fastInterval", "downInterval"] as const) {
    const intervalMs = health[key];
    if (intervalMs === undefined || timeoutMs <= intervalMs) continue;
    if (reading.isBad([...path, key]) || reading.isBad([...path, "timeout"])) return;
    const at = placeOf(reading, [...path, key]);
    const message = `expected at most the ${key} of ${formatDuration(intervalMs)}${at}, got ${formatDuration(timeoutMs)}`;
    report([...path, "timeout"], message);
  }
}

function checkPort({ reading, report }: CrossCheck, service: CheckedService, path: KeyPath): void {
  const { values } = service;
  const portless = values.backends.findIndex(
    (it) => it.port === undefined && it.check.port === undefined,
  );
  if (portless < 0 || reading.isBad([...service.path, "backends"])) return;
  if (reading.isBad([...service.path, "port"]) || values.port === undefined) return;
  if (checkedPort(values, values.port) !== 0) return;
  const at = placeOf(reading, [...service.path, "backends", portless]);
  const message = `expected a port to check for backends[${portless}]${at}, got none: give health or the backend a port`;
  report(path, message);
}
