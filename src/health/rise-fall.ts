import { HEALTH_DOWN, HEALTH_STARTING, HEALTH_UP } from "../service/backend-slots.ts";

/**
 * Health of one backend from the results of its checks, with hysteresis (design section 3):
 *
 *   starting --1 success--> up          starting --`fall` failures in a row--> down
 *   up --`fall` failures in a row--> down          down --`rise` successes in a row--> up
 */
export interface RiseFall {
  /** HEALTH_… */
  readonly health: number;
  /** It is starting, or results speak against its health that have not decided yet. */
  readonly isChanging: boolean;
  /**
   * Take in one result.
   *
   * @returns whether the health is another one now
   */
  record(ok: boolean): boolean;
}

/**
 * @param health - HEALTH_… to begin with
 * @param rise - successes in a row that raise a backend that is down, at least 1
 * @param fall - failures in a row that take a backend down, at least 1
 */
export function createRiseFall(health: number, rise: number, fall: number): RiseFall {
  let current = health;
  /** Results in a row that speak against the current health. */
  let contrary = 0;

  function needed(ok: boolean): number {
    if (!ok) return fall;
    return current === HEALTH_STARTING ? 1 : rise;
  }

  function record(ok: boolean): boolean {
    const said = ok ? HEALTH_UP : HEALTH_DOWN;
    // A success while starting decides at once, so only failures are ever counted there.
    contrary = said === current ? 0 : contrary + 1;
    if (contrary === 0 || contrary < needed(ok)) return false;
    current = said;
    contrary = 0;
    return true;
  }

  return {
    get health() {
      return current;
    },
    get isChanging() {
      return contrary !== 0 || current === HEALTH_STARTING;
    },
    record,
  };
}
