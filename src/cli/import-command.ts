import { readFileSync } from "node:fs";
import { type Command, InvalidArgumentError, Option } from "commander";
import { parseAddress } from "../base/address.ts";
import { EXIT, HeadgateError } from "../base/errors.ts";
import type { ImportOptions, ImportResult } from "../control/import/draft.ts";
import type { CliIo } from "./io.ts";

/** `headgate import …`: other programs' configurations as ours. No gateway is needed. */

type Import = (text: string, options: ImportOptions) => ImportResult;

/** What can be imported: the argument, what it is, and what reads it, loaded when asked for. */
const SOURCES: readonly (readonly [name: string, about: string, load: () => Promise<Import>])[] = [
  [
    "ipvsadm",
    "what `ipvsadm -Sn` prints, or a script of ipvsadm commands",
    async () => (await import("../control/import/ipvsadm.ts")).importIpvsadm,
  ],
  [
    "keepalived",
    "the virtual servers of keepalived.conf",
    async () => (await import("../control/import/keepalived.ts")).importKeepalived,
  ],
  [
    "haproxy",
    "the TCP part of a configuration of HAProxy",
    async () => (await import("../control/import/haproxy.ts")).importHaproxy,
  ],
];

interface Options {
  readonly device: ImportOptions["device"];
  readonly interface: readonly string[];
  readonly snat: readonly string[];
  readonly tunnelSource: readonly string[];
  readonly vip: readonly string[];
  readonly exitCode?: boolean;
}

/** Gathers an option that may be given several times. */
function several(
  expects: string,
  isRight: (text: string) => boolean,
): (text: string, before: readonly string[]) => readonly string[] {
  return (text, before) => {
    if (!isRight(text)) throw new InvalidArgumentError(`expected ${expects}, got "${text}"`);
    return [...before, text];
  };
}

const isAddress = (text: string): boolean => parseAddress(text) !== null;
const isRange = (text: string): boolean => text.split("-").every(isAddress);

export function addImportCommand(
  program: Command,
  io: CliIo,
  exitWith: (code: number) => void,
): void {
  const group = program
    .command("import")
    .description("turn another load balancer's configuration into one of headgate's");
  for (const [name, about, load] of SOURCES) {
    const command = group
      .command(`${name} <file>`)
      .description(about)
      .addOption(
        new Option("--device <type>", "device of the gateway")
          .choices(["packet", "xdp", "tun"])
          .default("packet"),
      )
      .addOption(
        new Option(
          "--interface <name>",
          "interface of packet and xdp; may be given again (default: eth0)",
        )
          .argParser(several("an interface name", (text) => /^[^\s/:]{1,15}$/.test(text)))
          .default([], ""),
      )
      .addOption(
        new Option(
          "--snat <addresses>",
          "addresses of full-nat: one or FIRST-LAST; may be given again",
        )
          .argParser(several("an address or a range", isRange))
          .default([], ""),
      )
      .addOption(
        new Option("--tunnel-source <address>", "outer source of tunnels; once for each family")
          .argParser(several("an address", isAddress))
          .default([], ""),
      )
      .addOption(
        new Option(
          "--vip <address>",
          "address of sockets that listen on every one; may be given again",
        )
          .argParser(several("an address", isAddress))
          .default([], ""),
      )
      .option("--exit-code", `exit ${EXIT.differs} when something was not carried over`);
    command.action(async (file: string) => {
      const importText = await load();
      const options = command.opts<Options>();
      const { text, notes } = importText(readWhole(file), {
        file,
        device: options.device,
        interfaces: options.interface.length === 0 ? ["eth0"] : options.interface,
        snat: options.snat,
        tunnelSources: options.tunnelSource,
        vips: options.vip,
      });
      for (const { line, message } of notes) io.err(`${file}:${line}: ${message}\n`);
      io.out(text);
      if (options.exitCode === true && notes.length > 0) exitWith(EXIT.differs);
    });
  }
}

/** The text of a file; `-` is standard input. */
function readWhole(file: string): string {
  try {
    return readFileSync(file === "-" ? 0 : file, "utf8");
  } catch (error) {
    const code = (error as NodeJS.ErrnoException).code ?? String(error);
    throw new HeadgateError("HEADGATE_USAGE", `${file} cannot be read: ${code}`, EXIT.failed);
  }
}
