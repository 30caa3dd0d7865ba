import { cleanName, type Draft, type Keys, quote } from "./draft.ts";
import type { HaFile } from "./haproxy.ts";
import { haAccess } from "./haproxy-access.ts";
import type { VipGroup } from "./haproxy-bind.ts";
import { haCheck, haHealth } from "./haproxy-health.ts";
import { type HaLine, haDuration } from "./haproxy-lines.ts";
import type { HaProxy } from "./haproxy-proxy.ts";
import type { HaServer } from "./haproxy-server.ts";
import { clampedDuration, timeoutText, wholeNumber } from "./values.ts";

/** A frontend and its backend as a service. */
export function haService(
  draft: Draft,
  file: HaFile,
  front: HaProxy,
  back: HaProxy,
  group: VipGroup,
): Keys {
  const keys: Keys = draft.from(group.line, {
    name: draft.nameFor(front.name),
    vip: single(group.vips),
    port: single(group.ports),
    protocol: "tcp",
  });
  setMode(draft, keys, front, back);
  setScheduler(draft, keys, back);
  setAffinity(draft, keys, file, front, back);
  setTimeouts(keys, front, back);
  if (back.servers.some((it) => it.parameters.get("on-marked-down") === "shutdown-sessions")) {
    keys["existingFlows"] = { down: "reset" };
  }
  const access = haAccess(draft, front);
  if (access !== null) keys["access"] = access;
  setConnections(draft, keys, front);
  haHealth(draft, keys, file, back);
  setSlowStart(draft, keys, back);
  setPassive(draft, keys, back);
  const order = orderOf(back, keys["scheduler"]);
  keys["backends"] = back.servers.flatMap((server) => backendOf(draft, back, server, group, order));
  return keys;
}

function single<T>(list: readonly T[]): T | readonly T[] {
  return list.length === 1 ? list[0]! : [...list];
}

/** A proxy shows its own address to backends, as full-nat does; `usesrc clientip` is nat. */
function setMode(draft: Draft, keys: Keys, front: HaProxy, back: HaProxy): void {
  const source = back.last.get("source");
  const isTransparent = source?.words.includes("clientip") === true;
  if (source !== undefined && !isTransparent) {
    draft.note(
      source.line,
      `${quote(source.words.join(" "))}: --snat gives the addresses of full-nat`,
    );
  }
  const hasPool = draft.options.snat.length > 0;
  keys["mode"] = hasPool && !isTransparent ? "full-nat" : "nat";
  if (hasPool || isTransparent) return;
  const why = "backends see the client's address and must answer by way of the gateway";
  draft.note(front.line, `${quote(front.name)} is mode nat: ${why}; --snat makes it full-nat`);
}

const BALANCE: Readonly<Record<string, string>> = {
  roundrobin: "weighted-round-robin",
  "static-rr": "weighted-round-robin",
  leastconn: "weighted-least-connections",
  source: "source-hash",
  first: "failover",
};

function setScheduler(draft: Draft, keys: Keys, back: HaProxy): void {
  const balance = back.last.get("balance");
  const line = balance?.line ?? back.line;
  const [, name = "roundrobin", ...rest] = balance?.words ?? [];
  const scheduler = schedulerOf(name, rest);
  if (scheduler === null) {
    draft.note(line, `balance ${quote(name)}: it reads layer 7; maglev, the default, stands in`);
  } else draft.set(keys, "scheduler", scheduler, line);
  setHashing(draft, keys, back);
}

function schedulerOf(name: string, rest: readonly string[]): string | null {
  if (Object.hasOwn(BALANCE, name)) return BALANCE[name]!;
  const draws = /^random(?:\((\d+)\))?$/.exec(name);
  if (draws !== null) return draws[1] === "1" ? "random" : "power-of-two";
  if (name !== "hash") return null;
  const expression = rest.join(" ");
  if (/^src$/.test(expression)) return "source-hash";
  return /\bsrc\b/.test(expression) ? "maglev" : null;
}

