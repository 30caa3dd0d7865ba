import { type Draft, type ImportOptions, type ImportResult, quote } from "./draft.ts";
import { groupBinds } from "./haproxy-bind.ts";
import { type HaLine, type HaSection, haSections } from "./haproxy-lines.ts";
import { type HaProxy, modeOf, readProxy } from "./haproxy-proxy.ts";
import { haReason } from "./haproxy-reasons.ts";
import { haService } from "./haproxy-service.ts";
import { finishImport } from "./print.ts";
import { startDraft } from "./top.ts";
import { wholeNumber } from "./values.ts";

/** The TCP part of HAProxy's configuration, as ours: docs/migration.md has the table. */

const PROXIES = new Set(["frontend", "backend", "listen"]);

/** What is read of the whole file. */
export interface HaFile {
  readonly proxies: ReadonlyMap<string, HaProxy>;
  /** Names of stick tables that another proxy uses too. */
  readonly sharedTables: ReadonlySet<string>;
  /** Share of the interval by which checks are spread; null: HAProxy's default, 0. */
  readonly spread: number | null;
}

/**
 * Turn a configuration of HAProxy into one of ours: `listen`, and `frontend` with its
 * `default_backend`, in mode tcp.
 *
 * @param text - whatever it is; what cannot be carried over is in the notes
 */
export function importHaproxy(text: string, options: ImportOptions): ImportResult {
  const draft = startDraft(options);
  const sections = haSections(text, (line, message) => draft.note(line, message));
  const defaults = defaultsOf(sections);
  const proxies = new Map<string, HaProxy>();
  let spread: number | null = null;
  for (const section of sections) {
    if (section.kind === "global") spread = readGlobal(draft, section) ?? spread;
    else if (PROXIES.has(section.kind)) {
      const proxy = readTcpProxy(draft, section, defaults.get(section) ?? null);
      // A frontend and a backend may have one name.
      if (proxy !== null) proxies.set(`${proxy.kind} ${proxy.name}`, proxy);
    } else if (section.kind !== "defaults") noteSection(draft, section, haReason([section.kind]));
  }
  const sharedTables = new Set(
    [...proxies.values()].flatMap(({ last, name }) => {
      const words = last.get("stick")?.words ?? [];
      const table = words[words.indexOf("table") + 1];
      return words.includes("table") && table !== name ? [table!] : [];
    }),
  );
  const file: HaFile = { proxies, sharedTables, spread };
  const used = new Set<HaProxy>();
  for (const proxy of proxies.values()) {
    if (proxy.kind === "backend") continue;
    const backend = backendOf(draft, file, proxy);
    if (backend === null) continue;
    if (addServices(draft, file, proxy, backend)) used.add(backend);
  }
  for (const proxy of proxies.values()) {
    if (proxy.kind !== "backend" || used.has(proxy)) continue;
    noteSection(draft, proxy, "no service has it: it is nobody's default_backend");
  }
  return finishImport(draft);
}

/** The `defaults` that each section has: the ones it names, else the last ones before it. */
function defaultsOf(sections: readonly HaSection[]): Map<HaSection, HaSection> {
  const found = new Map<HaSection, HaSection>();
  let latest: HaSection | null = null;
  for (const section of sections) {
    const named = sections.find(
      ({ kind, name }) => kind === "defaults" && name !== "" && name === section.from,
    );
    const own = named ?? latest;
    if (section.kind !== "defaults") {
      if (own !== null) found.set(section, own);
      continue;
    }
    // Defaults may be made of others; of themselves they are not.
    if (named !== undefined && named !== section) section.lines.unshift(...named.lines);
    latest = section;
  }
  return found;
}

function readGlobal(draft: Draft, section: HaSection): number | null {
  let spread: number | null = null;
  for (const { line, words } of section.lines) {
    const percent = words[0] === "spread-checks" ? wholeNumber(words[1], 50) : null;
    if (percent !== null) spread = percent / 100;
    else draft.note(line, `global ${quote(words.slice(0, 2).join(" "))}: ${haReason(words)}`);
  }
  return spread;
}

/** One note for the section, and the lines that go with it. */
function noteSection(
  draft: Draft,
  section: Pick<HaProxy, "kind" | "name" | "line" | "lastLine">,
  why: string,
): void {
  const { kind, name, line, lastLine } = section;
  const lines = lastLine === line ? "" : ` (lines ${line}-${lastLine})`;
  draft.note(line, `${kind} ${quote(name)}${lines} is left out: ${why}`);
}

/** @returns null, with a note, for a section that is off or not of mode tcp */
function readTcpProxy(
  draft: Draft,
  section: HaSection,
  defaults: HaSection | null,
): HaProxy | null {
  const isDisabled = (it: HaLine): boolean => it.words[0] === "disabled";
  const mode = modeOf(section, defaults);
  if (mode !== "tcp") {
    noteSection(draft, section, `it is of mode ${quote(mode)}, which is layer 7`);
    return null;
  }
  if (section.lines.some(isDisabled)) {
    noteSection(draft, section, "it is disabled");
    return null;
  }
  return readProxy(draft, section, defaults);
}

function backendOf(draft: Draft, file: HaFile, proxy: HaProxy): HaProxy | null {
  const line = proxy.last.get("default_backend");
  if (line === undefined && proxy.kind === "listen") return proxy;
  const name = line?.words[1] ?? "";
  // A listen with servers uses them until a rule sends it elsewhere.
  const named = file.proxies.get(`backend ${name}`) ?? file.proxies.get(`listen ${name}`);
  if (line !== undefined && named !== undefined) {
    for (const own of proxy.servers) {
      draft.note(own.line, `server ${quote(own.name)}: default_backend has others`);
    }
    return named;
  }
  const why =
    line === undefined
      ? "it has no default_backend"
      : `its default_backend ${quote(name)} is not there, or not carried over`;
  noteSection(draft, proxy, why);
  return null;
}

/**
 * One service for each set of addresses that listen on the same ports.
 *
 * @returns false, with a note, when there is none
 */
function addServices(draft: Draft, file: HaFile, front: HaProxy, back: HaProxy): boolean {
  const groups = groupBinds(front.binds);
  if (groups.length === 0) {
    noteSection(draft, front, "it listens on no address that a service can have");
    return false;
  }
  for (const group of groups) draft.services.push(haService(draft, file, front, back, group));
  return true;
}
