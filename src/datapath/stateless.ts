import { shareOf, TOKEN } from "../admission/source-limits.ts";
import { FLOW_WORDS } from "../flow/flow-record.ts";
import { BANK_STATELESS_ABOVE, S_STATELESS } from "../service/bank.ts";
import { W_STATELESS_FLOW } from "../state/layout.ts";
import {
  type Context,
  R_BANK,
  R_NEEDS_FLOW,
  R_NEW_FLOWS,
  R_NEW_FLOWS_TICK,
  R_STATELESS,
  R_STATELESS_TICK,
  R_TICK,
} from "./context.ts";
import { C_STATELESS_PACKETS } from "./counters.ts";

/** For how long after a packet without state a RST without a flow may be of such a connection. */
const RECENT_MS = 1000;

/**
 * Forwarding without flows above a rate of new ones (`flows.statelessAbove`, docs/admission.md).
 *
 * Every new flow of the gateway takes a token, whatever its service. One for which there is none is
 * not made where the service can do without (S_STATELESS): its packet goes where the flow would have
 * led, and so do the next ones, for a hash says the same each time, until one finds a token and
 * becomes a flow. What the packet's flow would have been lies in a row outside of the table, so that
 * whoever reads a flow's record reads this one.
 */
export interface Stateless {
  /** First word of the row that hold() fills, F_…. */
  readonly flowWord: number;
  /**
   * Whether the draft, which is whole, becomes a flow. Takes the token.
   *
   * @param serviceWord - first word of the service in the bank
   */
  makesFlow(serviceWord: number): boolean;
  /** Whether a segment without a flow may be of a connection that has none for that reason. */
  mayHaveBegun(serviceWord: number): boolean;
  /** Put the draft into the row. */
  hold(): void;
  /** Count a packet that went on by the row. */
  count(): void;
}

export function createStateless(context: Context, countersAt: number): Stateless {
  const { f64, i32, layout, registers, table } = context;
  const { draft } = table;
  const { worker, workers } = layout;
  const flowWord = layout.workerWord + W_STATELESS_FLOW;

  /** The bucket holds a tenth of a second, at least one token; it is filled a millisecond at a time. */
  function takeToken(above: number): boolean {
    const perSecond = shareOf(above, worker, workers);
    const burst = Math.max(TOKEN, perSecond * (TOKEN / 10));
    const elapsed = (registers[R_TICK]! - registers[R_NEW_FLOWS_TICK]!) | 0;
    let tokens = registers[R_NEW_FLOWS]!;
    if (elapsed !== 0) {
      registers[R_NEW_FLOWS_TICK] = registers[R_TICK]!;
      // A thousandth of a token a millisecond for each a second; what is more fills the bucket anyway.
      const isLong = elapsed < 0 || elapsed >= (perSecond >= 10 ? 100 : 1000);
      tokens = isLong ? burst : Math.min(burst, tokens + elapsed * perSecond);
    }
    const has = tokens >= TOKEN;
    registers[R_NEW_FLOWS] = has ? tokens - TOKEN : tokens;
    return has;
  }

  function makesFlow(serviceWord: number): boolean {
    const above = i32[registers[R_BANK]! + BANK_STATELESS_ABOVE]!;
    if (above === 0 || takeToken(above)) return true;
    return i32[serviceWord + S_STATELESS] === 0 || registers[R_NEEDS_FLOW] !== 0;
  }

  function mayHaveBegun(serviceWord: number): boolean {
    if (registers[R_STATELESS] === 0 || registers[R_NEEDS_FLOW] !== 0) return false;
    const elapsed = (registers[R_TICK]! - registers[R_STATELESS_TICK]!) | 0;
    if (elapsed < 0 || elapsed > RECENT_MS) {
      registers[R_STATELESS] = 0;
      return false;
    }
    return i32[serviceWord + S_STATELESS] !== 0;
  }

  function hold(): void {
    for (let word = 0; word < FLOW_WORDS; word++) i32[flowWord + word] = draft[word]!;
  }

  function count(): void {
    registers[R_STATELESS] = 1;
    registers[R_STATELESS_TICK] = registers[R_TICK]!;
    f64[countersAt + C_STATELESS_PACKETS] = f64[countersAt + C_STATELESS_PACKETS]! + 1;
  }

  return { flowWord, makesFlow, mayHaveBegun, hold, count };
}
