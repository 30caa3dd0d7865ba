import type { HttpQuestion } from "../service/health-definition.ts";
import type { CheckExtras, Decide } from "./check.ts";
import { matchEnd } from "./patterns.ts";

/** Judges an answer of HTTP, of whichever version, while it comes. */
export interface HttpAnswer {
  status(code: number): void;
  /** @returns whether more of the body is wanted */
  data(part: Buffer): boolean;
  /** The body has ended in order. */
  end(): void;
}

/**
 * The status decides, and where the question asks for it, the body: as much of it as `bodyBytes`.
 *
 * @param extras - what the connection said, asked for when the answer is there
 * @param note - put behind the reason of a success
 */
export function createHttpAnswer(
  question: HttpQuestion,
  decide: Decide,
  extras: () => CheckExtras = () => ({}),
  note: (extras: CheckExtras) => string = () => "",
): HttpAnswer {
  const { bodyBytes } = question;
  /** What is still looked for in the body. */
  let { body } = question;
  const parts: Buffer[] = [];
  let bytes = 0;
  let reason = "";

  const say = (ok: boolean, text: string): void => {
    const more = extras();
    decide(ok, ok ? `${text}${note(more)}` : text, more);
  };

  /** @returns whether more is wanted; `isWhole`: there is none, or none is read */
  function judge(isWhole: boolean): boolean {
    if (body === null) return true;
    const text = Buffer.concat(parts).subarray(0, bodyBytes);
    if (body.kind === "contains") {
      const found = text.includes(body.text);
      if (found) say(true, reason);
      else if (isWhole) say(false, `${reason}, body without ${JSON.stringify(body.text)}`);
      return !found;
    }
    // What comes later can undo a match, or make it: only the whole can be judged.
    if (!isWhole) return true;
    const end = matchEnd(body.text, text.toString("utf8"));
    if (end === null) say(false, `${reason}, bodyMatches takes too long`);
    else if (end < 0) say(false, `${reason}, body does not match /${body.text}/`);
    else say(true, reason);
    return false;
  }

  return {
    status(code) {
      reason = `status ${code}`;
      const isGood = question.status.some(({ low, high }) => code >= low && code <= high);
      if (!isGood) body = null;
      if (body === null) say(isGood, reason);
    },
    data(part) {
      bytes += part.length;
      const isWhole = bytes >= bodyBytes;
      if (body !== null) {
        parts.push(part);
        if (!judge(isWhole)) return false;
      }
      return !isWhole;
    },
    end() {
      judge(true);
    },
  };
}
