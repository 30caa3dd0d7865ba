#!/usr/bin/env -S node --enable-source-maps --max-semi-space-size=2
import { EXIT } from "./base/errors.ts";
import { runCli } from "./cli/program.ts";

/**
 * Composition root of the command. What a gateway needs is loaded by the commands that are one, so
 * that `headgate get …` starts without it. V8's new space may have 2 MiB a half (--max-semi-space-size):
 * by itself it lets the control thread's grow to 16, which saves that thread nothing that counts.
 */

async function run(file: string): Promise<number> {
  const [{ createLog }, { loadConfig }, { startGateway }, { handleSignals }, devices] =
    await Promise.all([
      import("./base/log.ts"),
      import("./control/config/load.ts"),
      import("./control/gateway.ts"),
      import("./control/signals.ts"),
      loadDevices(),
    ]);
  const definition = loadConfig(file);
  if (definition.user !== null) {
    const { confineStart, resolveUser } = await import("./host/users.ts");
    confineStart(resolveUser(definition.user));
  }
  const log = createLog(definition.log.level);
  const signals = handleSignals(log);
  const gateway = await startGateway(definition, log, devices);
  signals.attach(gateway);
  return gateway.ended;
}

async function cleanup(file: string | null): Promise<number> {
  const [{ cleanUpAfterCrash, DEFAULT_PLACES, placesOf }, { loadConfig }, { mapper }] =
    await Promise.all([
      import("./control/cleanup.ts"),
      import("./control/config/load.ts"),
      loadDevices(),
    ]);
  const places = file === null ? DEFAULT_PLACES : placesOf(loadConfig(file));
  const removed = await cleanUpAfterCrash(mapper, places);
  process.stdout.write(`${removed.length === 0 ? "nothing to remove" : removed.join("\n")}\n`);
  return EXIT.done;
}

async function decap(file: string): Promise<number> {
  const [{ createLog }, { loadDecapConfig }, { startDecapsulator }] = await Promise.all([
    import("./base/log.ts"),
    import("./control/config/decap-load.ts"),
    import("./decap/run.ts"),
  ]);
  const definition = loadDecapConfig(file);
  const log = createLog(definition.log.level);
  let isAsked = false;
  let stop = (): void => {
    isAsked = true;
  };
  let logCounters = (): void => {};
  process.on("SIGUSR1", () => logCounters());
  for (const signal of ["SIGTERM", "SIGINT"] as const) process.on(signal, () => stop());
  const decapsulator = await startDecapsulator(definition, log);
  stop = decapsulator.stop;
  logCounters = () => log.info("counters", decapsulator.counters());
  if (isAsked) stop();
  return decapsulator.ended;
}

async function loadDevices() {
  const [{ createRegionMapper }, { createWake }] = await Promise.all([
    import("./device/region.ts"),
    import("./device/wake.ts"),
  ]);
  return { mapper: createRegionMapper(), createWake };
}

// Output on pipes and files is synchronous on Linux: nothing is lost by ending here, whatever
// handles are open.
process.exit(await runCli(process.argv.slice(2), { run, cleanup, decap }));
