/**
 * The line of a backend's agent, in the words of HAProxy's agent-check (HAProxy's configuration manual,
 * "agent-check"):
 *
 *   words # text        separated by spaces, tabs and commas, in any order and case
 *
 *   75%                 share of the backend's own weight; 0% is a drain
 *   maxconn:30          connections at once
 *   ready drain maint   what an operator would say
 *   up down             what a check would say; failed, fail and stopped are other words for down
 *
 * What the line does not speak of stays as it was. The last word of a kind counts.
 */
export interface AgentLine {
  /** Null: not a word of it. */
  readonly weightPercent: number | null;
  readonly maxConnections: number | null;
  readonly admin: "ready" | "drain" | "maint" | null;
  readonly operation: "up" | "down" | null;
  /** The word for `operation`, as it was said: `stopped`; "" without. */
  readonly operationWord: string;
  /** The text behind #, printable. */
  readonly text: string;
  /** The first word that is none of these; null: all are. */
  readonly unknown: string | null;
}

/** Of a line no more is read. */
export const AGENT_LINE_BYTES_MAX = 1024;
/** More than 100 times its weight nobody means. */
const PERCENT_MAX = 10_000;
const TEXT_CHARACTERS_MAX = 120;

const OPERATIONS: Readonly<Record<string, "up" | "down">> = {
  up: "up",
  down: "down",
  fail: "down",
  failed: "down",
  stopped: "down",
};

/** Read one line, without its end. Never throws. */
export function parseAgentLine(line: string): AgentLine {
  const [said = "", ...after] = line.split("#");
  let weightPercent: number | null = null;
  let maxConnections: number | null = null;
  let admin: AgentLine["admin"] = null;
  let operation: AgentLine["operation"] = null;
  let operationWord = "";
  let unknown: string | null = null;
  for (const each of said.split(/[ \t,\r\n\f\v]+/)) {
    const word = each.toLowerCase();
    const percent = /^(\d{1,5})%$/.exec(word);
    const most = /^maxconn:(\d{1,9})$/.exec(word);
    if (word === "") continue;
    if (percent !== null && Number(percent[1]) <= PERCENT_MAX) weightPercent = Number(percent[1]);
    else if (most !== null) maxConnections = Number(most[1]);
    else if (word === "ready" || word === "drain" || word === "maint") admin = word;
    else if (Object.hasOwn(OPERATIONS, word)) {
      operation = OPERATIONS[word]!;
      operationWord = word;
    } else unknown ??= printable(each);
  }
  const text = printable(after.join("#"));
  return { weightPercent, maxConnections, admin, operation, operationWord, text, unknown };
}

/** It goes into logs and tables: no control character, and not too long. */
function printable(text: string): string {
  const plain = text.replace(/[^\x20-\x7e]/g, "?").trim();
  return plain.slice(0, TEXT_CHARACTERS_MAX);
}
