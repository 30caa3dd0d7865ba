import { existsSync } from "node:fs";
import { AlreadyRunningError } from "../base/errors.ts";
import { cleanUp } from "../host/cleanup.ts";
import type { GatewayDefinition } from "../service/definition.ts";
import type { RegionMapper } from "../state/mapper.ts";
import { answers, removeIfThere } from "./admin/server.ts";

/** Where a gateway is looked for: the defaults of `admin.socket` and `flows.stateFile`. */
export interface CleanupPlaces {
  readonly socket: string;
  readonly stateFiles: readonly string[];
}

export const DEFAULT_PLACES: CleanupPlaces = {
  socket: "/run/headgate/admin.sock",
  stateFiles: ["/run/headgate/state", "/dev/shm/headgate/state"],
};

/** Where the gateway of a configuration is. */
export function placesOf({ admin, flows }: GatewayDefinition): CleanupPlaces {
  const stateFiles = flows.stateFile === null ? DEFAULT_PLACES.stateFiles : [flows.stateFile];
  return { socket: admin.socket, stateFiles };
}

/**
 * Remove what a crashed gateway may have left on this host: rules, routes, guards, its admin
 * socket. The state file stays: the flows in it are the next gateway's.
 *
 * @returns what was removed, one sentence each
 * @throws AlreadyRunningError when a gateway runs: what it needs would go
 */
export async function cleanUpAfterCrash(
  mapper: RegionMapper,
  places: CleanupPlaces,
): Promise<string[]> {
  if (await answers(places.socket)) {
    throw new AlreadyRunningError(
      `a gateway answers on ${places.socket}; stop it before a cleanup`,
    );
  }
  for (const file of places.stateFiles) {
    // Opening takes the lock, and is refused while a gateway has it.
    if (existsSync(file)) mapper.open(file).close();
  }
  const removed = await cleanUp();
  if (removeIfThere(places.socket)) removed.push(`removed socket ${places.socket}`);
  return removed;
}
