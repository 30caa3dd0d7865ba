import { quote } from "./draft.ts";

/** LVS's schedulers by our names; the others choose by the packet's destination, and mean nothing here. */
const LVS_SCHEDULERS: Readonly<Record<string, string>> = {
  rr: "round-robin",
  wrr: "weighted-round-robin",
  lc: "least-connections",
  wlc: "weighted-least-connections",
  sh: "source-hash",
  mh: "maglev",
  sed: "shortest-expected-delay",
  nq: "never-queue",
  fo: "failover",
  ovf: "overflow",
  twos: "power-of-two",
};

export interface LvsChoice {
  /** null: none of ours chooses alike. */
  readonly scheduler: string | null;
  /** What is not as it was, or null. */
  readonly note: string | null;
}

/**
 * The scheduler that chooses as LVS's does. Its sh and mh hash the client's address alone unless they
 * are told to hash the port too; of ours source-hash does the one, maglev the other.
 *
 * @param hasPort - `sh-port`, `mh-port`
 * @param isPersistent - a client keeps its server anyway
 */
export function lvsScheduler(name: string, hasPort: boolean, isPersistent: boolean): LvsChoice {
  if (!Object.hasOwn(LVS_SCHEDULERS, name)) {
    const why = "it chooses by destination, or is not known; maglev, the default, stands in";
    return { scheduler: null, note: `scheduler ${quote(name)}: ${why}` };
  }
  if (name === "sh" && hasPort) return { scheduler: "maglev", note: null };
  if (name === "mh" && !hasPort && !isPersistent) {
    const note = "mh without mh-port hashes the client's address alone: source-hash does so";
    return { scheduler: "source-hash", note };
  }
  return { scheduler: LVS_SCHEDULERS[name]!, note: null };
}
