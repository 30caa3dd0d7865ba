import { createContext, Script } from "node:vm";

/** What answers are compared with. */

/** A regular expression that takes longer would keep the thread from everything else. */
const MATCH_MS_MAX = 50;

const matcher = new Script("expression.exec(text)");
const room: { expression: RegExp | null; text: string } = { expression: null, text: "" };
let context: ReturnType<typeof createContext> | null = null;

/**
 * Look for a regular expression of the configuration in what a backend sent: bounded in time, since
 * some expressions take for ever with some texts.
 *
 * @returns where the first match ends, in characters; -1 for none; null when it took too long
 */
export function matchEnd(expression: string, text: string): number | null {
  context ??= createContext(room);
  room.expression = new RegExp(expression);
  room.text = text;
  try {
    const found = matcher.runInContext(context, {
      timeout: MATCH_MS_MAX,
    }) as RegExpExecArray | null;
    return found === null ? -1 : found.index + found[0].length;
  } catch {
    return null;
  } finally {
    room.text = "";
  }
}

/**
 * Compare with hex digits of which `x` stands for any, as in keepalived's UDP_CHECK.
 *
 * @param pattern - an even number of characters
 * @returns whether `bytes` has it at `at`
 */
export function hasHexAt(pattern: string, bytes: Buffer, at: number): boolean {
  const count = pattern.length / 2;
  if (at + count > bytes.length) return false;
  const digits = bytes.toString("hex", at, at + count);
  for (let i = 0; i < digits.length; i++) {
    if (pattern[i] !== "x" && pattern[i] !== digits[i]) return false;
  }
  return true;
}

/** @returns where `pattern` ends at its first place in `bytes`; -1 for none */
export function hexEnd(pattern: string, bytes: Buffer): number {
  for (let at = 0; at + pattern.length / 2 <= bytes.length; at++) {
    if (hasHexAt(pattern, bytes, at)) return at + pattern.length / 2;
  }
  return -1;
}

/** The beginning of an answer, for a reason: text where it is text, else hex. */
export function sampleOf(bytes: Buffer): string {
  const start = bytes.subarray(0, 24);
  const text = start.toString("latin1");
  const shown = /^[\x20-\x7e\r\n\t]*$/.test(text) ? JSON.stringify(text) : start.toString("hex");
  return bytes.length > start.length ? `${shown}...` : shown;
}
