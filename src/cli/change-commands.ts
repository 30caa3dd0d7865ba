import { setTimeout as sleep } from "node:timers/promises";
import { type Command, Option } from "commander";
import type {
  BackendAction,
  BackendRow,
  DrainReport,
  ReloadReport,
  Status,
} from "../base/admin-types.ts";
import { EXIT, HeadgateError, NoGatewayError } from "../base/errors.ts";
import type { AdminClient } from "./admin-client.ts";
import { parseDurationOption, parseTarget, parseWhole, type Target } from "./arguments.ts";
import type { CommandContext } from "./get-command.ts";
import type { CliIo } from "./io.ts";
import { renderBackends, renderReload } from "./render.ts";

/** Commands that change a running gateway: `backend …`, `reload`, `drain`. */

const TARGET = "<service/address:port>";

export function addBackendCommands(program: Command, context: CommandContext): void {
  const backend = program
    .command("backend")
    .description("override what the configuration says of a backend; lasts until `backend reset`");
  const send = async (command: Command, action: BackendAction): Promise<void> => {
    const path = "/api/v1/backends/action";
    const { body } = await context.client(command).post<BackendRow[]>(path, action);
    context.io.out(renderBackends(body));
  };
  const add = (action: BackendAction["action"], description: string): Command =>
    backend.command(action).description(description).argument(TARGET, "", parseTarget);
  const deadline = (): Option =>
    new Option("--deadline <duration>", "reset the flows that are left after this time").argParser(
      parseDurationOption,
    );

  for (const [action, description] of [
    ["drain", "no new flows; those it has go on"],
    ["disable", "out of service; flows as existingFlows.disabled says"],
  ] as const) {
    const command = add(action, description).addOption(deadline());
    command.action(async (target: Target) => {
      const { deadline: deadlineMs } = command.opts<{ deadline?: number }>();
      const limit = deadlineMs === undefined ? {} : { deadlineMs };
      await send(command, { action, target: targetText(target), ...limit });
    });
  }
  for (const [action, description] of [
    ["enable", "new flows again; the weight override stays"],
    ["reset", "forget every override"],
  ] as const) {
    const command = add(action, description);
    command.action((target: Target) => send(command, { action, target: targetText(target) }));
  }
  const command = add("weight", "another weight; 0 drains").argument(
    "<n>",
    "0 to 65535",
    parseWhole(0, 65_535),
  );
  command.action((target: Target, weight: number) =>
    send(command, { action: "weight", target: targetText(target), weight }),
  );
}

function targetText({ service, backend }: Target): string {
  return `${service}/${backend}`;
}

export function addReloadCommand(
  program: Command,
  context: CommandContext,
  exitWith: (code: number) => void,
): void {
  const command = program
    .command("reload")
    .description("take over the configuration file; on any error the old one goes on")
    .option("--dry-run", "only say what would change")
    .option("--exit-code", `with --dry-run: end with ${EXIT.differs} if something would change`);
  command.action(async () => {
    const { dryRun, exitCode } = command.opts<{ dryRun?: boolean; exitCode?: boolean }>();
    if (exitCode === true && dryRun !== true) {
      command.error("error: option '--exit-code' needs '--dry-run'", { exitCode: EXIT.usage });
    }
    const path = `/api/v1/reload${dryRun === true ? "?dryRun=1" : ""}`;
    const { body } = await context.client(command).post<ReloadReport>(path, {}, [409]);
    if (!body.ok) {
      refuseReload(context.io, body);
      exitWith(EXIT.configuration);
      return;
    }
    context.io.out(renderReload(body));
    const changes = body.added.length + body.changed.length + body.removed.length;
    if (exitCode === true && changes > 0) exitWith(EXIT.differs);
  });
}

function refuseReload(io: CliIo, report: ReloadReport & { readonly error?: string }): void {
  // A 409 that is no report is the API's plain error.
  const problems = report.problems ?? [report.error ?? "the gateway refused"];
  for (const problem of problems) io.err(`${problem}\n`);
  io.err("headgate: the reload was refused; the running configuration stays\n");
}

const DRAIN_TIMEOUT = "5m";
/** Time between two looks at a gateway that drains. */
const DRAIN_POLL_MS = 500;
/** What a gateway may take to end after its time is over. */
const DRAIN_GRACE_MS = 30_000;

export function addDrainCommand(program: Command, context: CommandContext): void {
  const command = program
    .command("drain")
    .description(
      "take this node out: no new flows; the gateway ends when its flows have, or in time",
    )
    .addOption(
      new Option("--timeout <duration>", "end also with flows that are left after this time")
        .argParser(parseDurationOption)
        .default(parseDurationOption(DRAIN_TIMEOUT), DRAIN_TIMEOUT),
    );
  command.action(async () => {
    const { timeout: timeoutMs } = command.opts<{ timeout: number }>();
    const client = context.client(command);
    const { processId } = await client.get<Status>("/api/v1/status");
    const { body } = await client.post<DrainReport>("/api/v1/drain", { timeoutMs });
    context.io.out(`draining, ${countFlows(body.liveFlows)} left\n`);
    await waitForEnd(client, processId, timeoutMs + DRAIN_GRACE_MS);
    context.io.out("the gateway has ended\n");
  });
}

function countFlows(count: number): string {
  return count === 1 ? "1 flow" : `${count} flows`;
}

/**
 * Wait until the process with this id no longer answers.
 *
 * @throws HeadgateError when it still does after `timeoutMs`
 */
async function waitForEnd(
  client: AdminClient,
  processId: number,
  timeoutMs: number,
): Promise<void> {
  const startedMs = performance.now();
  while (performance.now() - startedMs < timeoutMs) {
    try {
      const status = await client.get<Status>("/api/v1/status");
      // The next process may have taken the socket between two looks.
      if (status.processId !== processId) return;
    } catch (error) {
      if (error instanceof NoGatewayError) return;
      throw error;
    }
    await sleep(DRAIN_POLL_MS);
  }
  throw new HeadgateError(
    "HEADGATE_HOST",
    `the gateway (process ${processId}) has not ended within ${timeoutMs / 1000} s`,
    EXIT.failed,
  );
}