/** `hash-type` and `hash-balance-factor`. */
function setHashing(draft: Draft, keys: Keys, back: HaProxy): void {
  const type = back.last.get("hash-type");
  const factor = back.last.get("hash-balance-factor");
  const scheduler = keys["scheduler"];
  const isHash = scheduler === "source-hash" || scheduler === "maglev" || scheduler === undefined;
  if (type !== undefined && isHash) {
    const [, method, ...rest] = type.words;
    if (method === "consistent" && scheduler === "source-hash") {
      const why = "source-hash moves clients when backends change; maglev moves few, by connection";
      draft.note(type.line, `hash-type consistent: ${why}`);
    }
    if (rest.length > 0)
      draft.note(type.line, `hash function ${quote(rest.join(" "))}: ours is one`);
  }
  const percent = wholeNumber(factor?.words[1], 65_535) ?? 0;
  if (factor === undefined || percent === 0) return;
  if (scheduler === "maglev" || scheduler === undefined) {
    draft.set(keys, "maxLoad", percent / 100, factor.line);
  } else draft.note(factor.line, "hash-balance-factor: maxLoad is maglev's");
}

/** `stick on src` with a `stick-table`. */
function setAffinity(draft: Draft, keys: Keys, file: HaFile, front: HaProxy, back: HaProxy): void {
  const stick = back.last.get("stick");
  const own = back.last.get("stick-table");
  const counts = front.kind === "frontend" ? front.last.get("stick-table") : undefined;
  if (counts !== undefined && !file.sharedTables.has(front.name)) {
    draft.note(counts.line, "stick-table without stick on src: it only counts");
  }
  if (stick === undefined) {
    if (own !== undefined) draft.note(own.line, "stick-table without stick on src: it only counts");
    return;
  }
  const [, , sample = ""] = stick.words;
  const [, bits4, bits6] = /^src(?:,ipmask\((\d+)(?:,(\d+))?\))?$/.exec(sample) ?? [null];
  if (!/^src(,ipmask\(\d+(,\d+)?\))?$/.test(sample) || stick.words.includes("if")) {
    draft.note(stick.line, "stick: affinity is by the client's address (src), without condition");
    return;
  }
  const tableAt = stick.words.indexOf("table");
  const name = tableAt < 0 ? back.name : (stick.words[tableAt + 1] ?? "");
  const table =
    tableAt < 0
      ? own
      : ["backend", "listen", "frontend"]
          .map((kind) => file.proxies.get(`${kind} ${name}`)?.last.get("stick-table"))
          .find((it) => it !== undefined);
  const affinity: Keys = { timeout: tableTimeout(draft, table, stick) };
  const prefix = { ...ofBits("ipv4", bits4), ...ofBits("ipv6", bits6) };
  if (Object.keys(prefix).length > 0) affinity["prefix"] = prefix;
  if (name !== back.name || file.sharedTables.has(name)) {
    affinity["group"] = cleanName(name);
  }
  draft.set(keys, "affinity", affinity, stick.line);
}

function ofBits(family: string, bits: string | null | undefined): Keys {
  return bits === undefined || bits === null ? {} : { [family]: Number(bits) };
}

/** Entries without `expire` stay until the table is full. */
function tableTimeout(draft: Draft, table: HaLine | undefined, stick: HaLine): string {
  const words = table?.words ?? [];
  const durationMs = words.includes("expire")
    ? haDuration(words[words.indexOf("expire") + 1])
    : null;
  if (durationMs === null) draft.note(stick.line, "stick without expire: a week is the longest");
  if (words.includes("peers")) {
    draft.note(table!.line, "peers: affinity is not shared between nodes");
  }
  return timeoutText(durationMs ?? Number.POSITIVE_INFINITY);
}

/** A connection is closed when one of its ends is idle for long; a flow when both are. */
function setTimeouts(keys: Keys, front: HaProxy, back: HaProxy): void {
  const least = (...values: (number | undefined)[]): number | null => {
    const set = values.filter((it) => it !== undefined && it > 0) as number[];
    return set.length === 0 ? null : Math.min(...set);
  };
  const established =
    least(back.timeouts.get("tunnel")) ??
    least(front.timeouts.get("client"), back.timeouts.get("server"));
  const halfClosed = least(front.timeouts.get("client-fin"), back.timeouts.get("server-fin"));
  const tcp: Keys = {};
  if (established !== null) tcp["established"] = timeoutText(established);
  if (halfClosed !== null) {
    tcp["finWait"] = timeoutText(halfClosed);
    tcp["closeWait"] = timeoutText(halfClosed);
  }
  if (Object.keys(tcp).length > 0) keys["timeouts"] = { tcp };
}

function setConnections(draft: Draft, keys: Keys, front: HaProxy): void {
  const line = front.last.get("maxconn");
  if (line === undefined) return;
  const connections = wholeNumber(line.words[1], 1 << 24);
  if (connections === null || connections === 0) {
    draft.note(line.line, `maxconn ${quote(line.words[1] ?? "")}: expected 1 to ${1 << 24}`);
  } else draft.set(keys, "limits", { connections }, line.line);
}

