import type { Log } from "../base/log.ts";
import type { AgentLine } from "../health/agent-line.ts";
import { createAgents } from "../health/agents.ts";
import type { Rounds } from "../health/rounds.ts";
import { forgetAgent, recordAgent } from "../service/agent-state.ts";
import { AGENT_READY, B_AGENT, B_AGENT_WEIGHT } from "../service/backend-slots.ts";
import { backendSlotWord, readBackendKey, usedBackendSlots } from "../service/slots.ts";
import type { RegionViews } from "../state/layout.ts";
import { agentTargets } from "./health-targets.ts";
import type { Applied } from "./reconcile.ts";

/** What agents say, kept in the slots of their backends. */
export interface BackendAgents {
  /** Ask the agents of this definition from now on. @returns whether a slot is another than before */
  follow(applied: Applied): boolean;
  /** What the agent said, where that decides the backend's state; "" elsewhere. */
  reasonOf(slot: number): string;
  /** Questions without an answer since the process started. */
  failuresOf(slot: number): number;
}

/** By AGENT_…: what is left of it after a restart, until it says it again. */
const AGENT_NAMES = ["", "agent drain", "agent maint", "agent down"] as const;

/** @param onChange - what an agent says of its backend is something else now */
export function createBackendAgents(
  views: RegionViews,
  log: Log,
  rounds: Rounds,
  onChange: () => void,
): BackendAgents {
  const texts = new Map<number, string>();
  const failures = new Map<number, number>();
  /** Words that were logged, by slot: an agent says the same one every two seconds. */
  const complained = new Map<number, string>();
  /** What is kept here belongs to a backend, not to the number that its slot has. */
  const keys = new Map<number, string>();

  const nameOf = (slot: number): { service: string; backend: string } => {
    const key = readBackendKey(views, slot);
    const { service, address, port } = key ?? { service: "", address: "", port: 0 };
    return { service, backend: `${address}:${port}` };
  };

  function onLine(slot: number, line: AgentLine): void {
    const { admin, operation, operationWord, weightPercent, text } = line;
    complain(slot, line);
    // A line that speaks of the weight alone leaves what is known of the state, and why.
    if (admin !== null || operation !== null) {
      const words = [admin === "ready" ? "" : admin, operation === "down" ? operationWord : ""];
      const said = words.filter((word) => word !== null && word !== "").join(" ");
      texts.set(slot, text === "" ? `agent ${said}` : `agent ${said}: ${text}`);
    }
    if (!recordAgent(views.i32, backendSlotWord(views, slot), line)) return;
    log.info("backend_agent", {
      ...nameOf(slot),
      weight_percent: weightPercent,
      admin,
      operation,
      reason: text,
    });
    onChange();
  }

  function complain(slot: number, { unknown, maxConnections }: AgentLine): void {
    const what =
      maxConnections !== null && unknown === null ? `maxconn:${maxConnections}` : unknown;
    if (what === null || complained.get(slot) === what) return;
    complained.set(slot, what);
    log.warn("agent_word_ignored", { ...nameOf(slot), word: what });
  }

  const agents = createAgents(rounds, {
    onLine,
    onSilence(slot, reason) {
      failures.set(slot, (failures.get(slot) ?? 0) + 1);
      log.trace("agent_silent", { ...nameOf(slot), reason });
    },
  });

  return {
    follow(applied) {
      const targets = agentTargets(applied);
      const asked = new Set(targets.map(({ slot }) => slot));
      let changed = false;
      for (const { slot, serviceName, address, port } of targets) {
        const key = `${serviceName} ${address}:${port}`;
        if (keys.get(slot) === key) continue;
        keys.set(slot, key);
        for (const kept of [texts, failures, complained]) kept.delete(slot);
      }
      for (const slot of usedBackendSlots(views)) {
        if (asked.has(slot)) continue;
        keys.delete(slot);
        if (forgetAgent(views.i32, backendSlotWord(views, slot))) changed = true;
      }
      agents.apply(targets);
      return changed;
    },
    reasonOf(slot) {
      const at = backendSlotWord(views, slot);
      const agent = views.i32[at + B_AGENT]!;
      if (agent !== AGENT_READY) return texts.get(slot) ?? AGENT_NAMES[agent] ?? "";
      return views.i32[at + B_AGENT_WEIGHT] === 0 ? "agent 0%" : "";
    },
    failuresOf: (slot) => failures.get(slot) ?? 0,
  };
}
