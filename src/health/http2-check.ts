import { type ClientHttp2Session, connect, constants, type IncomingHttpHeaders } from "node:http2";
import type { Socket } from "node:net";
import type { TLSSocket } from "node:tls";
import type { HttpQuestion, TlsQuestion } from "../service/health-definition.ts";
import {
  authorityOf,
  type CheckEndpoint,
  type CheckResult,
  type Decide,
  failureReason,
  runCheck,
} from "./check.ts";
import { createHttpAnswer, type HttpAnswer } from "./http-answer.ts";
import { certificateExtras, connectTls, expiryText } from "./tls.ts";

/**
 * Ask for a path by HTTP/2 (RFC 9113), on a connection of its own: over TLS with ALPN `h2`, or without,
 * by prior knowledge.
 *
 * @returns `status N`, or why there was none; fulfilled when the connection is closed, never rejected
 */
export function checkHttp2(
  endpoint: CheckEndpoint,
  question: HttpQuestion & { readonly tls: TlsQuestion | null },
  signal: AbortSignal,
): Promise<CheckResult> {
  const { tls } = question;
  if (tls === null) {
    return runCheck(endpoint, signal, (socket, decide) => {
      const answer = createHttpAnswer(question, decide);
      socket.once("connect", () => ask(endpoint, question, "http", socket, decide, answer));
      return undefined;
    });
  }
  return runCheck(
    endpoint,
    signal,
    (socket, decide) => {
      const secure = socket as TLSSocket;
      const answer = createHttpAnswer(
        question,
        decide,
        () => certificateExtras(secure),
        (extras) => expiryText(extras, tls, Date.now()),
      );
      secure.once("secureConnect", () => {
        if (secure.alpnProtocol === "h2") {
          ask(endpoint, question, "https", secure, decide, answer);
          return;
        }
        decide(false, "no h2 by ALPN", certificateExtras(secure));
        secure.destroy();
      });
      return undefined;
    },
    () => connectTls(endpoint, tls, ["h2"]),
  );
}

/** @param socket - connected */
function ask(
  endpoint: CheckEndpoint,
  question: HttpQuestion,
  scheme: "http" | "https",
  socket: Socket,
  decide: Decide,
  answer: HttpAnswer,
): void {
  const authority = question.host ?? authorityOf(endpoint);
  const session: ClientHttp2Session = connect(`${scheme}://${authorityOf(endpoint)}`, {
    createConnection: () => socket,
    settings: { enablePush: false },
  });
  const end = (): void => {
    session.destroy();
    socket.destroy();
  };
  const fail = (error: Error): void => {
    decide(false, failureReason(error));
    end();
  };
  session.on("error", fail);
  session.once("goaway", (code) => {
    if (code !== constants.NGHTTP2_NO_ERROR) fail(new Error(`goaway, code ${code}`));
  });
  session.once("close", end);
  const asked = session.request({
    ":method": question.method,
    ":scheme": scheme,
    ":authority": authority,
    ":path": question.path,
    "user-agent": "headgate",
    accept: "*/*",
    ...question.headers,
  });
  asked.on("response", (headers: IncomingHttpHeaders) => {
    answer.status(Number(headers[":status"] ?? 0));
  });
  asked.on("data", (part: Buffer) => {
    if (!answer.data(part)) end();
  });
  asked.on("error", fail);
  asked.once("end", () => {
    answer.end();
    end();
  });
  asked.end();
}
