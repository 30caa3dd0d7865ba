import { createHash } from "node:crypto";
import { readFileSync, statSync } from "node:fs";
import { type Prefix, parsePrefix } from "../../base/prefix.ts";
import { packRules } from "../../service/access-rules.ts";
import type { AccessDefinition } from "../../service/definition.ts";
import { expectedGot, Refusal, show, type ValueKind, whole } from "./fields.ts";
import type { ServiceValues } from "./schema.ts";

/** Access lists: prefixes in the configuration, and files with one a line. */

/** A file of 16 million prefixes of IPv4; larger is a mistake. */
const FILE_BYTES_MAX = 512 * 1024 * 1024;

/** `ADDRESS/LENGTH`, or an address. */
export const prefix: ValueKind<Prefix> = {
  expects: "a prefix, such as 198.51.100.0/24 or 2001:db8::/32",
  json: { type: "string" },
  read: (input) => {
    const found = typeof input === "string" ? parsePrefix(input) : null;
    if (found === null) return undefined;
    if (found.isExact) return found.prefix;
    return new Refusal(expectedGot(`no bit behind the prefix (${found.prefix.text})`, input));
  },
};

/** What a list's file says, or why not, with its line. */
type FileReading =
  | { readonly prefixes: readonly Prefix[]; readonly problem: null }
  | { readonly prefixes: null; readonly problem: string };

/**
 * Read a file of prefixes: one a line; blank lines and what follows a # are left out.
 *
 * @returns the prefixes, or the first problem, as a sentence with file and line
 */
export function readPrefixFile(file: string): FileReading {
  let text: string;
  try {
    const { size } = statSync(file);
    if (size > FILE_BYTES_MAX) {
      return refuse(`expected at most ${FILE_BYTES_MAX} bytes in ${file}, got ${size}`);
    }
    text = readFileSync(file, "utf8");
  } catch (error) {
    const code = (error as NodeJS.ErrnoException).code ?? String(error);
    return refuse(`expected a file that can be read, got ${code} for ${file}`);
  }
  const prefixes: Prefix[] = [];
  for (const [index, line] of text.split("\n").entries()) {
    const hash = line.indexOf("#");
    const written = (hash < 0 ? line : line.slice(0, hash)).trim();
    if (written === "") continue;
    const found = parsePrefix(written);
    if (found?.isExact !== true) {
      return refuse(`${file}:${index + 1}: ${messageOf(found?.prefix ?? null, written)}`);
    }
    prefixes.push(found.prefix);
  }
  return { prefixes, problem: null };
}

function messageOf(nearest: Prefix | null, written: string): string {
  if (nearest === null) return expectedGot(prefix.expects, written);
  return `expected no bit behind the prefix (${nearest.text}), got ${show(written)}`;
}

function refuse(problem: string): FileReading {
  return { prefixes: null, problem };
}

const NO_FILE: FileReading = { prefixes: [], problem: null };

/** Files are read once for the checks and the definition together: they must not differ. */
const readings = new WeakMap<ServiceValues, { allow: FileReading; deny: FileReading }>();

/** The files of a service's lists. */
export function accessFiles(values: ServiceValues): { allow: FileReading; deny: FileReading } {
  const { allowFile, denyFile } = values.access;
  const reading = readings.get(values) ?? {
    allow: allowFile === undefined ? NO_FILE : readPrefixFile(allowFile),
    deny: denyFile === undefined ? NO_FILE : readPrefixFile(denyFile),
  };
  readings.set(values, reading);
  return reading;
}

/** The lists of a service; files that cannot be read were reported before. */
export function buildAccess(values: ServiceValues): AccessDefinition {
  const { access } = values;
  const files = accessFiles(values);
  const allow = access.allow === undefined ? null : whole(access.allow);
  const deny = whole(access.deny);
  const hasAllow = allow !== null || access.allowFile !== undefined;
  const allowed = [...(allow ?? []), ...(files.allow.prefixes ?? [])];
  const denied = [...deny, ...(files.deny.prefixes ?? [])];
  return {
    allow: allow?.map(({ text }) => text) ?? null,
    allowFile: access.allowFile ?? null,
    deny: deny.map(({ text }) => text),
    denyFile: access.denyFile ?? null,
    refuse: access.refuse,
    rules:
      hasAllow || denied.length > 0 ? packRules(hasAllow ? allowed : null, denied, digest) : null,
  };
}

function digest(bytes: Uint8Array): string {
  return createHash("sha256").update(bytes).digest("base64url");
}

/** Prefixes of a service's lists, for `limits.accessPrefixes`: once a protocol. */
export function accessPrefixes(values: ServiceValues): number {
  const { allow, deny } = accessFiles(values);
  const inline = (values.access.allow?.length ?? 0) + values.access.deny.length;
  const count = inline + (allow.prefixes?.length ?? 0) + (deny.prefixes?.length ?? 0);
  return count * (values.protocol?.length ?? 1);
}
