import { z } from "zod";
import { nearestWord } from "./nearest.ts";
import type { KeyPath } from "./source.ts";

/**
 * What a configuration schema is built from: values, sections and lists, on top of zod.
 *
 * Every part accepts "not there", so that a document with its bad values taken out still parses and
 * the checks that look at several keys can run too: one pass finds everything. Which keys have to
 * be there is checked by itself (required.ts).
 */

/** Why a value is refused; `at` names an entry of it when it is a list. */
export class Refusal {
  readonly message: string;
  readonly at: KeyPath;
  constructor(message: string, at: KeyPath = []) {
    this.message = message;
    this.at = at;
  }
}

/** One kind of value: how it is read, and how it is described. */
export interface ValueKind<T> {
  /** What is right, in words: for messages ("expected …") and for the table of keys. */
  readonly expects: string;
  /** The same as JSON Schema. */
  readonly json: Readonly<Record<string, unknown>>;
  /** @returns the value; undefined for "not what is expected"; a Refusal that says more */
  readonly read: (input: unknown) => T | Refusal | readonly Refusal[] | undefined;
}

/** What the table of keys says of one key. */
export type KeyInfo =
  | {
      readonly kind: "value";
      readonly expects: string;
      readonly about: string;
      /** The default: as written in a file, or in words. */
      readonly initial: { readonly literal: string } | { readonly words: string };
    }
  | {
      readonly kind: "section";
      readonly about: string;
      readonly shape: z.core.$ZodLooseShape;
      /** What may stand instead of the map, and does when it is left out. */
      readonly word: string | null;
    }
  | {
      readonly kind: "either";
      /** What may stand instead of the map. */
      readonly expects: string;
      readonly about: string;
      readonly initial: string;
      readonly shape: z.core.$ZodLooseShape;
    }
  | {
      readonly kind: "list";
      readonly about: string;
      readonly element: z.ZodType;
      readonly initial: string;
    };

const infos = new WeakMap<z.ZodType, KeyInfo>();

/** @returns what is known of a schema made here; undefined for any other */
export function keyInfo(schema: z.ZodType): KeyInfo | undefined {
  return infos.get(schema);
}

/** A value in a message: short, on one line, without the contents of lists and maps. */
export function show(value: unknown): string {
  if (value === null || value === undefined) return "nothing";
  if (Array.isArray(value)) return value.length === 0 ? "an empty list" : "a list";
  if (typeof value === "object") return "a map";
  if (typeof value === "string") {
    return JSON.stringify(value.length > 60 ? `${value.slice(0, 57)}…` : value);
  }
  return String(value);
}

/** The standard sentence of every message. */
export function expectedGot(expects: string, input: unknown): string {
  return `expected ${expects}, got ${show(input)}`;
}

/** Reads one value; always an array of refusals when it is not right. */
export function readValue<T>(kind: ValueKind<T>, input: unknown): T | readonly Refusal[] {
  const result = kind.read(input);
  if (result === undefined) return [new Refusal(expectedGot(kind.expects, input))];
  return result instanceof Refusal ? [result] : result;
}

function isRefusals(result: unknown): result is readonly Refusal[] {
  return Array.isArray(result) && result[0] instanceof Refusal;
}

function valueSchema<T>(kind: ValueKind<T>, about: string) {
  return z
    .unknown()
    .transform((input, context): T => {
      const result = readValue(kind, input);
      if (!isRefusals(result)) return result as T;
      for (const { message, at } of result) {
        context.issues.push({ code: "custom", message, input, path: [...at] });
      }
      return z.NEVER;
    })
    .meta({ ...kind.json, description: about });
}

/** A key that may be left out, without a default. `absent` is what the table says of that. */
export function optional<T>(kind: ValueKind<T>, about: string, absent = "") {
  const schema = valueSchema(kind, about).optional();
  infos.set(schema, { kind: "value", expects: kind.expects, about, initial: { words: absent } });
  return schema;
}

/** A key with a default, spelled as in a configuration file. */
export function withDefault<T>(kind: ValueKind<T>, initial: unknown, about: string) {
  const schema = valueSchema(kind, about).prefault(initial);
  const literal = typeof initial === "string" && initial !== "" ? initial : showJson(initial);
  infos.set(schema, { kind: "value", expects: kind.expects, about, initial: { literal } });
  return schema;
}

function showJson(value: unknown): string {
  return JSON.stringify(value) ?? "";
}

function unknownKey(key: string, known: readonly string[]): string {
  const nearest = nearestWord(key, known);
  const hint = nearest === null ? "" : ` (the nearest is ${JSON.stringify(nearest)})`;
  return `expected a known key${hint}, got ${show(key)}`;
}

function mapSchema<S extends z.core.$ZodLooseShape>(shape: S, required: readonly string[]) {
  const known = Object.keys(shape);
  return z
    .strictObject(shape, {
      error: (issue) =>
        issue.code === "unrecognized_keys"
          ? (issue["keys"] as readonly string[]).map((key) => unknownKey(key, known)).join("\n")
          : expectedGot("a map of keys", issue.input),
    })
    .meta(required.length === 0 ? {} : { required: [...required] });
}

