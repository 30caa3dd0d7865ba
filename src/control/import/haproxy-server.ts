import { parseAddress } from "../../base/address.ts";
import { type Draft, quote } from "./draft.ts";
import type { HaLine } from "./haproxy-lines.ts";
import { haServerReason } from "./haproxy-reasons.ts";
import { parseEndpoint } from "./values.ts";

/** Lines `server` and `default-server` (5.2 "Server and default-server options"). */

export interface HaServer {
  readonly line: number;
  readonly name: string;
  readonly address: string;
  /** null: the port that the client sent to. */
  readonly port: number | null;
  /** Added to the port that the client sent to (`:+1000`). */
  readonly portOffset: number;
  /** Parameters by name, those of `default-server` included; without a value they are "". */
  readonly parameters: ReadonlyMap<string, string>;
}

/** Parameters that one value follows. */
const WITH_VALUE = new Set(
  `addr agent-addr agent-inter agent-port agent-send alpn ca-file check-alpn check-proto check-sni
  ciphers ciphersuites cookie crl-file crt curves downinter error-limit fall fastinter force-tlsv
  guid id init-addr init-state inter interface log-proto maxconn maxqueue max-reuse minconn namespace
  observe on-error on-marked-down on-marked-up pool-low-conn pool-max-conn pool-purge-delay port
  proto proxy-v2-options redir resolve-net resolve-opts resolve-prefer resolvers rise set-proxy-v2-tlv-fmt
  shard sigalgs client-sigalgs slowstart sni socks4 source ssl-max-ver ssl-min-ver tcp-ut track
  usesrc verify verifyhost weight ws hash-key`.split(/\s+/),
);

/** Parameters that this import reads; the others are named. */
const READ = new Set(
  `addr agent-check agent-inter agent-port agent-send backup check check-sni check-ssl disabled
  downinter error-limit fall fastinter inter maxconn observe on-error on-marked-down port rise slowstart weight
  verify`.split(/\s+/),
);

/** What `no-…` and its opposite switch off. */
const SWITCHES = new Set(["check", "backup", "agent-check", "ssl", "check-ssl", "disabled"]);

/**
 * Read the parameters of a line.
 *
 * @param defaults - those of `default-server`
 */
export function serverParameters(
  words: readonly string[],
  defaults: ReadonlyMap<string, string>,
): Map<string, string> {
  const parameters = new Map(defaults);
  for (let at = 0; at < words.length; at++) {
    const word = words[at]!;
    const switched = word.startsWith("no-") ? word.slice(3) : "";
    if (SWITCHES.has(switched)) parameters.delete(switched);
    else if (word === "enabled") parameters.delete("disabled");
    else if (WITH_VALUE.has(word)) parameters.set(word, words[++at] ?? "");
    else parameters.set(word, "");
  }
  return parameters;
}

/** Name what stands in a line and is not read. */
function noteParameters(draft: Draft, line: number, words: readonly string[]): void {
  for (const parameter of serverParameters(words, new Map()).keys()) {
    if (READ.has(parameter)) continue;
    draft.note(line, `${quote(parameter)}: ${haServerReason(parameter)}`);
  }
}

/** Read a line `default-server`. */
export function readDefaultServer(
  draft: Draft,
  { line, words }: HaLine,
  before: ReadonlyMap<string, string>,
): Map<string, string> {
  noteParameters(draft, line, words.slice(1));
  return serverParameters(words.slice(1), before);
}

/**
 * Read a line `server NAME ADDRESS[:PORT] …`.
 *
 * @returns null, with a note, when we can have no such backend
 */
export function readServer(
  draft: Draft,
  { line, words }: HaLine,
  defaults: ReadonlyMap<string, string>,
): HaServer | null {
  const [, name = "", written = "", ...rest] = words;
  const parameters = serverParameters(rest, defaults);
  const refuse = (why: string): null => {
    draft.note(line, `server ${quote(name)} is left out: ${why}`);
    return null;
  };
  if (parameters.has("ssl")) return refuse(haServerReason("ssl"));
  const [, text = "", port = ""] =
    /^(?:ipv[46]@|tcp[46]?@)?(.*?)(?::([+-]?\d{1,5})?)?$/.exec(withoutIpv6Port(written)) ?? [];
  const address = parseAddress(text.replace(/^\[(.*)\]$/, "$1"));
  if (address === null) {
    return refuse(`expected an address (names are not resolved), got ${quote(written)}`);
  }
  const isOffset = /^[+-]/.test(port);
  if (Math.abs(Number(port)) > 65_535) return refuse(`expected a port, got ${quote(port)}`);
  noteParameters(draft, line, rest);
  return {
    line,
    name,
    address: address.text,
    port: isOffset || port === "" || port === "0" ? null : Number(port),
    portOffset: isOffset ? Number(port) : 0,
    parameters,
  };
}

/** An IPv6 address without brackets: HAProxy takes what is behind the last colon as the port. */
function withoutIpv6Port(written: string): string {
  const bare = written.replace(/^ipv6@/, "");
  if (bare.startsWith("[") || bare.split(":").length <= 2) return written;
  const at = bare.lastIndexOf(":");
  const isPort = parseEndpoint(bare.slice(0, at)) !== null && /^[+-]?\d+$/.test(bare.slice(at + 1));
  return isPort ? `[${bare.slice(0, at)}]${bare.slice(at)}` : `[${bare}]`;
}
