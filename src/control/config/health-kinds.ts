import type { ScriptStep } from "../../service/health-definition.ts";
import { expectedGot, Refusal, type ValueKind } from "./fields.ts";

/** The kinds of values that only health checks have. */

/** Bytes that a check sends, or looks for. */
const TEXT_CHARACTERS_MAX = 4096;

/** Text as it is: with line ends and what else YAML lets one write. */
export const anyText: ValueKind<string> = {
  expects: `text of 1 to ${TEXT_CHARACTERS_MAX} characters`,
  json: { type: "string", minLength: 1, maxLength: TEXT_CHARACTERS_MAX },
  read: (input) =>
    typeof input === "string" && input.length > 0 && input.length <= TEXT_CHARACTERS_MAX
      ? input
      : undefined,
};

/** Bytes in hex; spaces between them do not count. The value is in lower case, without spaces. */
export function hexText(hasWildcards: boolean): ValueKind<string> {
  const pattern = hasWildcards ? /^(?:[0-9a-fx]{2})+$/ : /^(?:[0-9a-f]{2})+$/;
  const digits = hasWildcards ? "[0-9a-fA-FxX]" : "[0-9a-fA-F]";
  return {
    expects: `hex digits, two a byte${hasWildcards ? ", x for any digit" : ""}`,
    json: { type: "string", pattern: `^(${digits}{2}\\s*)+$`, maxLength: TEXT_CHARACTERS_MAX },
    read: (input) => {
      if (typeof input !== "string" || input.length > TEXT_CHARACTERS_MAX) return undefined;
      const bare = input.replace(/\s+/g, "").toLowerCase();
      return pattern.test(bare) ? bare : undefined;
    },
  };
}

/** A regular expression of JavaScript. */
export const regularExpression: ValueKind<string> = {
  expects: "a regular expression",
  json: { type: "string", format: "regex", minLength: 1, maxLength: 1024 },
  read: (input) => {
    if (typeof input !== "string" || input.length === 0 || input.length > 1024) return undefined;
    try {
      new RegExp(input);
      return input;
    } catch (error) {
      return new Refusal(expectedGot(`a regular expression (${(error as Error).message})`, input));
    }
  },
};

/** RFC 9110 section 5.6.2. */
const HEADER_NAME = /^[a-z0-9!#$%&'*+.^_`|~-]+$/;
const HEADERS_MAX = 32;
/** Those that a check makes itself. */
const OWN_HEADERS = new Set([
  "host",
  "connection",
  "content-length",
  "transfer-encoding",
  "upgrade",
]);

/** Headers of a request, by name. */
export const headerMap: ValueKind<Readonly<Record<string, string>>> = {
  expects: `a map of at most ${HEADERS_MAX} headers and their values`,
  json: {
    type: "object",
    additionalProperties: { type: "string", pattern: "^[\\x20-\\x7e\\t]*$" },
    maxProperties: HEADERS_MAX,
  },
  read: (input) => {
    if (input === null || typeof input !== "object" || Array.isArray(input)) return undefined;
    const entries = Object.entries(input);
    if (entries.length > HEADERS_MAX) return undefined;
    const headers: Record<string, string> = {};
    for (const [written, value] of entries) {
      const name = written.toLowerCase();
      if (!HEADER_NAME.test(name)) {
        return new Refusal(expectedGot("the name of a header", written));
      }
      if (OWN_HEADERS.has(name)) {
        const instead = name === "host" ? ' (the key "host" is for it)' : "";
        return new Refusal(
          `expected no header ${name}, which a check makes itself, got one${instead}`,
        );
      }
      if (typeof value !== "string" || !/^[\x20-\x7e\t]{0,2048}$/.test(value)) {
        return new Refusal(expectedGot(`text as the value of ${name}`, value));
      }
      headers[name] = value;
    }
    return headers;
  },
};

const STEPS_MAX = 64;
const STEP_KINDS: Readonly<Record<string, ValueKind<string>>> = {
  send: anyText,
  sendHex: hexText(false),
  expect: anyText,
  expectHex: hexText(true),
  expectRegex: regularExpression,
};

const STEP_ABOUT: Readonly<Record<string, string>> = {
  send: "Send this text",
  sendHex: "Send these bytes",
  expect: "Wait for this text",
  expectHex: "Wait for these bytes",
  expectRegex: "Wait for what matches this, one character a byte",
};

/** Steps of a script, each a map of one key. */
export const scriptSteps: ValueKind<readonly ScriptStep[]> = {
  expects: `a list of 1 to ${STEPS_MAX} steps, each a map of one key (${Object.keys(STEP_KINDS).join(", ")})`,
  json: {
    type: "array",
    minItems: 1,
    maxItems: STEPS_MAX,
    items: {
      type: "object",
      minProperties: 1,
      maxProperties: 1,
      additionalProperties: false,
      properties: Object.fromEntries(
        Object.entries(STEP_KINDS).map(([name, { json }]) => [
          name,
          { ...json, description: STEP_ABOUT[name] },
        ]),
      ),
    },
  },
  read: (input) => {
    if (!Array.isArray(input) || input.length === 0 || input.length > STEPS_MAX) return undefined;
    const steps: ScriptStep[] = [];
    const refusals: Refusal[] = [];
    for (const [index, step] of input.entries()) {
      // A hole: it was found wrong before.
      if (step === undefined) continue;
      const read = readStep(step);
      if (read instanceof Refusal) refusals.push(new Refusal(read.message, [index]));
      else steps.push(read);
    }
    return refusals.length > 0 ? refusals : steps;
  },
};

function readStep(input: unknown): ScriptStep | Refusal {
  const names = Object.keys(STEP_KINDS).join(", ");
  const entries = input !== null && typeof input === "object" ? Object.entries(input) : [];
  const [entry] = entries;
  if (entry === undefined || entries.length !== 1 || Array.isArray(input)) {
    return new Refusal(expectedGot(`a map of one key (${names})`, input));
  }
  const [name, value] = entry;
  const kind = Object.hasOwn(STEP_KINDS, name) ? STEP_KINDS[name] : undefined;
  if (kind === undefined) return new Refusal(expectedGot(`a step (${names})`, name));
  const text = kind.read(value);
  if (text instanceof Refusal) return text;
  if (typeof text !== "string")
    return new Refusal(expectedGot(`${kind.expects} for ${name}`, value));
  return { kind: name as ScriptStep["kind"], text };
}

const PARAMETERS_MAX = 64;

/** A program and its parameters. */
export const commandLine: ValueKind<readonly string[]> = {
  expects: "a list: the absolute path of a program, and its parameters",
  json: {
    type: "array",
    minItems: 1,
    maxItems: PARAMETERS_MAX,
    items: { type: "string", maxLength: 4096 },
  },
  read: (input) => {
    if (!Array.isArray(input) || input.length === 0 || input.length > PARAMETERS_MAX) {
      return undefined;
    }
    const refusals: Refusal[] = [];
    for (const [index, part] of input.entries()) {
      if (part === undefined) continue;
      if (typeof part !== "string" || part.length > 4096 || part.includes("\0")) {
        refusals.push(new Refusal(expectedGot("text (numbers in quotes)", part), [index]));
      } else if (index === 0 && !/^\/.*[^/]$/.test(part)) {
        refusals.push(new Refusal(expectedGot("the absolute path of a program", part), [index]));
      }
    }
    return refusals.length > 0 ? refusals : (input as string[]);
  },
};
