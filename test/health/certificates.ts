import { execFileSync } from "node:child_process";
import { mkdtempSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import path from "node:path";
import type { TlsQuestion } from "../../src/service/health-definition.ts";

/** A certificate authority and certificates of it, made by openssl for one test. */
export interface Certificates {
  readonly caFile: string;
  /** For 127.0.0.1 and shop.example, for another year. */
  readonly good: { readonly key: Buffer; readonly cert: Buffer };
  /** The same for three days. */
  readonly soon: { readonly key: Buffer; readonly cert: Buffer };
  /** The same, until yesterday. */
  readonly expired: { readonly key: Buffer; readonly cert: Buffer };
  remove(): void;
}

const DAY_MS = 86_400_000;

export function makeCertificates(): Certificates {
  const folder = mkdtempSync(path.join(tmpdir(), "headgate-certificates-"));
  const at = (name: string): string => path.join(folder, name);
  const openssl = (...parameters: string[]): void => {
    execFileSync("openssl", parameters, { cwd: folder, stdio: ["ignore", "ignore", "pipe"] });
  };
  const key = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"];
  openssl(
    "req",
    "-x509",
    ...key,
    "-keyout",
    "ca.key",
    "-out",
    "ca.pem",
    "-subj",
    "/CN=test",
    "-days",
    "30",
  );
  const stamp = (ms: number): string =>
    `${new Date(ms).toISOString().replace(/\D/g, "").slice(0, 14)}Z`;

  const make = (name: string, untilMs: number): { key: Buffer; cert: Buffer } => {
    openssl(
      "req",
      ...key,
      "-keyout",
      `${name}.key`,
      "-out",
      `${name}.csr`,
      "-subj",
      "/CN=shop.example",
    );
    // Dates of the past are for `openssl ca` alone.
    execFileSync("sh", ["-c", `: > ${name}.index; echo 01 > ${name}.serial`], { cwd: folder });
    execFileSync(
      "sh",
      [
        "-c",
        `printf '%s\\n' '[ca]' 'default_ca=c' '[c]' 'database=${name}.index' 'serial=${name}.serial' ` +
          `'new_certs_dir=.' 'default_md=sha256' 'policy=p' 'x509_extensions=x' '[p]' ` +
          `'commonName=supplied' '[x]' 'subjectAltName=IP:127.0.0.1,DNS:shop.example' > ${name}.cnf`,
      ],
      { cwd: folder },
    );
    openssl(
      ...["ca", "-batch", "-config", `${name}.cnf`, "-keyfile", "ca.key", "-cert", "ca.pem"],
      ...["-in", `${name}.csr`, "-out", `${name}.pem`, "-notext"],
      ...["-startdate", stamp(Date.now() - 10 * DAY_MS), "-enddate", stamp(untilMs)],
    );
    return { key: readFileSync(at(`${name}.key`)), cert: readFileSync(at(`${name}.pem`)) };
  };
  return {
    caFile: at("ca.pem"),
    good: make("good", Date.now() + 365 * DAY_MS),
    soon: make("soon", Date.now() + 3.5 * DAY_MS),
    expired: make("expired", Date.now() - DAY_MS),
    remove: () => rmSync(folder, { recursive: true }),
  };
}

export function tlsQuestion(overrides: Partial<TlsQuestion> = {}): TlsQuestion {
  return {
    serverName: null,
    verify: false,
    caFile: null,
    expiryWarningMs: 14 * DAY_MS,
    ...overrides,
  };
}
