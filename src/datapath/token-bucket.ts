import { REPLY_TOKENS_BURST, REPLY_TOKENS_PER_SECOND } from "../base/limits.ts";
import { type Context, R_TICK, R_TOKENS, R_TOKENS_TICK } from "./context.ts";

/** RST and ICMP that we make share one bucket (design 1.7). */
export interface TokenBucket {
  /** Take one token; false when there is none. */
  take(): boolean;
}

export function createTokenBucket(context: Context): TokenBucket {
  const { layout, registers } = context;
  // The limit is the gateway's: each worker has its share, at least one a second.
  const burst = Math.max(1, Math.floor(REPLY_TOKENS_BURST / layout.workers)) * 1000;
  const perSecond = Math.max(1, Math.floor(REPLY_TOKENS_PER_SECOND / layout.workers));
  registers[R_TOKENS] = burst;

  function take(): boolean {
    const tick = registers[R_TICK]!;
    const elapsed = (tick - registers[R_TOKENS_TICK]!) | 0;
    if (elapsed !== 0) {
      registers[R_TOKENS_TICK] = tick;
      // A pause of more than a second fills the bucket; it also keeps the product in 32 bits.
      const gained = elapsed < 0 || elapsed > 1000 ? burst : elapsed * perSecond;
      const tokens = registers[R_TOKENS]! + gained;
      registers[R_TOKENS] = Math.min(tokens, burst);
    }
    const tokens = registers[R_TOKENS]!;
    if (tokens < 1000) return false;
    registers[R_TOKENS] = tokens - 1000;
    return true;
  }

  return { take };
}
