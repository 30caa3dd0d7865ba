import { createSocket } from "node:dgram";
import { isIPv6 } from "node:net";
import {
  type CheckEndpoint,
  type CheckResult,
  failureReason,
  type Running,
  runTimed,
} from "./check.ts";
import { hasHexAt, sampleOf } from "./patterns.ts";

/** What to send, and what an answer begins with; both in hex digits. */
export interface UdpQuestion {
  readonly sendHex: string;
  /** With `x` for any digit; null: no answer is needed. */
  readonly expectHex: string | null;
}

/**
 * Send one datagram. The socket is connected, so that the kernel tells of ICMP errors: a port that
 * nobody has (ECONNREFUSED) or a host that cannot be reached is a failure. Without an answer to wait
 * for, nothing of the kind within the timeout is a success, as with keepalived's UDP_CHECK: nothing
 * more can be known of a server that only listens.
 *
 * @returns fulfilled when the socket is closed, never rejected
 */
export function checkUdp(
  endpoint: CheckEndpoint,
  question: UdpQuestion,
  signal: AbortSignal,
): Promise<CheckResult> {
  const { address, port, source, timeoutMs } = endpoint;
  const { sendHex, expectHex } = question;
  return runTimed(timeoutMs, signal, (decide, done): Running => {
    const socket = createSocket(isIPv6(address) ? "udp6" : "udp4");
    let isOpen = true;
    const stop = (): void => {
      if (isOpen) socket.close();
      isOpen = false;
    };
    const fail = (error: Error): void => {
      decide(false, failureReason(error));
      stop();
    };
    socket.once("close", done);
    socket.on("error", fail);
    socket.on("message", (answer) => {
      const isRight = expectHex === null || hasHexAt(expectHex, answer, 0);
      decide(isRight, `${isRight ? "answered" : "unexpected answer"} ${sampleOf(answer)}`);
      stop();
    });
    const send = (): void => {
      if (!isOpen) return;
      socket.connect(port, address, () => {
        if (!isOpen) return;
        socket.send(Buffer.from(sendHex, "hex"), (error) => {
          if (error !== null) fail(error);
        });
      });
    };
    if (source === null) send();
    else socket.bind({ address: source, exclusive: true }, send);
    return {
      stop,
      atTimeout(say) {
        if (expectHex === null) say(true, "no ICMP unreachable");
      },
    };
  });
}
