import {
  type DatapathFailure,
  DatapathRun,
  type RunBatch,
  type RunFrame,
  type Spoiler,
} from "./datapath.ts";
import { WORLDS, type World } from "./worlds.ts";

/** Runs of the datapath's fuzzer as cases: played again, made short, written down and read. */

/** The error of these batches in a new gateway, or null. */
export function replay(world: World, batches: readonly RunBatch[], spoil?: Spoiler): Error | null {
  try {
    const run = new DatapathRun(world, spoil);
    for (const batch of batches) run.batch(batch);
    run.finish();
    return null;
  } catch (error) {
    return error as Error;
  }
}

/** Batches and frames that are still needed, given what fails: less and less of the run. */
export function shrink(failure: DatapathFailure): DatapathFailure {
  let { batches, error } = failure;
  const { world, spoil } = failure;
  /** Keep a shorter run when it fails too. */
  const attempt = (shorter: readonly RunBatch[]): boolean => {
    const found = replay(world, shorter, spoil);
    if (found === null) return false;
    batches = shorter;
    error = found;
    return true;
  };
  const without = <T>(list: readonly T[], from: number, count: number): T[] => [
    ...list.slice(0, from),
    ...list.slice(from + count),
  ];
  for (let count = batches.length >> 1; count >= 1; count >>= 1) {
    for (let from = 0; from < batches.length - 1; ) {
      if (!attempt(without(batches, from, count))) from += count;
    }
  }
  for (let index = 0; index < batches.length; index++) {
    for (let at = 0; at < batches[index]!.frames.length; ) {
      const { afterMs, frames } = batches[index]!;
      const shorter = { afterMs, frames: without(frames, at, 1) };
      if (!attempt(batches.map((batch, other) => (other === index ? shorter : batch)))) at++;
    }
  }
  // The bytes behind what matters, in the frame that the failure is about.
  const last = batches.length - 1;
  for (let size = 4096; size >= 1; size >>= 1) {
    for (let tries = 0; tries < 8; tries++) {
      const { afterMs, frames } = batches[last]!;
      const frame = frames.at(-1);
      if (frame === undefined || frame.bytes.length <= size) break;
      const bytes = frame.bytes.slice(0, frame.bytes.length - size);
      const cut = { afterMs, frames: [...frames.slice(0, -1), { ...frame, bytes }] };
      if (!attempt([...batches.slice(0, -1), cut])) break;
    }
  }
  return { world, batches, error, spoil };
}

/**
 * A run as the text of a case: the world's name, then a line for each batch (`+` and milliseconds)
 * and for each frame (interface, worker, the two virtio words, bytes in hex).
 */
export function runText(world: World, batches: readonly RunBatch[]): string {
  const lines = batches.flatMap(({ afterMs, frames }) => [
    `+${afterMs}`,
    ...frames.map(
      (frame) =>
        `${frame.interface} ${frame.worker} ${frame.vnet} ${frame.csum} ` +
        Buffer.from(frame.bytes).toString("hex"),
    ),
  ]);
  return `${[world.name, ...lines].join("\n")}\n`;
}

/** @throws Error when the text is no run */
export function parseRun(text: string): { world: World; batches: RunBatch[] } {
  const [name, ...lines] = text.split("\n").filter((line) => line !== "" && !line.startsWith("#"));
  const world = WORLDS.find((one) => one.name === name);
  if (world === undefined) throw new Error(`no world is called ${name}`);
  const batches: { afterMs: number; frames: RunFrame[] }[] = [];
  for (const line of lines) {
    if (line.startsWith("+")) {
      batches.push({ afterMs: Number(line.slice(1)), frames: [] });
      continue;
    }
    const [ingress, worker, vnet, csum, hexBytes = ""] = line.split(" ");
    batches.at(-1)?.frames.push({
      interface: Number(ingress),
      worker: Number(worker),
      vnet: Number(vnet),
      csum: Number(csum),
      bytes: Uint8Array.from(Buffer.from(hexBytes, "hex")),
    });
  }
  return { world, batches };
}
