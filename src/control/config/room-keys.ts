import type { ConfigProblem } from "../../base/errors.ts";
import type { GatewayDefinition } from "../../service/definition.ts";
import { problemOf } from "./load.ts";

/** What a running gateway has that a definition may need, and that only a restart brings. */
export interface Room {
  /** Flows have room for a splice: some service used `synProxy` at the start. */
  readonly splices: boolean;
  /** All flows of a client lie with one worker: the only one, or by their address alone. */
  readonly clientsTogether: boolean;
}

/**
 * What a reload asks for that the region has no room for.
 *
 * @returns a problem for each key, at its place in the new file
 */
export function roomProblems(room: Room, after: GatewayDefinition): ConfigProblem[] {
  const problems: ConfigProblem[] = [];
  for (const [index, { limits, synProxy }] of after.services.entries()) {
    if (limits.newPerSource !== null && !room.clientsTogether) {
      const message =
        "expected off, as no service had it when the gateway started with several workers, got limits: a restart is needed to have a client's flows lie together";
      problems.push(problemOf(after, ["services", index, "limits", "newPerSource"], message));
    }
    if (synProxy.mode === "off" || room.splices) continue;
    const message = `expected off, as no service used synProxy when the gateway started, got ${synProxy.mode}: a restart is needed to change it`;
    problems.push(problemOf(after, ["services", index, "synProxy", "mode"], message));
  }
  return problems;
}
