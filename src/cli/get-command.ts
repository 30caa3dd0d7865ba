import { type Command, Option } from "commander";
import type {
  AffinityList,
  BackendRow,
  DropList,
  FlowList,
  ServiceRow,
  Status,
  WorkerRow,
} from "../base/admin-types.ts";
import { EXIT, HeadgateError } from "../base/errors.ts";
import type { AdminClient } from "./admin-client.ts";
import {
  parseBackendOption,
  parseClientOption,
  parseServiceOption,
  parseTarget,
  parseWhole,
} from "./arguments.ts";
import type { CliIo } from "./io.ts";
import { OUTPUT_FORMATS, type OutputFormat, renderData, show } from "./output.ts";
import {
  renderAffinity,
  renderBackends,
  renderDrops,
  renderFlows,
  renderServices,
  renderStatus,
  renderWorkers,
} from "./render.ts";

/** `headgate get …` and `headgate status`: what the admin API has, as tables or as data. */

/** What a command needs of the program around it. */
export interface CommandContext {
  readonly io: CliIo;
  /** A client for the socket that the command line names. */
  client(command: Command): AdminClient;
}

const ROWS_MAX = 100_000;
const FLOWS_LISTED_DEFAULT = 100;

interface GetOptions {
  readonly output?: OutputFormat;
  readonly watch?: boolean;
  readonly limit?: number;
  readonly service?: string;
  readonly backend?: string;
  readonly client?: string;
}

const limitOption = new Option("--limit <n>", "list at most so many").argParser(
  parseWhole(1, ROWS_MAX),
);
const serviceOption = new Option("--service <name>", "of this service only").argParser(
  parseServiceOption,
);
const backendOption = new Option(
  "--backend <address[:port]>",
  "of this backend only; SERVICE/ADDRESS:PORT names its service too",
).argParser((text) => (text.includes("/") ? targetText(text) : parseBackendOption(text)));
const clientOption = new Option("--client <prefix>", "of clients in this network only").argParser(
  parseClientOption,
);

function targetText(text: string): string {
  const { service, backend } = parseTarget(text);
  return `${service}/${backend}`;
}

function addOutputOptions(command: Command): Command {
  return command
    .addOption(
      new Option("-o, --output <format>", "other columns, or data").choices(OUTPUT_FORMATS),
    )
    .option("-w, --watch", "print again each second, until interrupted");
}

export function addGetCommands(program: Command, context: CommandContext): void {
  const get = program.command("get").description("list what a running gateway has");
  const add = <T>(
    name: string,
    description: string,
    options: readonly Option[],
    fetch: (client: AdminClient, options: GetOptions) => Promise<T>,
    render: (data: T, isWide: boolean) => string,
  ): void => {
    const command = addOutputOptions(get.command(name).description(description));
    for (const option of options) command.addOption(option);
    command.action(async () => {
      const asked = command.opts<GetOptions>();
      const client = context.client(command);
      const format = asked.output ?? "table";
      await show(context.io, asked.watch === true, async () => {
        const data = await fetch(client, splitBackend(asked));
        return format === "json" || format === "yaml"
          ? renderData(data, format)
          : render(data, format === "wide");
      });
    });
  };

  add(
    "services",
    "services, with their VIPs, connections and rates",
    [limitOption, serviceOption],
    fetchServices,
    renderServices,
  );
  add(
    "backends",
    "backends (real servers), with weight, state and connections",
    [limitOption, serviceOption, backendOption],
    fetchBackends,
    renderBackends,
  );
  add(
    "flows",
    `flows, at most ${FLOWS_LISTED_DEFAULT} unless --limit says more`,
    [limitOption, serviceOption, backendOption, clientOption],
    (client, options) => client.get<FlowList>(`/api/v1/flows?${flowQuery(options)}`),
    renderFlows,
  );
  add(
    "affinity",
    "clients and the backends that they have, as affinity of services remembers",
    [limitOption, serviceOption, backendOption, clientOption],
    (client, options) => client.get<AffinityList>(`/api/v1/affinity?${flowQuery(options)}`),
    renderAffinity,
  );
  add(
    "drops",
    "dropped frames by reason; -o wide: every reason, and samples",
    [],
    (client) => client.get<DropList>("/api/v1/drops"),
    renderDrops,
  );
  add(
    "workers",
    "worker threads",
    [],
    (client) => client.get<WorkerRow[]>("/api/v1/workers"),
    renderWorkers,
  );
}

export function addStatusCommand(program: Command, context: CommandContext): void {
  const command = addOutputOptions(
    program.command("status").description("one screen: device, workers, flows, rates, drops"),
  );
  command.action(async () => {
    const { output, watch } = command.opts<GetOptions>();
    const client = context.client(command);
    await show(context.io, watch === true, async () => {
      const [status, drops, workers] = await Promise.all([
        client.get<Status>("/api/v1/status"),
        client.get<DropList>("/api/v1/drops"),
        client.get<WorkerRow[]>("/api/v1/workers"),
      ]);
      return output === "json" || output === "yaml"
        ? renderData(status, output)
        : renderStatus(status, drops, workers);
    });
  });
}

/** `--backend web/10.20.0.11:8080` is `--service web --backend 10.20.0.11:8080`. */
function splitBackend(options: GetOptions): GetOptions {
  if (options.backend === undefined || !options.backend.includes("/")) return options;
  const { service, backend } = parseTarget(options.backend);
  return { ...options, service: options.service ?? service, backend };
}

async function fetchServices(client: AdminClient, options: GetOptions): Promise<ServiceRow[]> {
  const all = await client.get<ServiceRow[]>("/api/v1/services");
  const rows = all.filter((row) => options.service === undefined || row.name === options.service);
  if (options.service !== undefined && rows.length === 0) {
    const message = `there is no service ${JSON.stringify(options.service)}`;
    throw new HeadgateError("HEADGATE_NOT_FOUND", message, EXIT.failed);
  }
  return rows.slice(0, options.limit);
}

async function fetchBackends(client: AdminClient, options: GetOptions): Promise<BackendRow[]> {
  const query = new URLSearchParams();
  if (options.service !== undefined) query.set("service", options.service);
  const rows = await client.get<BackendRow[]>(`/api/v1/backends?${query}`);
  const { backend } = options;
  return rows
    .filter(
      (row) =>
        backend === undefined ||
        backend === row.address ||
        backend === `${row.address}:${row.port}` ||
        backend === `[${row.address}]:${row.port}`,
    )
    .slice(0, options.limit);
}

function flowQuery(options: GetOptions): URLSearchParams {
  const query = new URLSearchParams({ limit: String(options.limit ?? FLOWS_LISTED_DEFAULT) });
  for (const key of ["service", "backend", "client"] as const) {
    const value = options[key];
    if (value !== undefined) query.set(key, value);
  }
  return query;
}
