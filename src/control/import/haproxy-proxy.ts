import { type Draft, quote } from "./draft.ts";
import { type HaBind, readBind } from "./haproxy-bind.ts";
import { type HaLine, type HaSection, haDuration } from "./haproxy-lines.ts";
import { haReason } from "./haproxy-reasons.ts";
import { type HaServer, readDefaultServer, readServer } from "./haproxy-server.ts";

/** A `frontend`, `backend` or `listen` with what its `defaults` say. */
export interface HaProxy {
  readonly kind: string;
  readonly name: string;
  readonly line: number;
  readonly lastLine: number;
  readonly mode: string;
  readonly binds: HaBind[];
  readonly servers: HaServer[];
  /** Lines of which the last one counts, by keyword: `balance`, `maxconn`, `option httpchk`, … */
  readonly last: ReadonlyMap<string, HaLine>;
  /** By name: client, server, tunnel, check, client-fin, server-fin; in milliseconds. */
  readonly timeouts: ReadonlyMap<string, number>;
  /** `http-check` and `tcp-check`, in their order. */
  readonly checks: readonly HaLine[];
  /** `acl` and `tcp-request connection`, in their order. */
  readonly conditions: readonly HaLine[];
}

/** Keywords of which the last line counts, and who reads them. */
const LAST_COUNTS: Readonly<Record<string, readonly string[]>> = {
  balance: ["backend", "listen"],
  "hash-type": ["backend", "listen"],
  "hash-balance-factor": ["backend", "listen"],
  "stick-table": ["frontend", "backend", "listen"],
  stick: ["backend", "listen"],
  source: ["backend", "listen"],
  maxconn: ["frontend", "listen"],
  default_backend: ["frontend", "listen"],
  disabled: ["frontend", "backend", "listen"],
};

const OPTIONS = new Set(
  "httpchk tcp-check ssl-hello-chk redis-check smtpchk allbackups".split(" "),
);
const BACKENDS = ["backend", "listen"];
const FRONTENDS = ["frontend", "listen"];

/** Options that choose a check: the last of them counts. */
const CHECK_OPTIONS =
  /^(httpchk|tcp-check|ssl-hello-chk|mysql-check|pgsql-check|redis-check|smtpchk|ldap-check|spop-check|external-check)$/;

/** Timeouts that are read, and by whom. */
const TIMEOUTS: Readonly<Record<string, readonly string[]>> = {
  client: ["frontend", "listen"],
  "client-fin": ["frontend", "listen"],
  server: ["backend", "listen"],
  "server-fin": ["backend", "listen"],
  tunnel: ["backend", "listen"],
  check: ["backend", "listen"],
};

/** Kinds of sections in which a line is read; null: in all. */
function kindsOf(first: string, second: string): readonly string[] | null {
  if (first === "timeout") return Object.hasOwn(TIMEOUTS, second) ? TIMEOUTS[second]! : null;
  if (first === "option") {
    return OPTIONS.has(second) || CHECK_OPTIONS.test(second) ? BACKENDS : null;
  }
  if (["server", "default-server", "dispatch", "http-check", "tcp-check"].includes(first)) {
    return BACKENDS;
  }
  if (first === "acl" || first === "bind" || `${first} ${second}` === "tcp-request connection") {
    return FRONTENDS;
  }
  return Object.hasOwn(LAST_COUNTS, first) ? LAST_COUNTS[first]! : null;
}

class Reader {
  readonly binds: HaBind[] = [];
  readonly servers: HaServer[] = [];
  readonly last = new Map<string, HaLine>();
  readonly timeouts = new Map<string, number>();
  readonly checks: HaLine[] = [];
  readonly conditions: HaLine[] = [];
  #serverDefaults = new Map<string, string>();
  readonly #draft: Draft;
  readonly #kind: string;

  constructor(draft: Draft, kind: string) {
    this.#draft = draft;
    this.#kind = kind;
  }

