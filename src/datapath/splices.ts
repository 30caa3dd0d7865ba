import {
  PHASE_SPLICED,
  SPLICE_WORDS,
  spliceSegment,
  X_PHASE,
  X_SEQUENCE_DELTA,
} from "../admission/splice.ts";
import { F_STATE, FLOW_WORDS, KEY_SLOW, ORIGINAL } from "../flow/flow-record.ts";
import { difference32 } from "../wire/checksum.ts";
import type { Context } from "./context.ts";

/** The splices of a worker's flows (admission/splice.ts), which are the same for both families. */
export interface Splices {
  /** False where flows have no room for one; only then `wordOf` must not be asked. */
  readonly exist: boolean;
  /** First word of the flow's splice; it means something when its X_PHASE says so. */
  wordOf(flowWord: number): number;
  /** What the backend's sequence numbers have more than those that the client knows, or 0. */
  sequenceDelta(flowWord: number): number;
  /**
   * Rewrite the numbers of a TCP segment, if its flow is spliced. After all that may refuse the
   * packet: what an ICMP error quotes must be what was sent to us.
   *
   * @param partial - its checksum is that of the pseudo header alone
   */
  rewrite(l4At: number, flowWord: number, direction: number, partial: boolean): void;
  /**
   * A quoted segment of the backend's, as the client was shown it: gets the backend's own number.
   *
   * @returns delta of its checksum, 16 bits
   */
  restoreQuote(l4At: number, flowWord: number): number;
}

export function createSplices({ i32, layout, view }: Context): Splices {
  const exist = layout.splices.bytes > 0;
  const splices = layout.splices.at >> 2;
  const flowsWord = layout.flows.at >> 2;

  function wordOf(flowWord: number): number {
    return splices + ((flowWord - flowsWord) / FLOW_WORDS) * SPLICE_WORDS;
  }

  function sequenceDelta(flowWord: number): number {
    if (!exist) return 0;
    const word = wordOf(flowWord);
    return i32[word + X_PHASE] === PHASE_SPLICED ? i32[word + X_SEQUENCE_DELTA]! : 0;
  }

  function rewrite(l4At: number, flowWord: number, direction: number, partial: boolean): void {
    if (!exist || (i32[flowWord + F_STATE]! & (KEY_SLOW << 8)) === 0) return;
    const word = wordOf(flowWord);
    if (i32[word + X_PHASE] !== PHASE_SPLICED) return;
    spliceSegment(view, l4At, i32, word, direction === ORIGINAL, partial);
  }

  function restoreQuote(l4At: number, flowWord: number): number {
    const delta = sequenceDelta(flowWord);
    if (delta === 0) return 0;
    const before = view.getInt32(l4At + 4);
    const after = (before + delta) | 0;
    view.setInt32(l4At + 4, after);
    return difference32(before, after);
  }

  return { exist, wordOf, sequenceDelta, rewrite, restoreQuote };
}
