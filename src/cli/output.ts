import { setTimeout as sleep } from "node:timers/promises";
import type { CliIo } from "./io.ts";

export const OUTPUT_FORMATS = ["wide", "json", "yaml"] as const;
export type OutputFormat = (typeof OUTPUT_FORMATS)[number] | "table";

/** Time between two screens of `-w`. */
const WATCH_INTERVAL_MS = 1000;

/** Clear the screen and go to its top left corner (ECMA-48 ED 2, CUP). */
const CLEAR = "\u001b[2J\u001b[H";

/** A value as JSON or YAML, ending in a newline. */
export async function renderData(value: unknown, format: "json" | "yaml"): Promise<string> {
  if (format === "json") return `${JSON.stringify(value, null, 2)}\n`;
  const { stringify } = await import("yaml");
  return stringify(value);
}

/**
 * Print what `render` gives: once, or again each second until the user interrupts.
 *
 * @throws whatever `render` throws, also while watching
 */
export async function show(
  io: CliIo,
  isWatching: boolean,
  render: () => Promise<string>,
): Promise<void> {
  if (!isWatching) {
    io.out(await render());
    return;
  }
  const signal = io.interrupted();
  for (let screen = 0; !signal.aborted; screen += 1) {
    const text = await render();
    if (io.isTerminal) io.out(`${CLEAR}${text}`);
    else io.out(screen === 0 ? text : `\n${text}`);
    await sleep(WATCH_INTERVAL_MS, undefined, { signal }).catch(() => {});
  }
}
