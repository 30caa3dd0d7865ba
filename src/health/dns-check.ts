import { type MxRecord, Resolver, type SoaRecord, type SrvRecord } from "node:dns";
import { isIPv6 } from "node:net";
import type { DnsQueryType, DnsRcode } from "../service/health-definition.ts";
import { authorityOf, type CheckEndpoint, type CheckResult, runTimed } from "./check.ts";

/** What to ask a name server, and what is right of its answer. */
export interface DnsQuestion {
  readonly query: string;
  readonly queryType: DnsQueryType;
  readonly rcode: readonly DnsRcode[];
  readonly answers: readonly string[];
}

/** Names that the resolver of Node has for codes of answers (RFC 1035 section 4.1.1). */
const RCODES: Readonly<Record<string, DnsRcode>> = {
  EFORMERR: "FORMERR",
  ESERVFAIL: "SERVFAIL",
  ENOTFOUND: "NXDOMAIN",
  ENOTIMP: "NOTIMP",
  EREFUSED: "REFUSED",
  // An answer without a record of the type.
  ENODATA: "NOERROR",
};

/**
 * Ask a name server one question by UDP (and by TCP, where the answer says that it was cut off). Any
 * answer with an expected code is a success; where records are expected, all of them have to be there.
 *
 * @returns `NOERROR`, or why not; fulfilled when the sockets are closed, never rejected
 */
export function checkDns(
  endpoint: CheckEndpoint,
  question: DnsQuestion,
  signal: AbortSignal,
): Promise<CheckResult> {
  const { address, source, timeoutMs } = endpoint;
  return runTimed(timeoutMs, signal, (decide, done) => {
    // Our own timer ends it: time in which this thread was busy does not count.
    const resolver = new Resolver({ timeout: Math.min(3 * timeoutMs, 2 ** 30), tries: 1 });
    resolver.setServers([authorityOf(endpoint)]);
    if (source !== null) {
      if (isIPv6(address)) resolver.setLocalAddress("0.0.0.0", source);
      else resolver.setLocalAddress(source);
    }
    resolver.resolve(question.query, question.queryType, (error, records: unknown) => {
      const { ok, reason } = judge(question, error, records);
      decide(ok, reason);
      done();
    });
    return { stop: () => resolver.cancel() };
  });
}

function judge(
  { rcode, answers }: DnsQuestion,
  error: NodeJS.ErrnoException | null,
  records: unknown,
): { ok: boolean; reason: string } {
  const code = error === null ? "NOERROR" : RCODES[error.code ?? ""];
  if (code === undefined) {
    return { ok: false, reason: `query ${error?.code ?? "failed"}` };
  }
  if (!rcode.includes(code)) return { ok: false, reason: code };
  const found = error === null ? recordTexts(records) : [];
  const missing = answers.find((answer) => !found.includes(answer.toLowerCase()));
  if (missing === undefined) return { ok: true, reason: code };
  const others = found.length === 0 ? "none" : found.slice(0, 4).join(", ");
  return { ok: false, reason: `${code}, expected ${missing}, got ${others}` };
}

/** Records as people write them, in lower case: `10 mail.example`, `0 5 443 host.example`. */
function recordTexts(records: unknown): string[] {
  const list = Array.isArray(records) ? records : [records];
  return list.map((record: unknown) => textOf(record).toLowerCase());
}

function textOf(record: unknown): string {
  if (typeof record === "string") return record;
  // TXT: the strings of one record.
  if (Array.isArray(record)) return record.join("");
  const { exchange } = record as MxRecord;
  if (exchange !== undefined) return `${(record as MxRecord).priority} ${exchange}`;
  const { weight, port, name, priority } = record as SrvRecord;
  if (weight !== undefined) return `${priority} ${weight} ${port} ${name}`;
  return (record as SoaRecord).nsname ?? "";
}
