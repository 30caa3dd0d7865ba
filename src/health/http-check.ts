import { type IncomingMessage, request } from "node:http";
import type { Socket } from "node:net";
import type { TLSSocket } from "node:tls";
import type { HttpQuestion, TlsQuestion } from "../service/health-definition.ts";
import {
  type CheckEndpoint,
  type CheckResult,
  type Decide,
  failureReason,
  runCheck,
} from "./check.ts";
import { createHttpAnswer, type HttpAnswer } from "./http-answer.ts";
import { certificateExtras, connectTls, expiryText } from "./tls.ts";

/**
 * Ask for a path by HTTP/1.1, on a connection of its own; redirects are not followed.
 *
 * @returns `status N`, or why there was none; fulfilled when the connection is closed, never rejected
 */
export function checkHttp(
  endpoint: CheckEndpoint,
  question: HttpQuestion,
  signal: AbortSignal,
): Promise<CheckResult> {
  return runCheck(endpoint, signal, (socket, decide) => {
    ask(endpoint, question, socket, decide, createHttpAnswer(question, decide));
    return undefined;
  });
}

/** The same over TLS. */
export function checkHttps(
  endpoint: CheckEndpoint,
  question: HttpQuestion & { readonly tls: TlsQuestion },
  signal: AbortSignal,
): Promise<CheckResult> {
  const { tls } = question;
  return runCheck(
    endpoint,
    signal,
    (socket, decide) => {
      const answer = createHttpAnswer(
        question,
        decide,
        () => certificateExtras(socket as TLSSocket),
        (extras) => expiryText(extras, tls, Date.now()),
      );
      ask(endpoint, question, socket, decide, answer);
      return undefined;
    },
    () => connectTls(endpoint, tls, ["http/1.1"]),
  );
}

function ask(
  endpoint: CheckEndpoint,
  question: HttpQuestion,
  socket: Socket,
  decide: Decide,
  answer: HttpAnswer,
): void {
  const asked = request({
    method: question.method,
    path: question.path,
    host: endpoint.address,
    port: endpoint.port,
    // A connection of our own takes the place of an agent: nothing is pooled or kept alive.
    createConnection: () => socket,
    headers: {
      ...(question.host === null ? {} : { host: question.host }),
      "user-agent": "headgate",
      accept: "*/*",
      ...question.headers,
      connection: "close",
    },
  });
  asked.on("error", (error) => {
    decide(false, failureReason(error));
    socket.destroy();
  });
  asked.on("upgrade", (response) => {
    answer.status(response.statusCode ?? 0);
    answer.end();
    socket.destroy();
  });
  asked.on("response", (response: IncomingMessage) => {
    answer.status(response.statusCode ?? 0);
    response.on("data", (part: Buffer) => {
      // A body is read so that the backend need not see its answer cut off; a longer one is.
      if (!answer.data(part)) socket.destroy();
    });
    // Where the status has decided, how the body ends changes nothing.
    response.on("error", (error) => {
      decide(false, failureReason(error));
      socket.destroy();
    });
    response.on("end", () => {
      answer.end();
      socket.destroy();
    });
  });
  asked.end();
}
