import { createInterface } from "node:readline";
import { parseAddress } from "../../src/base/address.ts";
import { createHopPlanner } from "../../src/host/hop-planner.ts";
import { findInterfaces } from "../../src/host/interfaces.ts";

/**
 * Plans next hops for the tests, in a namespace of its own, for the interfaces that are its arguments.
 * Prints `plan JSON` for each plan (backends as a list of entries), and answers a command a line:
 *
 *   {"backends": [[slot, address]]}   {"request": [address, interfaceIndex]}   {"monitor": true}
 */
const interfaces = await findInterfaces(process.argv.slice(2));
const planner = createHopPlanner({
  interfaces,
  onChange: (plan) =>
    console.log(`plan ${JSON.stringify({ ...plan, backends: [...plan.backends] })}`),
});
await planner.ready;
console.log("ready");
for await (const line of createInterface({ input: process.stdin })) {
  const command = JSON.parse(line) as {
    backends?: [number, string][];
    request?: [string, number];
    monitor?: true;
  };
  if (command.backends !== undefined) {
    planner.setBackends(
      new Map(command.backends.map(([slot, address]) => [slot, parseAddress(address)!])),
    );
  }
  if (command.request !== undefined) {
    planner.request(parseAddress(command.request[0])!, command.request[1]);
  }
  if (command.monitor === true) console.log(`monitor ${planner.monitorProcessId()}`);
}