/** Keys of backends that follow from the order of the servers, or from which of them are backups. */
interface Order {
  readonly priorities: ReadonlyMap<HaServer, number>;
  /** In place of the servers' own weights. */
  readonly weights: ReadonlyMap<HaServer, number>;
}

/**
 * Backups are used when all others are down: one after the other, or with `allbackups` together.
 * `balance first` fills one server after the other, whatever their weights: failover orders by weight.
 */
function orderOf(back: HaProxy, scheduler: unknown): Order {
  const isBackup = ({ parameters }: HaServer): boolean => parameters.has("backup");
  const backups = back.servers.filter(isBackup);
  if (scheduler === "failover") {
    const all = [...back.servers.filter((server) => !isBackup(server)), ...backups];
    const weights = all.map((server, index) => [server, all.length - index] as const);
    return { priorities: new Map(), weights: new Map(weights) };
  }
  const together = back.last.has("option allbackups");
  const tiers = backups.map((server, index) => [server, together ? 1 : index + 1] as const);
  return { priorities: new Map(tiers), weights: new Map() };
}

/** `slowstart` of the first server that has one: a service has one window. */
function setSlowStart(draft: Draft, keys: Keys, back: HaProxy): void {
  const first = back.servers.find(({ parameters }) => parameters.has("slowstart"));
  if (first === undefined) return;
  const written = first.parameters.get("slowstart");
  const durationMs = haDuration(written);
  if (durationMs === null || durationMs === 0) {
    draft.note(first.line, `slowstart ${quote(written ?? "")}: expected a time`);
    return;
  }
  const window = clampedDuration(durationMs, 1000, 3_600_000);
  draft.set(keys, "slowStart", { window }, first.line);
  for (const { line, name, parameters } of back.servers) {
    if (parameters.get("slowstart") === written) continue;
    draft.note(
      line,
      `server ${quote(name)}: slowStart is ${window}, for all backends of a service`,
    );
  }
}

/** `observe layer4`: HAProxy's limit of errors, without a cap on how many servers it takes out. */
function setPassive(draft: Draft, keys: Keys, back: HaProxy): void {
  for (const { line, parameters } of back.servers) {
    const observed = parameters.get("observe");
    if (observed === undefined) continue;
    if (observed !== "layer4") {
      draft.note(line, `observe ${quote(observed)}: layer 7 is not seen`);
      continue;
    }
    const limit = wholeNumber(parameters.get("error-limit") ?? "10", 1000);
    const failures = limit === null || limit === 0 ? 10 : limit;
    const action = parameters.get("on-error") ?? "fail-check";
    if (action !== "mark-down") {
      draft.note(line, `on-error ${quote(action)}: a backend is taken out, as mark-down does`);
    }
    if (keys["passive"] === undefined) {
      draft.set(keys, "passive", { failures, ejectAtMost: 1 }, line);
    }
  }
}

function backendOf(
  draft: Draft,
  back: HaProxy,
  server: HaServer,
  group: VipGroup,
  order: Order,
): Keys[] {
  const { line, address, parameters } = server;
  const backend: Keys = draft.from(line, { address });
  if (server.port !== null) backend["port"] = server.port;
  if (server.portOffset !== 0) {
    const [only, more] = group.ports;
    const port = typeof only === "number" && more === undefined ? only + server.portOffset : 0;
    if (port < 1 || port > 65_535) {
      draft.note(
        line,
        `server ${quote(server.name)} is left out: a port cannot be moved by a number`,
      );
      return [];
    }
    backend["port"] = port;
  }
  const weight = wholeNumber(parameters.get("weight") ?? "1", 256);
  if (weight === null) draft.note(line, `weight ${quote(parameters.get("weight")!)}: it is 1 now`);
  backend["weight"] = order.weights.get(server) ?? weight ?? 1;
  if (parameters.has("disabled")) {
    draft.note(line, `server ${quote(server.name)} is disabled: weight 0 (it was ${weight ?? 1})`);
    backend["weight"] = 0;
  }
  const tier = order.priorities.get(server);
  if (tier !== undefined) draft.set(backend, "priority", tier, line);
  const connections = wholeNumber(parameters.get("maxconn"), 1 << 24);
  if (connections !== null && connections > 0) {
    draft.set(backend, "maxConnections", connections, line);
  }
  const check = haCheck(server, back);
  if (check !== null) draft.set(backend, "check", check, line);
  return [backend];
}
