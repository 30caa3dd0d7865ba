import { isDeepStrictEqual } from "node:util";
import type { AgentDefinition } from "../service/health-definition.ts";
import { askAgent } from "./agent-ask.ts";
import { type AgentLine, parseAgentLine } from "./agent-line.ts";
import { FIRST_CHECK_MS } from "./monitor.ts";
import type { RoundHandle, Rounds } from "./rounds.ts";

/** A backend whose agent is asked, at the number of its slot. */
export interface AgentTarget {
  readonly slot: number;
  /** Text of an IP address. */
  readonly address: string;
  readonly port: number;
  readonly definition: AgentDefinition;
  readonly serviceName: string;
}

export interface AgentsOptions {
  /** A line came. Never called from within `apply`. */
  readonly onLine: (slot: number, line: AgentLine) => void;
  /** None came: the backend goes on as it was (HAProxy's rule, too). */
  readonly onSilence: (slot: number, reason: string) => void;
}

/** Asks the agents of backends, each in its interval. */
export interface Agents {
  /** Ask these from now on; as HealthMonitor.apply(). */
  apply(targets: readonly AgentTarget[]): void;
}

/** Agents do not march in step, nor with the health checks of the same slot. */
const SPREAD = 0.1;
const SEED = 0x6a67;

interface Asked {
  readonly target: AgentTarget;
  handle: RoundHandle | null;
  ended: boolean;
}

/** @param rounds - whose rounds the questions are; closing it ends them */
export function createAgents(rounds: Rounds, options: AgentsOptions): Agents {
  const asked = new Map<number, Asked>();

  function start(target: AgentTarget): Asked {
    const { slot, address, port, definition } = target;
    const { intervalMs, timeoutMs, send } = definition;
    const one: Asked = { target, handle: null, ended: false };
    const endpoint = { address, port, source: null, timeoutMs };
    one.handle = rounds.add({
      seed: slot ^ SEED,
      firstWithinMs: Math.min(intervalMs, FIRST_CHECK_MS),
      spread: SPREAD,
      intervalMs: () => intervalMs,
      run: async (signal) => {
        const { line, reason } = await askAgent(endpoint, send, signal);
        if (one.ended) return;
        if (line === null) options.onSilence(slot, reason);
        else options.onLine(slot, parseAgentLine(line));
      },
    });
    return one;
  }

  return {
    apply(targets) {
      const wanted = new Map(targets.map((target) => [target.slot, target]));
      for (const [slot, one] of asked) {
        if (isDeepStrictEqual(one.target, wanted.get(slot))) continue;
        one.ended = true;
        one.handle?.end();
        asked.delete(slot);
      }
      for (const [slot, target] of wanted) {
        if (!asked.has(slot)) asked.set(slot, start(target));
      }
    },
  };
}
