import type { Log } from "../base/log.ts";
import type { Gateway } from "./gateway.ts";

/** Signals of a gateway, from before it starts until it has ended. */
export interface Signals {
  /** The gateway stands; what came before is done now. */
  attach(gateway: Gateway): void;
  /** Give the signals back. */
  close(): void;
}

/**
 * Handle HUP (reload), TERM and INT (end; a second one at once), USR1 (log the state).
 *
 * USR1 needs a handler at all times: without one Node opens its inspector, to any local user.
 */
export function handleSignals(log: Log): Signals {
  let gateway: Gateway | null = null;
  let stops = 0;
  let reason = "";

  const handlers: Partial<Record<NodeJS.Signals, () => void>> = {
    SIGHUP: () => void gateway?.reload(),
    SIGUSR1: () => gateway?.logState(),
    SIGTERM: () => stop("SIGTERM"),
    SIGINT: () => stop("SIGINT"),
  };

  function stop(name: string): void {
    stops++;
    reason = name;
    if (gateway !== null && stops <= 2) gateway.stop(name);
    else if (stops >= 2) {
      log.error("killed", { reason: `${name} again` });
      process.exit(1);
    }
  }

  const entries = Object.entries(handlers) as [NodeJS.Signals, () => void][];
  for (const [name, handler] of entries) process.on(name, handler);
  return {
    attach(started) {
      gateway = started;
      if (stops > 0) started.stop(reason);
    },
    close() {
      for (const [name, handler] of entries) process.off(name, handler);
    },
  };
}
