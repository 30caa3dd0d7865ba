import { type IncomingMessage, request } from "node:http";
import type { PortRange } from "../service/definition.ts";
import { type CheckEndpoint, type CheckResult, failureReason, runCheck } from "./check.ts";

/** What to ask for, and which status is a success. */
export interface HttpQuestion {
  readonly path: string;
  /** Host header; null: the address and port. */
  readonly host: string | null;
  readonly status: readonly PortRange[];
}

/** A body is read so that the backend need not see its answer cut off; a longer one is. */
const BODY_BYTES_MAX = 64 * 1024;

/**
 * GET a path on a connection of its own; the status alone decides, redirects are not followed.
 *
 * @returns `status N`, or why there was none; fulfilled when the connection is closed, never rejected
 */
export function checkHttp(
  endpoint: CheckEndpoint,
  question: HttpQuestion,
  signal: AbortSignal,
): Promise<CheckResult> {
  return runCheck(endpoint, signal, (socket, decide) => {
    const judge = (response: IncomingMessage): void => {
      const code = response.statusCode ?? 0;
      const isGood = question.status.some(({ low, high }) => code >= low && code <= high);
      decide(isGood, `status ${code}`);
    };
    const asked = request({
      method: "GET",
      path: question.path,
      host: endpoint.address,
      port: endpoint.port,
      // A connection of our own takes the place of an agent: nothing is pooled or kept alive.
      createConnection: () => socket,
      headers: {
        ...(question.host === null ? {} : { host: question.host }),
        "user-agent": "headgate",
        accept: "*/*",
        connection: "close",
      },
    });
    asked.on("error", (error) => {
      decide(false, failureReason(error));
      socket.destroy();
    });
    asked.on("upgrade", (response) => {
      judge(response);
      socket.destroy();
    });
    asked.on("response", (response) => {
      judge(response);
      let bytes = 0;
      response.on("data", (part: Buffer) => {
        bytes += part.length;
        if (bytes > BODY_BYTES_MAX) socket.destroy();
      });
      // The status has decided: how the body ends changes nothing.
      response.on("error", () => socket.destroy());
      response.on("end", () => socket.destroy());
    });
    asked.end();
  });
}
