import { type Draft, type Keys, quote } from "./draft.ts";
import type { HaFile } from "./haproxy.ts";
import { type HaLine, haDuration } from "./haproxy-lines.ts";
import type { HaProxy } from "./haproxy-proxy.ts";
import type { HaServer } from "./haproxy-server.ts";
import { clampedDuration, wholeNumber } from "./values.ts";

/** `inter`, when a server does not say it. */
const INTERVAL_MS = 2000;
const RISE = 2;
const FALL = 3;

/** The bounds of `health.interval`, and of `health.timeout` at its lower end. */
const INTERVAL_MS_MIN = 100;
const INTERVAL_MS_MAX = 3_600_000;
const TIMEOUT_MS_MIN = 10;

/** Parameters that health has once for all backends of a service. */
const SHARED = ["inter", "fall", "rise", "fastinter", "port", "addr"];

/** Set `health` from the servers' `check` and the lines that say how. */
export function haHealth(draft: Draft, keys: Keys, file: HaFile, back: HaProxy): void {
  const checked = back.servers.filter(({ parameters }) => parameters.has("check"));
  const first = checked[0];
  if (first === undefined) {
    for (const { line } of back.checks) draft.note(line, "no server of it has check");
    return;
  }
  for (const server of back.servers) noteDifferences(draft, server, first);
  const { parameters } = first;
  const health: Keys = { ...kindOf(draft, back, first) };
  const intervalMs = haDuration(parameters.get("inter")) ?? INTERVAL_MS;
  const boundedMs = Math.min(INTERVAL_MS_MAX, Math.max(INTERVAL_MS_MIN, intervalMs));
  const timeoutMs = Math.min(boundedMs, back.timeouts.get("check") ?? boundedMs);
  health["interval"] = clampedDuration(boundedMs, INTERVAL_MS_MIN, INTERVAL_MS_MAX);
  health["timeout"] = clampedDuration(timeoutMs, TIMEOUT_MS_MIN, boundedMs);
  health["rise"] = countOf(parameters.get("rise"), RISE);
  health["fall"] = countOf(parameters.get("fall"), FALL);
  const fastMs = haDuration(parameters.get("fastinter"));
  if (fastMs !== null) {
    health["fastInterval"] = clampedDuration(fastMs, INTERVAL_MS_MIN, INTERVAL_MS_MAX);
  }
  if (file.spread !== null) health["spread"] = file.spread;
  const port = wholeNumber(parameters.get("port"), 65_535);
  if (port !== null && port > 0) health["port"] = port;
  if (parameters.has("addr")) health["address"] = parameters.get("addr");
  draft.set(keys, "health", draft.from(first.line, health), first.line);
}

function countOf(text: string | undefined, initial: number): number {
  const count = wholeNumber(text, 100);
  return count === null || count === 0 ? initial : count;
}

function noteDifferences(draft: Draft, server: HaServer, first: HaServer): void {
  const name = `server ${quote(server.name)}`;
  if (!server.parameters.has("check")) {
    draft.note(server.line, `${name} is checked too: health is for all backends of a service`);
    return;
  }
  for (const parameter of SHARED) {
    const [own, other] = [server.parameters.get(parameter), first.parameters.get(parameter)];
    if (own === other) continue;
    const why = `${parameter} is ${other ?? "the default"}, as at ${quote(first.name)}`;
    draft.note(server.line, `${name}: ${why}: health is for all backends of a service`);
  }
}

/** What is asked: connect, TLS, HTTP, or a script. */
function kindOf(draft: Draft, back: HaProxy, first: HaServer): Keys {
  const http = back.last.get("option httpchk");
  if (http !== undefined) return httpOf(draft, back, http, first);
  for (const line of back.checks) draft.note(line.line, `${line.words[0]}: not read`);
  return { type: "tcp" };
}

/** `option httpchk [METHOD] [URI [VERSION]]` and `http-check send|expect …`. */
function httpOf(draft: Draft, back: HaProxy, option: HaLine, _first: HaServer): Keys {
  const health: Keys = { type: "http" };
  const [, , one = "/", two] = option.words;
  health["path"] = two ?? one;
  for (const line of back.checks) draft.note(line.line, `${line.words[0]}: not read`);
  return health;
}
