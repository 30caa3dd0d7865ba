/**
 * One line of `ipvsadm -S`, or of a script that calls ipvsadm, as options (ipvsadm(8)). popt reads it
 * there: short options may stand together, a value follows as the next word or behind `=`.
 */

/** Options by their long names; what is not set is not there. */
export interface IpvsLine {
  readonly line: number;
  readonly options: ReadonlyMap<string, string>;
  /** Words that are no option or value. */
  readonly unknown: readonly string[];
}

/** Long name, and whether a value follows: always, or if it is a number. */
const LONG: Readonly<Record<string, "none" | "value" | "maybe">> = {
  "add-service": "none",
  "edit-service": "none",
  "delete-service": "none",
  clear: "none",
  restore: "none",
  save: "none",
  "add-server": "none",
  "edit-server": "none",
  "delete-server": "none",
  list: "none",
  zero: "none",
  set: "none",
  "start-daemon": "value",
  "stop-daemon": "value",
  "tcp-service": "value",
  "udp-service": "value",
  "sctp-service": "value",
  "fwmark-service": "value",
  scheduler: "value",
  pe: "value",
  persistent: "maybe",
  netmask: "value",
  "real-server": "value",
  gatewaying: "none",
  ipip: "none",
  masquerading: "none",
  "tun-type": "value",
  "tun-port": "value",
  "tun-nocsum": "none",
  "tun-csum": "none",
  "tun-remcsum": "none",
  weight: "value",
  "u-threshold": "value",
  "l-threshold": "value",
  "mcast-interface": "value",
  syncid: "value",
  "sched-flags": "value",
  ipv6: "none",
  ops: "none",
  numeric: "none",
  exact: "none",
};

const SHORT: Readonly<Record<string, string>> = {
  A: "add-service",
  E: "edit-service",
  D: "delete-service",
  C: "clear",
  R: "restore",
  S: "save",
  a: "add-server",
  e: "edit-server",
  d: "delete-server",
  L: "list",
  l: "list",
  Z: "zero",
  t: "tcp-service",
  u: "udp-service",
  f: "fwmark-service",
  s: "scheduler",
  p: "persistent",
  M: "netmask",
  r: "real-server",
  g: "gatewaying",
  i: "ipip",
  m: "masquerading",
  w: "weight",
  x: "u-threshold",
  y: "l-threshold",
  b: "sched-flags",
  "6": "ipv6",
  o: "ops",
  O: "ops",
  n: "numeric",
};

/** ipvsadm's commands that other programs and this import have a use for, or must say no to. */
export const COMMANDS = [
  "add-service",
  "edit-service",
  "delete-service",
  "clear",
  "add-server",
  "edit-server",
  "delete-server",
  "set",
  "restore",
  "save",
  "list",
  "zero",
  "start-daemon",
  "stop-daemon",
] as const;

/**
 * Read one line.
 *
 * @returns null for an empty line or a comment
 */
export function readIpvsLine(text: string, line: number): IpvsLine | null {
  const words = text.trim().split(/\s+/);
  if (words[0] === "" || words[0]!.startsWith("#")) return null;
  // A script has the command in front; `ipvsadm -S` prints the options alone.
  if (/(^|\/)ipvsadm$/.test(words[0]!)) words.shift();
  const options = new Map<string, string>();
  const unknown: string[] = [];
  for (let at = 0; at < words.length; at++) {
    const word = words[at]!;
    const read = word.startsWith("--") ? longOption(word) : shortOptions(word);
    if (read === null) {
      unknown.push(word);
      continue;
    }
    for (const name of read.names) options.set(name, "");
    const last = read.names.at(-1)!;
    if (read.value !== null) options.set(last, read.value);
    else if (wantsNext(last, words[at + 1])) options.set(last, words[++at] ?? "");
  }
  return { line, options, unknown };
}

function wantsNext(name: string, next: string | undefined): boolean {
  const kind = LONG[name];
  return kind === "value" || (kind === "maybe" && next !== undefined && /^\d+$/.test(next));
}

interface Read {
  readonly names: readonly string[];
  /** null: none was written with it. */
  readonly value: string | null;
}

function longOption(word: string): Read | null {
  const [, name = "", value] = /^--([a-z-]+)(?:=(.*))?$/.exec(word) ?? [];
  const known = name === "" || !Object.hasOwn(LONG, name) ? null : name;
  return known === null ? null : { names: [known], value: value ?? null };
}

/** `-Ln`, `-w10`, `-t=…`: the first one that takes a value takes the rest of the word. */
function shortOptions(word: string): Read | null {
  if (!/^-[A-Za-z0-9]/.test(word)) return null;
  const names: string[] = [];
  for (let at = 1; at < word.length; at++) {
    const name = Object.hasOwn(SHORT, word[at]!) ? SHORT[word[at]!] : undefined;
    if (name === undefined) return null;
    names.push(name);
    const rest = word.slice(at + 1);
    if (LONG[name] !== "none" && rest !== "") return { names, value: rest.replace(/^=/, "") };
  }
  return { names, value: null };
}
