import { type Draft, type Keys, quote } from "./draft.ts";
import type { HaFile } from "./haproxy.ts";
import { haChecker } from "./haproxy-checks.ts";
import { haDuration } from "./haproxy-lines.ts";
import type { HaProxy } from "./haproxy-proxy.ts";
import type { HaServer } from "./haproxy-server.ts";
import { clampedDuration, wholeNumber } from "./values.ts";

/** `inter` and `agent-inter`, when a server does not say them. */
const INTERVAL_MS = 2000;
const RISE = 2;
const FALL = 3;

/** The bounds of `health.interval`, and of `health.timeout` at its lower end. */
const INTERVAL_MS_MIN = 100;
const INTERVAL_MS_MAX = 3_600_000;
const TIMEOUT_MS_MIN = 10;

/** Parameters that health, and agent, have once for all backends of a service. */
const HEALTH_SHARED = ["inter", "fall", "rise", "fastinter", "downinter"];
const AGENT_SHARED = ["agent-inter", "agent-send"];

/** Set `health` and `agent` from the servers, and from the lines that say how they are checked. */
export function haHealth(draft: Draft, keys: Keys, file: HaFile, back: HaProxy): void {
  const first = back.servers.find(isChecked);
  if (first === undefined) {
    for (const { line } of back.checks) draft.note(line, "no server of it has check");
  } else {
    for (const server of back.servers) {
      noteDifferences(draft, server, first, "check", HEALTH_SHARED);
    }
    const health: Keys = haChecker(draft, back, first);
    setTimes(health, back, first);
    if (file.spread !== null) health["spread"] = file.spread;
    const port = portOf(first, "port");
    if (port !== null) health["port"] = port;
    draft.set(keys, "health", draft.from(first.line, health), first.line);
  }
  setAgent(draft, keys, back);
}

function isChecked({ parameters }: HaServer): boolean {
  return parameters.has("check");
}

function isAsked({ parameters }: HaServer): boolean {
  return parameters.has("agent-check");
}

function portOf({ parameters }: HaServer, parameter: string): number | null {
  const port = wholeNumber(parameters.get(parameter), 65_535);
  return port === 0 ? null : port;
}

/** `inter`, `timeout check`, `rise` and `fall` and their kin. */
function setTimes(health: Keys, back: HaProxy, { parameters }: HaServer): void {
  const interval = (name: string): number | null => {
    const durationMs = haDuration(parameters.get(name));
    return durationMs === null ? null : bounded(durationMs);
  };
  const intervalMs = interval("inter") ?? INTERVAL_MS;
  const fastMs = interval("fastinter");
  const downMs = interval("downinter");
  // Without `timeout check` HAProxy waits as long as it has until the next one.
  const mostMs = Math.min(intervalMs, fastMs ?? intervalMs, downMs ?? intervalMs);
  const timeoutMs = back.timeouts.get("check") ?? mostMs;
  health["interval"] = intervalText(intervalMs);
  health["timeout"] = clampedDuration(timeoutMs, TIMEOUT_MS_MIN, mostMs);
  if (fastMs !== null) health["fastInterval"] = intervalText(fastMs);
  if (downMs !== null) health["downInterval"] = intervalText(downMs);
  health["rise"] = countOf(parameters.get("rise"), RISE);
  health["fall"] = countOf(parameters.get("fall"), FALL);
}

function bounded(durationMs: number): number {
  return Math.min(INTERVAL_MS_MAX, Math.max(INTERVAL_MS_MIN, durationMs));
}

function intervalText(durationMs: number): string {
  return clampedDuration(durationMs, INTERVAL_MS_MIN, INTERVAL_MS_MAX);
}

function countOf(text: string | undefined, initial: number): number {
  const count = wholeNumber(text, 100);
  return count === null || count === 0 ? initial : count;
}

function setAgent(draft: Draft, keys: Keys, back: HaProxy): void {
  const first = back.servers.find(isAsked);
  if (first === undefined) return;
  for (const server of back.servers) {
    noteDifferences(draft, server, first, "agent-check", AGENT_SHARED);
  }
  const agent: Keys = {};
  const port = portOf(first, "agent-port");
  if (port !== null) agent["port"] = port;
  const intervalMs = bounded(haDuration(first.parameters.get("agent-inter")) ?? INTERVAL_MS);
  agent["interval"] = intervalText(intervalMs);
  agent["timeout"] = intervalText(intervalMs);
  const send = first.parameters.get("agent-send") ?? "";
  if (send !== "") agent["send"] = send;
  draft.set(keys, "agent", draft.from(first.line, agent), first.line);
}

function noteDifferences(
  draft: Draft,
  server: HaServer,
  first: HaServer,
  switched: string,
  shared: readonly string[],
): void {
  const name = `server ${quote(server.name)}`;
  if (!server.parameters.has(switched)) {
    draft.note(server.line, `${name} has ${switched} now too: it is for all backends of a service`);
    return;
  }
  for (const parameter of shared) {
    const [own, other] = [server.parameters.get(parameter), first.parameters.get(parameter)];
    if (own === other) continue;
    const why = `${parameter} is ${other ?? "the default"}, as at ${quote(first.name)}`;
    draft.note(server.line, `${name}: ${why}: it is for all backends of a service`);
  }
}

/** `addr`, and ports that differ from the first server's; null: it is checked as all are. */
export function haCheck(server: HaServer, back: HaProxy): Keys | null {
  const check: Keys = {};
  const address = server.parameters.get("addr");
  const first = back.servers.find(isChecked);
  const asked = back.servers.find(isAsked);
  if (address !== undefined && (first ?? asked) !== undefined) check["address"] = address;
  const port = portOf(server, "port") ?? server.port;
  const shared = first === undefined ? null : portOf(first, "port");
  if (first !== undefined && shared !== null && port !== null && port !== shared) {
    check["port"] = port;
  } else if (first !== undefined && shared === null && portOf(server, "port") !== null) {
    check["port"] = portOf(server, "port");
  }
  const agentPort = portOf(server, "agent-port");
  if (asked !== undefined && agentPort !== null && agentPort !== portOf(asked, "agent-port")) {
    check["agentPort"] = agentPort;
  }
  return Object.keys(check).length === 0 ? null : check;
}
