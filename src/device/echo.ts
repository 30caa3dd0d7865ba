import { errnoName, nativeAddon } from "./native.ts";

/** Sockets for ICMP echo; they stay usable when the process has given up its rights. */
export interface Echo {
  /**
   * Send one echo request.
   *
   * @param source - source address, or null: the host's choice
   * @param token - comes back with the reply
   * @param payloadBytes - at least 16
   * @throws Error - what the kernel said; the request was not sent
   */
  send(address: string, source: string | null, token: bigint, payloadBytes: number): void;
  /** Tokens of the replies that have come since. */
  receive(): readonly bigint[];
  close(): void;
}

/** What our payloads begin with: replies to other programs' requests are none of ours. */
const MARK = 0x6865_6164_6761_7465n;
const TOKEN_AT = 8;
/** Mark and token. */
export const ECHO_PAYLOAD_BYTES_MIN = 16;
export const ECHO_PAYLOAD_BYTES_MAX = 1400;

/**
 * Open a raw socket for each family, or where that is not allowed one for ICMP datagrams. A family that
 * has neither fails with its reason at `send`.
 */
export function openEcho(): Echo {
  const native = nativeAddon().openEcho();
  const room = Buffer.alloc(ECHO_PAYLOAD_BYTES_MAX);
  return {
    send(address, source, token, payloadBytes) {
      const payload = Buffer.alloc(payloadBytes);
      payload.writeBigUInt64BE(MARK, 0);
      payload.writeBigUInt64BE(token, TOKEN_AT);
      const result = native.send(address, source ?? "", payload);
      if (result < 0) {
        const kind = address.includes(":") ? native.kind6 : native.kind4;
        const what = kind < 0 ? "socket for ICMP" : "send";
        throw new Error(`${what} ${errnoName(-result)}`);
      }
    },
    receive() {
      const tokens: bigint[] = [];
      for (;;) {
        const bytes = native.receive(room);
        if (bytes < 0) return tokens;
        if (bytes < ECHO_PAYLOAD_BYTES_MIN || room.readBigUInt64BE(0) !== MARK) continue;
        tokens.push(room.readBigUInt64BE(TOKEN_AT));
      }
    },
    close: () => native.close(),
  };
}
