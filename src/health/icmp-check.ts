import { type CheckEndpoint, type CheckResult, failureReason, runTimed } from "./check.ts";

/** What to send. */
export interface IcmpQuestion {
  readonly payloadBytes: number;
}

/**
 * Sockets for ICMP echo, of both families. They are opened before the process gives up its rights; the
 * identifier in the messages is theirs.
 */
export interface EchoSockets {
  /**
   * Send one echo request.
   *
   * @param source - source address, or null: the host's choice
   * @param token - comes back with the reply
   * @throws Error - what the kernel said; the request was not sent
   */
  send(address: string, source: string | null, token: bigint, payloadBytes: number): void;
  /** Tokens of the replies that have come since. */
  receive(): readonly bigint[];
}

/** How often replies are looked for while a check waits for one. */
const POLL_MS = 5;

/** Checks that wait for a reply, by token; one timer looks for all of them. */
const waiting = new Map<bigint, () => void>();
let poll: NodeJS.Timeout | null = null;
/** Tokens are of this process: a reply to another one's request is none of ours. */
let nextToken = (BigInt(process.pid) << 40n) | BigInt((Date.now() % 2 ** 8) << 24);

/**
 * Send one ICMP echo request, and wait for its reply.
 *
 * @param sockets - null: the host gave none, and the check fails for that reason
 * @returns `echo reply`, or why not; never rejected
 */
export function checkIcmp(
  endpoint: CheckEndpoint,
  { payloadBytes }: IcmpQuestion,
  sockets: EchoSockets | null,
  signal: AbortSignal,
): Promise<CheckResult> {
  const { address, source, timeoutMs } = endpoint;
  return runTimed(timeoutMs, signal, (decide, done) => {
    const token = nextToken++;
    const stop = (): void => {
      if (!waiting.delete(token)) return;
      if (waiting.size === 0 && poll !== null) {
        clearInterval(poll);
        poll = null;
      }
      done();
    };
    waiting.set(token, () => {
      decide(true, "echo reply");
      stop();
    });
    if (sockets === null) {
      decide(false, "no socket for ICMP: neither CAP_NET_RAW nor net.ipv4.ping_group_range");
      stop();
      return { stop };
    }
    poll ??= setInterval(() => receive(sockets), POLL_MS);
    try {
      sockets.send(address, source, token, payloadBytes);
    } catch (error) {
      decide(false, failureReason(error as Error));
      stop();
    }
    return {
      stop,
      // The timer may come before the one that looks.
      atTimeout: () => receive(sockets),
    };
  });
}

function receive(sockets: EchoSockets): void {
  for (const token of sockets.receive()) waiting.get(token)?.();
}
