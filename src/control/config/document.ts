import type { z } from "zod";
import { keyInfo } from "./fields.ts";
import { fileSchema, RESTART_KEYS } from "./schema.ts";

/**
 * The table of every configuration key, made from the schema: `headgate config schema --table`, and
 * the part of docs/configuration.md between its two markers.
 */

export const TABLE_BEGIN = "<!-- key table: made by `headgate config schema --table` -->";
export const TABLE_END = "<!-- end of key table -->";

const HEADER = ["| key | value | default | change | meaning |", "|---|---|---|---|---|"] as const;

/** Maps whose keys are listed elsewhere, and where. */
const SAME_AS: Readonly<Record<string, string>> = {
  defaults: "any key of `services[]` but `name`",
  "services[].timeouts": "the keys of `timeouts`",
};

/** @returns a Markdown table, one line a key, ending in a newline */
export function keyTable(): string {
  const rows: string[] = [];
  walk(fileSchema, "", rows);
  return `${[...HEADER, ...rows].join("\n")}\n`;
}

function walk(schema: z.ZodType, path: string, rows: string[]): void {
  const info = keyInfo(schema);
  if (info === undefined) return;
  if (info.kind === "value") {
    const { initial } = info;
    const text = "literal" in initial ? `\`${initial.literal}\`` : initial.words;
    rows.push(row(path, info.expects, text, info.about));
    return;
  }
  if (info.kind === "list") {
    rows.push(row(path, "a list", info.initial, info.about));
    walk(info.element, `${path}[]`, rows);
    return;
  }
  const same = SAME_AS[path];
  if (same !== undefined) {
    rows.push(row(path, same, "", info.about));
    return;
  }
  if (info.kind === "either") {
    rows.push(row(path, info.expects, `\`${info.initial}\``, info.about));
  } else if (info.word !== null) {
    rows.push(row(path, `a map, or ${info.word}`, `\`${info.word}\``, info.about));
  }
  for (const [key, child] of Object.entries(info.shape)) {
    walk(child as z.ZodType, path === "" ? key : `${path}.${key}`, rows);
  }
}

function row(path: string, expects: string, initial: string, about: string): string {
  const top = path.split(/[.[]/)[0] ?? "";
  const change = (RESTART_KEYS as readonly string[]).includes(top) ? "restart" : "reload";
  const cells = [`\`${path}\``, expects, initial, change, about];
  return `| ${cells.map((cell) => cell.replaceAll("|", "\\|")).join(" | ")} |`;
}

/**
 * A document with the table between its markers made anew.
 *
 * @returns null when the document has no markers
 */
export function withKeyTable(document: string): string | null {
  const begin = document.indexOf(TABLE_BEGIN);
  const end = document.indexOf(TABLE_END);
  if (begin < 0 || end < begin) return null;
  const head = document.slice(0, begin + TABLE_BEGIN.length);
  return `${head}\n\n${keyTable()}\n${document.slice(end)}`;
}
