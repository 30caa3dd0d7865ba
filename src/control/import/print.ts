import { Document, isMap, isSeq, type Node } from "yaml";
import { ConfigError, type ConfigProblem } from "../../base/errors.ts";
import { parseConfig } from "../config/load.ts";
import type { KeyPath } from "../config/source.ts";
import type { Draft, ImportResult, Keys } from "./draft.ts";
import { fitFamilies } from "./families.ts";
import { fitLimits } from "./room.ts";

/**
 * From a draft to a file. What the configuration's own checker refuses is taken out, smallest part
 * first, and named by the line it came from: so the checker, not this folder, knows what is right, and
 * whatever the other program's file says, the result is a configuration.
 */

/** A name that no message has otherwise: places in the text that is being made mean nothing to anyone. */
const UNPRINTED = "<import>";

/** Each round takes out all that was found; a check that names one thing at a time needs several. */
const ROUNDS_MAX = 500;

/** Keys without which a service is none, or is another one. */
const SERVICE_IDENTITY = new Set(["name", "vip", "port", "protocol", "mode", "backends"]);

/** Finish a draft: fit it to what this program takes, and print it. */
export function finishImport(draft: Draft): ImportResult {
  fitFamilies(draft);
  fitLimits(draft);
  settle(draft);
  const document = documentOf(draft);
  document.commentBefore = headOf(draft);
  return { text: document.toString({ lineWidth: 100 }), notes: draft.notes() };
}

function settle(draft: Draft): void {
  for (let round = 0; round < ROUNDS_MAX; round++) {
    const problems = problemsOf(draft);
    if (problems.length === 0) return;
    takeOut(draft, problems);
  }
  // One check that names one of thousands at a time: give up on the later half.
  while (draft.services.length > 0 && problemsOf(draft).length > 0) {
    for (const [index, service] of draft.services.entries()) {
      if (index < Math.floor(draft.services.length / 2)) continue;
      const why = `service ${service["name"]} is left out: there is no room for all of them`;
      draft.note(draft.lineOf(["services", index]), why);
      draft.noteBackends(service);
    }
    draft.services.length = Math.floor(draft.services.length / 2);
  }
}

function problemsOf(draft: Draft): readonly ConfigProblem[] {
  try {
    parseConfig(documentOf(draft).toString({ lineWidth: 0 }), UNPRINTED);
    return [];
  } catch (error) {
    if (error instanceof ConfigError) return error.problems;
    throw error;
  }
}

/** `services[0].port[1]` as steps. */
function stepsOf(path: string): KeyPath {
  const steps = path.match(/\["(?:[^"\\]|\\.)*"\]|\[\d+\]|[^.[\]]+/g) ?? [];
  return steps.map((step) => {
    if (!step.startsWith("[")) return step;
    return JSON.parse(step.slice(1, -1)) as string | number;
  });
}

/** Take out what the problems are about; later entries of lists first, so that numbers stay right. */
function takeOut(draft: Draft, problems: readonly ConfigProblem[]): void {
  const victims = new Map<string, KeyPath>();
  for (const { path, message } of problems) {
    const steps = stepsOf(path);
    const victim = victimOf(draft, steps, message);
    const key = JSON.stringify(victim);
    if (victims.has(key)) continue;
    victims.set(key, victim);
    draft.note(draft.lineOf(steps), `${titleOf(draft, victim)} is left out: ${plain(message)}`);
    const isService = victim[0] === "services" && victim.length === 2;
    if (isService) draft.noteBackends(draft.services[Number(victim[1])]!);
  }
  const inOrder = [...victims.values()].toSorted((a, b) => comparePaths(b, a));
  for (const victim of inOrder) remove(draft, victim);
}

