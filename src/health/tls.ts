import { readFileSync } from "node:fs";
import { isIP } from "node:net";
import {
  type ConnectionOptions,
  connect,
  createSecureContext,
  type SecureContext,
  type TLSSocket,
} from "node:tls";
import type { TlsQuestion } from "../service/health-definition.ts";
import { type CheckEndpoint, type CheckExtras, connectOptions } from "./check.ts";

/** TLS of checks, whatever is spoken inside. */

const DAY_MS = 86_400_000;

/** A context is dear to make, and a definition is new with every reload: the file is read again. */
const contexts = new WeakMap<TlsQuestion, SecureContext>();

/** @throws Error - the file of certificate authorities cannot be read, or is none */
export function secureContextOf(question: TlsQuestion): SecureContext {
  const known = contexts.get(question);
  if (known !== undefined) return known;
  const { caFile } = question;
  const made = createSecureContext(caFile === null ? {} : { ca: readFileSync(caFile) });
  contexts.set(question, made);
  return made;
}

/**
 * Options of `connect` of node:tls for a backend, but for where to connect. A certificate that is not
 * good is an `error` of the connection with `verify`, which names what is wrong with it.
 *
 * @param protocols - names for ALPN, in our order; empty: none are offered
 * @throws Error - see {@link secureContextOf}
 */
export function tlsOptions(
  endpoint: CheckEndpoint,
  question: TlsQuestion,
  protocols: readonly string[],
): ConnectionOptions {
  const { serverName, verify } = question;
  const name = serverName ?? endpoint.address;
  return {
    secureContext: secureContextOf(question),
    host: name,
    // An address is no name to ask for (RFC 6066 section 3), but may well be in the certificate.
    ...(isIP(name) === 0 ? { servername: name } : {}),
    rejectUnauthorized: verify,
    ...(protocols.length === 0 ? {} : { ALPNProtocols: [...protocols] }),
  };
}

/** A TLS connection to a backend; see {@link tlsOptions}. */
export function connectTls(
  endpoint: CheckEndpoint,
  question: TlsQuestion,
  protocols: readonly string[],
): TLSSocket {
  return connect({ ...tlsOptions(endpoint, question, protocols), ...connectOptions(endpoint) });
}

/** What the certificate of a connection that stands says: when it ends. */
export function certificateExtras(socket: TLSSocket): CheckExtras {
  const expiresMs = Date.parse(socket.getPeerCertificate()?.valid_to ?? "");
  return Number.isNaN(expiresMs) ? {} : { certificateExpiresMs: expiresMs };
}

/**
 * @returns `, certificate expires in 3 days` where that is within the warning time; "" elsewhere
 */
export function expiryText(extras: CheckExtras, question: TlsQuestion, nowMs: number): string {
  const { certificateExpiresMs } = extras;
  if (certificateExpiresMs === undefined || !expiresSoon(certificateExpiresMs, question, nowMs)) {
    return "";
  }
  const leftMs = certificateExpiresMs - nowMs;
  if (leftMs <= 0) return ", certificate has expired";
  const days = Math.floor(leftMs / DAY_MS);
  return `, certificate expires in ${days === 1 ? "1 day" : `${days} days`}`;
}

/** Whether a certificate is to be warned of. */
export function expiresSoon(expiresMs: number, question: TlsQuestion, nowMs: number): boolean {
  return question.expiryWarningMs > 0 && expiresMs - nowMs <= question.expiryWarningMs;
}