  /** @param isOwn - the line stands in the section itself, not in its defaults */
  read(line: HaLine, isOwn: boolean): void {
    const { words } = line;
    const [first = "", second = ""] = words;
    const kinds = kindsOf(first, second);
    if (kinds !== null && !kinds.includes(this.#kind)) {
      // Defaults are for sections of every kind.
      const why = `it means nothing in a ${this.#kind}, or only counts there`;
      if (isOwn) this.#draft.note(line.line, `${quote(words.slice(0, 2).join(" "))}: ${why}`);
      return;
    }
    if (first === "mode" || (first === "no" && this.#readNo(words))) return;
    if (first === "bind") this.binds.push(...readBind(this.#draft, line));
    else if (first === "default-server") {
      this.#serverDefaults = readDefaultServer(this.#draft, line, this.#serverDefaults);
    } else if (first === "server") this.#readServer(line);
    else if (first === "dispatch")
      this.#readServer({ ...line, words: ["server", "dispatch", second] });
    else if (first === "timeout" && Object.hasOwn(TIMEOUTS, second)) this.#readTimeout(line);
    else if (first === "option") this.#readOption(line);
    else if (first === "http-check" || first === "tcp-check") this.checks.push(line);
    else if (first === "acl" || (first === "tcp-request" && second === "connection")) {
      this.conditions.push(line);
    } else if (first === "use_backend" && words.length === 2) {
      this.last.set("default_backend", this.last.get("default_backend") ?? line);
    } else if (Object.hasOwn(LAST_COUNTS, first)) this.last.set(first, line);
    else this.#draft.note(line.line, `${quote(words.slice(0, 2).join(" "))}: ${haReason(words)}`);
  }

  /** `no option X`: what `defaults` switched on. */
  #readNo([, what, option = ""]: readonly string[]): boolean {
    if (what !== "option" || !OPTIONS.has(option)) return false;
    this.last.delete(`option ${option}`);
    return true;
  }

  #readServer(line: HaLine): void {
    const server = readServer(this.#draft, line, this.#serverDefaults);
    if (server !== null) this.servers.push(server);
  }

  #readTimeout({ line, words }: HaLine): void {
    const [, name = "", text] = words;
    const durationMs = haDuration(text);
    if (durationMs === null)
      this.#draft.note(line, `timeout ${name}: ${quote(text ?? "")} is none`);
    else this.timeouts.set(name, durationMs);
  }

  #readOption(line: HaLine): void {
    const [, option = ""] = line.words;
    const isCheck = CHECK_OPTIONS.test(option);
    const isRead = OPTIONS.has(option);
    if (isCheck)
      for (const other of OPTIONS) if (other !== "allbackups") this.last.delete(`option ${other}`);
    if (isRead) this.last.set(`option ${option}`, line);
    else {
      const why = haReason(line.words);
      this.#draft.note(line.line, `${quote(line.words.slice(0, 2).join(" "))}: ${why}`);
    }
  }
}

/** The mode that the last `mode` line of defaults and section says; tcp is HAProxy's default. */
export function modeOf(section: HaSection, defaults: HaSection | null): string {
  const lines = [...(defaults?.lines ?? []), ...section.lines];
  return lines.findLast(({ words }) => words[0] === "mode")?.words[1] ?? "tcp";
}

/** Read a section after the lines of its `defaults`. */
export function readProxy(draft: Draft, section: HaSection, defaults: HaSection | null): HaProxy {
  const reader = new Reader(draft, section.kind);
  for (const line of defaults?.lines ?? []) reader.read(line, false);
  for (const line of section.lines) reader.read(line, true);
  const { binds, servers, last, timeouts, checks, conditions } = reader;
  const { kind, name, line, lastLine } = section;
  const mode = modeOf(section, defaults);
  return { kind, name, line, lastLine, mode, binds, servers, last, timeouts, checks, conditions };
}
