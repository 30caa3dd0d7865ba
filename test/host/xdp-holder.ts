import { createInterface } from "node:readline";
import { D_AT, D_BYTES, DESCRIPTOR_WORDS } from "../../src/device/device.ts";
import { createWake } from "../../src/device/wake.ts";
import { openXdp, receiveQueues, type XdpDevice } from "../../src/device/xdp.ts";
import { createSocketGuard, type GuardEntries, type GuardOptions } from "../../src/host/guard.ts";
import type { XdpMode } from "../../src/host/guard-xdp.ts";

/**
 * Holds an XDP guard and, unless `sockets` is false, the AF_XDP sockets that it feeds, in a process
 * and namespace of its own: the options come as the first argument, then a command a line, each
 * answered with `done` or `failed REASON`.
 *
 *   {"update": GuardEntries}   {"close": {"remove": true}}   {"taken": true}
 *
 * `taken` answers `done` after a line `taken [HEX...]`: the frames that came out of the sockets since
 * it was asked last.
 */
interface Command {
  readonly update?: GuardEntries;
  readonly close?: { readonly remove?: boolean };
  readonly taken?: boolean;
}

const options = JSON.parse(process.argv[2] ?? "{}") as GuardOptions & {
  readonly xdpMode: XdpMode;
  readonly sockets?: boolean;
};

function takeFrames(device: XdpDevice): string[] {
  const { rx } = device.batch;
  const frames: string[] = [];
  for (let count = device.receive(0); count > 0; count = device.receive(0)) {
    for (let index = 0; index < count; index++) {
      const word = index * DESCRIPTOR_WORDS;
      const frame = Buffer.from(device.memory, rx[word + D_AT]!, rx[word + D_BYTES]!);
      frames.push(frame.toString("hex"));
    }
  }
  return frames;
}

try {
  const guard = await createSocketGuard(options);
  const device =
    options.sockets === false
      ? null
      : openXdp({
          interfaces: options.interfaces.map((name, index) => ({
            name,
            queues: Array.from({ length: receiveQueues(name) }, (_, queue) => queue),
            generic: guard.generic[index]!,
          })),
          wakeFd: createWake().fd,
          socketMap: guard.sockets,
        });
  console.log(`guard ${guard.kind} ${guard.generic.map(String).join(" ")}`);
  for await (const line of createInterface({ input: process.stdin })) {
    const command = JSON.parse(line) as Command;
    try {
      if (command.update !== undefined) await guard.update(command.update);
      if (command.close !== undefined) await guard.close(command.close);
      if (command.taken === true && device !== null) {
        console.log(`taken ${JSON.stringify(takeFrames(device))}`);
      }
      console.log("done");
    } catch (error) {
      console.log(`failed ${String(error)}`);
    }
  }
} catch (error) {
  console.log(`refused ${String(error)}`);
  process.exitCode = 1;
}
