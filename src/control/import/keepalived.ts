import { addressOfNumber, numberOf, parseAddress } from "../../base/address.ts";
import { type Draft, type ImportOptions, type ImportResult, type Keys, quote } from "./draft.ts";
import { keepalivedHealth } from "./keepalived-health.ts";
import { childOf, type KaNode, keepalivedTree } from "./keepalived-lines.ts";
import { finishImport } from "./print.ts";
import { lvsScheduler } from "./schedulers.ts";
import { startDraft } from "./top.ts";
import { maskBits, timeoutText, wholeNumber } from "./values.ts";

/** The virtual servers of keepalived.conf, as a configuration: docs/migration.md has the table. */

/** `persistence_timeout` without a number. */
const PERSISTENCE_SECONDS = 360;

const MODES: Readonly<Record<string, string>> = { NAT: "nat", DR: "dsr", TUN: "ipip" };

/** What keepalived has besides virtual servers, and why it has no place here. */
const TOP: Readonly<Record<string, string>> = {
  vrrp_instance: "keepalived goes on with VRRP; set device.announce false on a standby",
  vrrp_sync_group: "keepalived goes on with VRRP; set device.announce false on a standby",
  vrrp_script: "keepalived goes on with VRRP; headgate status and /readyz tell a script",
  global_defs: "process and mail of keepalived; the log has a line for each change of state",
  static_ipaddress: "addresses are the host's",
  static_routes: "routes are the host's",
  include: "only this file is read: import the other one too",
};

/** Turn keepalived.conf into a configuration; what cannot be carried over is in the notes. */
export function importKeepalived(text: string, options: ImportOptions): ImportResult {
  const draft = startDraft(options);
  const tree = keepalivedTree(text, (line, message) => draft.note(line, message));
  const groups = new Map<string, KaNode>();
  for (const node of tree) {
    if (node.words[0] === "virtual_server_group") groups.set(node.words[1] ?? "", node);
  }
  for (const node of tree) {
    const [keyword = "", ...names] = node.words;
    if (keyword === "virtual_server_group") continue;
    if (keyword !== "virtual_server") {
      const why = Object.hasOwn(TOP, keyword) ? TOP[keyword] : "Headgate has nothing like it";
      noteBlock(draft, node, why!);
      continue;
    }
    const vips = vipsOf(draft, node, names, groups);
    if (vips.length === 0) noteBlock(draft, node, "it has no address that a service can have");
    for (const vip of vips) draft.services.push(serviceOf(draft, node, vip));
  }
  return finishImport(draft);
}

/** The last line of a block. */
function lastLine(node: KaNode): number {
  const last = node.children.at(-1);
  return last === undefined ? node.line : lastLine(last);
}

function noteBlock(draft: Draft, node: KaNode, why: string): void {
  const last = lastLine(node);
  const lines = last === node.line ? "" : ` (lines ${node.line}-${last})`;
  const title = quote(node.words.slice(0, 3).join(" "));
  draft.note(node.line, `${title}${lines} is left out: ${why}`);
}

interface Vip {
  readonly line: number;
  readonly addresses: readonly string[];
  readonly port: number;
}

/** `virtual_server IP PORT`, or `group NAME`: each of its lines is a service. */
function vipsOf(
  draft: Draft,
  node: KaNode,
  names: readonly string[],
  groups: ReadonlyMap<string, KaNode>,
): Vip[] {
  if (names[0] !== "group") return vipOf(draft, node.line, names);
  const group = groups.get(names[1] ?? "");
  return (group?.children ?? []).flatMap(({ line, words }) => vipOf(draft, line, words));
}

/** Addresses of one line of a group, at most: more are a slip. */
const RANGE_MAX = 256;

/** `IP PORT`, or `IP-LAST PORT`, where LAST is the last part of the last address. */
function vipOf(draft: Draft, line: number, [ip = "", written]: readonly string[]): Vip[] {
  if (ip === "fwmark") {
    draft.note(line, "fwmark: a service here has addresses and ports, not a mark");
    return [];
  }
  const [first = "", last] = ip.split("-");
  const address = parseAddress(first);
  const port = wholeNumber(written ?? "0", 65_535);
  if (address === null || port === null) {
    draft.note(line, `expected an address and a port, got ${quote(`${ip} ${written ?? ""}`)}`);
    return [];
  }
  if (last === undefined) return [{ line, addresses: [address.text], port }];
  const radix = address.family === 4 ? 10 : 16;
  const span = BigInt(address.family === 4 ? 256 : 65_536);
  const from = numberOf(address);
  const to = /^[0-9a-fA-F]{1,4}$/.test(last) ? BigInt(Number.parseInt(last, radix)) : -1n;
  const count = to - (from % span) + 1n;
  if (count < 1n || count > BigInt(RANGE_MAX)) {
    draft.note(line, `expected a range of at most ${RANGE_MAX} addresses, got ${quote(ip)}`);
    return [];
  }
  const addresses = Array.from(
    { length: Number(count) },
    (_, index) => addressOfNumber(address.family, from + BigInt(index)).text,
  );
  return [{ line, addresses, port }];
}

