import { readFileSync, statSync } from "node:fs";
import { ConfigError, type ConfigProblem } from "../../base/errors.ts";
import type { DecapDefinition } from "../../decap/definition.ts";
import { decapFileSchema } from "./decap-schema.ts";
import { findingsOf, whole } from "./fields.ts";
import { isPlain } from "./merge.ts";
import { readSource, type Source } from "./source.ts";

/** 4,096 VIPs and 1,024 prefixes are some 200 kB. */
const FILE_BYTES_MAX = 1024 * 1024;

/**
 * Does a file describe a decapsulator, and not a gateway? A file that cannot be read is no
 * decapsulator's: whoever loads it says why.
 */
export function isDecapFile(file: string): boolean {
  try {
    if (statSync(file).size > FILE_BYTES_MAX) return false;
    const { value } = readSource(readFileSync(file, "utf8"), file);
    return isPlain(value) && Object.hasOwn(value, "decap") && !Object.hasOwn(value, "device");
  } catch {
    return false;
  }
}

/**
 * Read and check the file of a decapsulator.
 *
 * @throws ConfigError with every problem, in the file's order; also when the file cannot be read
 */
export function loadDecapConfig(file: string): DecapDefinition {
  let text: string;
  try {
    text = readFileSync(file, "utf8");
  } catch (error) {
    const code = (error as NodeJS.ErrnoException).code ?? String(error);
    const message = `expected a file that can be read, got ${code}`;
    throw new ConfigError([{ file, line: 1, column: 1, path: "", message }]);
  }
  return parseDecapConfig(text, file);
}

/**
 * Check the text of a decapsulator's configuration.
 *
 * @param file - its name in messages
 * @throws ConfigError with every problem, in the order of the text; never anything else
 */
export function parseDecapConfig(text: string, file: string): DecapDefinition {
  const source = readSource(text, file);
  if (!source.isReadable) throw new ConfigError(source.problems);
  const problems: ConfigProblem[] = [...source.problems, ...missing(source)];
  const parsed = decapFileSchema.safeParse(source.value ?? undefined);
  for (const { path, message, atKey } of parsed.success ? [] : findingsOf(parsed.error)) {
    if (atKey && !source.has(path)) continue;
    const place = atKey ? source.keyPlace(path) : source.place(path);
    problems.push({ ...source.problem(path, message), ...place });
  }
  if (parsed.success) problems.push(...repeated(source, whole(parsed.data.decap.vip ?? [])));
  if (problems.length > 0 || !parsed.success) {
    throw new ConfigError(problems.toSorted((a, b) => a.line - b.line || a.column - b.column));
  }
  const { decap, log } = parsed.data;
  return {
    file,
    log: { level: log.level },
    name: decap.name,
    protocols: whole(decap.protocols),
    gue: decap.gue,
    vips: whole(decap.vip ?? []),
    accept: whole(decap.accept),
    mtu: decap.mtu,
    hideArp: decap.arp === "hide",
  };
}

/** Keys that have to be there. */
function missing(source: Source): ConfigProblem[] {
  const need = (key: string, path: readonly string[]): ConfigProblem[] => [
    source.problem(path, `expected the key ${JSON.stringify(key)}, got none`),
  ];
  const root = source.value;
  if (root === null || root === undefined) return need("decap", []);
  if (!isPlain(root)) return [];
  if (!Object.hasOwn(root, "decap")) return need("decap", []);
  const decap = root["decap"];
  if (decap === null) return need("vip", ["decap"]);
  return isPlain(decap) && !Object.hasOwn(decap, "vip") ? need("vip", ["decap"]) : [];
}

/** An address may be written in several ways; each VIP stands once. */
function repeated(source: Source, vips: readonly { readonly text: string }[]): ConfigProblem[] {
  const first = new Map<string, number>();
  return vips.flatMap(({ text }, index) => {
    const earlier = first.get(text);
    if (earlier === undefined) {
      first.set(text, index);
      return [];
    }
    const place = source.reference(["decap", "vip", earlier]);
    const message = `expected each VIP once, got ${text} again (first at ${place})`;
    return [source.problem(["decap", "vip", index], message)];
  });
}
