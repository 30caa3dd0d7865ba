import { type Draft, type Keys, quote } from "./draft.ts";
import { childOf, type KaNode } from "./keepalived-lines.ts";
import { clampedDuration, wholeNumber } from "./values.ts";

/** keepalived's defaults (its own page, section "CHECKERS"): a minute between two checks. */
const DELAY_LOOP_SECONDS = 60;
const CONNECT_TIMEOUT_SECONDS = 5;

const INTERVAL_MS_MIN = 100;
const INTERVAL_MS_MAX = 3_600_000;

/** Blocks of a real server that say how it is checked, by our types. */
const TYPES: Readonly<Record<string, string>> = {
  TCP_CHECK: "tcp",
  HTTP_GET: "http",
  SSL_GET: "https",
  UDP_CHECK: "udp",
  DNS_CHECK: "dns",
  PING_CHECK: "icmp",
  MISC_CHECK: "exec",
};

/** Set `health` from the checker of the first real server that has one. */
export function keepalivedHealth(
  draft: Draft,
  keys: Keys,
  node: KaNode,
  servers: readonly KaNode[],
): void {
  const checkers = servers.map((server) => checkerOf(draft, server));
  const first = checkers.find((checker) => checker !== null) ?? null;
  if (first === null) return;
  for (const [index, server] of servers.entries()) {
    if (sameChecker(checkers[index] ?? null, first)) continue;
    draft.note(
      server.line,
      `${titleOf(server)} is checked as the first one: health is a service's`,
    );
  }
  const health: Keys = draft.from(first.line, typeOf(draft, first));
  // A keyword of the checker, else of the real server, else of the virtual server.
  const server = servers[checkers.indexOf(first)]!;
  const seconds = (keyword: string, initial: number): number => {
    const written = [first, server, node].map((it) => childOf(it, keyword)?.words[1]);
    const value = Number(written.find((it) => it !== undefined) ?? initial);
    return Number.isFinite(value) && value > 0 ? value : initial;
  };
  const intervalMs = clamp(seconds("delay_loop", DELAY_LOOP_SECONDS) * 1000);
  const timeoutMs = seconds("connect_timeout", CONNECT_TIMEOUT_SECONDS) * 1000;
  const retries = [first, server, node].map((it) => childOf(it, "retry")?.words[1]);
  const retry = wholeNumber(
    retries.find((it) => it !== undefined),
    99,
  );
  health["interval"] = clampedDuration(intervalMs, INTERVAL_MS_MIN, INTERVAL_MS_MAX);
  health["rise"] = 1;
  health["fall"] = (retry ?? 1) + 1;
  let leastMs = intervalMs;
  if (retry !== 0) {
    // A check that failed is tried again after this; here every check is while health changes.
    const againMs = clamp(seconds("delay_before_retry", 1) * 1000);
    leastMs = Math.min(againMs, intervalMs);
    health["fastInterval"] = clampedDuration(leastMs, INTERVAL_MS_MIN, INTERVAL_MS_MAX);
  }
  health["timeout"] = clampedDuration(timeoutMs, 10, leastMs);
  draft.set(keys, "health", health, first.line);
}

function clamp(durationMs: number): number {
  return Math.round(Math.min(INTERVAL_MS_MAX, Math.max(INTERVAL_MS_MIN, durationMs)));
}

function titleOf(server: KaNode): string {
  return `real server ${quote(server.words.slice(1, 3).join(" "))}`;
}

/** The block that checks a real server; null, with a note, for none that we have. */
function checkerOf(draft: Draft, server: KaNode): KaNode | null {
  const found = server.children.find(({ words }) => /_(CHECK|GET)$/.test(words[0] ?? ""));
  if (found === undefined) return null;
  const [keyword = ""] = found.words;
  if (Object.hasOwn(TYPES, keyword)) return found;
  draft.note(found.line, `${keyword}: there is no such check`);
  return null;
}

/** Whether two checkers say the same, line by line. */
function sameChecker(a: KaNode | null, b: KaNode): boolean {
  if (a === null || a.words[0] !== b.words[0] || a.children.length !== b.children.length) {
    return false;
  }
  return a.children.every((child, index) => {
    const other = b.children[index]!;
    const isSame = child.words.join(" ") === other.words.join(" ");
    return isSame && (child.children.length === 0 || sameChecker(child, other));
  });
}

function typeOf(draft: Draft, checker: KaNode): Keys {
  const [keyword = ""] = checker.words;
  const health: Keys = { type: TYPES[keyword] };
  const value = (name: string): string | undefined => childOf(checker, name)?.words[1];
  const port = wholeNumber(value("connect_port"), 65_535);
  if (port !== null && port > 0) health["port"] = port;
  const source = value("bindto");
  if (source !== undefined) health["source"] = source;
  if (keyword === "HTTP_GET" || keyword === "SSL_GET") Object.assign(health, urlOf(draft, checker));
  if (keyword === "DNS_CHECK") {
    if (value("name") !== undefined) health["query"] = value("name");
    if (value("type") !== undefined) health["queryType"] = value("type");
  }
  if (keyword === "UDP_CHECK") {
    if (value("payload") !== undefined) health["sendHex"] = value("payload");
    if (value("require_reply") !== undefined) health["expectHex"] = value("require_reply");
  }
  if (keyword === "MISC_CHECK") {
    const path = value("misc_path");
    if (path !== undefined) health["command"] = path.trim().split(/\s+/);
    if (childOf(checker, "misc_dynamic") !== undefined) health["dynamicWeight"] = true;
    if (value("user") !== undefined) health["user"] = value("user");
  }
  return health;
}

/** The first `url` of HTTP_GET and SSL_GET: one request is a check. */
function urlOf(draft: Draft, checker: KaNode): Keys {
  const urls = checker.children.filter(({ words }) => words[0] === "url");
  for (const more of urls.slice(1)) draft.note(more.line, "url: a check asks for one");
  const [first] = urls;
  const keys: Keys = {};
  const value = (name: string): string | undefined =>
    first === undefined ? undefined : childOf(first, name)?.words.slice(1).join(" ");
  keys["path"] = value("path") ?? "/";
  const host = value("virtualhost") ?? childOf(checker, "virtualhost")?.words[1];
  if (host !== undefined) keys["host"] = host;
  // Without status_code 200 to 299 are right.
  const status = (value("status_code") ?? "200-299").split(/[\s,]+/);
  const ranges = status.map((it) => (/^\d+$/.test(it) ? Number(it) : it));
  keys["status"] = ranges.length === 1 ? ranges[0] : ranges;
  const regex = value("regex");
  if (regex !== undefined) keys["bodyMatches"] = regex;
  for (const name of ["digest", "regex_no_match", "regex_options", "tls_compliant", "enable_sni"]) {
    const found = first === undefined ? undefined : childOf(first, name);
    if (found !== undefined) draft.note(found.line, `${name}: a check looks at status and text`);
  }
  return keys;
}
