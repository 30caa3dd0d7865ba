import { type CheckEndpoint, type CheckResult, runCheck } from "./check.ts";

/**
 * Connect, and close again in order: a backend that completes the handshake is well.
 *
 * @returns `connected`, or why not; fulfilled when the connection is closed, never rejected
 */
export function checkTcpConnect(
  endpoint: CheckEndpoint,
  signal: AbortSignal,
): Promise<CheckResult> {
  return runCheck(endpoint, signal, (socket, decide) => {
    socket.once("connect", () => {
      decide(true, "connected");
      socket.destroy();
    });
    return undefined;
  });
}
