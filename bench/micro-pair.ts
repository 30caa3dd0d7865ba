/** Both sides give a number, so that nothing is optimised away, and so that they can be compared. */
export interface Pair {
  readonly name: string;
  readonly alternative: string;
  /** `at`: 0..CALLS-1. */
  readonly fast: (at: number) => number;
  readonly slow: (at: number) => number;
  /** Whether both have to give the same; false where they choose differently by design. */
  readonly same: boolean;
}

/** A power of two: inputs are taken in turn. */
export const CALLS = 1024;
