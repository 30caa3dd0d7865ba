import { createInterface } from "node:readline";
import {
  createTunRoutes,
  type TunRouteEntries,
  type TunRouteOptions,
} from "../../src/host/tun-routes.ts";

/**
 * Holds the routes of a TUN device for the tests, in a namespace of its own: the options come as the
 * first argument, then a command a line, each answered with `done` or `failed REASON`.
 *
 *   {"update": TunRouteEntries}   {"close": true}
 */
const options = JSON.parse(process.argv[2] ?? "{}") as TunRouteOptions;
try {
  const routes = await createTunRoutes(options);
  console.log(`warnings ${JSON.stringify(routes.warnings)}`);
  for await (const line of createInterface({ input: process.stdin })) {
    const command = JSON.parse(line) as { update?: TunRouteEntries; close?: true };
    try {
      if (command.update !== undefined) await routes.update(command.update);
      if (command.close === true) await routes.close();
      console.log("done");
    } catch (error) {
      console.log(`failed ${String(error)}`);
    }
  }
} catch (error) {
  console.log(`refused ${String(error)}`);
  process.exitCode = 1;
}