/** What has to go: an entry of a list, a key of a service, or the service. */
function victimOf(draft: Draft, steps: KeyPath, message: string): KeyPath {
  if (steps[0] !== "services" || steps.length < 2) return steps.slice(0, 1);
  const service = draft.services[Number(steps[1])];
  const key = steps[2];
  if (service === undefined || key === undefined) return steps.slice(0, 2);
  if (key === "backends" && typeof steps[3] === "number") {
    // A key of a backend that is not known goes alone; what is wrong with its address takes it along.
    const isKey = steps.length > 4 && !["address", "port"].includes(String(steps[4]));
    return steps.slice(0, isKey ? 5 : 4);
  }
  const list = service[String(key)];
  const isEntry = typeof steps[3] === "number" && Array.isArray(list) && list.length > 1;
  if (isEntry && !message.includes("room")) return steps.slice(0, 4);
  if (SERVICE_IDENTITY.has(String(key))) return steps.slice(0, 2);
  const section = service[String(key)];
  const inner = steps[3];
  const isInner = typeof section === "object" && section !== null && inner !== undefined;
  return isInner && Object.hasOwn(section, inner) && Object.keys(section).length > 1
    ? steps.slice(0, 4)
    : steps.slice(0, 3);
}

function comparePaths(a: KeyPath, b: KeyPath): number {
  for (let at = 0; at < Math.min(a.length, b.length); at++) {
    const [x, y] = [a[at]!, b[at]!];
    if (x === y) continue;
    if (typeof x === "number" && typeof y === "number") return x - y;
    return String(x) < String(y) ? -1 : 1;
  }
  return a.length - b.length;
}

function remove(draft: Draft, path: KeyPath): void {
  let holder: unknown = path[0] === "services" ? draft : draft.top;
  for (const step of path.slice(0, -1)) {
    // An earlier victim may have been around this one.
    if (typeof holder !== "object" || holder === null) return;
    holder = (holder as Keys)[step];
  }
  const last = path.at(-1);
  if (Array.isArray(holder)) holder.splice(Number(last), 1);
  else if (typeof holder === "object" && holder !== null && last === "services") {
    draft.services.length = 0;
  } else if (typeof holder === "object" && holder !== null) delete (holder as Keys)[String(last)];
}

function titleOf(draft: Draft, path: KeyPath): string {
  if (path[0] !== "services") return String(path[0] ?? "it");
  const service = draft.services[Number(path[1])];
  const name = `service ${service?.["name"]}`;
  const rest = path.slice(2);
  if (rest.length === 0) return name;
  if (rest[0] !== "backends") return `${rest.join(" ")} of ${name}`;
  const backend = (service?.["backends"] as Keys[] | undefined)?.[Number(rest[1])];
  const what = `backend ${backend?.["address"]} of ${name}`;
  return rest.length > 2 ? `${rest[2]} of ${what}` : what;
}

/** A message of the checker without places in a text that nobody sees, and with what helps here. */
function plain(message: string): string {
  const text = message
    .replaceAll(/ \((?:first at )?<import>:\d+:\d+\)/g, "")
    .replaceAll(/<import>:\d+:\d+/g, "elsewhere")
    .replaceAll("\n", "; ");
  if (/expected tunnel\.source/.test(message)) return `${text}: --tunnel-source says it`;
  return /expected (snat\.addresses|an IPv[46] address among snat)/.test(message)
    ? `${text}: --snat says it`
    : text;
}

function documentOf(draft: Draft): Document {
  const document = new Document(
    { version: 1, ...draft.top, services: draft.services },
    { aliasDuplicateObjects: false },
  );
  compact(document.get("device"));
  const services = document.get("services");
  for (const service of isSeq(services) ? services.items : []) {
    if (!isMap(service)) continue;
    for (const { key, value } of service.items) {
      if (String(key) !== "backends") compact(value);
      else for (const backend of isSeq(value) ? value.items : []) compact(backend);
    }
  }
  return document;
}

/** On one line: `{ address: 10.20.0.11, port: 80 }`. */
function compact(node: unknown): void {
  if (isMap(node) || isSeq(node)) (node as Node & { flow?: boolean }).flow = true;
}

function headOf(draft: Draft): string {
  const { options } = draft;
  const file = options.file.replaceAll(/[^\x20-\x7e]/g, "?");
  const notes = draft.notes();
  const lines = [` Made of ${file} by headgate import.`];
  if (notes.length > 0) lines.push(" Not carried over, or not whole:");
  for (const { line, message } of notes) lines.push(`   ${file}:${line}: ${message}`);
  return lines.join("\n");
}
