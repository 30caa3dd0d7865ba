import type { AccessTables } from "./access-buffers.ts";
import {
  ADMIT_ACCESS,
  ADMIT_ACCESS_RESETS,
  ADMIT_BACKENDS,
  ADMIT_LIMITS,
  ADMIT_LIMITS_RESET,
  ADMIT_PACKETS,
  ADMIT_SYN_PROXY,
  S_ACCESS_4,
  S_ACCESS_6,
  S_ADMISSION,
  S_LIMIT_BACKEND,
  S_LIMIT_CONNECTIONS,
  S_LIMIT_PACKETS,
  S_SOURCE_BITS,
  S_SOURCE_BURST,
  S_SOURCE_RATE,
  S_STATELESS,
  S_SYN_HALF_OPEN,
  S_SYN_MSS,
  S_SYN_OPTIONS,
  S_SYN_PROXY,
  S_SYN_WINDOW_SCALE,
  SYN_OPTION_LEARN_SACK,
  SYN_OPTION_LEARN_TIMESTAMPS,
  SYN_OPTION_SACK,
  SYN_OPTION_TIMESTAMPS,
  SYN_PROXY_AUTO,
  SYN_PROXY_ON,
} from "./bank.ts";
import type { LimitsDefinition, SynProxyDefinition } from "./definition.ts";
import type { AssignedService } from "./slots.ts";
import { needsFlows } from "./stateless.ts";

/**
 * The words of a bank's service that admission reads (S_ADMISSION and what follows).
 *
 * @param word - first word of the service
 * @param access - its access tables, when it has lists
 * @param workers - limits are the gateway's: each worker has its share
 */
export function writeAdmission(
  i32: Int32Array,
  word: number,
  service: AssignedService,
  access: AccessTables | undefined,
  workers: number,
): void {
  const { definition } = service;
  let flags = 0;
  if (access !== undefined) {
    flags |= ADMIT_ACCESS;
    if (definition.access.refuse === "reset") flags |= ADMIT_ACCESS_RESETS;
    i32[word + S_ACCESS_4] = access.four;
    i32[word + S_ACCESS_6] = access.six;
  }
  if (definition.synProxy.mode !== "off" && service.protocol === "tcp") {
    flags |= ADMIT_SYN_PROXY;
    writeSynProxy(i32, word, definition.synProxy, workers);
  }
  flags |= writeLimits(i32, word, definition.limits);
  if (service.backends.some((one) => one.definition.maxConnections !== null)) {
    flags |= ADMIT_BACKENDS;
  }
  // What a service does not ask for costs its new flows one comparison with 0.
  i32[word + S_ADMISSION] = flags;
  i32[word + S_STATELESS] = needsFlows(definition, service.protocol) === null ? 1 : 0;
}

/** @returns ADMIT_… of the limits that there are */
function writeLimits(i32: Int32Array, word: number, limits: LimitsDefinition): number {
  const { connections, packetsPerSecond, newPerSource, backendConnections } = limits;
  i32[word + S_LIMIT_CONNECTIONS] = connections ?? 0;
  i32[word + S_LIMIT_PACKETS] = packetsPerSecond ?? 0;
  i32[word + S_LIMIT_BACKEND] = backendConnections ?? 0;
  if (newPerSource !== null) {
    const { rate, burst, ipv4, ipv6 } = newPerSource;
    i32[word + S_SOURCE_RATE] = rate;
    i32[word + S_SOURCE_BURST] = burst;
    i32[word + S_SOURCE_BITS] = ipv4 | (ipv6 << 8);
  }
  const resets = limits.refuse === "reset";
  return (
    (connections !== null || newPerSource !== null ? ADMIT_LIMITS : 0) |
    (packetsPerSecond !== null ? ADMIT_PACKETS : 0) |
    (backendConnections !== null ? ADMIT_BACKENDS : 0) |
    (resets ? ADMIT_LIMITS_RESET : 0)
  );
}

function writeSynProxy(
  i32: Int32Array,
  word: number,
  { mode, mss, windowScale, sack, timestamps, halfOpen }: SynProxyDefinition,
  workers: number,
): void {
  i32[word + S_SYN_PROXY] = mode === "on" ? SYN_PROXY_ON : SYN_PROXY_AUTO;
  i32[word + S_SYN_MSS] = mss ?? 0;
  // -1 is learnt, -2 never.
  i32[word + S_SYN_WINDOW_SCALE] = windowScale === -1 ? -2 : (windowScale ?? -1);
  i32[word + S_SYN_OPTIONS] =
    optionOf(sack, SYN_OPTION_SACK, SYN_OPTION_LEARN_SACK) |
    optionOf(timestamps, SYN_OPTION_TIMESTAMPS, SYN_OPTION_LEARN_TIMESTAMPS);
  i32[word + S_SYN_HALF_OPEN] = Math.max(1, Math.ceil(halfOpen / workers));
}

function optionOf(said: boolean | null, flag: number, learn: number): number {
  if (said === null) return learn;
  return said ? flag : 0;
}
