import assert from "node:assert/strict";
import { parse } from "yaml";
import { parseConfig } from "../../../src/control/config/load.ts";
import type { ImportOptions, ImportResult, Keys } from "../../../src/control/import/draft.ts";

export const OPTIONS: ImportOptions = {
  file: "their.conf",
  device: "packet",
  interfaces: ["eth0"],
  snat: [],
  tunnelSources: [],
  vips: [],
};

export interface Imported {
  readonly services: readonly Keys[];
  readonly top: Keys;
  /** `LINE: MESSAGE`. */
  readonly notes: readonly string[];
}

/** Run an import; what it prints is a configuration that `headgate check` takes. */
export function imported(
  run: (text: string, options: ImportOptions) => ImportResult,
  text: string,
  options: Partial<ImportOptions> = {},
): Imported {
  const result = run(text, { ...OPTIONS, ...options });
  parseConfig(result.text, "imported.yaml");
  const { services, ...top } = parse(result.text) as Keys & { services: Keys[] };
  return { services, top, notes: result.notes.map(({ line, message }) => `${line}: ${message}`) };
}

/** Each pattern is found among the notes, in this order, and there are no others. */
export function assertNotes(notes: readonly string[], patterns: readonly RegExp[]): void {
  for (const [index, pattern] of patterns.entries()) assert.match(notes[index] ?? "", pattern);
  assert.equal(notes.length, patterns.length, notes.join("\n"));
}
