import type { TLSSocket } from "node:tls";
import type { TlsQuestion } from "../service/health-definition.ts";
import { type CheckEndpoint, type CheckResult, runCheck } from "./check.ts";
import { certificateExtras, connectTls, expiryText } from "./tls.ts";

/**
 * Connect, and shake hands by TLS: a backend that completes it is well, with `verify` only if its
 * certificate is good.
 *
 * @returns `TLSv1.3`, or why not; fulfilled when the connection is closed, never rejected
 */
export function checkTls(
  endpoint: CheckEndpoint,
  { tls }: { readonly tls: TlsQuestion },
  signal: AbortSignal,
): Promise<CheckResult> {
  return runCheck(
    endpoint,
    signal,
    (socket, decide) => {
      const secure = socket as TLSSocket;
      secure.once("secureConnect", () => {
        const extras = certificateExtras(secure);
        const version = secure.getProtocol() ?? "TLS";
        decide(true, `${version}${expiryText(extras, tls, Date.now())}`, extras);
        secure.destroy();
      });
      return undefined;
    },
    () => connectTls(endpoint, tls, []),
  );
}
