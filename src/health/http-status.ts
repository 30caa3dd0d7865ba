import type { HttpQuestion } from "../service/health-definition.ts";
import { authorityOf, type CheckEndpoint, type CheckResult, runCheck } from "./check.ts";

/**
 * The check by HTTP/1.1 that most backends have, and thousands of them every second: nothing of the
 * answer but its status counts. It is read here from the first line; a client of node:http makes some
 * forty objects a request and costs as much again as the connection itself (npm run bench -- health).
 * What asks for more than the status is for http-check.ts.
 */

/** Before an answer's status, interim ones included, no more is read. */
const HEAD_BYTES_MAX = 16 * 1024;
/** A status line (RFC 9112 section 4), as lenient in its end as node:http is. */
const STATUS_LINE = /^HTTP\/1\.[01] (\d{3})(?:[ \r\n]|$)/;

/** Whether the status alone answers the question. */
export function asksStatusAlone({ body, method }: HttpQuestion): boolean {
  return body === null && method !== "POST";
}

/**
 * Ask for a path, and look at the status.
 *
 * @returns `status N`, or why there was none; fulfilled when the connection is closed, never rejected
 */
export function checkHttpStatus(
  endpoint: CheckEndpoint,
  question: HttpQuestion,
  signal: AbortSignal,
): Promise<CheckResult> {
  return runCheck(endpoint, signal, (socket, decide) => {
    const reader = createStatusReader();
    socket.once("connect", () => socket.write(requestOf(endpoint, question), "latin1"));
    socket.on("data", (part: Buffer) => {
      const before = reader.status;
      reader.take(part);
      const { status, fault } = reader;
      if (fault !== null) {
        decide(false, fault);
        socket.destroy();
        return;
      }
      if (status !== 0 && before === 0) {
        const isGood = question.status.some(({ low, high }) => status >= low && status <= high);
        decide(isGood, `status ${status}`);
      }
      // A body is read so that the backend need not see its answer cut off; a longer one is.
      const isOver =
        reader.isOver || question.method === "HEAD" || reader.bytes >= question.bodyBytes;
      if (status !== 0 && isOver) socket.destroy();
    });
    socket.once("end", () => {
      if (reader.status === 0) decide(false, "closed by the backend");
      socket.destroy();
    });
    return undefined;
  });
}

/** The request, whose parts the configuration has checked: no line of them can end early. */
function requestOf(endpoint: CheckEndpoint, question: HttpQuestion): string {
  const { method, path, host, headers } = question;
  let text = `${method} ${path} HTTP/1.1\r\n`;
  const all: Record<string, string> = {
    host: host ?? authorityOf(endpoint),
    "user-agent": "headgate",
    accept: "*/*",
    ...headers,
    connection: "close",
  };
  for (const name in all) text += `${name}: ${all[name]}\r\n`;
  return `${text}\r\n`;
}

interface StatusReader {
  /** Of the final answer; 0: not there yet. */
  readonly status: number;
  readonly fault: string | null;
  /** All of the answer is known to be there. */
  readonly isOver: boolean;
  readonly bytes: number;
  take(part: Buffer): void;
}

function createStatusReader(): StatusReader {
  let head = "";
  let status = 0;
  let fault: string | null = null;
  let bytes = 0;
  /** Bytes after which the answer is over; not known: none are enough. */
  let endsAt = Number.POSITIVE_INFINITY;

  function readHead(): void {
    for (;;) {
      const line = STATUS_LINE.exec(head);
      if (line === null) {
        // Of a line that is not whole the beginning has to be right.
        const isPossible = head.length < 12 ? "HTTP/1.".startsWith(head.slice(0, 7)) : false;
        if (!isPossible) fault = "Parse Error: expected an answer of HTTP/1.1";
        return;
      }
      const code = Number(line[1]);
      const end = head.indexOf("\r\n\r\n");
      if (end < 0) return;
      // Interim answers (RFC 9110 section 15.2) come before the one that counts; 101 is the last.
      if (code >= 200 || code === 101) {
        status = code;
        endsAt = bytes - (head.length - end - 4) + bodyBytesOf(head.slice(0, end), code);
        return;
      }
      head = head.slice(end + 4);
      if (head === "") return;
    }
  }

  return {
    get status() {
      return status;
    },
    get fault() {
      return fault;
    },
    get isOver() {
      return bytes >= endsAt;
    },
    get bytes() {
      return bytes;
    },
    take(part) {
      bytes += part.length;
      if (status !== 0) return;
      head += part.toString("latin1");
      readHead();
      if (status === 0 && head.length > HEAD_BYTES_MAX) fault ??= "Parse Error: Header overflow";
    },
  };
}

/** What is behind the head of an answer; infinite where only its end tells (RFC 9112 section 6.3). */
function bodyBytesOf(head: string, code: number): number {
  if (code === 204 || code === 304 || code === 101) return 0;
  const length = /\r\ncontent-length:[ \t]*(\d{1,15})[ \t]*(?:\r\n|$)/i.exec(head);
  if (length === null || /\r\ntransfer-encoding:/i.test(head)) return Number.POSITIVE_INFINITY;
  return Number(length[1]);
}
