import { type Draft, type Keys, quote } from "./draft.ts";
import type { HaLine } from "./haproxy-lines.ts";
import type { HaProxy } from "./haproxy-proxy.ts";
import type { HaServer } from "./haproxy-server.ts";

/** What a check asks: `option httpchk`, `tcp-check` and their kin as a type of `health` and its keys. */
export function haChecker(draft: Draft, back: HaProxy, first: HaServer): Keys {
  const isTls = first.parameters.has("check-ssl");
  const http = back.last.get("option httpchk");
  const script = back.last.get("option tcp-check");
  let health: Keys;
  if (http !== undefined) health = httpOf(draft, back, http, isTls);
  else if (script !== undefined) health = scriptOf(draft, back, isTls);
  else if (back.last.has("option ssl-hello-chk") || isTls) health = { type: "tls" };
  else {
    health = knownScript(back) ?? { type: "tcp" };
    noteChecks(draft, back, () => true, "it belongs to a check that is not asked for");
  }
  if (isTls || health["tls"] === true) {
    const name = first.parameters.get("check-sni");
    if (name !== undefined) health["serverName"] = name;
    const { parameters } = first;
    if (parameters.get("verify") === "required") health["verify"] = true;
  }
  return health;
}

function noteChecks(
  draft: Draft,
  back: HaProxy,
  which: (line: HaLine) => boolean,
  why: string,
): void {
  for (const line of back.checks) {
    if (which(line)) draft.note(line.line, `${quote(line.words.slice(0, 2).join(" "))}: ${why}`);
  }
}

/** `option redis-check` and `smtpchk` as the exchanges that they are. */
function knownScript(back: HaProxy): Keys | null {
  if (back.last.has("option redis-check")) {
    return { type: "script", steps: [{ send: "*1\r\n$4\r\nPING\r\n" }, { expect: "+PONG\r\n" }] };
  }
  const smtp = back.last.get("option smtpchk");
  if (smtp === undefined) return null;
  const [, , hello = "HELO", name = "localhost"] = smtp.words;
  const steps = [{ expect: "220" }, { send: `${hello} ${name}\r\n` }, { expect: "250" }];
  return { type: "script", steps: [...steps, { send: "QUIT\r\n" }, { expect: "221" }] };
}

const METHODS = new Set(["GET", "HEAD", "OPTIONS", "POST"]);

/** `option httpchk [METHOD] [URI [VERSION]]` and `http-check send|expect …`. */
function httpOf(draft: Draft, back: HaProxy, option: HaLine, isTls: boolean): Keys {
  const [, , one, two, ...rest] = option.words;
  const request: Request = {
    method: two === undefined ? "OPTIONS" : (one ?? "OPTIONS"),
    uri: two ?? one ?? "/",
    headers: [],
  };
  // Before http-check send, headers stood behind the version: "HTTP/1.1\r\nHost: www".
  for (const header of rest.join(" ").split("\r\n").slice(1)) {
    const at = header.indexOf(":");
    if (at > 0) request.headers.push([header.slice(0, at), header.slice(at + 1).trim()]);
  }
  const health: Keys = { type: isTls ? "https" : "http" };
  for (const line of back.checks) {
    if (line.words[0] !== "http-check") draft.note(line.line, "tcp-check: the check is of HTTP");
    else if (line.words[1] === "send") readSend(draft, request, line);
    else if (line.words[1] === "expect") Object.assign(health, expectOf(draft, line));
    else
      draft.note(
        line.line,
        `http-check ${quote(line.words[1] ?? "")}: a check has nothing like it`,
      );
  }
  if (!METHODS.has(request.method)) {
    draft.note(option.line, `method ${quote(request.method)}: it is GET now`);
  } else if (request.method !== "GET") health["method"] = request.method;
  health["path"] = request.uri;
  const headers: Record<string, string> = {};
  for (const [name, value] of request.headers) {
    if (name.toLowerCase() === "host") health["host"] = value;
    else if (name.toLowerCase() !== "connection") headers[name.toLowerCase()] = value;
  }
  if (Object.keys(headers).length > 0) health["headers"] = headers;
  return health;
}

interface Request {
  method: string;
  uri: string;
  readonly headers: [name: string, value: string][];
}

/** `http-check send [meth M] [uri U] [ver V] [hdr NAME VALUE]… [body TEXT]`. */
function readSend(draft: Draft, request: Request, { line, words }: HaLine): void {
  for (let at = 2; at < words.length; at++) {
    const word = words[at];
    const value = words[at + 1] ?? "";
    if (word === "meth") request.method = value;
    else if (word === "uri") request.uri = value;
    else if (word === "hdr") request.headers.push([value, words[(at += 1) + 1] ?? ""]);
    else if (word !== "ver" && word !== "comment") {
      draft.note(line, `http-check send ${quote(word ?? "")}: the request has no such thing`);
    }
    at += 1;
  }
}

/** `http-check expect [!] status|rstatus|string|rstring VALUE`; text is looked for whatever the status. */
function expectOf(draft: Draft, { line, words }: HaLine): Keys {
  const plain = words.slice(2).filter((word) => word !== "" && word !== "min-recv");
  const [kind = "", value = ""] = plain;
  if (kind === "status") {
    const ranges = value.split(",").map((it) => (/^\d+$/.test(it) ? Number(it) : it));
    return { status: ranges.length === 1 ? ranges[0] : ranges };
  }
  if (kind === "string") return { status: "100-599", bodyContains: value };
  if (kind === "rstring") return { status: "100-599", bodyMatches: value };
  draft.note(line, `http-check expect ${quote(kind)}: expected is a status, or text in the body`);
  return {};
}

/** `tcp-check connect|send|send-binary|expect …` as the steps of a script. */
function scriptOf(draft: Draft, back: HaProxy, isTls: boolean): Keys {
  const steps: Keys[] = [];
  const health: Keys = {};
  for (const { line, words } of back.checks) {
    const [keyword, verb = "", ...rest] = words;
    const step = keyword === "tcp-check" ? stepOf(verb, rest) : null;
    if (verb === "connect" && keyword === "tcp-check") {
      if (rest.includes("ssl")) health["tls"] = true;
      if (rest.includes("port")) {
        draft.note(line, "tcp-check connect port: set health.port, a check has one connection");
      }
    } else if (verb === "comment") continue;
    else if (step !== null) steps.push(step);
    else draft.note(line, `${quote(words.slice(0, 3).join(" "))}: a script has no such step`);
  }
  if (isTls) health["tls"] = true;
  if (steps.length > 0) return { type: "script", ...health, steps };
  return { type: health["tls"] === true ? "tls" : "tcp" };
}

function stepOf(verb: string, rest: readonly string[]): Keys | null {
  const [first = "", second = ""] = rest;
  if (verb === "send") return { send: first };
  if (verb === "send-binary") return { sendHex: first };
  if (verb !== "expect") return null;
  if (first === "string") return { expect: second };
  if (first === "rstring") return { expectRegex: second };
  return first === "binary" ? { expectHex: second } : null;
}
