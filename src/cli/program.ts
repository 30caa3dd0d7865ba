import { readFileSync } from "node:fs";
import { Command, CommanderError } from "commander";
import { ConfigError, EXIT, HeadgateError } from "../base/errors.ts";
import { createAdminClient } from "./admin-client.ts";
import { addBackendCommands, addDrainCommand, addReloadCommand } from "./change-commands.ts";
import { addCheckCommand, addConfigCommands } from "./config-commands.ts";
import { addDecapCommand } from "./decap-command.ts";
import { addGetCommands, addStatusCommand, type CommandContext } from "./get-command.ts";
import { addImportCommand } from "./import-command.ts";
import { type CliIo, processIo } from "./io.ts";

/** What needs more of the program than the command line has; main.ts brings it. */
export interface CliActions {
  /** Run a gateway until it ends; fulfilled with the exit code. */
  run(file: string): Promise<number>;
  /**
   * Remove what a crashed gateway left; fulfilled with the exit code.
   *
   * @param file - its configuration, or null: it had the default socket and state file
   */
  cleanup(file: string | null): Promise<number>;
  /** Run a decapsulator until it ends; fulfilled with the exit code. */
  decap(file: string): Promise<number>;
}

const DEFAULT_SOCKET = "/run/headgate/admin.sock";

/**
 * The `headgate` command (design section 4).
 *
 * @param argv - arguments after the program's name: `process.argv.slice(2)`
 * @param actions - what `run` and `cleanup` do; an error of theirs is printed as one sentence
 * @returns the exit code, one of EXIT; never throws
 */
export async function runCli(
  argv: readonly string[],
  actions: CliActions,
  io: CliIo = processIo(),
): Promise<number> {
  let exitCode: number = EXIT.done;
  const exitWith = (code: number): void => {
    exitCode = code;
  };
  try {
    await createProgram(actions, io, exitWith).parseAsync([...argv], { from: "user" });
    return exitCode;
  } catch (error) {
    return report(error, argv, io);
  }
}

/** Prints an error as what it is. */
function report(error: unknown, argv: readonly string[], io: CliIo): number {
  if (error instanceof CommanderError) {
    // Commander has printed its sentence; help and version that were asked for are no error. The
    // `help` command ends like a missing command does.
    const isAsked = ["commander.helpDisplayed", "commander.version"].includes(error.code);
    const isHelpCommand = error.code === "commander.help" && argv.includes("help");
    return isAsked || isHelpCommand ? EXIT.done : EXIT.usage;
  }
  if (error instanceof ConfigError) {
    io.err(`${error.message}\n`);
    return error.exitCode;
  }
  if (error instanceof HeadgateError) {
    io.err(`headgate: ${error.message}\n`);
    return error.exitCode;
  }
  // A defect: the stack says where.
  const text = error instanceof Error ? (error.stack ?? error.message) : String(error);
  io.err(`headgate: unexpected error: ${text}\n`);
  return EXIT.failed;
}

function createProgram(actions: CliActions, io: CliIo, exitWith: (code: number) => void): Command {
  const program = new Command("headgate")
    .description("A layer-4 load balancer in user space on Linux")
    .version(packageVersion(), "--version")
    .exitOverride()
    .configureOutput({ writeOut: io.out, writeErr: io.err })
    .option("--socket <path>", `admin socket of the gateway (default: ${DEFAULT_SOCKET})`)
    .addHelpText(
      "after",
      "\nExit codes: 0 done, 1 failed, 2 usage, 3 differs, 69 no gateway answers, 75 one is already\nrunning, 77 privilege, 78 configuration.",
    );

  const run = program
    .command("run")
    .description("run a gateway in the foreground; SIGHUP reloads its file")
    .requiredOption("-c, --config <file>", "configuration file");
  run.action(async () => exitWith(await actions.run(run.opts<{ config: string }>().config)));
  addCheckCommand(program, io, exitWith);
  addConfigCommands(program, io);
  addImportCommand(program, io, exitWith);
  addDecapCommand(program, io, actions.decap, exitWith);

  const context: CommandContext = {
    io,
    client: (command) =>
      createAdminClient(command.optsWithGlobals<{ socket?: string }>().socket ?? DEFAULT_SOCKET),
  };
  addStatusCommand(program, context);
  addGetCommands(program, context);
  addBackendCommands(program, context);
  addReloadCommand(program, context, exitWith);
  addDrainCommand(program, context);

  program
    .command("cleanup")
    .description("remove what a crashed gateway may have left: rules, routes, guards")
    .option("-c, --config <file>", "its configuration, for its socket and state file")
    .action(async (options: { readonly config?: string }) =>
      exitWith(await actions.cleanup(options.config ?? null)),
    );

  const askSocket = new Set(["status", "get", "backend", "reload", "drain"]);
  for (const command of program.commands) {
    if (askSocket.has(command.name())) addSocketOption(command);
  }
  return program;
}

/** `--socket` stands before the command or after it. */
function addSocketOption(command: Command): void {
  for (const it of [command, ...command.commands]) {
    it.option("--socket <path>", "admin socket of the gateway");
  }
}

/** Version of the package that this file is part of (`dist/src/cli` is three folders down). */
function packageVersion(): string {
  const file = new URL("../../../package.json", import.meta.url);
  return (JSON.parse(readFileSync(file, "utf8")) as { version: string }).version;
}
