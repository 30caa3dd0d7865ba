import { createInterface } from "node:readline";
import { createGuard, type GuardEntries, type GuardOptions } from "../../src/host/guard.ts";

/**
 * Holds a guard for the tests, in a process and namespace of its own: the options come as the first
 * argument, then a command a line, each answered with `done` or `failed REASON`.
 *
 *   {"update": GuardEntries}   {"close": {"remove": true}}
 */
const options = JSON.parse(process.argv[2] ?? "{}") as GuardOptions;
try {
  const guard = await createGuard(options);
  console.log(`guard ${guard.kind}`);
  for await (const line of createInterface({ input: process.stdin })) {
    const command = JSON.parse(line) as {
      update?: GuardEntries;
      close?: { remove?: boolean };
    };
    try {
      if (command.update !== undefined) await guard.update(command.update);
      if (command.close !== undefined) await guard.close(command.close);
      console.log("done");
    } catch (error) {
      console.log(`failed ${String(error)}`);
    }
  }
} catch (error) {
  console.log(`refused ${String(error)}`);
  process.exitCode = 1;
}
