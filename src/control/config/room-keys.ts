import type { ConfigProblem } from "../../base/errors.ts";
import type { GatewayDefinition } from "../../service/definition.ts";
import { problemOf } from "./load.ts";
import type { KeyPath } from "./source.ts";

/** What a running gateway has that a definition may need, and that only a restart brings. */
export interface Room {
  /** Flows have room for a splice: some service used `synProxy` at the start. */
  readonly splices: boolean;
  /** There is a table of clients: some service had affinity at the start. */
  readonly affinity: boolean;
  /**
   * All flows of a client lie with one worker, where a client is a prefix of at least so many bits:
   * none with the only worker. Null: they lie apart.
   */
  readonly clientsTogether: { readonly ipv4: number; readonly ipv6: number } | null;
}

/**
 * What a reload asks for that the region has no room for.
 *
 * @returns a problem for each key, at its place in the new file
 */
export function roomProblems(room: Room, after: GatewayDefinition): ConfigProblem[] {
  const problems: ConfigProblem[] = [];
  const report = (path: KeyPath, message: string): void => {
    problems.push(problemOf(after, path, message));
  };
  for (const [index, { affinity, limits, synProxy }] of after.services.entries()) {
    const path = ["services", index];
    const uses = [
      { prefix: limits.newPerSource, what: "limits", at: [...path, "limits", "newPerSource"] },
      { prefix: affinity, what: "affinity", at: [...path, "affinity"] },
    ];
    if (affinity !== null && !room.affinity) {
      const message =
        "expected off, as no service had affinity when the gateway started, got affinity: a restart is needed to make room for its clients";
      report([...path, "affinity"], message);
      uses.pop();
    }
    for (const { prefix, what, at } of uses) {
      if (prefix === null) continue;
      if (room.clientsTogether === null) {
        const message = `expected off, as no service had it when the gateway started with several workers, got ${what}: a restart is needed to have a client's flows lie together`;
        report(at, message);
        continue;
      }
      for (const family of ["ipv4", "ipv6"] as const) {
        const least = room.clientsTogether[family];
        if (prefix[family] >= least) continue;
        const message = `expected at least ${least}, the shortest prefix when the gateway started with several workers, got ${prefix[family]}: a restart is needed to have the flows of such a client lie together`;
        report([...at, "prefix", family], message);
      }
    }
    if (synProxy.mode === "off" || room.splices) continue;
    const message = `expected off, as no service used synProxy when the gateway started, got ${synProxy.mode}: a restart is needed to change it`;
    report([...path, "synProxy", "mode"], message);
  }
  return problems;
}
