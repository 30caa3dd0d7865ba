import type { Log } from "../base/log.ts";
import { C_STATELESS_PACKETS } from "../datapath/counters.ts";

/** Whether workers send packets on without flows (`flows.statelessAbove`), as control sees it. */
export interface StatelessWatch {
  /** Compare with the last look, and log what has changed; once a second. */
  look(): void;
  /** Whether packets went on without a flow between the last two looks. */
  isStateless(): boolean;
}

/**
 * @param counter - a counter, C_…, of all workers together; what it has at first is an earlier
 *   process's
 */
export function createStatelessWatch(
  counter: (index: number) => number,
  statelessAbove: number | null,
  log: Log,
): StatelessWatch {
  let before = counter(C_STATELESS_PACKETS);
  let began = before;
  let isStateless = false;

  function look(): void {
    const packets = counter(C_STATELESS_PACKETS);
    const goesOn = packets !== before;
    if (goesOn && !isStateless) {
      began = before;
      log.warn("stateless_begun", {
        reason: `more than ${statelessAbove} new flows a second (flows.statelessAbove)`,
      });
    } else if (!goesOn && isStateless) {
      log.info("stateless_ended", { packets: packets - began });
    }
    isStateless = goesOn;
    before = packets;
  }

  return { look, isStateless: () => isStateless };
}
