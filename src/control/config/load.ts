import { readFileSync, statSync } from "node:fs";
import { availableParallelism } from "node:os";
import { ConfigError, type ConfigProblem } from "../../base/errors.ts";
import type { GatewayDefinition } from "../../service/definition.ts";
import { affinityNotes } from "./affinity-check.ts";
import { buildDefinition } from "./build.ts";
import { crossCheck } from "./cross-check.ts";
import { readValues } from "./reading.ts";
import { checkRequired } from "./required.ts";
import { type KeyPath, readSource, type Source } from "./source.ts";
import { statelessNotes } from "./stateless-check.ts";

export { effectiveConfig } from "./effective.ts";

/** Bytes of a configuration file: 1,000 services with 100 backends each are about 6 MB. */
const FILE_BYTES_MAX = 64 * 1024 * 1024;

/** Where the keys of a loaded definition stand, for findings made later. */
const sources = new WeakMap<GatewayDefinition, Source>();

/**
 * Read and check a configuration file.
 *
 * @throws ConfigError with every problem, in the file's order; also when the file cannot be read
 */
export function loadConfig(file: string): GatewayDefinition {
  const refuse = (message: string): never => {
    throw new ConfigError([{ file, line: 1, column: 1, path: "", message }]);
  };
  let text: string;
  try {
    const { size } = statSync(file);
    if (size > FILE_BYTES_MAX) refuse(`expected at most ${FILE_BYTES_MAX} bytes, got ${size}`);
    text = readFileSync(file, "utf8");
  } catch (error) {
    if (error instanceof ConfigError) throw error;
    const code = (error as NodeJS.ErrnoException).code ?? String(error);
    return refuse(`expected a file that can be read, got ${code}`);
  }
  return parseConfig(text, file);
}

/**
 * Check the text of a configuration.
 *
 * @param file - its name in messages
 * @returns the definition with every default filled in
 * @throws ConfigError with every problem, in the order of the text; never anything else
 */
export function parseConfig(text: string, file: string): GatewayDefinition {
  const source = readSource(text, file);
  const problems: ConfigProblem[] = [...source.problems];
  if (!source.isReadable) throw new ConfigError(inOrder(problems));
  const reading = readValues(source, problems);
  checkRequired(source, problems);
  crossCheck(reading, problems);
  if (problems.length > 0) throw new ConfigError(inOrder(problems));
  const definition = buildDefinition(reading.values, file);
  sources.set(definition, source);
  return definition;
}

/** Sorted by place; what stands at one place keeps its order, and nothing is said twice. */
function inOrder(problems: readonly ConfigProblem[]): ConfigProblem[] {
  const seen = new Set<string>();
  return problems
    .filter((problem) => {
      const key = `${problem.line}:${problem.column} ${problem.path} ${problem.message}`;
      return !seen.has(key) && seen.add(key);
    })
    .toSorted((a, b) => a.line - b.line || a.column - b.column);
}

/**
 * A finding about a definition that parsed, at the place of its key, or of what is around it.
 *
 * @param path - keys as in the file: `["device", "interfaces", 0]`
 */
export function problemOf(
  definition: GatewayDefinition,
  path: KeyPath,
  message: string,
): ConfigProblem {
  return (sources.get(definition) ?? readSource("", definition.file)).problem(path, message);
}

/**
 * What is right but worth knowing: more workers than processors, services that nobody checks, that
 * have no backend, whose checks run a program as root, or that need flows whatever their rate, and
 * affinity groups that share little.
 */
export function configNotes(definition: GatewayDefinition): ConfigProblem[] {
  const notes: ConfigProblem[] = [];
  const processors = availableParallelism();
  if (definition.device.workers > processors) {
    const { workers } = definition.device;
    const message = `${workers} workers share ${processors} processors: they wait for each other`;
    notes.push(problemOf(definition, ["device", "workers"], message));
  }
  for (const { path, message } of [...statelessNotes(definition), ...affinityNotes(definition)]) {
    notes.push(problemOf(definition, path, message));
  }
  for (const [index, service] of definition.services.entries()) {
    const note = (message: string): void => {
      notes.push(problemOf(definition, ["services", index], message));
    };
    if (service.backends.length === 0) {
      note(
        `service "${service.name}" has no backends: new flows get noBackend (${service.noBackend.action})`,
      );
    } else if (service.health === null) {
      note(`service "${service.name}" has no health: its backends always count as up`);
    } else if (
      service.health.type === "exec" &&
      (service.health.user ?? definition.user) === null
    ) {
      note(
        `service "${service.name}" runs ${service.health.command[0]} as root: give health a user`,
      );
    }
  }
  return notes;
}
