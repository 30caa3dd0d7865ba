import { readdirSync, readFileSync } from "node:fs";
import path from "node:path";
import { fileURLToPath } from "node:url";

/**
 * Rules of the project that no linter knows: who may import whom (the architecture's table), no
 * leftovers, no dead files, no line that runs off the page, one title a document.
 *
 *   node dist/test/tidy/tidy.js
 */
const ROOT = path.resolve(path.dirname(fileURLToPath(import.meta.url)), "..", "..", "..");

/**
 * Folder of src -> folders it may import. `state/take-over.ts` alone also reads flow and service
 * records, because it moves them; `health`, `cli` and `control` have what their duty needs.
 */
const IMPORTS: Readonly<Record<string, readonly string[]>> = {
  base: [],
  state: ["base", "flow", "service", "admission"],
  wire: ["base"],
  flow: ["base", "state"],
  service: ["base", "state", "flow", "scheduler", "admission"],
  scheduler: ["base", "state", "service"],
  admission: ["base", "state", "wire", "flow", "service"],
  datapath: ["base", "state", "wire", "flow", "service", "scheduler", "admission", "device"],
  device: ["base", "state"],
  host: ["base", "device", "state"],
  decap: ["base", "wire", "device", "host"],
  health: ["base", "service"],
  cli: ["base", "control"],
  control: [
    "base",
    "state",
    "flow",
    "service",
    "scheduler",
    "datapath",
    "decap",
    "device",
    "host",
    "health",
    "cli",
  ],
};

/** Spelled so that this file does not hold them itself. */
const BANNED: readonly (readonly [pattern: RegExp, instead: string])[] = [
  [new RegExp(`\\b(TO${"DO"}|FIX${"ME"}|XX${"X"}|HA${"CK"})\\b`), "do it, or write an issue"],
  [new RegExp(`@ts-(ig${"nore"}|expect-er${"ror"}|noch${"eck"})`), "a type that is right"],
  [/\bdebugger\b/, "nothing"],
  [new RegExp(`(: |as |<)an${"y"}(\\[\\]|[;,)>]|$)`), "unknown, or the type"],
];

/** The formatter keeps code at 100 columns; a comment may run a little over. */
const PROSE_COLUMNS_MAX = 116;

interface Finding {
  readonly file: string;
  readonly line: number;
  readonly message: string;
}

function filesUnder(folder: string, endings: readonly string[]): string[] {
  return readdirSync(path.join(ROOT, folder), { withFileTypes: true }).flatMap((entry) => {
    const file = path.join(folder, entry.name);
    if (entry.isDirectory()) return filesUnder(file, endings);
    return endings.some((ending) => entry.name.endsWith(ending)) ? [file] : [];
  });
}

function read(file: string): string {
  return readFileSync(path.join(ROOT, file), "utf8");
}

/** Imports of a source file, as paths from the root. */
function importsOf(file: string): { readonly target: string; readonly line: number }[] {
  return read(file)
    .split("\n")
    .flatMap((text, index) => {
      const found = /(?:from|import\(|import) ?"(\.[^"]+)"/.exec(text);
      if (found === null) return [];
      const target = path.normalize(path.join(path.dirname(file), found[1]!));
      return [{ target, line: index + 1 }];
    });
}

function checkImports(sources: readonly string[]): Finding[] {
  return sources.flatMap((file) => {
    const from = file.split(path.sep)[1]!;
    const allowed = IMPORTS[from];
    if (!file.startsWith("src/") || allowed === undefined) return [];
    return importsOf(file).flatMap(({ target, line }) => {
      const to = target.split(path.sep)[1]!;
      if (!target.startsWith("src/")) return [{ file, line, message: `src imports ${target}` }];
      if (to === from || allowed.includes(to)) return [];
      return [
        { file, line, message: `${from} may not import ${to} (see IMPORTS in test/tidy/tidy.ts)` },
      ];
    });
  });
}

/** Files that nobody imports and nobody starts. */
function checkDead(sources: readonly string[]): Finding[] {
  const used = new Set(sources.flatMap((file) => importsOf(file).map(({ target }) => target)));
  const text = [...filesUnder("lab", [".sh"]), ...filesUnder(".ci", ["run"]), "package.json"]
    .map(read)
    .join("\n");
  const code = sources.map(read).join("\n");
  return sources
    .filter((file) => {
      const name = path.basename(file, ".ts");
      if (file.endsWith(".test.ts") || file.endsWith(".d.ts") || used.has(file)) return false;
      return (
        !text.includes(`${name}.js`) && !code.includes(`${name}.js`) && !code.includes(`${name}.ts`)
      );
    })
    .map((file) => ({ file, line: 1, message: "nothing imports or starts it" }));
}

function checkLines(file: string): Finding[] {
  return read(file)
    .split("\n")
    .flatMap((text, index) => {
      const findings: Finding[] = [];
      const line = index + 1;
      const isProse = /^\s*(\*|\/\/|\/\*)/.test(text);
      if (text.length > PROSE_COLUMNS_MAX && isProse && !/https?:/.test(text)) {
        findings.push({
          file,
          line,
          message: `${text.length} columns; at most ${PROSE_COLUMNS_MAX}`,
        });
      }
      for (const [pattern, instead] of BANNED) {
        // A service's port can be `any`.
        if (pattern.test(text.replace("port: any", "")))
          findings.push({ file, line, message: `${pattern.source}: instead, ${instead}` });
      }
      return findings;
    });
}

function checkDocument(file: string): Finding[] {
  // Code blocks hold comments that look like titles.
  const text = read(file).replaceAll(/^```[\s\S]*?^```/gm, "");
  const titles = text.split("\n").filter((line) => line.startsWith("# "));
  return titles.length === 1
    ? []
    : [{ file, line: 1, message: `${titles.length} titles; exactly one` }];
}

/** Every finding, in the order of the files. */
export function tidy(): Finding[] {
  const sources = ["src", "test", "bench", "lab"].flatMap((folder) => filesUnder(folder, [".ts"]));
  const others = filesUnder("addon", [".cc", ".h"]);
  const documents = ["README.md", ...filesUnder("docs", [".md"])];
  return [
    ...checkImports(sources),
    ...checkDead(sources),
    ...[...sources, ...others].flatMap(checkLines),
    ...documents.flatMap(checkDocument),
  ];
}

if (process.argv[1] === fileURLToPath(import.meta.url)) {
  const findings = tidy();
  for (const { file, line, message } of findings) console.error(`${file}:${line}: ${message}`);
  if (findings.length > 0) process.exitCode = 1;
}
