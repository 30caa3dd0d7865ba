/**
 * HAProxy's configuration as sections of lines of words (its configuration manual, 2.2 "Quoting and
 * escaping"): a `#` begins a comment, a backslash takes the next character as it is, double quotes
 * keep blanks, single quotes keep everything.
 */

export interface HaLine {
  /** Counts from 1. */
  readonly line: number;
  readonly words: readonly string[];
}

export interface HaSection {
  /** global, defaults, frontend, backend, listen, or any other. */
  readonly kind: string;
  readonly name: string;
  /** `defaults` sections that it names (`from NAME`), or null. */
  readonly from: string | null;
  readonly line: number;
  /** Its last line with a word on it. */
  lastLine: number;
  readonly lines: HaLine[];
}

/** Words that begin a section. */
const SECTIONS = new Set([
  "global",
  "defaults",
  "frontend",
  "backend",
  "listen",
  "peers",
  "resolvers",
  "userlist",
  "mailers",
  "cache",
  "program",
  "ring",
  "http-errors",
  "fcgi-app",
  "log-forward",
  "log-profile",
  "crt-store",
  "traces",
  "acme",
]);

/** Words behind `\` that stand for another character. */
const ESCAPES: Readonly<Record<string, string>> = { n: "\n", r: "\r", t: "\t" };

/** @returns the words of a line; null when a quote is left open */
export function haWords(text: string): string[] | null {
  const words: string[] = [];
  let word: string | null = null;
  let quote = "";
  for (let at = 0; at < text.length; at++) {
    const character = text[at]!;
    if (quote === "'") {
      if (character === "'") quote = "";
      else word += character;
    } else if (character === "\\" && at + 1 < text.length) {
      const hex = /^x([0-9a-fA-F]{2})/.exec(text.slice(at + 1))?.[1];
      const next = text[at + 1]!;
      const meant = hex === undefined ? (ESCAPES[next] ?? next) : unescapeHex(hex);
      word = (word ?? "") + meant;
      at += hex === undefined ? 1 : 3;
    } else if (character === '"') {
      quote = quote === "" ? '"' : "";
      word ??= "";
    } else if (quote === '"') word += character;
    else if (character === "'") {
      quote = "'";
      word ??= "";
    } else if (character === "#") break;
    else if (character === " " || character === "\t" || character === "\r") {
      if (word !== null) words.push(word);
      word = null;
    } else word = (word ?? "") + character;
  }
  if (word !== null) words.push(word);
  return quote === "" ? words : null;
}

function unescapeHex(digits: string): string {
  return String.fromCharCode(Number.parseInt(digits, 16));
}

/**
 * Split a file into sections.
 *
 * @param note - is told of lines that belong to none, or cannot be read
 */
export function haSections(
  text: string,
  note: (line: number, message: string) => void,
): HaSection[] {
  const sections: HaSection[] = [];
  for (const [index, one] of text.split("\n").entries()) {
    const line = index + 1;
    const words = haWords(one);
    if (words === null) {
      note(line, "a quote is left open");
      continue;
    }
    const [first] = words;
    if (first === undefined) continue;
    if (first.startsWith(".")) note(line, `${first} is not followed: what it switches is read`);
    else if (SECTIONS.has(first)) {
      const isNamed = words[1] !== undefined && words[1] !== "from";
      const from = words.indexOf("from");
      sections.push({
        kind: first,
        name: isNamed ? words[1]! : "",
        from: from > 0 ? (words[from + 1] ?? null) : null,
        line,
        lastLine: line,
        lines: [],
      });
    } else if (sections.length === 0) note(line, "it stands in no section");
    else {
      const section = sections.at(-1)!;
      section.lines.push({ line, words });
      section.lastLine = line;
    }
  }
  return sections;
}

const UNIT_MS: Readonly<Record<string, number>> = {
  us: 0.001,
  ms: 1,
  s: 1000,
  m: 60_000,
  h: 3_600_000,
  d: 86_400_000,
};

/** A duration (2.4 "Time format"): milliseconds unless a unit says otherwise; null: it is none. */
export function haDuration(text: string | undefined): number | null {
  const [, number, unit = "ms"] = /^(\d{1,10})(us|ms|s|m|h|d)?$/.exec(text ?? "") ?? [];
  return number === undefined ? null : Number(number) * UNIT_MS[unit]!;
}
