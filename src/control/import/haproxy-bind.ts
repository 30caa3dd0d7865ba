import { parseAddress } from "../../base/address.ts";
import { type Draft, quote } from "./draft.ts";
import type { HaLine } from "./haproxy-lines.ts";

/** Lines `bind` (5.1 "Bind options"): addresses, each with a port or a range. */

export interface HaBind {
  readonly line: number;
  readonly address: string;
  readonly low: number;
  readonly high: number;
}

/** Parameters of sockets that change nothing of what is balanced. */
const HARMLESS = new Set(
  `name process thread shards transparent backlog defer-accept tfo v4v6 v6only nice maxconn level mode
  user group uid gid id interface namespace tcp-ut tcp-md5sig severity-output no-alpn`.split(/\s+/),
);

/**
 * Read a line `bind ADDRESS:PORT[-PORT][,…] …`.
 *
 * @returns what it listens on; empty, with a note, when we cannot
 */
export function readBind(draft: Draft, { line, words }: HaLine): HaBind[] {
  const [, addresses = "", ...parameters] = words;
  const has = (word: string): boolean => parameters.includes(word);
  if (has("ssl")) {
    draft.note(
      line,
      "bind with ssl is left out: TLS ends at the backend, it is passed through here",
    );
    return [];
  }
  for (const word of ["accept-proxy", "accept-netscaler-cip", "mss", "interface"]) {
    if (!has(word)) continue;
    const why = word === "mss" ? "set mss of the service" : "a service has nothing like it";
    draft.note(line, `${quote(word)}: ${why}`);
  }
  const odd = parameters.find((word) => /^[a-z]/.test(word) && isUnknown(word, parameters));
  if (odd !== undefined) draft.note(line, `${quote(odd)}: a service has nothing like it`);
  return addresses.split(",").flatMap((text) => bindsOf(draft, line, text, has("v4v6")));
}

/** A word that is neither known nor the value of one that is. */
function isUnknown(word: string, parameters: readonly string[]): boolean {
  const known = ["accept-proxy", "accept-netscaler-cip", "mss", "interface"];
  if (HARMLESS.has(word) || known.includes(word)) return false;
  const before = parameters[parameters.indexOf(word) - 1] ?? "";
  return !HARMLESS.has(before) && !known.includes(before);
}

/** Every address of a family; with v4v6 `::` has both. */
const EVERY_ADDRESS: Readonly<Record<string, 4 | 6>> = { "": 4, "*": 4, "0.0.0.0": 4, "::": 6 };

function bindsOf(draft: Draft, line: number, text: string, isBoth: boolean): HaBind[] {
  const refuse = (why: string): HaBind[] => {
    draft.note(line, `bind ${quote(text)} is left out: ${why}`);
    return [];
  };
  const [, kind = ""] = /^([a-z0-9]+)@/.exec(text) ?? [];
  if (!["", "ipv4", "ipv6", "tcp", "tcp4", "tcp6"].includes(kind) || text.includes("/")) {
    return refuse("it is no TCP port of an address");
  }
  const bare = text.slice(kind === "" ? 0 : kind.length + 1);
  const at = bare.lastIndexOf(":");
  const [, first = "", last] = /^(\d{1,5})(?:-(\d{1,5}))?$/.exec(bare.slice(at + 1)) ?? [];
  const [low, high] = [Number(first), Number(last ?? first)];
  if (at < 0 || low < 1 || high > 65_535 || low > high) return refuse("expected a port or a range");
  const host = bare.slice(0, at).replace(/^\[(.*)\]$/, "$1");
  const family = EVERY_ADDRESS[host];
  if (family !== undefined) {
    const vips = draft.options.vips.filter((vip) => isBoth || parseAddress(vip)?.family === family);
    if (vips.length === 0)
      return refuse("it names no address: --vip ADDRESS says which is the VIP");
    return vips.map((address) => ({ line, address, low, high }));
  }
  const address = parseAddress(host);
  if (address === null) return refuse("expected an address (names are not resolved)");
  return [{ line, address: address.text, low, high }];
}

/** Addresses that listen on the same ports: one service each. */
export interface VipGroup {
  readonly line: number;
  readonly vips: string[];
  readonly ports: readonly (number | string)[];
}

/** Binds as VIPs: a service has every one of its addresses on every one of its ports. */
export function groupBinds(binds: readonly HaBind[]): VipGroup[] {
  const byAddress = new Map<string, HaBind[]>();
  for (const bind of binds) {
    const known = byAddress.get(bind.address);
    if (known === undefined) byAddress.set(bind.address, [bind]);
    else known.push(bind);
  }
  const groups = new Map<string, VipGroup>();
  for (const [address, own] of byAddress) {
    const ports = own
      .toSorted((a, b) => a.low - b.low || a.high - b.high)
      .map(({ low, high }) => (low === high ? low : `${low}-${high}`));
    const distinct = [...new Set(ports)];
    const key = distinct.join(",");
    const group = groups.get(key);
    if (group === undefined)
      groups.set(key, { line: own[0]!.line, vips: [address], ports: distinct });
    else group.vips.push(address);
  }
  return [...groups.values()];
}
