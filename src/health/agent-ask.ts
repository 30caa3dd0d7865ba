import type { Socket } from "node:net";
import { AGENT_LINE_BYTES_MAX } from "./agent-line.ts";
import { type CheckEndpoint, runCheck } from "./check.ts";

/** What came of asking an agent. */
export interface AgentAnswer {
  /** Its first line, without its end; null: there was none. */
  readonly line: string | null;
  /** `answered`, `connect ECONNREFUSED`, `timeout after 1s`. */
  readonly reason: string;
}

/**
 * Connect, say what is to be said, and read one line, up to its end or the connection's.
 *
 * @param send - sent as it is; null: nothing
 * @param signal - ends it
 * @returns fulfilled when the connection is closed, never rejected
 */
export async function askAgent(
  endpoint: CheckEndpoint,
  send: string | null,
  signal: AbortSignal,
): Promise<AgentAnswer> {
  let line: string | null = null;
  const result = await runCheck(endpoint, signal, (socket: Socket, decide) => {
    let heard = "";
    const end = (): void => {
      const [first = ""] = heard.split(/\r?\n/, 1);
      if (first.trim() !== "") {
        line = first;
        decide(true, "answered");
      } else decide(false, "the agent said nothing");
      socket.destroy();
    };
    if (send !== null) socket.once("connect", () => socket.write(send));
    socket.setEncoding("latin1");
    socket.on("data", (part: string) => {
      heard += part.slice(0, AGENT_LINE_BYTES_MAX - heard.length);
      if (heard.includes("\n") || heard.length >= AGENT_LINE_BYTES_MAX) end();
    });
    socket.once("end", end);
  });
  return { line: result.ok ? line : null, reason: result.reason };
}
