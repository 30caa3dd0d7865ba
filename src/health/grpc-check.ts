import { Client, type ServiceError, status } from "@grpc/grpc-js";
import type { TlsQuestion } from "../service/health-definition.ts";
import {
  authorityOf,
  type CheckEndpoint,
  type CheckResult,
  failureReason,
  runTimed,
} from "./check.ts";
import { channelOptions, EndpointCredentials, GRPC_TARGET } from "./grpc-channel.ts";
import { decodeResponse, encodeRequest, SERVING, SERVING_STATUS } from "./grpc-messages.ts";
import { expiryText } from "./tls.ts";

/** The service to ask for, and how. */
export interface GrpcQuestion {
  readonly grpcService: string;
  readonly host: string | null;
  readonly tls: TlsQuestion | null;
}

/**
 * Ask `grpc.health.v1.Health/Check` on a connection of its own; SERVING alone is a success.
 *
 * @returns `SERVING`, or why not; fulfilled when the connection is closed, never rejected
 */
export function checkGrpc(
  endpoint: CheckEndpoint,
  question: GrpcQuestion,
  signal: AbortSignal,
): Promise<CheckResult> {
  const { tls, host } = question;
  return runTimed(endpoint.timeoutMs, signal, (decide, done) => {
    const connecting = new AbortController();
    const credentials = new EndpointCredentials(endpoint, tls);
    const options = channelOptions(endpoint, host ?? authorityOf(endpoint), connecting.signal);
    const client = new Client(GRPC_TARGET, credentials, options);
    const end = (): void => {
      client.close();
      connecting.abort();
      for (const socket of credentials.sockets) socket.destroy();
      setImmediate(done);
    };
    const call = client.makeUnaryRequest(
      "/grpc.health.v1.Health/Check",
      encodeRequest,
      decodeResponse,
      question.grpcService,
      (error, value) => {
        const extras = credentials.extras();
        if (error !== null) decide(false, grpcReason(error), extras);
        else if (value === SERVING && tls !== null) {
          decide(true, `SERVING${expiryText(extras, tls, Date.now())}`, extras);
        } else decide(value === SERVING, SERVING_STATUS[value ?? 0] ?? `status ${value}`, extras);
        end();
      },
    );
    return { stop: () => call.cancel() };
  });
}

/** `UNAVAILABLE: connect ECONNREFUSED 127.0.0.1:50051`, without what the library says of itself. */
function grpcReason(error: ServiceError): string {
  const text = failureReason(new Error(error.details))
    .replace(/^No connection established\. Last error: /, "")
    .replace(/ ?Resolution note:.*$/, "")
    .replace(/^Error( \[\w+\])?: /, "")
    .replace(/^(connect \w+).*$/, "$1");
  return `${status[error.code]}: ${text}`;
}