function serviceOf(draft: Draft, node: KaNode, { line, addresses, port }: Vip): Keys {
  const value = (...keywords: string[]): string | undefined =>
    keywords.map((it) => childOf(node, it)?.words[1]).find((it) => it !== undefined);
  const protocol = (value("protocol") ?? "TCP").toLowerCase();
  const portText = port === 0 ? "any" : port;
  const keys: Keys = draft.from(line, {
    name: draft.nameFor(`${protocol}-${addresses[0]}-${portText}`),
    vip: addresses.length === 1 ? addresses[0] : [...addresses],
    port: portText,
    protocol,
  });
  const mode = MODES[value("lb_kind", "lvs_method") ?? "NAT"] ?? "nat";
  keys["mode"] = mode;
  const name = value("lb_algo", "lvs_sched", "lvs_scheduler");
  if (name !== undefined) {
    const has = (keyword: string): boolean => childOf(node, keyword) !== undefined;
    const hasPort = has(`${name}-port`) || has("flag-2");
    const { scheduler, note } = lvsScheduler(name, hasPort, has("persistence_timeout"));
    if (note !== null) draft.note(childOf(node, "lb_algo")?.line ?? line, note);
    if (scheduler !== null) keys["scheduler"] = scheduler;
  }
  setPersistence(draft, keys, node, addresses[0]!);
  setSorry(draft, keys, node, mode);
  if (childOf(node, "ops") !== undefined && protocol === "udp") keys["udp"] = { perPacket: true };
  const servers = node.children.filter(({ words }) => words[0] === "real_server");
  keepalivedHealth(draft, keys, node, servers);
  keys["backends"] = servers.flatMap((server) => backendOf(draft, server, mode, port));
  noteRest(draft, node);
  return keys;
}

/** Keywords of a virtual server that are read. */
const READ = new Set(
  `protocol lb_kind lvs_method lb_algo lvs_sched lvs_scheduler persistence_timeout
  persistence_granularity sorry_server ops real_server delay_loop retry
  delay_before_retry connect_timeout warmup alpha ip_family hashed flag-1 flag-2 flag-3 sh-port
  sh-fallback mh-port mh-fallback`.split(/\s+/),
);

/** Why others have no place here. */
const REST: Readonly<Record<string, string>> = {
  quorum: "minimumHealthy with backends of a second priority is near it",
  hysteresis: "minimumHealthy with backends of a second priority is near it",
  quorum_up: "the log has a line for each change of state",
  quorum_down: "the log has a line for each change of state",
  omega: "shutdown.mode says what becomes of flows",
  virtualhost: "set health.host",
  ha_suspend: "checks go on on a standby",
  inhibit_on_failure: "existingFlows.down says what becomes of flows; a backend is never forgotten",
};

function noteRest(draft: Draft, node: KaNode): void {
  for (const child of node.children) {
    const [keyword = ""] = child.words;
    if (READ.has(keyword)) continue;
    const why = Object.hasOwn(REST, keyword) ? REST[keyword] : "a service has nothing like it";
    draft.note(child.line, `${quote(keyword)}: ${why}`);
  }
}

function setPersistence(draft: Draft, keys: Keys, node: KaNode, vip: string): void {
  const timeout = childOf(node, "persistence_timeout");
  if (timeout === undefined) return;
  const seconds = wholeNumber(timeout.words[1] ?? `${PERSISTENCE_SECONDS}`, 4_000_000_000);
  if (seconds === null || seconds === 0) return;
  const affinity: Keys = { timeout: timeoutText(seconds * 1000) };
  const granularity = childOf(node, "persistence_granularity");
  const family = parseAddress(vip)?.family ?? 4;
  const bits = granularity === undefined ? null : maskBits(granularity.words[1] ?? "", family);
  if (granularity !== undefined && (bits === null || bits === 0)) {
    draft.note(granularity.line, `${quote(granularity.words[1] ?? "")}: expected a prefix`);
  } else if (bits !== null && bits !== (family === 4 ? 32 : 128)) {
    affinity["prefix"] = { [`ipv${family}`]: bits };
  }
  draft.set(keys, "affinity", affinity, timeout.line);
}

function setSorry(draft: Draft, keys: Keys, node: KaNode, mode: string): void {
  const sorry = childOf(node, "sorry_server");
  if (sorry === undefined) return;
  const [, address = "", port = "0"] = sorry.words;
  const noBackend: Keys = { action: "sorry", address };
  const number = wholeNumber(port, 65_535);
  if (mode === "nat" && number !== null && number > 0) noBackend["port"] = number;
  draft.set(keys, "noBackend", noBackend, sorry.line);
}

function backendOf(draft: Draft, server: KaNode, mode: string, vipPort: number): Keys[] {
  const [, address = "", written = "0"] = server.words;
  const parsed = parseAddress(address);
  if (parsed === null) {
    draft.note(server.line, `expected an address and a port, got ${quote(address)}`);
    return [];
  }
  const backend: Keys = draft.from(server.line, { address: parsed.text });
  const port = wholeNumber(written, 65_535) ?? 0;
  if (mode === "nat" && port > 0) backend["port"] = port;
  else if (port > 0 && port !== vipPort) {
    draft.note(server.line, `port ${port} means nothing with ${mode}: packets keep their port`);
  }
  const weight = childOf(server, "weight");
  backend["weight"] = Math.min(65_535, wholeNumber(weight?.words[1], 0x7fff_ffff) ?? 1);
  const upper = childOf(server, "uthreshold");
  const connections = wholeNumber(upper?.words[1], 1 << 24);
  if (upper !== undefined && connections !== null && connections > 0) {
    draft.set(backend, "maxConnections", connections, upper.line);
  }
  for (const { line, words } of server.children) {
    const [keyword = ""] = words;
    const isRead = ["weight", "uthreshold", "inhibit_on_failure"].includes(keyword);
    if (!isRead && !/_(CHECK|GET)$/.test(keyword) && !READ.has(keyword)) {
      draft.note(line, `${quote(keyword)}: a backend has nothing like it`);
    }
  }
  return [backend];
}
