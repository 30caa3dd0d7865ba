import type { Command } from "commander";
import type { CliIo } from "./io.ts";
import { renderData } from "./output.ts";

/** `headgate decap`, for backends. */
export function addDecapCommand(
  program: Command,
  io: CliIo,
  runDecap: (file: string) => Promise<number>,
  exitWith: (code: number) => void,
): void {
  const command = program
    .command("decap")
    .description("on a backend: take IPIP and GUE off, in a TUN device; SIGUSR1 logs the counters")
    .option("-c, --config <file>", "configuration file of the decapsulator")
    .option("--check", "only find every error of the file")
    .option("--schema", "print the JSON Schema of the file");
  command.action(async () => {
    const options = command.opts<{ config?: string; check?: boolean; schema?: boolean }>();
    if (options.schema === true) {
      const { decapJsonSchema } = await import("../control/config/decap-schema.ts");
      io.out(await renderData(decapJsonSchema(), "json"));
      return;
    }
    const { config } = options;
    if (config === undefined) {
      return command.error("error: required option '-c, --config <file>' not specified");
    }
    if (options.check === true) await checkDecapFile(config, io);
    else exitWith(await runDecap(config));
  });
}

/**
 * Check the file of a decapsulator and say so.
 *
 * @throws ConfigError
 */
export async function checkDecapFile(file: string, io: CliIo): Promise<void> {
  const { loadDecapConfig } = await import("../control/config/decap-load.ts");
  const { vips, accept, protocols } = loadDecapConfig(file);
  if (accept.length === 0) {
    io.out(`${file}:1:1: note: decap.accept: every source may send to the VIPs past the gateway\n`);
  }
  const count = `${vips.length} VIP${vips.length === 1 ? "" : "s"}`;
  io.out(`${file}: ok (decapsulator of ${protocols.join(" and ")}, ${count})\n`);
}