/** A map of known keys; left out, it is its defaults. */
export function section<S extends z.core.$ZodLooseShape>(
  shape: S,
  about: string,
  required: readonly string[] = [],
) {
  const schema = mapSchema(shape, required)
    .meta({ description: about })
    .prefault({} as never);
  infos.set(schema, { kind: "section", about, shape, word: null });
  return schema;
}

/** A map of known keys, or one word instead of it; undefined when it is left out. */
export function sectionOrWord<S extends z.core.$ZodLooseShape, W extends string>(
  shape: S,
  word: W,
  about: string,
) {
  const map = mapSchema(shape, []);
  const schema = z
    .unknown()
    .transform((input, context): z.output<typeof map> | W => {
      if (input === word) return word;
      if (input === null || typeof input !== "object" || Array.isArray(input)) {
        const message = expectedGot(`a map of keys, or ${word}`, input);
        context.issues.push({ code: "custom", message, input });
        return z.NEVER;
      }
      const result = map.safeParse(input);
      if (result.success) return result.data;
      pushFindings(context, input, result.error);
      return z.NEVER;
    })
    .meta({
      anyOf: [{ const: word }, jsonOf(map)],
      description: about,
    })
    .optional();
  infos.set(schema, { kind: "section", about, shape, word });
  return schema;
}

/** Findings of an inner schema as those of the schema around it. */
function pushFindings(
  context: { readonly issues: unknown[] },
  input: unknown,
  error: z.ZodError,
): void {
  for (const { message, path, atKey } of findingsOf(error)) {
    context.issues.push({ code: "custom", message, input, path: [...path], params: { atKey } });
  }
}

/** A value of a kind, with a default as written in a file, or a map of known keys instead. */
export function valueOrSection<T, S extends z.core.$ZodLooseShape>(
  kind: ValueKind<T>,
  initial: string,
  shape: S,
  about: string,
) {
  const map = mapSchema(shape, []);
  const expects = `${kind.expects}, or a map`;
  const schema = z
    .unknown()
    .transform((input, context): z.output<typeof map> | T => {
      if (input !== null && typeof input === "object" && !Array.isArray(input)) {
        const result = map.safeParse(input);
        if (result.success) return result.data;
        pushFindings(context, input, result.error);
        return z.NEVER;
      }
      const result = readValue({ ...kind, expects }, input);
      if (!isRefusals(result)) return result as T;
      for (const { message, at } of result) {
        context.issues.push({ code: "custom", message, input, path: [...at] });
      }
      return z.NEVER;
    })
    .meta({ anyOf: [kind.json, jsonOf(map)], description: about })
    .prefault(initial);
  infos.set(schema, { kind: "either", expects, about, initial, shape });
  return schema;
}

/** A list of sections; left out, it is empty. `absent` is what the table says of that. */
export function list<E extends z.ZodType>(element: E, about: string, absent = "empty") {
  const schema = z
    .array(element, { error: (issue) => expectedGot("a list", issue.input) })
    .meta({ description: about })
    .prefault([] as never);
  infos.set(schema, { kind: "list", about, element, initial: absent });
  return schema;
}

/** JSON Schema of the input that a schema accepts. */
export function jsonOf(schema: z.ZodType): Record<string, unknown> {
  const { $schema: _dialect, ...rest } = z.toJSONSchema(schema, {
    io: "input",
    unrepresentable: "any",
  });
  return withoutEmptyDefaults(rest) as Record<string, unknown>;
}

/** A section that is left out is its keys' defaults: `default: {}` would say nothing. */
function withoutEmptyDefaults(value: unknown): unknown {
  if (Array.isArray(value)) return value.map(withoutEmptyDefaults);
  if (value === null || typeof value !== "object") return value;
  const entries = Object.entries(value).filter(
    ([key, it]) => key !== "default" || it === null || typeof it !== "object",
  );
  return Object.fromEntries(entries.map(([key, it]) => [key, withoutEmptyDefaults(it)]));
}

/** One thing that a schema has against a document. */
export interface Finding {
  readonly path: KeyPath;
  readonly message: string;
  /** About the key itself (unknown), not its value. */
  readonly atKey: boolean;
}

/** What zod found, one finding a value or unknown key. */
export function findingsOf(error: z.ZodError): Finding[] {
  return error.issues.flatMap((issue): Finding[] => {
    const path = issue.path as KeyPath;
    if (issue.code === "unrecognized_keys") {
      const messages = issue.message.split("\n");
      return issue.keys.map((key, index) => ({
        path: [...path, key],
        message: messages[index] ?? "expected a known key",
        atKey: true,
      }));
    }
    const atKey = issue.code === "custom" && issue.params?.["atKey"] === true;
    return [{ path, message: issue.message, atKey }];
  });
}

/** A list without the holes of wrong entries. */
export function whole<T>(list: readonly (T | undefined)[]): T[] {
  return list.filter((item): item is T => item !== undefined);
}
