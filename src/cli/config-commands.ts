import { type Command, Option } from "commander";
import { type ConfigProblem, EXIT, formatConfigProblem } from "../base/errors.ts";
import { checkDecapFile } from "./decap-command.ts";
import type { CliIo } from "./io.ts";
import { renderData } from "./output.ts";

/**
 * `check` and `config …`: they need no gateway. The schema is loaded when it is asked for, so that
 * the other commands start without it.
 */

/** Compiler style: `gw.yaml:14:11: note: services[0]: …`. */
function formatNote(problem: ConfigProblem): string {
  const place = `${problem.file}:${problem.line}:${problem.column}`;
  return `${place}: note: ${problem.path}: ${problem.message}`;
}

function count(number: number, noun: string): string {
  return `${number} ${noun}${number === 1 ? "" : "s"}`;
}

export function addCheckCommand(
  program: Command,
  io: CliIo,
  exitWith: (code: number) => void,
): void {
  const command = program
    .command("check")
    .description("find every error of a configuration file")
    .requiredOption("-c, --config <file>", "configuration file")
    .option("--host", "also ask this host: interfaces, privilege, room, address conflicts");
  command.action(async () => {
    const { config, host } = command.opts<{ config: string; host?: boolean }>();
    const { isDecapFile } = await import("../control/config/decap-load.ts");
    if (isDecapFile(config)) {
      await checkDecapFile(config, io);
      return;
    }
    const { loadConfig, configNotes } = await import("../control/config/load.ts");
    const definition = loadConfig(config);
    if (definition.services.some(({ policy }) => policy !== null)) {
      const { compilePolicies } = await import("../control/policy/compile.ts");
      await compilePolicies(definition);
    }
    if (host === true) {
      const { checkHost } = await import("../control/config/host-check.ts");
      const problems = await checkHost(definition);
      for (const problem of problems) io.err(`${formatConfigProblem(problem)}\n`);
      if (problems.length > 0) {
        exitWith(EXIT.configuration);
        return;
      }
    }
    for (const note of configNotes(definition)) io.out(`${formatNote(note)}\n`);
    const { services } = definition;
    const backends = services.reduce((sum, service) => sum + service.backends.length, 0);
    io.out(`${config}: ok (${count(services.length, "service")}, ${count(backends, "backend")})\n`);
  });
}

export function addConfigCommands(program: Command, io: CliIo): void {
  const config = program
    .command("config")
    .description("the configuration format, and what it means");

  const schema = config
    .command("schema")
    .description("JSON Schema, for editors")
    .option("--table", "the table of docs/configuration.md instead");
  schema.action(async () => {
    if (schema.opts<{ table?: boolean }>().table === true) {
      const { keyTable } = await import("../control/config/document.ts");
      io.out(keyTable());
      return;
    }
    const { jsonSchema } = await import("../control/config/schema.ts");
    io.out(await renderData(jsonSchema(), "json"));
  });

  const show = config
    .command("show")
    .description("the effective configuration, defaults filled in")
    .requiredOption("-c, --config <file>", "configuration file")
    .addOption(
      new Option("-o, --output <format>", "format").choices(["yaml", "json"]).default("yaml"),
    );
  show.action(async () => {
    const options = show.opts<{ config: string; output: "yaml" | "json" }>();
    const { loadConfig, effectiveConfig } = await import("../control/config/load.ts");
    io.out(await renderData(effectiveConfig(loadConfig(options.config)), options.output));
  });
}
